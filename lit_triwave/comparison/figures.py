"""The four pictures of a comparison as PNG files."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib import colormaps
from matplotlib.artist import Artist
from matplotlib.container import ErrorbarContainer
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from lit_triwave.comparison.charts import COLORS, COSTS, drawing_order, is_error, is_wide, labels, parallel_axes, points
from lit_triwave.comparison.curves import Curves
from lit_triwave.comparison.table import Comparison
from lit_triwave.figure_style import BLUE, GREY, decades_grid, new_figure
from lit_triwave.goals import goal
from lit_triwave.runs import written_whole

MOST_GREY = 200
"""Curves of other rows than the best, at most; more would be one grey."""
SIZE = (9.0, 4.6)
Handle = Artist | ErrorbarContainer
"""What a legend takes."""


def write_figures(comparison: Comparison, curves: Curves, folder: Path) -> None:
    """Draws what there is something to draw of, and says on standard error what was left out.

    Args:
        comparison: to be shown.
        curves: of its rows.
        folder: that is there.
    """
    drawn = {"curves": curves_figure(comparison, curves), "parallel": parallel_figure(comparison)}
    drawn |= {
        name: cost_figure(comparison, cost) for name, cost in (("parameters", "parameters"), ("time", "wall_seconds"))
    }
    for name, figure in drawn.items():
        if figure is None:
            print(f"{folder / name}.png: left out, the runs do not have what it would show", file=sys.stderr)
            continue
        with written_whole(folder / f"{name}.png") as partial:
            figure.savefig(partial, format="png")


def curves_figure(comparison: Comparison, curves: Curves) -> Figure | None:
    """Mean over seeds and the band from the lowest to the highest; unfinished runs are dashed. None without curves."""
    order = [number for number in drawing_order(comparison) if curves.curves[number] is not None]
    if not order:
        return None
    names = labels(comparison)
    figure, (ax,) = new_figure(size=SIZE)
    best = order[: len(COLORS)]
    others = order[len(COLORS) :]
    for number in others[:: -(-len(others) // MOST_GREY) or 1]:
        curve = curves.curves[number]
        assert curve is not None
        ax.plot(curve.steps, curve.mean, color=GREY, linewidth=0.6, alpha=0.35, zorder=1)
    band = max(0.05, 0.18 - 0.03 * (len(best) - 1))  # many of them hide each other
    handles: list[Handle] = []
    for number, color in reversed(list(zip(best, COLORS, strict=False))):
        curve = curves.curves[number]
        assert curve is not None
        style = "-" if comparison.rows[number].finished else "--"
        ax.fill_between(curve.steps, curve.low, curve.high, color=color, alpha=band, linewidth=0, zorder=2)
        (line,) = ax.plot(curve.steps, curve.mean, style, color=color, linewidth=1.5, label=names[number], zorder=3)
        line.set_marker("o" if len(curve.steps) < 30 else "")
        line.set_markersize(3)
        handles.insert(0, line)
    if curves.logarithmic:
        decades_grid(ax)
    elif goal(curves.metric) == "max":
        ax.grid(True, axis="y", color="#e3e5e8", linewidth=0.8)
    scale = ", logarithmic" if curves.logarithmic else ""
    ax.set(xlabel="training step", ylabel=f"{curves.metric}{scale}")
    ax.set_title("Learning curves, mean and range over seeds", loc="left", fontsize=11)
    _legend(figure, handles, ax.plot([], [], color=GREY, linewidth=1.2), len(others))
    return figure


def cost_figure(comparison: Comparison, cost: str) -> Figure | None:
    """The main metric, mean ± standard error, against parameters or time. None where no row has both."""
    found = points(comparison, cost)
    if not found.rows:
        return None
    names = labels(comparison)
    best = [number for number in drawing_order(comparison) if number in set(found.rows)][: len(COLORS)]
    figure, (ax,) = new_figure(size=SIZE)
    grey = [place for place, number in enumerate(found.rows) if number not in best]
    if grey:
        ax.plot(found.x[grey], found.y[grey], "o", color=GREY, markersize=3.5, alpha=0.5, zorder=1)
    logarithmic = is_error(comparison, found.y)
    handles: list[Handle] = []
    for number, color in zip(best, COLORS, strict=False):
        place = found.rows.index(number)
        x, y, error = found.x[place], found.y[place], found.error[place]
        bars = [[min(error, 0.9 * y) if logarithmic else error], [error]]  # a mean less its error may lie below 0
        handles.append(ax.errorbar(x, y, bars, fmt="o", color=color, markersize=5.5, capsize=3, label=names[number]))
    if logarithmic:
        decades_grid(ax)
    if is_wide(found.x, 10.0):
        ax.set_xscale("log")
        ax.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        ax.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        ax.xaxis.set_minor_formatter(NullFormatter())
    ax.margins(0.08)
    scale = ", logarithmic" if logarithmic else ""
    title = f"{comparison.main} against {COSTS[cost].partition(' /')[0]}, mean ± standard error over seeds"
    ax.set(xlabel=COSTS[cost], ylabel=f"{comparison.main}{scale}")
    ax.set_title(title, loc="left", fontsize=11)
    _legend(figure, handles, ax.plot([], [], "o", color=GREY, markersize=4), len(grey))
    return figure


def _legend(figure: Figure, best: Sequence[Handle], grey: Sequence[Artist], others: int) -> None:
    """Beside the axes, where it hides nothing; best first."""
    for artist in grey:
        artist.set_label(f"{others} others")
    handles = [*best, *(grey if others else [])]
    figure.legend(handles=handles, loc="outside right upper", frameon=False, fontsize=8)


def parallel_figure(comparison: Comparison) -> Figure | None:
    """A line for each row through its fields to the main metric, coloured by it. None without two axes."""
    ranked = set(comparison.ranked())
    order = [number for number in drawing_order(comparison) if comparison.rows[number] in ranked]
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
    ax.plot([axis.places[0] for axis in axes], color=BLUE, linewidth=2.4, zorder=4, label="best")
    for x, axis in enumerate(axes):
        ax.axvline(x, color="#3c4046", linewidth=0.9, zorder=3)
        for y, text in axis.ticks.items():
            box = {"facecolor": "white", "alpha": 0.75, "linewidth": 0, "pad": 0.8}
            ax.text(x + 0.03, y, text, fontsize=7.5, va="center", ha="left", bbox=box, zorder=5)
    ax.set_xticks(range(len(axes)), [axis.name for axis in axes])
    ax.xaxis.tick_top()
    ax.tick_params(axis="x", length=0)
    ax.set_yticks([])
    ax.spines[:].set_visible(False)
    ax.set_xlim(-0.15, len(axes) - 1 + 0.45)
    ax.set_title(f"{len(order)} rows, from dark (best) to light; the best one bold", pad=18, loc="left", fontsize=11)
    return figure
