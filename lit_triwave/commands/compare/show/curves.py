"""Reads learning curves: one for each row, its mean over seeds with a band, thinned to few points."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from lit_triwave.commands.compare.read.compared_run import ComparedRun
from lit_triwave.commands.compare.read.metrics_csv import MetricsFile
from lit_triwave.commands.compare.table.rows import Row
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
        by_row: the curve of each row that logged the metric.
        logarithmic: whether a logarithmic axis suits them.
    """

    metric: str
    by_row: dict[Row, Curve]
    logarithmic: bool


def read_curves(comparison: Comparison, advance: Callable[[int, int], None]) -> Curves:
    """Reads the logged metrics of the runs and keeps a few points of each.

    Args:
        comparison: the rows whose runs are read; copies of runs are not read.
        advance: called with the numbers of runs read so far and in total.
    """
    wanted = list(dict.fromkeys([*stand_ins(comparison.main), "val/loss", "train/loss"]))
    ends = [f"{name.removesuffix('_mean')}_max" for name in wanted if name.endswith("_mean")]
    runs = [(row, run) for row in comparison.rows for run in row.runs]
    lines: dict[Row, list[dict[str, Line]]] = {row: [] for row in comparison.rows}
    for done, (row, run) in enumerate(runs, start=1):
        lines[row].append(_lines(run, [*wanted, *ends]))
        advance(done, len(runs))
    metric = _most_logged(wanted, [of_run for of_row in lines.values() for of_run in of_row])
    curves = {row: curve for row, of_row in lines.items() if (curve := _curve(metric, of_row)) is not None}
    positive = all((curve.mean > 0).all() for curve in curves.values())
    return Curves(metric, curves, goal(metric) == "min" and positive)


def _lines(run: ComparedRun, wanted: Sequence[str]) -> dict[str, Line]:
    """Returns the wanted metrics of one run, thinned."""
    read = run.history
    history = read({"step", *wanted}) if isinstance(read, MetricsFile) else read()
    lines = {}
    for name in wanted:
        if name in history:
            values = history[name]
            steps = history.get("step", np.arange(len(values), dtype=float))
            logged = np.isfinite(values) & np.isfinite(steps)
            if logged.any():
                lines[name] = _thinned(steps[logged], values[logged])
    return lines


def _thinned(steps: np.ndarray, values: np.ndarray) -> Line:
    """Thins a curve to `_POINTS` points: the first, the last, and means of neighbours between them."""
    if len(steps) <= _POINTS:
        return steps, values
    edges = np.linspace(1, len(steps) - 1, _POINTS - 1).astype(int)[:-1]
    sizes = np.diff(np.append(edges, len(steps) - 1))
    return tuple(  # type: ignore[return-value]
        np.concatenate([x[:1], np.add.reduceat(x[: len(x) - 1], edges) / sizes, x[-1:]]) for x in (steps, values)
    )


def _most_logged(wanted: Sequence[str], runs: Sequence[dict[str, Line]]) -> str:
    """Returns the metric that most runs logged as a curve, the first of equal ones in `wanted`; "" for none."""
    counts = dict.fromkeys(wanted, 0)
    for lines in runs:
        points = {name: len(steps) for name, (steps, _) in lines.items()}
        enough = _FEWEST_POINTS if max(points.values(), default=0) >= _FEWEST_POINTS else 1
        for name in wanted:
            counts[name] += points.get(name, 0) >= enough
    best = max(wanted, key=lambda name: counts[name])
    return best if counts[best] else ""


def _curve(metric: str, runs: Sequence[dict[str, Line]]) -> Curve | None:
    """Returns mean and band of runs interpolated to common steps, at which at least half of them have values."""
    runs = [run for run in runs if metric in run]
    if not runs:
        return None
    base = metric.removesuffix("_mean")
    steps = _common_steps([run[metric][0] for run in runs])
    values, low, high = (
        np.stack([np.interp(steps, *run.get(name, run[metric]), left=np.nan, right=np.nan) for run in runs])
        for name in (metric, f"{base}_min", f"{base}_max")
    )
    kept = np.isfinite(values).sum(0) * 2 >= len(runs)
    if not kept.any():
        return None
    return Curve(steps[kept], np.nanmean(values[:, kept], 0), np.fmin.reduce(low)[kept], np.fmax.reduce(high)[kept])


def _common_steps(steps: Sequence[np.ndarray]) -> np.ndarray:
    """Returns the steps of the runs if these are equal, else as many equally spaced ones."""
    if all(np.array_equal(steps[0], other) for other in steps):
        return steps[0]
    first, last = min(x[0] for x in steps), max(x[-1] for x in steps)
    return np.linspace(first, last, min(_POINTS, max(len(x) for x in steps)))
