"""Draws the four charts of a comparison as PNG files."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib import colormaps
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from lit_triwave.commands.compare.show.charts import (
    COLORS,
    COSTS,
    ceiling,
    coloured,
    curves_ceiling,
    drawing_order,
    is_error,
    is_wide,
    labels,
    line_widths,
    number_text,
    parallel_axes,
    parallel_rows,
    points,
)
from lit_triwave.commands.compare.show.curves import Curves
from lit_triwave.commands.compare.table.cells import in_lines
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
    best = coloured(comparison, curves)
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


def curves_figure(comparison: Comparison, curves: Curves, best: Sequence[int]) -> Figure | None:
    """Draws means over seeds with bands from lowest to highest; unfinished runs are dashed. None without curves.

    Args:
        comparison: the rows to draw.
        curves: the learning curves of these rows.
        best: numbers of the coloured rows.
    """
    order = [number for number in drawing_order(comparison) if curves.curves[number] is not None]
    if not order:
        return None
    names = _names(comparison)
    colors = {number: color for number, color in zip(best, COLORS, strict=False) if number in order}
    figure, (ax,) = new_figure(size=_SIZE)
    others = [number for number in order if number not in colors]
    for number in others[:: -(-len(others) // _MOST_GREY) or 1]:
        curve = curves.curves[number]
        assert curve is not None
        ax.plot(curve.steps, curve.mean, color=GREY, linewidth=0.6, alpha=0.35, zorder=1)
    band = max(0.05, 0.18 - 0.03 * (len(colors) - 1))  # many bands would hide each other
    handles: list[Artist] = []
    widths = line_widths(curves, list(colors), 1.5, 2.5)
    for number, color in reversed(colors.items()):
        curve = curves.curves[number]
        assert curve is not None
        style = {"linestyle": "-" if comparison.rows[number].finished else "--", "linewidth": widths[number]}
        style |= {"marker": "o" if len(curve.steps) < 30 else "", "markersize": 3}
        ax.fill_between(curve.steps, curve.low, curve.high, color=color, alpha=band, linewidth=0, zorder=2)
        handles += ax.plot(curve.steps, curve.mean, color=color, label=names[number], zorder=3, **style)  # type: ignore[arg-type]
    if curves.logarithmic:
        lows = np.concatenate([curve.low for curve in curves.curves if curve is not None])
        _logarithmic(ax, lows, curves_ceiling(curves))
    scale = ", logarithmic" if curves.logarithmic else ""
    ax.set(xlabel="training step", ylabel=f"{curves.metric}{scale}")
    ax.set_title("Learning curves, mean and range over seeds", loc="left", fontsize=11)
    _legend(figure, handles[::-1], Line2D([], [], color=GREY, linewidth=1.2), len(others))
    return figure


def cost_figure(comparison: Comparison, cost: str, best: Sequence[int]) -> Figure | None:
    """Draws the main metric, mean ± standard error, against parameters or time. None if no row has both.

    Args:
        comparison: the rows to draw.
        cost: one of `COSTS`.
        best: numbers of the coloured rows.
    """
    found = points(comparison, cost)
    if not found.rows:
        return None
    names = _names(comparison)
    place_of = {number: place for place, number in enumerate(found.rows)}
    colors = {number: color for number, color in zip(best, COLORS, strict=False) if number in place_of}
    figure, (ax,) = new_figure(size=_SIZE)
    grey = [place for number, place in place_of.items() if number not in colors]
    if grey:
        ax.plot(found.x[grey], found.y[grey], "o", color=GREY, markersize=3.5, alpha=0.5, zorder=1)
    logarithmic = is_error(comparison, found.y)
    handles: list[Artist] = []
    for number, color in colors.items():
        place = place_of[number]
        x, y, error = found.x[place], found.y[place], found.error[place]
        ax.errorbar(x, y, error, fmt="none", ecolor=color, capsize=3, zorder=2)
        handles += ax.plot(x, y, "o", color=color, markersize=5.5, label=names[number], zorder=3)
    ax.margins(0.08)
    ax.ticklabel_format(useOffset=False)
    if logarithmic:
        _logarithmic(ax, found.y - np.minimum(found.error, 0.9 * found.y), ceiling(found.y))
    if is_wide(found.x, 10.0):
        ax.set_xscale("log")
    scale = ", logarithmic" if logarithmic else ""
    title = f"{comparison.main} against {metric_title(cost)}, mean ± standard error over seeds"
    ax.set(xlabel=COSTS[cost], ylabel=f"{comparison.main}{scale}")
    ax.set_title(title, loc="left", fontsize=11)
    _legend(figure, handles, Line2D([], [], color=GREY, marker="o", linestyle="", markersize=4), len(grey))
    return figure


def _names(comparison: Comparison) -> list[str]:
    """Returns the names of the rows for the legend, in lines."""
    return [in_lines(name, _LEGEND_CHARACTERS) for name in labels(comparison, 2 * _LEGEND_CHARACTERS - 16)]


def _logarithmic(ax: Axes, lows: np.ndarray, top: float | None) -> None:
    """Makes the vertical axis logarithmic; a note says that values above `top` are omitted."""
    decades_grid(ax)
    if top is not None:
        shown = lows[(lows > 0) & (lows <= top)]
        ax.set_ylim(shown.min(initial=top) / 3, top * 10)
        omitted = f"diverged values above {number_text(top)} are not shown"
        ax.text(0.99, 0.98, omitted, transform=ax.transAxes, ha="right", va="top", fontsize=8, color=GREY)


def _legend(figure: Figure, best: Sequence[Artist], grey: Artist, others: int) -> None:
    """Puts the legend below the axes, where it hides nothing and the axes keep their full width; best first."""
    grey.set_label(f"{others} other{'s' * (others > 1)}")
    handles = [*best, *([grey] if others else [])]
    figure.legend(handles=handles, loc="outside lower left", ncols=2, frameon=False, fontsize=8)


def parallel_figure(comparison: Comparison) -> Figure | None:
    """Draws a line for each row through its fields to the main metric, which colours it. None without two axes."""
    order = parallel_rows(comparison)
    axes = parallel_axes(comparison, order) if order else []
    if len(axes) < 2:
        return None
    figure, (ax,) = new_figure(size=(max(7.0, 1.45 * len(axes)), 4.6))
    best_first = np.linspace(0.0, 0.92, max(2, len(order)))
    colors = colormaps["viridis"]
    strength = 0.75 if len(order) <= 60 else 0.35
    for place in reversed(range(len(order))):
        line = [axis.places[place] for axis in axes]
        ax.plot(line, color=colors(best_first[place]), linewidth=1.0, alpha=strength, zorder=2)
    best = set(comparison.best())
    bold = [place for place, number in enumerate(order) if comparison.rows[number] in best]
    for place in bold:
        ax.plot([axis.places[place] for axis in axes], color=BLUE, linewidth=2.4, zorder=4)
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
