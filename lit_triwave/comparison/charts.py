"""What the four pictures show, for figures and page alike: which rows in which colours, points, axes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lit_triwave.comparison.cells import shown
from lit_triwave.comparison.columns import most_varied
from lit_triwave.comparison.fields import comparable, is_number
from lit_triwave.comparison.rows import Row
from lit_triwave.comparison.table import Comparison
from lit_triwave.goals import goal

COLORS = (
    *("#1f5fa8", "#d9622b", "#2a9d5c", "#b5367a", "#7a5cc7"),
    *("#b58a00", "#0f9bb3", "#8c4a2f", "#c2413b", "#4f6d2f"),
)
"""Of the best rows; the others are grey."""
MOST_AXES = 7
"""Fields in the parallel coordinates, besides the metric."""
MOST_TICKS = 8
DECADES = 20.0
"""Positive values that span a larger factor are drawn on a logarithmic axis."""
COSTS = {"parameters": "parameters", "wall_seconds": "wall time / s"}
"""What a metric is drawn against."""
MISSING = -0.08
"""Where a row without a value crosses an axis from 0 to 1."""


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
        name: short.
        places: of the rows, from 0 to 1, `MISSING` without a value.
        ticks: place ↦ label.
    """

    name: str
    places: list[float]
    ticks: dict[float, str]


def drawing_order(comparison: Comparison) -> list[int]:
    """Numbers of the rows: the best of each target, the second of each, …, those that do not count last."""
    places = {row: place for rows in comparison.by_target() for place, row in enumerate(rows)}
    rows = range(len(comparison.rows))
    return sorted(rows, key=lambda number: places.get(comparison.rows[number], len(rows)))


def labels(comparison: Comparison) -> list[str]:
    """A short name for each row, all of them different: by the fields that tell rows apart best, else by number too."""
    columns = comparison.telling(comparison.rows)
    texts = [comparison.label(row, columns, 56) for row in comparison.rows]
    seen: dict[str, int] = {}
    for place, text in enumerate(texts):
        seen[text] = seen.get(text, 0) + 1
        if seen[text] > 1:
            texts[place] = f"{text} · {seen[text]}"
    return texts


def points(comparison: Comparison, cost: str) -> Points:
    """The main metric against a cost, of the rows that count."""
    found = []
    for place, row in enumerate(comparison.rows):
        x, y = row.sample(cost), row.sample(comparison.main) if comparison.main else None
        if row.finished and x is not None and y is not None:
            found.append((place, x.mean, y.mean, y.error or 0.0))
    columns = np.array([values[1:] for values in found], dtype=float).reshape(-1, 3).T
    return Points([values[0] for values in found], *columns)


def is_wide(values: np.ndarray, factor: float = DECADES) -> bool:
    """Whether values ask for a logarithmic axis."""
    return bool(len(values) and values.min() > 0 and values.max() > factor * values.min())


def is_error(comparison: Comparison, values: np.ndarray) -> bool:
    """Whether the main metric is an error, which belongs on a logarithmic axis."""
    return bool(comparison.main and goal(comparison.main) == "min" and len(values) and values.min() > 0)


def parallel_axes(comparison: Comparison, numbers: Sequence[int]) -> list[Axis]:
    """The fields that tell rows apart best, and the main metric as the last axis.

    Args:
        comparison: whose rows are drawn.
        numbers: of the rows, all of which have the metric.
    """
    rows = [comparison.rows[number] for number in numbers]
    varied = [name for name in comparison.columns if len({comparable(row.values.get(name)) for row in rows}) > 1]
    axes = [_field_axis(comparison.fields.short(name), rows, name) for name in most_varied(rows, varied, MOST_AXES)]
    if comparison.main:
        means = [sample.mean for row in rows if (sample := row.sample(comparison.main)) is not None]
        axes.append(_number_axis(comparison.main, list(means), is_error(comparison, np.array(means))))
    return axes


def _field_axis(name: str, rows: Sequence[Row], field: str) -> Axis:
    values = [row.values.get(field) for row in rows]
    there = [value for value in values if value is not None]
    if all(is_number(value) for value in there):
        numbers = [float(value) if is_number(value) else math.nan for value in values]
        return _number_axis(name, numbers, is_wide(np.array([value for value in numbers if math.isfinite(value)])))
    texts = sorted({shown(value) for value in there})
    places = {text: place / max(1, len(texts) - 1) for place, text in enumerate(texts)}
    every = math.ceil(len(texts) / MOST_TICKS)
    ticks = {places[text]: text if len(text) < 20 else text[:19] + "…" for text in texts[::every]}
    return _with_missing(name, [MISSING if value is None else places[shown(value)] for value in values], ticks)


def _number_axis(name: str, values: Sequence[float], logarithmic: bool) -> Axis:
    scaled = np.log10(values) if logarithmic else np.array(values, dtype=float)
    known = scaled[np.isfinite(scaled)]
    low, width = float(known.min()), float(known.max() - known.min()) or 1.0
    marks = sorted({value for value in values if math.isfinite(value)})
    if len(marks) > MOST_TICKS:
        marks = _decades(low, low + width) if logarithmic else _round_numbers(low, low + width)
    at = np.log10(marks) if logarithmic else np.array(marks)
    ticks = {float((place - low) / width): f"{value:.4g}" for place, value in zip(at, marks, strict=True)}
    places = [MISSING if not math.isfinite(value) else float((value - low) / width) for value in scaled]
    return _with_missing(name, places, ticks)


def _decades(low: float, high: float) -> list[float]:
    """Powers of ten between two exponents; where there are fewer than two, equal factors."""
    powers = list(range(math.ceil(low), math.floor(high) + 1))
    if len(powers) < 2:
        return [float(f"{10**power:.2g}") for power in np.linspace(low, high, 4)]
    return [10.0**power for power in powers[:: math.ceil(len(powers) / MOST_TICKS)]]


def _round_numbers(low: float, high: float) -> list[float]:
    """Multiples of 1, 2 or 5 times a power of ten, about five of them."""
    power = 10.0 ** math.floor(math.log10((high - low) / 4))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= (high - low) / 5)
    return [step * count for count in range(math.ceil(low / step), math.floor(high / step) + 1)]


def _with_missing(name: str, places: list[float], ticks: dict[float, str]) -> Axis:
    return Axis(name, places, {MISSING: "none"} | ticks if MISSING in places else ticks)
