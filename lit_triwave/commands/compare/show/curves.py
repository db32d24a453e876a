"""Reads learning curves: one for each row, its mean over seeds with a band, thinned to few points."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from lit_triwave.commands.compare.read.compared_run import ComparedRun
from lit_triwave.commands.compare.read.metrics_csv import MetricsFile
from lit_triwave.commands.compare.table.table import Comparison, stand_ins
from lit_triwave.tracking.metric_goals import goal

_POINTS = 200
"""Points of a curve, at most."""
_FEWEST_POINTS = 4
"""Fewest points of a curve; a metric with fewer is not drawn if training was logged more often."""

Line = tuple[np.ndarray, np.ndarray]
"""Ascending steps and values; both (points,)."""


@dataclass
class Curve:
    """A metric over the steps of a row's runs.

    Args:
        steps: training steps, (points,).
        mean: mean over the runs, or over the replicas of a run, (points,).
        low: lowest run, or lowest replica if that is logged, (points,).
        high: highest run, or highest replica if that is logged, (points,).
    """

    steps: np.ndarray
    mean: np.ndarray
    low: np.ndarray
    high: np.ndarray


@dataclass
class Curves:
    """The curves of a comparison.

    Args:
        metric: name of the drawn metric, "" if nothing is logged.
        curves: one curve for each row of the comparison, in order; None for rows without the metric.
        logarithmic: whether a logarithmic axis suits them.
    """

    metric: str
    curves: list[Curve | None]
    logarithmic: bool


def read_curves(comparison: Comparison, advance: Callable[[int, int], None]) -> Curves:
    """Reads the logged metrics of the runs and keeps a few points of each.

    Args:
        comparison: the rows whose runs are read; copies of runs are not read.
        advance: called with the numbers of runs read so far and in total.
    """
    wanted = stand_ins(comparison.main or "")
    wanted += [name for name in ("val/loss", "train/loss") if name not in wanted]
    ends = [f"{name.removesuffix('_mean')}_max" for name in wanted if name.endswith("_mean")]
    total = sum(len(row.runs) for row in comparison.rows)
    lines: list[list[dict[str, Line]]] = []
    done = 0
    for row in comparison.rows:
        of_row = []
        for run in row.runs:
            of_row.append(_lines(run, [*wanted, *ends]))
            done += 1
            advance(done, total)
        lines.append(of_row)
    metric = _most_logged(wanted, lines)
    if not metric:
        return Curves("", [None] * len(comparison.rows), False)
    curves = [_curve(metric, of_row) for of_row in lines]
    values = np.concatenate([curve.mean for curve in curves if curve is not None])
    values = values[np.isfinite(values)]
    positive = bool(len(values)) and bool((values > 0).all())
    return Curves(metric, curves, goal(metric) == "min" and positive)


def _lines(run: ComparedRun, wanted: Sequence[str]) -> dict[str, Line]:
    """Returns the wanted metrics of one run, thinned."""
    read = run.history
    history = read.columns({"step", *wanted}) if isinstance(read, MetricsFile) else read()
    steps = history.get("step")
    lines = {}
    for name in wanted:
        values = history.get(name)
        if values is None:
            continue
        at = np.arange(len(values), dtype=float) if steps is None else steps
        logged = np.isfinite(values) & np.isfinite(at)
        if logged.any():
            lines[name] = thinned(at[logged], values[logged])
    return lines


def thinned(steps: np.ndarray, values: np.ndarray) -> Line:
    """Thins a curve to `_POINTS` points: the first, the last, and means of neighbours between them."""
    if len(steps) <= _POINTS:
        return steps, values
    edges = np.linspace(1, len(steps) - 1, _POINTS - 1).astype(int)[:-1]
    sizes = np.diff(np.append(edges, len(steps) - 1))
    return tuple(  # type: ignore[return-value]
        np.concatenate([x[:1], np.add.reduceat(x[: len(x) - 1], edges) / sizes, x[-1:]]) for x in (steps, values)
    )


def _most_logged(wanted: Sequence[str], lines: Sequence[Sequence[dict[str, Line]]]) -> str:
    """Returns the metric that most runs logged as a curve, the first of equal ones in `wanted`; "" for none."""
    counts = dict.fromkeys(wanted, 0)
    for of_row in lines:
        for of_run in of_row:
            enough = _FEWEST_POINTS if any(len(line[0]) >= _FEWEST_POINTS for line in of_run.values()) else 1
            for name in wanted:
                counts[name] += name in of_run and len(of_run[name][0]) >= enough
    best = max(wanted, key=lambda name: counts[name])
    return best if counts[best] else ""


def _curve(metric: str, runs: Sequence[dict[str, Line]]) -> Curve | None:
    """Returns mean and band of runs interpolated to common steps; it ends where fewer than half have values."""
    lines = [run[metric] for run in runs if metric in run]
    if not lines:
        return None
    base = metric.removesuffix("_mean")
    lows, highs = ([run.get(f"{base}{end}", run[metric]) for run in runs if metric in run] for end in ("_min", "_max"))
    if len(lines) == 1:
        steps, mean = lines[0]
        return Curve(steps, mean, np.interp(steps, *lows[0]), np.interp(steps, *highs[0]))
    steps = _common_steps([line[0] for line in lines])
    values, low, high = (np.stack([_on(steps, line) for line in some]) for some in (lines, lows, highs))
    kept = np.isfinite(values).sum(0) * 2 >= len(lines)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # steps without any value, which are dropped below
        mean, lowest_of, highest = np.nanmean(values, 0), np.nanmin(low, 0), np.nanmax(high, 0)
    return Curve(steps[kept], mean[kept], lowest_of[kept], highest[kept])


def _common_steps(steps: Sequence[np.ndarray]) -> np.ndarray:
    """Returns the steps of the runs if these are equal, else as many equally spaced ones."""
    if all(np.array_equal(steps[0], other) for other in steps):
        return steps[0]
    first, last = min(x[0] for x in steps), max(x[-1] for x in steps)
    return np.linspace(first, last, min(_POINTS, max(len(x) for x in steps)))


def _on(steps: np.ndarray, line: Line) -> np.ndarray:
    """Returns a line interpolated to some steps, NaN outside its own."""
    values: np.ndarray = np.interp(steps, *line, left=np.nan, right=np.nan)
    return values
