"""How far an exported network is from the model, and how far it may be."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from torch import Tensor

from lit_triwave.checkpoints.rebuild import Saved
from lit_triwave.commands.export.formats import Evaluate
from lit_triwave.errors import TriwaveError

TOLERANCE = {torch.float32: 1e-6, torch.float64: 1e-12}
"""In units of `Difference.unit`."""
ROUNDINGS = 4.0
"""Two ways of computing the same thing in float32 may differ by so many times what one differs from float64: a few
rounding errors, with networks whose peaks are near 0 or 1, are more than 1e-6."""
POINTS, OUTSIDE = 50_000, 5000  # of a function: in its domain, and up to a span on either side of it
IMAGE_PIXELS = 200_000  # in all images together, but at least two images


@dataclass
class Difference:
    """The largest difference of an exported network from the model.

    Attributes:
        largest: in units of the outputs.
        unit: of a function, the range of the targets; of a classifier the largest logit, or 1 where all are smaller, as
            it is the absolute error of logits that probabilities feel.
        limit: in units of `unit`.
        samples: how many were compared.
        rounding: in units of `unit`, how far the model in the precision of the export's inputs is from itself in
            float64, at most.
    """

    largest: float
    unit: float
    limit: float
    samples: int
    rounding: float

    @property
    def share(self) -> float:
        """In units of `unit`."""
        return self.largest / self.unit

    @property
    def acceptable(self) -> bool:
        """Whether it is within the limit; a network that is not finite isn't."""
        return self.share <= self.limit


def sample_inputs(saved: Saved, dtype: torch.dtype) -> Tensor:
    """Random inputs that the precision holds exactly: points of a function's domain, its corners and points outside,
    (batch, in_features); for classifiers images of independent normal pixels, (batch, C, H, W)."""
    generator = torch.Generator().manual_seed(0)
    if not saved.is_function:
        shape = saved.module.hparams["image_shape"]
        count = max(2, min(64, IMAGE_PIXELS // torch.Size(shape).numel()))
        return torch.randn(count, *shape, generator=generator).to(dtype)
    scaling = saved.scaling
    u = torch.rand(POINTS + OUTSIDE, scaling.in_features, generator=generator, dtype=torch.float64)
    u[POINTS:] = 3 * u[POINTS:] - 1
    u[:2] = torch.tensor([[0.0], [1.0]])
    x: Tensor = scaling.lower.double() + scaling.span.double() * u
    return x.to(dtype)


@torch.no_grad()
def compare(saved: Saved, seed: int, exported: Evaluate, dtype: torch.dtype, arithmetic: torch.dtype) -> Difference:
    """Evaluates an exported network and the model on the same inputs, all in one batch and one alone.

    Args:
        saved: the checkpoint with the model.
        seed: which of a function's networks.
        exported: inputs ↦ outputs.
        dtype: of the export's inputs and outputs.
        arithmetic: of what it computes; in float64 it is compared with the model in float64, also where the model was
            trained in float32.

    Raises:
        TriwaveError: the model is not finite.
    """
    x = sample_inputs(saved, dtype)
    exact = outputs(saved, seed, x, torch.float64)
    single = torch.float32 in (dtype, saved.dtype)
    rounded = outputs(saved, seed, x, torch.float32) if single else exact
    expected = rounded if saved.dtype == arithmetic == torch.float32 else exact
    found = torch.cat([exported(x), exported(x[-1:])]).double()
    if not expected.isfinite().all():
        raise TriwaveError(f"{saved.path}: the outputs of the model itself are not finite")
    largest = float((found - torch.cat([expected, expected[-1:]])).abs().max())
    unit = float(saved.scaling.scale if saved.is_function else expected.abs().max().clamp_min(1))
    rounding = float((rounded - exact).abs().max()) / unit
    limit = TOLERANCE[dtype]
    if arithmetic == torch.float32:
        limit = max(limit, ROUNDINGS * rounding)
    return Difference(largest, unit, limit, len(x), rounding)


def outputs(saved: Saved, seed: int, x: Tensor, dtype: torch.dtype) -> Tensor:
    """The model's outputs in a precision, (batch, 1) or (batch, classes), as float64."""
    module = saved.module if dtype == saved.dtype else copy.deepcopy(saved.module).to(dtype)
    y: Tensor = module(x.to(dtype))
    return (y[:, [seed]] if saved.is_function else y).double()
