"""Rows, colours, points and axes of the four charts, which the figures and the page share."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lit_triwave.commands.compare.show.curves import Curve, Curves
from lit_triwave.commands.compare.table.cells import shortened, shown
from lit_triwave.commands.compare.table.columns import most_varied
from lit_triwave.commands.compare.table.fields import comparable
from lit_triwave.commands.compare.table.rows import Row
from lit_triwave.commands.compare.table.table import Comparison
from lit_triwave.errors import is_number
from lit_triwave.tracking.metric_goals import goal, title

COLORS = (
    *("#1f5fa8", "#d9622b", "#2a9d5c", "#b5367a", "#7a5cc7"),
    *("#b58a00", "#0f9bb3", "#8c4a2f", "#c2413b", "#4f6d2f"),
)
"""Colours of the best rows; the other rows are grey."""
_MOST_AXES = 7
"""Fields in the parallel coordinates, besides the metric, at most."""
_MOST_TICKS = 8
"""Up to this number of different values on an axis, each is a tick; with more, there are six evenly spaced ticks."""
LEAST_DISTANCE = 0.05
"""Smallest distance of two ticks on an axis from 0 to 1; closer labels overlap."""
_LONGEST_NAME = 18
"""Characters in a tick or a title of an axis."""
_WIDE = 20.0
"""Ratio of the largest to the smallest positive value above which an axis is logarithmic."""
COSTS = {name: title(name, unit=True) for name in ("parameters", "fit_seconds")}
"""Metrics that the main metric is drawn against, with the titles of their axes."""
_MISSING, _ABOVE = -0.08, 1.08
"""Places on an axis from 0 to 1 of rows without a value and of errors above the `ceiling`."""
_DIVERGED = 1e12
"""Errors above this multiple of the lower quartile are off the axes."""


@dataclass(frozen=True)
class Points:
    """A metric against a cost, one point for each row that has both.

    Args:
        rows: numbers of the rows in the comparison.
        x: cost, (points,).
        y: mean of the metric, (points,).
        error: its standard error, 0 if unknown, (points,).
    """

    rows: list[int]
    x: np.ndarray
    y: np.ndarray
    error: np.ndarray


@dataclass(frozen=True)
class Axis:
    """One of the parallel coordinates.

    Args:
        title: short name of its field.
        places: one for each row, from 0 to 1; below 0 without a value, above 1 for an error that is off the axis.
        ticks: labels by place, ascending; no two of them overlap.
    """

    title: str
    places: list[float]
    ticks: dict[float, str]


def drawing_order(comparison: Comparison) -> list[int]:
    """Returns the numbers of the rows: the best of each target, then the second of each, …; unranked rows come last."""
    places = {row: place for rows in comparison.by_target() for place, row in enumerate(rows)}
    rows = range(len(comparison.rows))
    return sorted(rows, key=lambda number: places.get(comparison.rows[number], len(rows)))


def parallel_rows(comparison: Comparison) -> list[int]:
    """Returns the numbers of the rows that have the main metric, best value first, whatever their target."""
    ranked = set(comparison.ranked())
    numbers = {row: number for number, row in enumerate(comparison.rows) if row in ranked}
    return [numbers[row] for row in comparison.best_first(list(numbers))]


def labels(comparison: Comparison, longest: int = 56) -> list[str]:
    """Returns a different short name for each row: the fields that best distinguish rows, numbered if they repeat."""
    columns = comparison.telling(comparison.rows)
    texts = [comparison.label(row, columns, longest) for row in comparison.rows]
    seen: dict[str, int] = {}
    for place, text in enumerate(texts):
        seen[text] = seen.get(text, 0) + 1
        if seen[text] > 1:
            texts[place] = f"{text} · {seen[text]}"
    return texts


def coloured(comparison: Comparison, curves: Curves) -> list[int]:
    """Returns the numbers of the best drawable rows, which have the same colour in all charts."""
    return drawable(comparison, curves)[: len(COLORS)]


def drawable(comparison: Comparison, curves: Curves) -> list[int]:
    """Returns the numbers of the rows that have a curve or a point, in the order in which they get colours."""
    there = {number for cost in COSTS for number in points(comparison, cost).rows}
    there |= {number for number, curve in enumerate(curves.curves) if curve is not None}
    return [number for number in drawing_order(comparison) if number in there]


def points(comparison: Comparison, cost: str) -> Points:
    """Returns the main metric against a cost for the finished rows."""
    found = []
    for place, row in enumerate(comparison.rows):
        x, y = row.sample(cost), row.sample(comparison.main) if comparison.main else None
        if row.finished and x is not None and y is not None:
            found.append((place, x.mean, y.mean, y.error or 0.0))
    columns = np.array([values[1:] for values in found], dtype=float).reshape(-1, 3).T
    return Points([values[0] for values in found], *columns)


def line_widths(curves: Curves, best: Sequence[int], thinnest: float, step: float) -> dict[int, float]:
    """Returns widths of curves: a curve hidden by a better one is wider, so that both are visible.

    Args:
        curves: the curves of all rows.
        best: numbers of the rows whose curves are drawn, best first; the best lies on top.
        thinnest: width in points of a curve that no other hides.
        step: width in points that each hiding curve adds.
    """
    widths: dict[int, float] = {}
    for number in best:
        above = sum(_hides(curves.curves[number], curves.curves[better]) for better in widths)
        widths[number] = thinnest + step * above
    return widths


def _hides(one: Curve | None, other: Curve | None) -> bool:
    """Returns whether two curves look the same."""
    if one is None or other is None or len(one.mean) != len(other.mean):
        return False
    return bool(np.allclose(one.mean, other.mean, rtol=0.02, atol=0.0, equal_nan=True))


def is_wide(values: np.ndarray, factor: float = _WIDE) -> bool:
    """Returns whether a logarithmic axis suits values: they are positive and span more than a factor."""
    return bool(len(values) and values.min() > 0 and values.max() > factor * values.min())


def is_error(comparison: Comparison, values: np.ndarray) -> bool:
    """Returns whether a logarithmic axis suits the main metric: it is an error with positive values."""
    return bool(comparison.main and goal(comparison.main) == "min" and len(values) and values.min() > 0)


def ceiling(values: np.ndarray) -> float | None:
    """Returns the largest error on the axis if other errors diverged, None if none did.

    Args:
        values: errors above 0, (values,).
    """
    if not len(values):
        return None
    limit = _DIVERGED * float(np.quantile(values, 0.25, method="lower"))
    return None if values.max() <= limit else float(values[values <= limit].max())


def curves_ceiling(curves: Curves) -> float | None:
    """Returns the `ceiling` of logarithmic learning curves by their last values; they may begin much higher."""
    if not curves.logarithmic:
        return None
    finite = [curve.mean[np.isfinite(curve.mean)] for curve in curves.curves if curve is not None]
    ends = np.array([values[-1] for values in finite if len(values)])
    highest = ceiling(ends)
    return highest and max(float(values.max()) for values in finite if len(values) and values[-1] <= highest)


def parallel_axes(comparison: Comparison, numbers: Sequence[int]) -> list[Axis]:
    """Returns axes of the fields that best distinguish the rows, and of the main metric as the last one.

    Args:
        comparison: the rows to draw.
        numbers: numbers of the rows to draw, all of which have the main metric.
    """
    rows = [comparison.rows[number] for number in numbers]
    varied = [name for name in comparison.columns if len({comparable(row.values.get(name)) for row in rows}) > 1]
    names = most_varied(rows, varied, _MOST_AXES)
    axes = [_field_axis(comparison.fields.short(name), rows, name) for name in names]
    if comparison.main:
        means = np.array([sample.mean for row in rows if (sample := row.sample(comparison.main)) is not None])
        logarithmic = is_error(comparison, means)
        axes.append(_number_axis(comparison.main, means, logarithmic, ceiling(means) if logarithmic else None))
    return axes


def _field_axis(name: str, rows: Sequence[Row], field: str) -> Axis:
    values = [row.values.get(field) for row in rows]
    numbers = np.array([float(value) if is_number(value) else math.nan for value in values])
    known = numbers[np.isfinite(numbers)]
    if len(known) and all(is_number(value) for value in values if value is not None):
        return _number_axis(name, numbers, is_wide(known))
    texts = sorted({shown(value) for value in values if value is not None})
    at = {text: place / max(1, len(texts) - 1) for place, text in enumerate(texts)}
    places = [_MISSING if value is None else at[shown(value)] for value in values]
    return _axis(name, places, {place: shortened(text, _LONGEST_NAME) for text, place in at.items()})


def _number_axis(name: str, values: np.ndarray, logarithmic: bool, top: float | None = None) -> Axis:
    on_axis = values[np.isfinite(values) & (values <= (math.inf if top is None else top))]
    low, high = on_axis.min(), on_axis.max()
    marks = np.unique(on_axis)
    if len(marks) > _MOST_TICKS:
        spaced = np.geomspace(low, high, 6) if logarithmic else np.linspace(low, high, 6)
        marks = np.array([low, *(float(f"{value:.2g}") for value in spaced[1:-1]), high])

    def places(numbers: np.ndarray) -> list[float]:
        with np.errstate(all="ignore"):  # values that are not finite
            scaled, first, last = (np.log10(x) if logarithmic else x for x in (numbers, low, high))
            on_scale = np.where(np.isfinite(numbers), (scaled - first) / ((last - first) or 1.0), _MISSING)
        found: list[float] = np.where(numbers > high, _ABOVE, on_scale).tolist()
        return found

    ticks = dict(zip(places(marks), map(number_text, marks.tolist()), strict=True))
    return _axis(name, places(values), ticks | {_ABOVE: f"> {number_text(high)}"})


def number_text(value: float) -> str:
    """Returns the label of a number: four digits, or all digits of a whole number below a million."""
    return f"{value:.0f}" if value == round(value) and 0 < abs(value) < 1e6 else f"{value:.4g}"


def _axis(name: str, places: list[float], ticks: dict[float, str]) -> Axis:
    """Returns an axis with the first and last of the needed ticks, and all others that do not overlap."""
    ticks = {_MISSING: "none"} | ticks
    inside = sorted(place for place in ticks if 0 <= place <= 1 or place in places)
    kept = inside[:1]
    for place in inside:
        if place - kept[-1] >= LEAST_DISTANCE:
            kept.append(place)
    kept[-1] = inside[-1]
    return Axis(shortened(name, _LONGEST_NAME), places, {place: ticks[place] for place in kept})
