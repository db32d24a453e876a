"""What the four pictures show, for figures and page alike: which rows in which colours, points, axes."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lit_triwave.commands.compare.show.curves import Curve, Curves
from lit_triwave.commands.compare.table.cells import shortened, shown
from lit_triwave.commands.compare.table.columns import chosen, most_varied
from lit_triwave.commands.compare.table.fields import comparable, is_number
from lit_triwave.commands.compare.table.rows import Row
from lit_triwave.commands.compare.table.table import Comparison
from lit_triwave.tracking.metric_goals import goal, title

COLORS = (
    *("#1f5fa8", "#d9622b", "#2a9d5c", "#b5367a", "#7a5cc7"),
    *("#b58a00", "#0f9bb3", "#8c4a2f", "#c2413b", "#4f6d2f"),
)
"""Colours of the best rows; the other rows are grey."""
MOST_AXES = 7
"""Fields in the parallel coordinates, besides the metric."""
MOST_TICKS = 8
LEAST_DISTANCE = 0.05
"""Between two ticks of an axis from 0 to 1; labels that are nearer touch."""
LONGEST_TICK = 18
LONGEST_TITLE = 16  # of a line; there are two
DECADES = 20.0
"""Positive values that span a larger factor are drawn on a logarithmic axis."""
COSTS = {name: title(name, unit=True) for name in ("parameters", "fit_seconds")}
"""Metrics that the main metric is drawn against, with the titles of their axes."""
MISSING, ABOVE = -0.08, 1.08
"""Where a row without a value, and one whose error is above the `ceiling`, crosses an axis from 0 to 1."""
DIVERGED = 1e12
"""Errors that are larger by this factor than those of the best quarter of the rows are above the axes."""


@dataclass(frozen=True)
class Points:
    """A metric against a cost, one point for each row that has both.

    Args:
        rows: numbers of the rows in the comparison.
        x: cost, (points,).
        y: mean of the metric, (points,).
        error: its standard error, 0 where not known, (points,).
    """

    rows: list[int]
    x: np.ndarray
    y: np.ndarray
    error: np.ndarray


@dataclass(frozen=True)
class Axis:
    """One of the parallel coordinates.

    Args:
        title: its field's short name, in one or two lines.
        places: of the rows, from 0 to 1, `MISSING` without a value, `ABOVE` for an error that is off the axis.
        ticks: place ↦ label, no two of which touch.
        rank: 0 for the axis that is left out last where there is no room for all.
    """

    title: list[str]
    places: list[float]
    ticks: dict[float, str]
    rank: int = 0


def drawing_order(comparison: Comparison) -> list[int]:
    """Numbers of the rows: the best of each target, the second of each, …, those that do not count last."""
    places = {row: place for rows in comparison.by_target() for place, row in enumerate(rows)}
    rows = range(len(comparison.rows))
    return sorted(rows, key=lambda number: places.get(comparison.rows[number], len(rows)))


def parallel_rows(comparison: Comparison) -> list[int]:
    """Numbers of the rows that have the main metric, the best value first, of whatever function or data set."""
    ranked = set(comparison.ranked())
    numbers = {row: number for number, row in enumerate(comparison.rows) if row in ranked}
    return [numbers[row] for row in comparison.best_first(list(numbers))]


def labels(comparison: Comparison, longest: int = 56) -> list[str]:
    """A short name for each row, all of them different: by the fields that tell rows apart best, else by number too."""
    columns = comparison.telling(comparison.rows)
    texts = [comparison.label(row, columns, longest) for row in comparison.rows]
    seen: dict[str, int] = {}
    for place, text in enumerate(texts):
        seen[text] = seen.get(text, 0) + 1
        if seen[text] > 1:
            texts[place] = f"{text} · {seen[text]}"
    return texts


def coloured(comparison: Comparison, curves: Curves) -> list[int]:
    """Numbers of the rows that have a colour, which is the same in all pictures: the best that are in any of them."""
    return drawable(comparison, curves)[: len(COLORS)]


def drawable(comparison: Comparison, curves: Curves) -> list[int]:
    """Numbers of the rows that have a curve or a point, in the order in which they get colours."""
    there = {number for cost in COSTS for number in points(comparison, cost).rows}
    there |= {number for number, curve in enumerate(curves.curves) if curve is not None}
    return [number for number in drawing_order(comparison) if number in there]


def points(comparison: Comparison, cost: str) -> Points:
    """The main metric against a cost, of the rows that count."""
    found = []
    for place, row in enumerate(comparison.rows):
        x, y = row.sample(cost), row.sample(comparison.main) if comparison.main else None
        if row.finished and x is not None and y is not None:
            found.append((place, x.mean, y.mean, y.error or 0.0))
    columns = np.array([values[1:] for values in found], dtype=float).reshape(-1, 3).T
    return Points([values[0] for values in found], *columns)


def line_widths(curves: Curves, best: Sequence[int], thinnest: float, step: float) -> dict[int, float]:
    """Widths of curves: one that lies below a better one all along is so much wider that both are seen.

    Args:
        curves: of all rows.
        best: numbers of the rows with a curve that are drawn, the best first, which lies on top.
        thinnest: width of a curve below no other.
        step: what each curve above adds.
    """
    widths: dict[int, float] = {}
    for number in best:
        above = sum(_hides(curves.curves[number], curves.curves[better]) for better in widths)
        widths[number] = thinnest + step * above
    return widths


def _hides(one: Curve | None, other: Curve | None) -> bool:
    """Whether two curves can't be told apart."""
    if one is None or other is None or len(one.mean) != len(other.mean):
        return False
    return bool(np.allclose(one.mean, other.mean, rtol=0.02, atol=0.0, equal_nan=True))


