"""Means and spreads over seeds, pooled over runs of one or many seeds, and Welch's test."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from lit_triwave.commands.compare.read.compared_run import ComparedRun
from lit_triwave.errors import is_number
from lit_triwave.tracking.metric_goals import goal


@dataclass(frozen=True)
class Sample:
    """A metric over seeds.

    Args:
        n: number of seeds.
        mean: mean over the seeds.
        deviation: standard deviation with n − 1; None for one seed or if a run does not record it.
        best: best seed by the metric's goal; None if the metric has no known goal.
    """

    n: int
    mean: float
    deviation: float | None = None
    best: float | None = None

    @property
    def error(self) -> float | None:
        """Standard error of the mean, None if the deviation is unknown."""
        return None if self.deviation is None else self.deviation / math.sqrt(self.n)


def sample_of(run: ComparedRun, metric: str) -> Sample | None:
    """Returns a metric of one run, over its replicas if the summary has their mean; None if it is missing.

    Args:
        run: a run of one or of several replicas.
        metric: a name such as test/mse, which includes test/mse_mean; with `_min` or `_median` for exactly that.
    """
    base = metric.removesuffix("_mean")
    mean = _number(run, f"{base}_mean")
    n = seeds_of(run)
    if mean is not None:
        spread = _number(run, f"{base}_std") if n > 1 else None
        lowest = _number(run, f"{base}_min")
        return Sample(n, mean, spread, lowest if goal(base) == "min" else None)
    if f"{base}_mean" in run.summary:  # not finite or damaged: no single seed replaces it
        return None
    value = _number(run, metric)
    return None if value is None else Sample(1, value, None, value if goal(metric) else None)


def seeds_of(run: ComparedRun) -> int:
    """Returns the number of seeds that a run trains side by side, from its summary or else its config."""
    known = (run.summary.get("replicas"), run.config.get("model.replicas"))
    return next((number for number in known if isinstance(number, int) and number > 1), 1)


def halves(run: ComparedRun) -> bool:
    """Returns whether a run stopped its worse seeds early and has the error of the best seed."""
    halving = run.config.get("model.limit.halving")
    return is_number(halving) and halving > 0 and seeds_of(run) > 1 and _number(run, "test/mse_min") is not None


def is_lost(run: ComparedRun, metric: str) -> bool:
    """Returns whether a finished run has a metric whose mean over seeds or single value is not a finite number."""
    base = metric.removesuffix("_mean")
    named = next((name for name in (f"{base}_mean", metric) if name in run.summary), None)
    return run.state == "finished" and named is not None and _number(run, named) is None


def _number(run: ComparedRun, name: str) -> float | None:
    value = run.summary.get(name)
    return float(value) if is_number(value) and math.isfinite(value) else None


def pooled(of_runs: Sequence[Sample | None], metric: str) -> Sample | None:
    """Returns all seeds of several runs as one sample.

    The squared deviations within runs and those of the runs' means from the common mean add up, as in an analysis of
    variance. For a minimum over seeds, the result is the minimum over all runs.

    Args:
        of_runs: one sample for each run, None if it lacks the metric.
        metric: name of the metric.
    """
    samples = [sample for sample in of_runs if sample is not None]
    if not samples:
        return None
    n = sum(sample.n for sample in samples)
    best = _best(samples, metric)
    if metric.endswith("_min"):
        return Sample(n, min(sample.mean for sample in samples), None, best)
    mean = math.fsum(sample.n * sample.mean for sample in samples) / n
    if n == 1 or any(sample.n > 1 and sample.deviation is None for sample in samples):
        return Sample(n, mean, None, best)
    within = math.fsum((sample.n - 1) * (sample.deviation or 0.0) ** 2 for sample in samples)
    between = math.fsum(sample.n * (sample.mean - mean) ** 2 for sample in samples)
    return Sample(n, mean, math.sqrt((within + between) / (n - 1)), best)


def averaged(samples: Sequence[Sample | None], metric: str) -> Sample | None:
    """Returns the mean of samples that repeat the same config and seeds, with as many seeds as one of them.

    Args:
        samples: one sample for each run, None if it lacks the metric.
        metric: name of the metric.
    """
    known = [sample for sample in samples if sample is not None]
    if len(known) < 2:
        return known[0] if known else None
    deviations = [sample.deviation for sample in known if sample.deviation is not None]
    return Sample(
        max(sample.n for sample in known),
        math.fsum(sample.mean for sample in known) / len(known),
        math.sqrt(math.fsum(value**2 for value in deviations) / len(deviations)) if deviations else None,
        _best(known, metric),
    )


def _best(samples: Sequence[Sample], metric: str) -> float | None:
    """Returns the best seed of some samples, None if it is unknown."""
    bests = [sample.best for sample in samples if sample.best is not None]
    return (max if goal(metric) == "max" else min)(bests, default=None)


def welch(one: Sample, other: Sample) -> float | None:
    """Returns the two-sided p of Welch's t-test for equal means; None if a spread is unknown or both are zero."""
    if one.deviation is None or other.deviation is None or one.deviation == other.deviation == 0:
        return None
    from scipy.stats import ttest_ind_from_stats  # takes half a second

    statistics = (one.mean, one.deviation, one.n, other.mean, other.deviation, other.n)
    return float(ttest_ind_from_stats(*statistics, equal_var=False).pvalue)
