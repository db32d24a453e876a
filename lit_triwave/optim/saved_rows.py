"""Checks the saved state of an optimizer that moves many replicas at once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

_MAY_BE_LOST = ("loss", "held", "penalty")
"""Tensors that may be NaN for a replica whose error is no longer finite."""


def check_rows(
    name: str, saved: Mapping[int, Mapping[str, Any]], key: int, shapes: Mapping[str, tuple[int, ...]]
) -> None:
    """Refuses a state that does not belong to the replicas.

    Args:
        name: name of the state, for the error.
        saved: number of a parameter ↦ its state; {} before the first step.
        key: number of the parameter that has the state of all.
        shapes: name of a tensor ↦ its shape: (R, P) of finite values, one row for each replica, or (R,) of errors and
            dampings, which are not negative.

    Raises:
        ValueError: a value is wrong; the message names it.
    """
    if saved and [*saved] != [key]:
        raise ValueError(f"{name} must be of parameter {key}, got {', '.join(map(str, saved))}")
    for what, shape in shapes.items() if saved else ():
        value = saved[key].get(what)
        if not isinstance(value, Tensor) or value.shape != shape or not value.is_floating_point():
            found = f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
            raise ValueError(f"{name}.{key}.{what} must be a tensor of shape {shape}, got {found}")
        wrong = ~value.isfinite() if value.ndim == 2 else ~(value >= 0)
        if what in _MAY_BE_LOST:
            wrong &= ~value.isnan()
        if what == "damping":
            wrong |= value.isinf()
        if wrong.any():
            least = "" if value.ndim == 2 else ", at least 0"
            raise ValueError(f"{name}.{key}.{what} must be finite{least}, got {float(value[wrong][0])}")