def is_wide(values: np.ndarray, factor: float = DECADES) -> bool:
    """Whether values ask for a logarithmic axis."""
    return bool(len(values) and values.min() > 0 and values.max() > factor * values.min())


def is_error(comparison: Comparison, values: np.ndarray) -> bool:
    """Whether the main metric is an error, which belongs on a logarithmic axis."""
    return bool(comparison.main and goal(comparison.main) == "min" and len(values) and values.min() > 0)


def ceiling(values: np.ndarray) -> float | None:
    """The largest error that has a place on an axis where others diverged; None where none did.

    Args:
        values: above 0, (values,).
    """
    if not len(values):
        return None
    limit = DIVERGED * float(np.quantile(values, 0.25, method="lower"))
    return None if values.max() <= limit else float(values[values <= limit].max())


def curves_ceiling(curves: Curves) -> float | None:
    """The same of logarithmic learning curves, by where they end: they may begin much higher."""
    if not curves.logarithmic:
        return None
    finite = [curve.mean[np.isfinite(curve.mean)] for curve in curves.curves if curve is not None]
    ends = np.array([values[-1] for values in finite if len(values)])
    highest = ceiling(ends)
    return highest and max(float(values.max()) for values in finite if len(values) and values[-1] <= highest)


def parallel_axes(comparison: Comparison, numbers: Sequence[int]) -> list[Axis]:
    """The fields that tell rows apart best, and the main metric as the last axis.

    Args:
        comparison: whose rows are drawn.
        numbers: of the rows, all of which have the metric.
    """
    rows = [comparison.rows[number] for number in numbers]
    varied = [name for name in comparison.columns if len({comparable(row.values.get(name)) for row in rows}) > 1]
    ranks = {name: rank for rank, name in enumerate(chosen(rows, varied, MOST_AXES), start=1)}
    names = most_varied(rows, varied, MOST_AXES)
    axes = [_field_axis(comparison.fields.short(name), rows, name, ranks[name]) for name in names]
    if comparison.main:
        means = np.array([sample.mean for row in rows if (sample := row.sample(comparison.main)) is not None])
        logarithmic = is_error(comparison, means)
        axes.append(_number_axis(comparison.main, means, logarithmic, 0, ceiling(means) if logarithmic else None))
    return axes


