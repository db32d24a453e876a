"""The table of peaks and scales, in several parts if the console is narrow."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text
from torch import Tensor

from lit_triwave.commands.inspect.subnetworks import Group

_LISTED = 6  # most subnetworks whose peaks are shown one by one
_ROUNDING = 1e-6
"""Relative error of a peak or scale that float32 may have rounded."""
_Line = tuple[str, str, list[str]]


def peaks_tables(part: Group, console: Console) -> Iterator[Text | Table]:
    """Yields a title and the tables of peaks and scales: of each, or quantiles over many.

    Args:
        part: one of a checkpoint's banks.
        console: shows the tables; waves that do not fit into its width get a further table.
    """
    moment = "" if part.bank.released is None else " at the release"
    if part.squares and _as_built(part):
        yield Text(
            f"{part.name}: all peaks a_i = 1/2, each scale s_i a quarter of the last{moment}, as built", "italic"
        )
        return
    unit = ", in units of s_0 (Theorem 3.1)" if part.constructed is None else ""
    what = f"peaks a_i and scales s_i{moment}{unit}" if _scales_shown(part) else f"peaks a_i{moment}"
    yield Text(what, style="italic")
    sections, waves = _lines(part), part.bank.depth + 1
    for parts in range(1, waves + 1):
        together = -(-waves // parts)
        tables = [_waves_table(sections, range(i, min(i + together, waves))) for i in range(0, waves, together)]
        if together == 1 or all(_width(table, console) <= console.width for table in tables):
            yield from tables
            return


def _as_built(part: Group) -> bool:
    """Returns whether no stage has moved the peaks and scales of squares: a table of them would say nothing."""
    peaks, scales = part.peaks, part.scales
    quarters = torch.allclose(scales[:, 1:], scales[:, :-1] / 4, rtol=_ROUNDING, atol=0)
    return bool(((peaks - 0.5).abs() < _ROUNDING).all()) and quarters


def _scales_shown(part: Group) -> bool:
    """Returns whether the scales are known, at least in units of the first one."""
    return part.constructed is not None or part.bank.theorem31


def _lines(part: Group) -> list[list[_Line]]:
    """Returns the rows in sections: label, symbol, and a cell for each wave."""
    kinds = [("a", part.peaks, "{:.3f}")] + ([("s", part.scales, "{:.2g}")] if _scales_shown(part) else [])
    n = len(part.labels)

    def line(label: str, values: dict[str, Tensor]) -> list[_Line]:
        return [
            ("" if place else label, symbol, [form.format(value) for value in values[symbol].tolist()])
            for place, (symbol, _, form) in enumerate(kinds)
        ]

    levels = {"lowest": 0.0, "lower quarter": 0.25, "median": 0.5, "upper quarter": 0.75, "highest": 1.0}
    many: list[_Line] = []
    for label, level in levels.items() if n > _LISTED else ():
        many += line(label, {symbol: values.quantile(level, 0) for symbol, values, _ in kinds})
    single: list[_Line] = []
    for number in range(n if n <= _LISTED else 3):
        single += line(part.labels[number], {symbol: values[number] for symbol, values, _ in kinds})
    return [section for section in (many, single) if section]


def _waves_table(sections: Sequence[Sequence[_Line]], waves: range) -> Table:
    """Returns the table of some of the waves."""
    table = Table()
    table.add_column("subnetwork")
    table.add_column("i")
    for i in waves:
        table.add_column(f"{i}", justify="right", no_wrap=True)
    for section in sections:
        for label, symbol, cells in section:
            if symbol == "s" and waves.start >= len(cells):
                continue  # the last peak has no scale
            table.add_row(label, symbol, *cells[waves.start : waves.stop])
        table.add_section()
    return table


def _width(table: Table, console: Console) -> int:
    """Returns the width in characters of a table without cut or wrapped cells."""
    return Measurement.get(console, console.options.update(max_width=10_000), table).maximum
