"""Which way a metric is better."""

from __future__ import annotations

from typing import Literal

Goal = Literal["min", "max"]

LOWER = ("mse", "mae", "error", "loss", "dead", "dead_units", "seconds", "parameters", "multiply_adds")
HIGHER = ("accuracy",)


def goal(name: str) -> Goal | None:
    """What is wanted of a metric.

    Args:
        name: such as `test/mse`, `val/mse_mean` or `test/top5_accuracy`.

    Returns:
        `"min"`, `"max"`, or None where neither is better (numbers of linear regions, say).
    """
    words = name.rpartition("/")[2]
    for word in ("_min", "_mean", "_median", "_max"):
        words = words.removesuffix(word)
    if words.endswith(HIGHER):
        return "max"
    return "min" if words.endswith(LOWER) else None