def _field_axis(name: str, rows: Sequence[Row], field: str, rank: int) -> Axis:
    values = [row.values.get(field) for row in rows]
    there = [value for value in values if value is not None]
    if all(is_number(value) for value in there) and any(math.isfinite(value) for value in there):
        numbers = np.array([float(value) if is_number(value) else math.nan for value in values])
        return _number_axis(name, numbers, is_wide(numbers[np.isfinite(numbers)]), rank)
    texts = sorted({shown(value) for value in there})
    at = {text: place / max(1, len(texts) - 1) for place, text in enumerate(texts)}
    ticks = {place: shortened(text, LONGEST_TICK) for text, place in at.items()}
    return _axis(name, [MISSING if value is None else at[shown(value)] for value in values], ticks, rank)


def _number_axis(name: str, values: np.ndarray, logarithmic: bool, rank: int, top: float | None = None) -> Axis:
    known = values[np.isfinite(values)]
    on_axis = known if top is None else known[known <= top]
    low, high = float(on_axis.min()), float(on_axis.max())
    marks = sorted(set(on_axis.tolist()))
    if len(marks) > MOST_TICKS:
        marks = [low, *(log_ticks(low, high) if logarithmic else round_numbers(low, high)), high]

    def place(value: float) -> float:
        if not math.isfinite(value):
            return MISSING
        if value > high:
            return ABOVE
        ends = np.log10([low, value, high]) if logarithmic else np.array([low, value, high])
        return float((ends[1] - ends[0]) / ((ends[2] - ends[0]) or 1.0))

    ticks = {place(value): number_text(value) for value in marks}
    places = [place(value) for value in values.tolist()]
    return _axis(name, places, ticks | ({ABOVE: f"> {number_text(high)}"} if ABOVE in places else {}), rank)


def number_text(value: float) -> str:
    """A number beside an axis: four digits, whole ones whole up to a million."""
    return f"{value:.0f}" if value == round(value) and 0 < abs(value) < 1e6 else f"{value:.4g}"


def log_ticks(low: float, high: float) -> list[float]:
    """Values to be labelled on a logarithmic axis between two numbers above 0; at least two, however near these are.

    They are powers of ten; where there are fewer than three, 2 and 5 times these too, or else round numbers.
    """
    first, last = math.log10(low), math.log10(high)
    powers = range(math.ceil(first), math.floor(last) + 1)
    if len(powers) > 2:
        return [10.0**power for power in powers[:: math.ceil(len(powers) / MOST_TICKS)]]
    every = [factor * 10.0**power for power in range(math.floor(first), math.floor(last) + 1) for factor in (1, 2, 5)]
    inside = [value for value in every if low <= value <= high]
    return inside if len(inside) > 2 else round_numbers(low, high)


def round_numbers(low: float, high: float) -> list[float]:
    """Multiples of 1, 2 or 5 times a power of ten between two numbers, about five of them, at least two."""
    power = 10.0 ** math.floor(math.log10((high - low) / 4))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= (high - low) / 5)
    return [step * count for count in range(math.ceil(low / step), math.floor(high / step) + 1)]


def _axis(name: str, places: list[float], ticks: dict[float, str], rank: int) -> Axis:
    if MISSING in places:
        ticks = {MISSING: "none"} | ticks
    return Axis(_title(name), places, _apart(ticks), rank)


def _title(name: str) -> list[str]:
    """A name in one line, or in two, broken behind a sign near its middle."""
    lines = [name]
    if len(name) > LONGEST_TITLE:
        breaks = [match.end() for match in re.finditer(r"[._/]", name[:-1])]
        at = min(breaks, key=lambda place: abs(place - len(name) / 2), default=0)
        lines = [name[:at], name[at:]] if at else lines
    return [shortened(line, LONGEST_TITLE) for line in lines]


def _apart(ticks: dict[float, str]) -> dict[float, str]:
    """The outermost ticks, and of the others those that touch none that is kept."""
    kept: list[float] = []
    inwards = sorted(ticks, key=lambda place: min(place - min(ticks), max(ticks) - place) > 0)
    for place in inwards:
        if all(abs(place - other) >= LEAST_DISTANCE for other in kept):
            kept.append(place)
    return {place: ticks[place] for place in sorted(kept)}
