"""Shows a comparison on a terminal: columns without room are omitted and listed; no number or word is broken."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TextIO

from rich.cells import cell_len
from rich.console import Console
from rich.table import Table

from lit_triwave.commands.compare.show.charts import COSTS
from lit_triwave.commands.compare.table.cells import in_lines
from lit_triwave.commands.compare.table.columns import chosen, most_varied
from lit_triwave.commands.compare.table.table import BEST, Comparison
from lit_triwave.commands.compare.table.verdict import remarks, verdict
from lit_triwave.errors import some

_PADDING = 3
"""Characters between the texts of two columns."""
_LONGEST_LINE = 24
"""Characters in a line of a wrapped cell; a longer word is not broken."""
_SHORTEST_NAME = 12
"""Characters in a line of a run's name, at least."""
_MOST_OMITTED = 8
"""Omitted columns that are named."""


@dataclass(frozen=True)
class _Layout:
    """Columns of the table and how their texts are wrapped.

    Args:
        columns: fields, by full names.
        metrics: the first is the main one.
        headers: whether long headers are broken into two lines.
        texts: whether long texts are broken into several lines.
        name: characters in a line of a run's name, at most; 0 for any number.
    """

    columns: list[str]
    metrics: list[str]
    headers: bool = False
    texts: bool = False
    name: int = 0


def write_screen(comparison: Comparison, columns: list[str], others: Sequence[str], file: TextIO) -> None:
    """Writes a table that fits the terminal; where there is no terminal, the table is as wide as needed.

    Args:
        comparison: the rows to show.
        columns: full names of the fields that are shown if there is room.
        others: sentences about further fields.
        file: the stream to write to.
    """
    console = Console(file=file, highlight=False, markup=False)
    whole = layout = _Layout(columns, comparison.metrics)
    if console.is_terminal:
        layout = _fitting(comparison, whole, console.width)
    grid = _grid(comparison, layout)
    console.width = max(console.width, _width(grid))
    console.print(_table(comparison, grid))
    short = comparison.fields.short
    omitted = [short(name) for name in columns if name not in layout.columns]
    omitted += [name for name in whole.metrics if name not in layout.metrics]
    more = [f"Not enough room for {some(omitted, _MOST_OMITTED)}; use --format md to see them."] if omitted else []
    for line in [*verdict(comparison), *remarks(comparison), *more, *others]:
        console.print(line, soft_wrap=not console.is_terminal)


def _fitting(comparison: Comparison, whole: _Layout, width: int) -> _Layout:
    """Returns a layout that fits a terminal, with as many of the most important columns as possible.

    Requested columns and those that distinguish the rows come first, then results, costs, and the remaining fields.
    Headers and texts are wrapped where needed; a run's name is broken only if its row has no room for one metric.
    """

    def fits(layout: _Layout) -> bool:
        return _width(_grid(comparison, layout)) <= width

    if fits(whole):
        return whole
    best_first = list(dict.fromkeys([*chosen(comparison.rows, whole.columns, len(whole.columns)), *whole.columns]))
    first = most_varied(comparison.rows, whole.columns, len(whole.columns), enough=True)
    first = whole.columns if comparison.grouped else first
    asked = whole.metrics if comparison.asked else whole.metrics[:1]
    others = [name for name in whole.metrics if name not in asked]
    kinds = [
        ("columns", [name for name in best_first if name in first]),
        ("metrics", [name for name in others if name not in COSTS]),
        ("metrics", [name for name in others if name in COSTS]),
        ("columns", [name for name in best_first if name not in first]),
    ]
    layout = _Layout([], asked, headers=True, texts=True)
    for length in range(_LONGEST_LINE, _SHORTEST_NAME - 1, -1):
        if fits(layout):
            break
        layout = replace(layout, name=length)
    for part, names in kinds:
        for name in names:
            kept = [other for other in getattr(whole, part) if other == name or other in getattr(layout, part)]
            layout = wider if fits(wider := replace(layout, **{part: kept})) else layout  # type: ignore[arg-type]
        if not set(names).issubset(getattr(layout, part)):
            break  # a less important kind is shown only beside all of this one
    for part in ("texts", "headers"):
        layout = wider if fits(wider := replace(layout, **{part: False})) else layout  # type: ignore[arg-type]
    return layout


def _grid(comparison: Comparison, layout: _Layout) -> list[list[str]]:
    """Returns the header and the rows; each cell has its line breaks."""
    header, body = replace(comparison, metrics=layout.metrics).cells(layout.columns)
    fields = range(1, 1 + len(layout.columns))
    lines = []
    for cells in body:
        texts = [cell.text for cell in cells]
        if layout.texts:
            texts = [in_lines(text, _LONGEST_LINE) if place in fields else text for place, text in enumerate(texts)]
            texts[0] = texts[0].replace("/", "/\n", 1) if len(texts[0]) > _LONGEST_LINE else texts[0]
        if layout.name:
            texts[0] = _broken(texts[0], layout.name)
        lines.append(texts)
    if layout.headers:
        widths = map(_widest, zip(*lines, strict=True))
        header = [_in_two(text) if len(text) > width else text for text, width in zip(header, widths, strict=True)]
    return [header, *lines]


def _broken(name: str, longest: int) -> str:
    """Breaks a run's name after its signs into lines of at most `longest` characters; a longer part is kept whole."""
    lines = [""]
    for part in re.findall(r"[^\s/._-]*[\s/._-]*", name):
        if lines[-1] and len(lines[-1] + part.rstrip()) > longest:
            lines.append("")
        lines[-1] += part.replace("\n", "")
    return "\n".join(line.rstrip() for line in lines)


def _in_two(header: str) -> str:
    """Breaks a metric's or field's name into two lines, after the sign that makes the longer line shortest."""
    breaks = [match.end() for match in re.finditer(r"[._/]", header[:-1])]
    at = min(breaks, key=lambda place: max(place, len(header) - place), default=0)
    return f"{header[:at]}\n{header[at:]}" if at else header


def _widest(texts: Sequence[str]) -> int:
    """Returns the width of the longest line in some cells, in terminal columns."""
    return max(cell_len(line) for text in texts for line in text.split("\n"))


def _width(grid: Sequence[Sequence[str]]) -> int:
    """Returns the width of the table in terminal columns."""
    return sum(_widest(column) + _PADDING for column in zip(*grid, strict=True)) + 1


def _table(comparison: Comparison, grid: Sequence[Sequence[str]]) -> Table:
    """Returns the table with texts on the left and numbers on the right; the best rows are green."""
    numbers = len(grid[0]) - grid[0][::-1].index("seeds") - 1  # columns before it are texts
    table = Table()
    for place, name in enumerate(grid[0]):
        table.add_column(name, justify="left" if place < numbers else "right", no_wrap=True)
    for row, texts in zip(comparison.rows, grid[1:], strict=True):
        style = "bold green" if texts[0].startswith(BEST) else None if row.finished else "dim"
        table.add_row(*texts, style=style)
    return table
