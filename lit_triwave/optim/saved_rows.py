"""The parameters of many replicas as rows of one tensor, and checks of rows that were saved."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

_MAY_BE_LOST = ("loss", "held", "penalty")
"""Tensors that may be NaN for a replica whose error is no longer finite."""


def read_rows(parameters: Iterable[Tensor]) -> Tensor:
    """Returns parameters with a leading dimension R as one row for each replica, (R, P), without a graph."""
    return torch.cat([p.detach().unsqueeze(-1).flatten(1) for p in parameters], 1)


def write_rows(parameters: Sequence[Tensor], rows: Tensor) -> None:
    """Copies rows, (R, P), to the parameters that `read_rows` read."""
    for p, part in zip(parameters, torch.split(rows, [p[0].numel() for p in parameters], 1), strict=True):
        p.copy_(part.view_as(p))


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
