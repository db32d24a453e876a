"""Draws the four charts of a comparison as PNG files."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib import colormaps
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from lit_triwave.commands.compare.show import charts
from lit_triwave.commands.compare.show.curves import Curves
from lit_triwave.commands.compare.table.cells import in_lines
from lit_triwave.commands.compare.table.rows import Row
from lit_triwave.commands.compare.table.table import Comparison
from lit_triwave.figures.style import BLUE, GREY, decades_grid, new_figure
from lit_triwave.files import written_whole
from lit_triwave.tracking.metric_goals import title as metric_title

_MOST_GREY = 200
"""Grey curves of rows other than the best, at most; more would merge."""
_SIZE = (9.0, 5.4)  # inches, with the legend
_LEGEND_CHARACTERS = 56
"""Characters in a line of the legend, which has two columns; long names have two lines."""


def write_figures(comparison: Comparison, curves: Curves, folder: Path) -> list[Path]:
    """Draws the charts for which there is data and reports the others on standard error.

    Args:
        comparison: the rows to show.
        curves: the learning curves of these rows.
        folder: an existing folder.

    Returns:
        The written files.
    """
    best = charts.colours(comparison, curves)
    drawn = {"curves": curves_figure(comparison, curves, best), "parallel": parallel_figure(comparison)}
    for name, cost in (("parameters", "parameters"), ("time", "fit_seconds")):
        drawn[name] = cost_figure(comparison, cost, best)
    written = []
    for name, figure in drawn.items():
        if figure is None:
            print(f"{folder / name}.png: not drawn, because the runs lack its data", file=sys.stderr)
            continue
        with written_whole(folder / f"{name}.png") as partial:
            figure.savefig(partial, format="png")
        written.append(folder / f"{name}.png")
    return written


def curves_figure(comparison: Comparison, curves: Curves, best: Mapping[Row, str]) -> Figure | None:
    """Draws means over seeds with bands from lowest to highest; unfinished runs are dashed. None without curves.

    Args:
        comparison: the rows to draw.
        curves: the learning curves of these rows.
        best: colours of the best rows.
    """
    if not curves.by_row:
        return None
    names = _names(comparison)
    figure, (ax,) = new_figure(size=_SIZE)
    others = [row for row in charts.drawing_order(comparison) if row in curves.by_row and row not in best]
    for row in others[:: -(-len(others) // _MOST_GREY) or 1]:
        curve = curves.by_row[row]
        ax.plot(curve.steps, curve.mean, color=GREY, linewidth=0.6, alpha=0.35, zorder=1)
    widths = charts.line_widths(curves, best, 1.5, 2.5)
    band = max(0.05, 0.18 - 0.03 * (len(widths) - 1))  # many bands would hide each other
    handles: list[Artist] = []
    for row, width in reversed(widths.items()):
        curve, color = curves.by_row[row], best[row]
        dash, marker = "-" if row.finished else "--", "o" if len(curve.steps) < 30 else ""
        ax.fill_between(curve.steps, curve.low, curve.high, color=color, alpha=band, linewidth=0, zorder=2)
        line = ax.plot(curve.steps, curve.mean, color=color, linestyle=dash, marker=marker, markersize=3, zorder=3)
        line[0].set(linewidth=width, label=names[row])
        handles += line
    lows = np.concatenate([curve.low for curve in curves.by_row.values()])
    _scale(ax, curves.metric, lows, curves.logarithmic, charts.curves_ceiling(curves))
    ax.set_xlabel("training step")
    ax.set_title("Learning curves, mean and range over seeds", loc="left", fontsize=11)
    _legend(figure, handles[::-1], Line2D([], [], color=GREY, linewidth=1.2), len(others))
    return figure


def cost_figure(comparison: Comparison, cost: str, best: Mapping[Row, str]) -> Figure | None:
    """Draws the main metric, mean ± standard error, against parameters or time. None if no row has both.

    Args:
        comparison: the rows to draw.
        cost: one of `COSTS`.
        best: colours of the best rows.
    """
    found = charts.points(comparison, cost)
    if not found:
        return None
    names = _names(comparison)
    figure, (ax,) = new_figure(size=_SIZE)
    grey = [(x, y) for row, (x, y, _) in found.items() if row not in best]
    ax.plot(*np.reshape(grey, (-1, 2)).T, "o", color=GREY, markersize=3.5, alpha=0.5, zorder=1)
    handles: list[Artist] = []
    for row in [row for row in best if row in found]:
        x, y, error = found[row]
        ax.errorbar(x, y, error, fmt="none", ecolor=best[row], capsize=3, zorder=2)
        handles += ax.plot(x, y, "o", color=best[row], markersize=5.5, label=names[row], zorder=3)
    ax.margins(0.08)
    ax.ticklabel_format(useOffset=False)
    lows = np.array([y - min(error, 0.9 * y) for _, y, error in found.values()])
    _scale(ax, comparison.main, lows, *charts.main_scale(comparison))
    ax.set_xlabel(charts.COSTS[cost])
    if charts.is_wide([x for x, _, _ in found.values()]):
        ax.set_xscale("log")
    title = f"{comparison.main} against {metric_title(cost)}, mean ± standard error over seeds"
    ax.set_title(title, loc="left", fontsize=11)
    _legend(figure, handles, Line2D([], [], color=GREY, marker="o", linestyle="", markersize=4), len(grey))
    return figure


def _names(comparison: Comparison) -> dict[Row, str]:
    """Returns the names of the rows for the legend, in lines."""
    names = charts.labels(comparison, 2 * _LEGEND_CHARACTERS - 16)
    return {row: in_lines(name, _LEGEND_CHARACTERS) for row, name in names.items()}


def _scale(ax: Axes, metric: str, lows: np.ndarray, logarithmic: bool, top: float | None) -> None:
    """Names the vertical axis, and makes it logarithmic; a note says that values above `top` are omitted."""
    ax.set_ylabel(f"{metric}, logarithmic" if logarithmic else metric)
    if logarithmic:
        decades_grid(ax)
    if top is not None:
        shown = lows[(lows > 0) & (lows <= top)]
        ax.set_ylim(shown.min(initial=top) / 3, top * 10)
        omitted = f"diverged values above {charts.number_text(top)} are not shown"
        ax.text(0.99, 0.98, omitted, transform=ax.transAxes, ha="right", va="top", fontsize=8, color=GREY)


def _legend(figure: Figure, best: Sequence[Artist], grey: Artist, others: int) -> None:
    """Puts the legend below the axes, where it hides nothing and the axes keep their full width; best first."""
    grey.set_label(f"{others} other{'s' * (others > 1)}")
    handles = [*best, *([grey] if others else [])]
    figure.legend(handles=handles, loc="outside lower left", ncols=2, frameon=False, fontsize=8)


def parallel_figure(comparison: Comparison) -> Figure | None:
    """Draws a line for each row through its fields to the main metric, which colours it. None without two axes."""
    order = charts.parallel_rows(comparison)
    axes = charts.parallel_axes(comparison, order)
    if not axes:
        return None
    figure, (ax,) = new_figure(size=(max(7.0, 1.45 * len(axes)), 4.6))
    colors = colormaps["viridis"](np.linspace(0.0, 0.92, max(2, len(order))))
    strength = 0.75 if len(order) <= 60 else 0.35
    lines = list(zip(*(axis.places for axis in axes), strict=True))
    for line, color in reversed(list(zip(lines, colors, strict=False))):
        ax.plot(line, color=color, linewidth=1.0, alpha=strength, zorder=2)
    best = comparison.best()
    bold = [line for row, line in zip(order, lines, strict=True) if row in best]
    for line in bold:
        ax.plot(line, color=BLUE, linewidth=2.4, zorder=4)
    for x, axis in enumerate(axes):
        ax.axvline(x, color="#3c4046", linewidth=0.9, zorder=3)
        for y, text in axis.ticks.items():
            box = {"facecolor": "white", "alpha": 0.9, "linewidth": 0, "pad": 1.2}
            up = x < len(axes) - 1  # lines continue to the right of it
            va, ha = "bottom" if up else "center", "left"
            ax.text(x + 0.03, y + 0.014 * up, text, fontsize=7.5, va=va, ha=ha, bbox=box, zorder=5)
    ax.set_xticks(range(len(axes)), [axis.title for axis in axes], ha="left")
    ax.xaxis.tick_top()
    ax.tick_params(axis="x", length=0)
    ax.set_yticks([])
    ax.spines[:].set_visible(False)
    ax.set_xlim(-0.15, len(axes) - 1 + 0.45)
    title = f"{len(order)} rows, from dark (best) to light"
    if bold:
        several = len(comparison.by_target()) > 1
        title += "; the best of each function or data set bold" if several else "; the best one bold"
    ax.set_title(title, pad=19, loc="left", fontsize=11)
    return figure
