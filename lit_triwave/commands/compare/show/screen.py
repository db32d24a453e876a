"""A comparison on a terminal: what does not fit is left out whole, and named; no number or word is broken."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
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

PADDING = 3
"""Characters between the texts of two columns."""
LONGEST_LINE = 24
"""Characters in a line of a wrapped cell; a longer word is not broken."""
SHORTEST_NAME = 12
MOST_LEFT_OUT = 8
"""Omitted columns that are named."""


@dataclass(frozen=True)
class Layout:
    """What is shown, and how.

    Args:
        columns: fields, by full names.
        metrics: the first is the main one.
        headers: whether long headers stand in two lines.
        texts: whether long texts stand in several lines.
        name: signs in a line of a run's name, at most; 0 for any number.
    """

    columns: list[str]
    metrics: list[str]
    headers: bool = False
    texts: bool = False
    name: int = 0


def write_screen(comparison: Comparison, columns: list[str], others: Sequence[str], file: TextIO) -> None:
    """A table for a terminal; as wide as it needs to be where there is none.

    Args:
        comparison: to be shown.
        columns: fields that are shown where there is room, by full names.
        others: what is to be said of further fields.
        file: that it goes to.
    """
    console = Console(file=file, highlight=False, markup=False)
    whole = layout = Layout(columns, comparison.metrics)
    if console.is_terminal:
        layout = _fitting(comparison, whole, console.width)
    grid = _grid(comparison, layout)
    console.width = max(console.width, _width(grid))
    console.print(_table(comparison, grid))
    short = comparison.fields.short
    left = [short(name) for name in columns if name not in layout.columns]
    left += [name for name in whole.metrics if name not in layout.metrics]
    said = [f"Left out for want of room: {some(left, MOST_LEFT_OUT)}; --format md has them."] if left else []
    for line in [*verdict(comparison), *remarks(comparison), *said, *others]:
        console.print(line, soft_wrap=not console.is_terminal)


def _fitting(comparison: Comparison, whole: Layout, width: int) -> Layout:
    """The first of ever narrower layouts that fits, with what there is still room for then."""

    def fits(layout: Layout) -> bool:
        return _width(_grid(comparison, layout)) <= width

    layout = whole
    for layout in _narrower(comparison, whole):
        if fits(layout):
            break
    for part in ("columns", "metrics"):
        for name in getattr(whole, part):
            kept = getattr(layout, part)
            more = [other for other in getattr(whole, part) if other == name or other in kept]
            if more != kept and fits(there := replace(layout, **{part: more})):  # type: ignore[arg-type]
                layout = there
    if layout.texts and fits(there := replace(layout, texts=False)):
        layout = there
    return layout


def _narrower(comparison: Comparison, layout: Layout) -> Iterator[Layout]:
    """Ways to show it, each narrower than the one before; what is asked for and what tells the rows apart goes last."""
    best_first = chosen(comparison.rows, layout.columns, len(layout.columns))
    best_first += [name for name in layout.columns if name not in best_first]
    telling = most_varied(comparison.rows, layout.columns, len(layout.columns), enough=True)
    spare = [name for name in reversed(best_first) if not (comparison.grouped or name in telling)]
    others = [] if comparison.asked else layout.metrics[:0:-1]
    steps = [layout, replace(layout, headers=True)]
    steps += _without(steps[-1], "columns", spare)
    steps.append(replace(steps[-1], texts=True))
    steps += _without(steps[-1], "metrics", [name for name in others if name in COSTS])
    for part, names in (("metrics", others), ("columns", best_first[::-1])):
        steps += _without(steps[-1], part, [name for name in names if name in getattr(steps[-1], part)])
    yield from steps
    yield from (replace(steps[-1], name=length) for length in range(LONGEST_LINE, SHORTEST_NAME - 1, -1))


def _without(layout: Layout, part: str, names: Sequence[str]) -> list[Layout]:
    """The layout with one after the other of some columns left out."""
    steps = []
    for name in names:
        kept = [other for other in getattr(layout, part) if other != name]
        layout = replace(layout, **{part: kept})  # type: ignore[arg-type]
        steps.append(layout)
    return steps


def _grid(comparison: Comparison, layout: Layout) -> list[list[str]]:
    """The header and the rows, each cell with its line breaks."""
    header, body = replace(comparison, metrics=layout.metrics).cells(layout.columns)
    fields = range(1, 1 + len(layout.columns))
    lines = []
    for cells in body:
        texts = [cell.text for cell in cells]
        if layout.texts:
            texts = [in_lines(text, LONGEST_LINE) if place in fields else text for place, text in enumerate(texts)]
            texts[0] = texts[0].replace("/", "/\n", 1) if len(texts[0]) > LONGEST_LINE else texts[0]
        if layout.name:
            texts[0] = _broken(texts[0], layout.name)
        lines.append(texts)
    if layout.headers:
        widths = map(_widest, zip(*lines, strict=True))
        header = [_in_two(text) if len(text) > width else text for text, width in zip(header, widths, strict=True)]
    return [header, *lines]


def _broken(name: str, longest: int) -> str:
    """A run's name in lines of so many signs if none of its parts has more."""
    lines = [""]
    for part in re.findall(r"[^\s/._-]*[\s/._-]*", name):
        if lines[-1] and len(lines[-1] + part.rstrip()) > longest:
            lines.append("")
        lines[-1] += part.replace("\n", "")
    return "\n".join(line.rstrip() for line in lines)


def _in_two(header: str) -> str:
    """A metric's or a field's name in two lines, broken behind the sign that makes them shortest."""
    breaks = [match.end() for match in re.finditer(r"[._/]", header[:-1])]
    at = min(breaks, key=lambda place: max(place, len(header) - place), default=0)
    return f"{header[:at]}\n{header[at:]}" if at else header


def _widest(texts: Sequence[str]) -> int:
    """Returns the width of the longest line in some cells, in terminal columns."""
    return max(cell_len(line) for text in texts for line in text.split("\n"))


def _width(grid: Sequence[Sequence[str]]) -> int:
    """Returns the width of the table in terminal columns."""
    return sum(_widest(column) + PADDING for column in zip(*grid, strict=True)) + 1


def _table(comparison: Comparison, grid: Sequence[Sequence[str]]) -> Table:
    numbers = len(grid[0]) - grid[0][::-1].index("seeds") - 1  # texts stand before it
    table = Table()
    for place, name in enumerate(grid[0]):
        table.add_column(name, justify="left" if place < numbers else "right", no_wrap=True)
    for row, texts in zip(comparison.rows, grid[1:], strict=True):
        style = "bold green" if texts[0].startswith(BEST) else None if row.finished else "dim"
        table.add_row(*texts, style=style)
    return table
