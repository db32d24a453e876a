"""Compares an exported network with the model, and decides whether the difference is acceptable."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lit_triwave.checkpoints.rebuild import Saved
from lit_triwave.commands.export.formats import Evaluate
from lit_triwave.errors import TriwaveError

_TOLERANCE = {torch.float32: 1e-6, torch.float64: 1e-12}
"""Largest acceptable `Difference.share`."""
_ROUNDINGS = 4.0
"""Largest acceptable difference in float32, as a multiple of the difference between the model in float32 and float64.
With peaks near 0 or 1, a few rounding errors are more than 1e-6."""
_LAST_PLACES = 16.0
"""Largest acceptable difference of a function in float64, in units of what one unit in the last place of each weight
changes: the sums of a deep network in another order differ by about as much as that."""
_POINTS, _OUTSIDE = 50_000, 5000  # in a function's domain, and up to one span outside on either side
_IMAGE_PIXELS = 200_000  # in all images together, but at least two images


@dataclass
class Difference:
    """The largest difference of an exported network from the model.

    Attributes:
        largest: the difference in units of the outputs, of the output with the largest `share`.
        share: the difference, for a function in units of its target's range. For a classifier it is in units of the
            largest logit, but at least 1, because probabilities depend on the absolute error of logits. NaN or infinity
            if an output is not finite.
        limit: largest acceptable `share`.
        samples: number of compared samples.
        rounding: largest difference between the model in the precision of the export's inputs and in float64, in the
            units of `share`.
    """

    largest: float
    share: float
    limit: float
    samples: int
    rounding: float


def sample_inputs(saved: Saved, dtype: torch.dtype) -> Tensor:
    """Returns random inputs that the precision represents exactly.

    For functions: points in the domain, two of its corners, and points outside, shape (batch, in_features). For
    classifiers: images of independent normal pixels, shape (batch, C, H, W).
    """
    generator = torch.Generator().manual_seed(0)
    if not saved.is_function:
        shape = saved.module.hparams["image_shape"]
        count = max(2, min(64, _IMAGE_PIXELS // torch.Size(shape).numel()))
        return torch.randn(count, *shape, generator=generator).to(dtype)
    scaling = saved.scaling
    u = torch.rand(_POINTS + _OUTSIDE, scaling.in_features, generator=generator, dtype=torch.float64)
    u[_POINTS:] = 3 * u[_POINTS:] - 1
    u[:2] = torch.tensor([[0.0], [1.0]])
    x: Tensor = scaling.lower.double() + scaling.span.double() * u
    return x.to(dtype)


@torch.no_grad()
def compare(
    saved: Saved, networks: Sequence[int], exported: Evaluate, dtype: torch.dtype, arithmetic: torch.dtype
) -> Difference:
    """Evaluates an exported network and the model on the same inputs: all in one batch, and one input alone.

    Args:
        saved: the checkpoint with the model.
        networks: index of a function's network for each target.
        exported: the exported network.
        dtype: dtype of its inputs and outputs.
        arithmetic: precision in which it computes. With float64, it is compared with the model in float64, even if
            the model was trained in float32.

    Raises:
        TriwaveError: the outputs of the model are not finite.
    """
    x = sample_inputs(saved, dtype)
    exact = _outputs(saved, networks, x, torch.float64)
    single = torch.float32 in (dtype, saved.dtype)
    rounded = _outputs(saved, networks, x, torch.float32) if single else exact
    expected = rounded if saved.dtype == arithmetic == torch.float32 else exact
    found = torch.cat([exported(x), exported(x[-1:])]).double()
    if not expected.isfinite().all():
        raise TriwaveError(f"{saved.path} must have finite outputs, got NaN or infinity; export an earlier checkpoint")
    unit = expected.abs().max().clamp_min(1)
    if saved.is_function:
        unit = saved.scaling.scale.double().expand(saved.seeds)[[*networks]]
    differences = (found - torch.cat([expected, expected[-1:]])).abs().amax(0)  # of each output
    shares = differences / unit
    worst = int(shares.argmax())  # also finds a difference that is not finite
    rounding = float(((rounded - exact).abs() / unit).max())
    limit = _TOLERANCE[dtype]
    if arithmetic == torch.float32:
        limit = max(limit, _ROUNDINGS * rounding)
    elif saved.is_function and float(shares[worst]) > limit:  # rare, because it evaluates the model again
        limit = max(limit, _LAST_PLACES * float((_last_places(saved, networks, x, exact) / unit).max()))
    return Difference(float(differences[worst]), float(shares[worst]), limit, len(x), rounding)


def _last_places(saved: Saved, networks: Sequence[int], x: Tensor, exact: Tensor) -> Tensor:
    """Returns the largest change of a function's outputs, (targets,), if each weight moves by one unit in its last
    place of float64, up or down at random. One such unit of the outputs themselves is added."""
    module = copy.deepcopy(saved.module).double()
    generator = torch.Generator().manual_seed(0)
    eps = torch.finfo(torch.float64).eps
    for parameter in module.parameters():
        up = torch.randint(0, 2, parameter.shape, generator=generator).double()
        parameter.mul_(1 + eps * (2 * up - 1))
    moved: Tensor = (module(x.double())[:, [*networks]] - exact).abs().amax(0)
    return moved + eps * exact.abs().amax(0)


def _outputs(saved: Saved, networks: Sequence[int], x: Tensor, dtype: torch.dtype) -> Tensor:
    """Returns the model's outputs, computed in a precision, shape (batch, targets) or (batch, classes), as float64."""
    module = saved.module if dtype == saved.dtype else copy.deepcopy(saved.module).to(dtype)
    y: Tensor = module(x.to(dtype))
    return (y[:, [*networks]] if saved.is_function else y).double()
