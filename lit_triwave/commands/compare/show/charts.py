"""Rows, colours, points and axes of the four charts, which the figures and the page share."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lit_triwave.commands.compare.show.curves import Curve, Curves
from lit_triwave.commands.compare.table.cells import shortened, shown
from lit_triwave.commands.compare.table.columns import most_varied
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
"""Places on an axis from 0 to 1 of rows without a value and of errors above the `_ceiling`."""
_DIVERGED = 1e12
"""Errors above this multiple of the lower quartile are off the axes."""


@dataclass(frozen=True)
class Axis:
    """One of the parallel coordinates.

    Args:
        title: short name of its field.
        places: one for each drawn row, from 0 to 1; below 0 without a value, above 1 for an error that is off the axis.
        ticks: labels by place, ascending; no two of them overlap.
    """

    title: str
    places: list[float]
    ticks: dict[float, str]


def drawing_order(comparison: Comparison) -> list[Row]:
    """Returns the rows: the best of each target, then the second of each, …; unranked rows come last."""
    places = {row: place for rows in comparison.by_target() for place, row in enumerate(rows)}
    return sorted(comparison.rows, key=lambda row: places.get(row, len(comparison.rows)))


def parallel_rows(comparison: Comparison) -> list[Row]:
    """Returns the rows that have the main metric, best value first, whatever their target."""
    ranked = set(comparison.ranked())
    return comparison.best_first([row for row in comparison.rows if row in ranked])


def labels(comparison: Comparison, longest: int) -> dict[Row, str]:
    """Returns a different short name for each row: the fields that best distinguish rows, numbered if they repeat."""
    columns = comparison.telling(comparison.rows)
    seen: Counter[str] = Counter()
    names = {}
    for row in comparison.rows:
        text = comparison.label(row, columns, longest)
        seen[text] += 1
        names[row] = f"{text} · {seen[text]}" if seen[text] > 1 else text
    return names


def colours(comparison: Comparison, curves: Curves) -> dict[Row, str]:
    """Returns the colours of the best drawable rows, best first; they are the same in all charts."""
    return dict(zip(drawable(comparison, curves), COLORS, strict=False))


def drawable(comparison: Comparison, curves: Curves) -> list[Row]:
    """Returns the rows that have a curve or a point, in the order in which they get colours."""
    there = {row for cost in COSTS for row in points(comparison, cost)} | curves.by_row.keys()
    return [row for row in drawing_order(comparison) if row in there]


def points(comparison: Comparison, cost: str) -> dict[Row, tuple[float, float, float]]:
    """Returns cost, main metric and its standard error, 0 if unknown, of the finished rows that have both."""
    found = {}
    for row in comparison.rows:
        x, y = row.sample(cost), row.sample(comparison.main)
        if row.finished and x is not None and y is not None:
            found[row] = (x.mean, y.mean, y.error or 0.0)
    return found


def line_widths(curves: Curves, best: Iterable[Row], thinnest: float, step: float) -> dict[Row, float]:
    """Returns widths of curves: a curve hidden by a better one is wider, so that both are visible.

    Args:
        curves: the curves of all rows.
        best: rows, best first; the best lies on top. Rows without a curve are skipped.
        thinnest: width in points of a curve that no other hides.
        step: width in points that each hiding curve adds.
    """
    widths: dict[Row, float] = {}
    for row in best:
        if row in curves.by_row:
            widths[row] = thinnest + step * sum(_alike(curves.by_row[row], curves.by_row[other]) for other in widths)
    return widths


def _alike(one: Curve, other: Curve) -> bool:
    """Returns whether two curves look the same."""
    return len(one.mean) == len(other.mean) and np.allclose(one.mean, other.mean, rtol=0.02, atol=0.0)


def is_wide(values: Sequence[float]) -> bool:
    """Returns whether a logarithmic axis suits values: they are positive and span more than a factor."""
    return min(values, default=0.0) > 0 and max(values) > _WIDE * min(values)


def main_scale(comparison: Comparison) -> tuple[bool, float | None]:
    """Returns whether the axis of the main metric is logarithmic, as for positive errors, and its `_ceiling`."""
    means = [y for _, y, _ in points(comparison, comparison.main).values()]
    logarithmic = goal(comparison.main) == "min" and min(means, default=0.0) > 0
    return logarithmic, _ceiling(means) if logarithmic else None


def _ceiling(values: Sequence[float]) -> float | None:
    """Returns the largest of some errors above 0 that is on the axis if others diverged, None if none did."""
    if not values:
        return None
    limit = _DIVERGED * float(np.quantile(values, 0.25, method="lower"))
    return None if max(values) <= limit else max(value for value in values if value <= limit)


def curves_ceiling(curves: Curves) -> float | None:
    """Returns the ceiling of logarithmic learning curves by their last values; they may begin much higher."""
    means = [curve.mean for curve in curves.by_row.values() if curves.logarithmic]
    highest = _ceiling([float(mean[-1]) for mean in means])
    return highest and max(float(mean.max()) for mean in means if mean[-1] <= highest)


def parallel_axes(comparison: Comparison, rows: Sequence[Row]) -> list[Axis]:
    """Returns axes of the fields that best distinguish the rows, and of the main metric as the last one.

    Args:
        comparison: the comparison of the rows and others.
        rows: the rows to draw, all of which have the main metric.

    Returns:
        At least two axes; [] if the rows differ in no field.
    """
    names = most_varied(rows, comparison.columns, _MOST_AXES)
    if not names:
        return []
    means = [row.known_sample(comparison.main).mean for row in rows]
    fields = [_field_axis(comparison.fields.short(name), [row.values.get(name) for row in rows]) for name in names]
    return [*fields, _number_axis(comparison.main, means, *main_scale(comparison))]


def _field_axis(name: str, values: Sequence[Any]) -> Axis:
    numbers = [float(value) if is_number(value) else math.nan for value in values]
    known = [number for number in numbers if math.isfinite(number)]
    if known and all(is_number(value) for value in values if value is not None):
        return _number_axis(name, numbers, is_wide(known))
    texts = sorted({shown(value) for value in values if value is not None})
    at = {text: place / max(1, len(texts) - 1) for place, text in enumerate(texts)}
    places = [_MISSING if value is None else at[shown(value)] for value in values]
    return _axis(name, places, {place: shortened(text, _LONGEST_NAME) for text, place in at.items()})


def _number_axis(name: str, numbers: Sequence[float], logarithmic: bool, top: float | None = None) -> Axis:
    values = np.array(numbers)
    on_axis = values[np.isfinite(values) & (values <= (math.inf if top is None else top))]
    low, high = on_axis.min(), on_axis.max()
    marks = np.unique(on_axis)
    if len(marks) > _MOST_TICKS:
        spaced = np.geomspace(low, high, 6) if logarithmic else np.linspace(low, high, 6)
        marks = np.array([low, *(float(f"{value:.2g}") for value in spaced[1:-1]), high])

    def places(shown: np.ndarray) -> list[float]:
        with np.errstate(all="ignore"):  # values that are not finite
            scaled, first, last = (np.log10(x) if logarithmic else x for x in (shown, low, high))
            on_scale = np.where(np.isfinite(shown), (scaled - first) / ((last - first) or 1.0), _MISSING)
        found: list[float] = np.where(shown > high, _ABOVE, on_scale).tolist()
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
