"""Writes the tables of a reproduction to the screen, as Markdown and as CSV, with the paper's values beside ours."""

from __future__ import annotations

import csv
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table as ScreenTable

from lit_triwave.commands.reproduce.methods import METHODS
from lit_triwave.commands.reproduce.paper import DEPTH, FUNCTIONS, Table, paper_figure
from lit_triwave.commands.reproduce.programs import free_knot_mse
from lit_triwave.files import written_whole

Stats = Mapping[str, Mapping[str, Mapping[str, Mapping[str, float]]]]
"""Table ↦ method ↦ column ↦ `min`, `mean`, `median`, `dead`."""

TITLES = {
    "dense": "Dense data: 500 equally spaced points",
    "sparse": "Sparse data: 10 points, tested between them",
    "nonconvex": "Non-convex and two-dimensional functions",
    "depths": "x³ by depth",
}
STATISTICS = {"min": "lowest test MSE", "mean": "mean test MSE", "median": "median test MSE", "dead": "dead networks"}


def label(column: str) -> str:
    """Returns the heading of a column."""
    return FUNCTIONS[column].label if column in FUNCTIONS else f"depth {column}"


def limit(table: Table, column: str) -> float | None:
    """Returns the free-knot limit of a column (METHOD section 6); None if it is unknown."""
    function, depth = (column, DEPTH) if column in FUNCTIONS else ("x3", int(column))
    return None if table == "sparse" else free_knot_mse(function, depth)


def columns_of(methods: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Returns the columns that at least one method of a table has; stacks have more depths than other methods."""
    return list(dict.fromkeys(column for cells in methods.values() for column in cells))


def lines(stats: Stats, table: Table, statistic: str) -> list[list[str]]:
    """Returns one statistic of a table: a heading, a line for each method, and the limit below the lowest errors.

    The study by depth has a line for each depth instead, because there are many depths.
    """
    methods = stats[table]
    columns = columns_of(methods)
    cited = any(paper_figure(statistic, table, m, c) is not None for m in methods for c in columns)
    found = [[STATISTICS[statistic] + (" (the paper's)" if cited else ""), *map(label, columns)]]
    for method, cells in methods.items():
        found.append([METHODS[method].label, *(_entry(cells, table, method, c, statistic) for c in columns)])
    limits = [limit(table, column) for column in columns]
    if statistic == "min" and any(limits):
        found.append(["free-knot limit", *("" if value is None else scientific(value) for value in limits)])
    return [list(line) for line in zip(*found, strict=True)] if table == "depths" else found


def _entry(cells: Mapping[str, Mapping[str, float]], table: Table, method: str, column: str, statistic: str) -> str:
    if column not in cells:
        return ""
    value = cells[column][statistic]
    if statistic == "dead":
        return f"{value:.0%}"
    paper = paper_figure(statistic, table, method, column)
    return scientific(value) + ("" if paper is None else f" ({scientific(paper)})")


def scientific(value: float) -> str:
    """Returns a number such as 1.23e-7."""
    return re.sub(r"e([+-])0+(?=\d)", r"e\1", f"{value:.2e}")


def show(stats: Stats) -> None:
    """Prints all tables."""
    console = Console()
    for table in stats:
        for statistic in STATISTICS:
            heading, *rows = lines(stats, table, statistic)  # type: ignore[arg-type]
            title = TITLES[table] if statistic == "min" else None
            screen = ScreenTable(*heading, title=title, title_justify="left", title_style="bold")
            for column in screen.columns[1:]:
                column.justify = "right"
            for row in rows:
                screen.add_row(*row)
            console.print(screen)


def markdown(stats: Stats) -> str:
    """Returns all tables as Markdown."""
    parts = []
    for table in stats:
        parts.append(f"## {TITLES[table]}\n")
        for statistic in STATISTICS:
            heading, *rows = lines(stats, table, statistic)  # type: ignore[arg-type]
            divider = ["---", *["---:"] * (len(heading) - 1)]
            parts.append("\n".join(f"| {' | '.join(row)} |" for row in (heading, divider, *rows)) + "\n")
    return "\n".join(parts)


def remarks(stats: Stats) -> list[str]:
    """Returns a sentence for each cell that is worse than the paper's, and for each baseline far from the paper's."""
    found = []
    for table, method, column, values in _cells(stats):
        for statistic in ("min", "mean"):
            paper = paper_figure(statistic, table, method, column)
            if paper is None:
                continue
            ratio = values[statistic] / paper
            name = f"{table}, {METHODS[method].label}, {label(column)}, {STATISTICS[statistic]}"
            figures = f"{scientific(values[statistic])}, the paper's {scientific(paper)}"
            if ratio > 1:
                found.append(f"{name}: {figures} ({ratio:.2f} times as high).")
            elif not METHODS[method].constructed and ratio < 1 / 5:
                found.append(f"{name}: {figures} ({1 / ratio:.0f} times lower: not the same baseline).")
    return found


def write_csv(path: Path, stats: Stats) -> None:
    """Writes the tables as CSV, with one line for each cell."""
    with written_whole(path) as partial, partial.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["table", "method", "column", *STATISTICS, "paper_min", "paper_mean", "free_knot_limit"])
        for table, method, column, values in _cells(stats):
            papers = [paper_figure(statistic, table, method, column) for statistic in ("min", "mean")]
            row: list[Any] = [table, method, column, *(values[s] for s in STATISTICS), *papers, limit(table, column)]
            writer.writerow(row)


def _cells(stats: Stats) -> Any:
    for table, methods in stats.items():
        for method, cells in methods.items():
            for column, values in cells.items():
                yield table, method, column, values
