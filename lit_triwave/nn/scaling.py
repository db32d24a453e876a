"""Affine maps between a problem's own units and the unit intervals of the construction."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from lit_triwave.construction.dense import Affine

Domain = Mapping[str, Sequence[float]]
"""Input name ↦ (lower, upper), in the order of the input columns."""


class UnitScaling(nn.Module):
    """Maps inputs from their domain to [0, 1] and outputs from the unit range to the targets' range.

    Args:
        domain: name ↦ (lower, upper) of each input, lower < upper, finite.
        target_range: (lowest, highest) target, lowest < highest.

    Attributes:
        lower: lower bounds of the inputs, shape (in_features,), float64 until the module is cast.
        span: lengths of the inputs' intervals, shape (in_features,).
        offset: lowest target, 0-d.
        scale: length of the target range, 0-d.

    Raises:
        ValueError: a bound is out of range.
    """

    lower: Tensor
    span: Tensor
    offset: Tensor
    scale: Tensor

    def __init__(self, domain: Domain, target_range: Sequence[float] = (0.0, 1.0)) -> None:
        super().__init__()
        if not domain or any(len(ends) != 2 for ends in domain.values()):
            raise ValueError(f"domain {dict(domain)}: needs a (lower, upper) for each input")
        bounds = torch.tensor([tuple(map(float, ends)) for ends in domain.values()], dtype=torch.float64)
        for name, (low, high) in zip(domain, bounds.tolist(), strict=True):
            if not low < high or not bounds.isfinite().all():
                raise ValueError(f"domain of {name}: lower {low} must be below upper {high}, both finite")
        if len(target_range) != 2 or not -math.inf < target_range[0] < target_range[1] < math.inf:
            raise ValueError(
                f"target_range {tuple(target_range)}: (lowest, highest), the first below the second, finite"
            )
        low, high = map(float, target_range)
        if not 1e-100 < high - low < 1e100:
            raise ValueError(
                f"target_range {low:g} to {high:g}: squared errors would leave float64; rescale the targets"
            )
        self.register_buffer("lower", bounds[:, 0])
        self.register_buffer("span", bounds[:, 1] - bounds[:, 0])
        self.register_buffer("offset", torch.tensor(low, dtype=torch.float64))
        self.register_buffer("scale", torch.tensor(high - low, dtype=torch.float64))

    @property
    def in_features(self) -> int:
        return len(self.lower)

    def inputs(self, x: Tensor) -> Tensor:
        """Maps inputs (batch, in_features) from the domain to [0, 1]."""
        if x.ndim != 2 or x.shape[1] != self.in_features:
            raise ValueError(f"x must have shape (batch, {self.in_features}), got {tuple(x.shape)}")
        return (x - self.lower) / self.span

    def outputs(self, y: Tensor) -> Tensor:
        """Maps the unit range to the targets' units, elementwise."""
        return self.offset + self.scale * y

    def input_layer(self) -> Affine:
        return torch.diag(1 / self.span), -self.lower / self.span

    def clamped_layers(self) -> list[Affine]:
        """Returns the affine maps from the domain to [0, 1] with the clamp, u = 1 − relu(1 − relu(x − lower) / span).

        Subtracting first, as `inputs` does, keeps precision where a domain is far from zero. The form
        relu(u) − relu(u − 1) would lose the 1 for inputs far outside.
        """
        eye = torch.eye(self.in_features).to(self.lower)
        one = torch.ones_like(self.lower)
        return [(eye, -self.lower), (-torch.diag(1 / self.span), one), (-eye, one)]

    def output_layer(self) -> Affine:
        return self.scale.reshape(1, 1), self.offset.reshape(1)
