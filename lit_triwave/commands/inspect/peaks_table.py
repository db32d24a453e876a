"""The table of peaks and scales, in as many parts as the width asks for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text
from torch import Tensor

from lit_triwave.checkpoints.rebuild import Saved
from lit_triwave.commands.inspect.subnetworks import Group

LISTED = 6  # subnetworks whose peaks are shown one by one
Line = tuple[str, str, list[str]]


def peaks_tables(saved: Saved, part: Group, console: Console) -> Iterator[Text | Table]:
    """Peaks and scales: of each subnetwork, or quantiles over many and the first few; a title, then one table or more.

    Args:
        saved: the checkpoint.
        part: one of its banks.
        console: where they are shown; waves that have no room side by side come in a further table.
    """
    moment = "" if part.bank.released is None else " at the release"
    unit = "" if part.scales_known else ", in units of s_0 (Theorem 3.1)"
    what = f"peaks a_i and scales s_i{moment}{unit}" if scales_shown(part) else f"peaks a_i{moment}"
    yield Text(what, style="italic")
    sections, waves = lines(saved, part), part.bank.depth + 1
    for parts in range(1, waves + 1):
        together = -(-waves // parts)
        tables = [of_waves(sections, range(i, min(i + together, waves))) for i in range(0, waves, together)]
        if together == 1 or all(width(table, console) <= console.width for table in tables):
            yield from tables
            return


def scales_shown(part: Group) -> bool:
    """Whether the scales are known, at least in units of the first."""
    return part.scales_known or part.bank.theorem31


def lines(saved: Saved, part: Group) -> list[list[Line]]:
    """What the rows say, in sections: label, symbol, and a cell for each wave."""
    kinds = [("a", part.peaks, "{:.3f}")] + ([("s", part.scales, "{:.2g}")] if scales_shown(part) else [])
    n = len(part.labels)

    def line(label: str, values: dict[str, Tensor]) -> list[Line]:
        return [
            ("" if place else label, symbol, [form.format(value) for value in values[symbol].tolist()])
            for place, (symbol, _, form) in enumerate(kinds)
        ]

    levels = {"lowest": 0.0, "lower quarter": 0.25, "median": 0.5, "upper quarter": 0.75, "highest": 1.0}
    many: list[Line] = []
    for label, level in levels.items() if n > LISTED else ():
        many += line(label, {symbol: values.quantile(level, 0) for symbol, values, _ in kinds})
    single: list[Line] = []
    for number in range(n if n <= LISTED else 3):
        label = part.labels[number] if saved.is_function else f"number {number}"
        single += line(label, {symbol: values[number] for symbol, values, _ in kinds})
    return [section for section in (many, single) if section]


def of_waves(sections: Sequence[Sequence[Line]], waves: range) -> Table:
    """The table of some of the waves."""
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


def width(table: Table, console: Console) -> int:
    """Characters that a table takes where nothing is cut or wrapped."""
    return Measurement.get(console, console.options.update(max_width=10_000), table).maximum
