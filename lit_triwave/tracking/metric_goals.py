"""The table of metrics: the title of each, whether lower or higher is better, and its format in the tables of a fit."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

Goal = Literal["min", "max"]


@dataclass(frozen=True)
class _Metric:
    title: str
    goal: Goal | None = None
    form: str = ".4g"  # a format specification
    unit: str = ""


# End of a metric's name ↦ the metric. The first entry that fits is used, so `top5_accuracy` comes before `accuracy`.
_METRICS = {
    "calibration_error": _Metric("calibration error", "min", ".2%"),
    "max_error": _Metric("maximum error", "min", ".2e"),
    "error": _Metric("error", "min", ".2e"),
    "relative_mse": _Metric("MSE / range²", "min", ".2e"),
    "mse": _Metric("MSE", "min", ".2e"),
    "mae": _Metric("MAE", "min", ".2e"),
    "r2": _Metric("R²", "max"),  # shown by `nines`
    "loss": _Metric("loss", "min", ".4f"),
    "top5_accuracy": _Metric("top-5 accuracy", "max", ".2%"),
    "accuracy": _Metric("accuracy", "max", ".2%"),
    "dead": _Metric("dead networks", "min", ".0%"),
    "dead_units": _Metric("dead units", "min", ".2%"),
    "fit_seconds": _Metric("time of the steps", "min", ".1f", "s"),
    "seconds": _Metric("time", "min", ".1f", "s"),
    "parameters": _Metric("parameters", "min", ",.0f"),
    "multiply_adds": _Metric("multiply-adds", "min", ",.0f"),
}
_NEVER_NEGATIVE = ("mse", "relative_mse", "max_error", "accuracy", "top5_accuracy", "calibration_error", "fit_seconds")
_WORDS: dict[Goal, str] = {
    "max": "acc accuracy ap auc auprc auroc bleu dice f1 fbeta iou jaccard kappa map mcc meteor miou mrr ndcg pearson "
    "precision psnr r2 recall reward rouge sensitivity spearman specificity ssim",
    "min": "bce brier ce cer ece error fid loss lpips mae mape mse nll perplexity ppl rmse rmsle smape wer",
}
"""Words in the names of a user's metrics that give their direction."""
_SPLITS = {"train": "training", "val": "validation", "test": "test", "pretrain": "pretrained"}
SPLIT = re.compile("^(train|val|valid|validation|test)[/_]")
"""Beginnings of the names of logged metrics."""
_OVER_SEEDS = ("_min", "_mean", "_median", "_max")


@lru_cache
def _metric(name: str) -> _Metric:
    last = name.rpartition("/")[2]
    for ending in _OVER_SEEDS:
        last = last.removesuffix(ending)
    if "neg" in last.split("_"):  # neg_mean_squared_error, as scikit-learn names it
        return _Metric(last.replace("_", " "))
    found = (metric for ending, metric in _METRICS.items() if last.endswith(ending))
    return next(found, None) or _Metric(last.replace("_", " "), _goal_by_words(name))


def _goal_by_words(name: str) -> Goal | None:
    """Returns the direction of the last part of a name that has one; None if its words contradict each other."""
    for part in reversed(name.split("/")):
        apart = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", part).lower()  # MulticlassF1Score, as torchmetrics names it
        words = set(re.split(r"[^a-z0-9]+", apart))
        words |= {word.rstrip("0123456789") for word in words}  # acc1
        goals: list[Goal] = [goal for goal, known in _WORDS.items() if words.intersection(known.split())]
        if goals:
            return goals[0] if len(goals) == 1 else None
    return None


def goal(name: str) -> Goal | None:
    """Returns whether lower or higher values of a metric are better.

    Args:
        name: such as `test/mse`, `val/mse_mean` or `test/top5_accuracy`.

    Returns:
        `"min"`, `"max"`, or None if neither is better (number of linear regions, for example).
    """
    return _metric(name).goal


def without_split(name: str) -> str:
    """Returns a metric's name without the split at its beginning: `test_acc` and `val/acc` are both `acc`."""
    return SPLIT.sub("", name)


def never_negative(name: str) -> bool:
    """Returns whether a metric of this project is a size or a share, over one or several seeds."""
    last = name.rpartition("/")[2]
    for ending in (*_OVER_SEEDS, "_std"):
        last = last.removesuffix(ending)
    return last in _NEVER_NEGATIVE


def title(name: str, unit: bool = False) -> str:
    """Returns the title of a metric in tables and on axes: `test/max_error` is "test maximum error".

    Args:
        name: such as `val/mse_mean`, or `test/price/mse` of one target; the statistic over seeds is left out.
        unit: whether to append the unit, as in "time of the steps / s".
    """
    metric = _metric(name)
    split = name.partition("/")[0] if "/" in name else ""
    own = SPLIT.match(name)
    if own and not split and metric in _METRICS.values():  # train_loss, as many name it
        split = own[1]
    words = f"{_SPLITS.get(split, split)} {metric.title}".strip()
    if name.count("/") > 1:
        words += f" of {name.partition('/')[2].rpartition('/')[0]}"
    return f"{words} / {metric.unit}" if unit and metric.unit else words


def shown(name: str, value: float) -> str:
    """Returns a metric's value as text: accuracies in per cent, errors with two decimals and an exponent."""
    metric = _metric(name)
    if metric is _METRICS["r2"]:
        return nines(value)
    return f"{value:{metric.form}} {metric.unit}".rstrip()


def nines(value: float) -> str:
    """Returns a value near 1, such as R², with all of its nines and one digit more; at least four decimals."""
    digits = 4 if not -math.inf < value < 1 else min(16, max(4, 2 - math.floor(math.log10(1 - value))))
    return f"{value:.{digits}f}"
