"""Affine maps between a problem's own units and the unit intervals of the construction."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from lit_triwave.construction.dense import Affine

Domain = Mapping[str, Sequence[float]]
"""Input name ↦ (lower, upper), in the order of the input columns."""
TargetRange = Sequence[float] | Sequence[Sequence[float]]
"""(lowest, highest) target, or such a pair for each of several targets."""


def named_domain(domain: Domain | Sequence[Sequence[float]]) -> Domain:
    """Returns the bounds with the names of the inputs. Inputs of a list without names are `x`, or `x1`, `x2`, …"""
    if isinstance(domain, Mapping):
        return domain
    if any(isinstance(end, (int, float)) for end in domain):
        raise ValueError(f"domain must have (lower, upper) for each input, such as [(0, 1)], got {domain}")
    names = ["x"] if len(domain) == 1 else [f"x{number}" for number in range(1, len(domain) + 1)]
    return dict(zip(names, domain, strict=True))


def interval(lower: float, upper: float) -> str:
    """Returns an interval as text, with six digits, or as many more as it takes to distinguish its ends."""
    digits = next((digits for digits in range(6, 17) if f"{lower:.{digits}g}" != f"{upper:.{digits}g}"), 17)
    return f"[{lower:.{digits}g}, {upper:.{digits}g}]"


class UnitScaling(nn.Module):
    """Maps inputs from their domain to [0, 1] and outputs from the unit range to the targets' range.

    Args:
        domain: name ↦ (lower, upper) of each input, lower < upper, finite.
        target_range: (lowest, highest) target, lowest < highest; for F targets, F pairs.
        replicas: number R of outputs, a multiple of F; outputs R / F · t to R / F · (t + 1) − 1 belong to target t.

    Attributes:
        lower: lower bounds of the inputs, shape (in_features,), float64 until the module is cast.
        span: lengths of the inputs' intervals, shape (in_features,).
        offset: lowest target, 0-d; for several targets, the lowest target of each output, (R,).
        scale: length of the target range, 0-d or (R,).

    Raises:
        ValueError: a bound is out of range.
    """

    lower: Tensor
    span: Tensor
    offset: Tensor
    scale: Tensor

    def __init__(self, domain: Domain, target_range: TargetRange = (0.0, 1.0), replicas: int = 1) -> None:
        super().__init__()
        if not domain or any(len(ends) != 2 for ends in domain.values()):
            raise ValueError(f"domain must have (lower, upper) for each input, got {dict(domain)}")
        bounds = torch.tensor([tuple(map(float, ends)) for ends in domain.values()], dtype=torch.float64)
        for name, (low, high) in zip(domain, bounds.tolist(), strict=True):
            if not low < high or not bounds.isfinite().all():
                raise ValueError(f"domain of {name} must have lower < upper, both finite, got {low} and {high}")
        targets = target_count(target_range)
        ends = torch.tensor([_checked(pair) for pair in range_pairs(target_range)], dtype=torch.float64)
        if replicas % targets:
            raise ValueError(f"replicas must be a multiple of the {targets} targets, got {replicas}")
        low, high = (
            (end[0] if not isinstance(target_range[0], Sequence) else end.repeat_interleave(replicas // targets))
            for end in ends.unbind(1)
        )
        self.register_buffer("lower", bounds[:, 0])
        self.register_buffer("span", bounds[:, 1] - bounds[:, 0])
        self.register_buffer("offset", low.clone())
        self.register_buffer("scale", high - low)

    @property
    def in_features(self) -> int:
        return len(self.lower)

    def inputs(self, x: Tensor) -> Tensor:
        """Maps inputs (batch, in_features) from the domain to [0, 1]."""
        if x.ndim != 2 or x.shape[1] != self.in_features:
            raise ValueError(
                f"x must have shape (batch, {self.in_features}), one column for each variable of domain, got "
                f"{tuple(x.shape)}"
            )
        return (x - self.lower) / self.span

    def outputs(self, y: Tensor) -> Tensor:
        """Maps the unit range to the targets' units, elementwise; the last dimension has the outputs."""
        return self.offset + self.scale * y

    def input_layer(self) -> Affine:
        return torch.diag(1 / self.span), -self.lower / self.span

    def clamped_layers(self) -> list[Affine]:
        """Returns the affine maps from the domain to [0, 1] with the clamp, u = 1 − relu(1 − relu(x − lower) / span).

        Subtracting first, as `inputs` does, keeps precision where a domain is far from zero. The form
        relu(u) − relu(u − 1) would lose the 1 to rounding for inputs far outside.
        """
        eye = torch.eye(self.in_features).to(self.lower)
        one = torch.ones_like(self.lower)
        return [(eye, -self.lower), (-torch.diag(1 / self.span), one), (-eye, one)]

    def output_layer(self, replica: int = 0) -> Affine:
        scale, offset = (values if values.ndim == 0 else values[replica] for values in (self.scale, self.offset))
        return scale.reshape(1, 1), offset.reshape(1)


def range_pairs(target_range: TargetRange) -> list[tuple[float, ...]]:
    """Returns the range of each target."""
    single = not target_range or not isinstance(target_range[0], Sequence)
    return [tuple(target_range)] if single else [tuple(pair) for pair in target_range]  # type: ignore[arg-type, list-item]


def target_count(target_range: TargetRange) -> int:
    """Returns the number of targets F."""
    return len(range_pairs(target_range))


def _checked(ends: Sequence[float]) -> tuple[float, float]:
    if len(ends) != 2 or not -math.inf < ends[0] < ends[1] < math.inf:
        raise ValueError(f"target_range must be (lowest, highest), both finite, lowest < highest, got {tuple(ends)}")
    low, high = map(float, ends)
    if not 1e-100 < high - low < 1e100:
        raise ValueError(
            f"target_range must be from 1e-100 to 1e+100 long, got {low:g} to {high:g}: squared errors would leave "
            "float64; rescale the targets"
        )
    return low, high
