"""Writes the tables of a reproduction to the screen, as Markdown and as CSV, with the paper's values beside ours."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

from pandas import DataFrame
from rich.console import Console
from rich.table import Table as ScreenTable

from lit_triwave.commands.reproduce.methods import METHODS
from lit_triwave.commands.reproduce.paper import FUNCTIONS

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


def lines(cells: DataFrame, statistic: str) -> list[list[str]]:
    """Returns one statistic of a table: a heading, a line for each method, and the limit below the lowest errors.

    The study by depth has a line for each depth instead, because there are many depths.

    Args:
        cells: the table's rows of `statistics`.
        statistic: one of `STATISTICS`.
    """
    entries = {(cell["method"], cell["column"]): _entry(cell, statistic) for cell in cells.to_dict("records")}
    limits = dict(zip(cells["column"], cells["free_knot_limit"], strict=True))  # in the order of the columns
    cited = statistic in ("min", "mean") and cells[f"paper_{statistic}"].notna().any()
    found = [[STATISTICS[statistic] + (" (the paper's)" if cited else ""), *map(label, limits)]]
    for method in cells["method"].unique():
        found.append([METHODS[method].label, *(entries.get((method, column), "") for column in limits)])
    if statistic == "min" and cells["free_knot_limit"].any():
        found.append(["free-knot limit", *map(scientific, limits.values())])
    return [list(line) for line in zip(*found, strict=True)] if "depths" in cells["table"].values else found


def _entry(cell: Mapping[Any, Any], statistic: str) -> str:
    if statistic == "dead":
        return f"{cell['dead']:.0%}"
    paper = scientific(cell.get(f"paper_{statistic}", math.nan))
    return scientific(cell[statistic]) + (f" ({paper})" if paper else "")


def scientific(value: float) -> str:
    """Returns a number such as 1.23e-7; "" for NaN."""
    return "" if math.isnan(value) else re.sub(r"e([+-])0+(?=\d)", r"e\1", f"{value:.2e}")


def show(stats: DataFrame) -> None:
    """Prints all tables."""
    console = Console()
    for table, cells in stats.groupby("table", sort=False):
        for statistic in STATISTICS:
            heading, *rows = lines(cells, statistic)
            title = TITLES[str(table)] if statistic == "min" else None
            screen = ScreenTable(*heading, title=title, title_justify="left", title_style="bold")
            for column in screen.columns[1:]:
                column.justify = "right"
            for row in rows:
                screen.add_row(*row)
            console.print(screen)


def markdown(stats: DataFrame) -> str:
    """Returns all tables as Markdown."""
    parts = []
    for table, cells in stats.groupby("table", sort=False):
        parts.append(f"## {TITLES[str(table)]}\n")
        for statistic in STATISTICS:
            heading, *rows = lines(cells, statistic)
            divider = ["---", *["---:"] * (len(heading) - 1)]
            parts.append("\n".join(f"| {' | '.join(row)} |" for row in (heading, divider, *rows)) + "\n")
    return "\n".join(parts)


def remarks(stats: DataFrame) -> list[str]:
    """Returns a sentence for each cell that is worse than the paper's, and for each baseline far from the paper's."""
    found = []
    for cell in stats.to_dict("records"):
        method = METHODS[cell["method"]]
        for statistic in ("min", "mean"):
            value, paper = cell[statistic], cell[f"paper_{statistic}"]
            ratio = value / paper  # NaN where the paper has no value
            name = f"{cell['table']}, {method.label}, {label(cell['column'])}, {STATISTICS[statistic]}"
            figures = f"{scientific(value)}, the paper's {scientific(paper)}"
            if ratio > 1:
                found.append(f"{name}: {figures} ({ratio:.2f} times as high).")
            elif not method.constructed and ratio < 1 / 5:
                found.append(f"{name}: {figures} ({1 / ratio:.0f} times lower: not the same baseline).")
    return found
