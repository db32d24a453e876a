"""Shows a comparison on a terminal: columns without room are omitted and listed; no number or word is broken."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import TextIO

from rich.cells import cell_len
from rich.console import Console
from rich.table import Table

from lit_triwave.commands.compare.show.charts import COSTS
from lit_triwave.commands.compare.table.cells import in_lines
from lit_triwave.commands.compare.table.columns import most_varied
from lit_triwave.commands.compare.table.table import BEST, Comparison
from lit_triwave.commands.compare.table.verdict import remarks, verdict
from lit_triwave.errors import some

_PADDING = 3
"""Characters between the texts of two columns."""
_LONGEST_LINE = 24
"""Characters in a line of a wrapped cell; a longer word is not broken."""
_MOST_OMITTED = 8
"""Omitted columns that are named."""


def write_screen(comparison: Comparison, file: TextIO) -> None:
    """Writes a table that fits the terminal; without a terminal, the table is as wide as needed."""
    columns, others = comparison.few_columns()
    console = Console(file=file, highlight=False, markup=False)
    grid = _grid(comparison, columns, wrapped=False)
    omitted: list[str] = []
    if console.is_terminal and _width(grid) > console.width:
        grid, omitted = _fitting(comparison, columns, console.width)
    console.width = max(console.width, _width(grid))
    console.print(_table(comparison, grid))
    more = [f"Not enough room for {some(omitted, _MOST_OMITTED)}; use --format md to see them."] if omitted else []
    for line in [*verdict(comparison), *remarks(comparison), *more, *others]:
        console.print(line, soft_wrap=not console.is_terminal)


def _fitting(comparison: Comparison, columns: list[str], width: int) -> tuple[list[list[str]], list[str]]:
    """Returns the wrapped table that fits a terminal, and the names of the omitted columns.

    Metrics that the user asked for are kept. Columns are added kind by kind as long as they fit: fields that
    distinguish the rows, results, costs, other fields. A kind is shown only if all of the kind before it is shown.
    """
    telling = columns if comparison.grouped else most_varied(comparison.rows, columns, len(columns), enough=True)
    kept = list(comparison.metrics if comparison.asked else comparison.metrics[:1])
    results = sorted((name for name in comparison.metrics if name not in kept), key=lambda name: name in COSTS)

    def table(names: list[str]) -> list[list[str]]:
        less = replace(comparison, metrics=[name for name in comparison.metrics if name in names])
        return _grid(less, [name for name in columns if name in names], wrapped=True)

    for kind in (telling, results, columns):
        for name in kind:
            if name not in kept and _width(table([*kept, name])) <= width:
                kept.append(name)
        if not set(kind) <= set(kept):
            break
    omitted = [comparison.fields.short(name) for name in columns if name not in kept]
    return table(kept), omitted + [name for name in results if name not in kept]


def _grid(comparison: Comparison, columns: list[str], wrapped: bool) -> list[list[str]]:
    """Returns the header and the rows; each cell has its line breaks."""
    header, body = comparison.cells(columns)
    grid = [header, *([cell.text for cell in cells] for cells in body)]
    if not wrapped:
        return grid
    for cells in grid[1:]:
        cells[0] = cells[0].replace("/", "/\n", 1) if len(cells[0]) > _LONGEST_LINE else cells[0]
        cells[1 : 1 + len(columns)] = [in_lines(text, _LONGEST_LINE) for text in cells[1 : 1 + len(columns)]]
    widths = map(_widest, zip(*grid[1:], strict=True))
    for place, (name, width) in enumerate(zip(header, widths, strict=True)):
        header[place] = re.sub(r"([/.])(?=\w)", "\\1\n", name) if len(name) > width else name
    return grid


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
