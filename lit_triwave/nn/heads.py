"""Constructed subnetworks as classifier heads, and the ordinary dense head to compare with."""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from lit_triwave.construction import dense
from lit_triwave.errors import check_choice, did_you_mean
from lit_triwave.nn.bank import WIDEST, Curvature, Release, TriangleBank
from lit_triwave.nn.sizes import check_sizes

Squash = Literal["normal", "sigmoid", "hard"]
Start = Literal["random", "quadratic"]
NORM_MOMENTUM = 0.1
"""PyTorch's default momentum of batch norm."""
_DEEPEST = 1000
"""Most hidden layers of a dense head."""

SQUASHES: dict[Squash, Callable[[Tensor], Tensor]] = {
    "normal": torch.special.ndtr,
    "sigmoid": torch.sigmoid,
    "hard": lambda z: (0.5 + z / 4).clamp(0, 1),
}


class BlockDiagonalLayers(nn.Module):
    """Features → K numbers in [0, 1] → K constructed subnetworks, in place of hidden dense layers.

    Choice of `squash`: on the digits (configs/digits_distorted.yaml, 360 validation images, 6 splits) the final
    accuracies of the three differ by at most 0.3 points. The spread over splits is larger. `"normal"` is the default
    for two reasons. Batch-normalised values are roughly normal, so their distribution function spreads them evenly over
    [0, 1], and every linear piece gets samples. It is also smooth: `"hard"` has no gradient beyond ±2 standard
    deviations, where 5 % of the samples are.

    Choice of `start`: with the paper's random peaks, `"random"`, all subnetworks are similar increasing functions. With
    `"quadratic"` they differ, and their outputs have mean 0 and variance 1. On the pixels of the digits
    (configs/digits_pixels.yaml) `"quadratic"` is better from the first epoch to the end. After a small CNN it is worse
    in the first epoch.

    Args:
        in_features: features of a sample, ≥ 1.
        num_nets: subnetworks K ≥ 1; the hidden layers are 4·K wide.
        depth: hidden layers of the subnetworks, ≥ 1.
        start: peaks and affine parts at the beginning: `"random"`, see `TriangleBank`; `"quadratic"`, see
            `TriangleBank.start_quadratic`.
        squash: function that maps a batch-normalised projection z to [0, 1]: `"normal"`, the normal distribution
            function; `"sigmoid"`; `"hard"`, 1/2 + z/4 clamped to [0, 1].
        norm_momentum: weight in (0, 1] of the current batch in batch norm's statistics for evaluation. PyTorch's 0.1 is
            a mean over about 19 batches, which is too slow while the weights change fast; 0.5 is a mean over about 3.
        curvature: see `TriangleBank`.
        theorem31: see `TriangleBank`.
        margin: see `TriangleBank`.
        generator: see `TriangleBank`.

    Attributes:
        bank: the subnetworks, shape (num_nets,); computed in float32 under autocast.

    Raises:
        ValueError: an argument is outside its range.
    """

    def __init__(
        self,
        in_features: int,
        num_nets: int = 64,
        depth: int = 5,
        *,
        start: Start = "random",
        squash: Squash = "normal",
        norm_momentum: float = NORM_MOMENTUM,
        curvature: Curvature = "convex",
        theorem31: bool = True,
        margin: float = 1e-2,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        check_sizes(in_features=in_features)
        check_sizes(most=WIDEST, num_nets=num_nets)
        check_choice(Squash, squash=squash)
        check_choice(Start, start=start)
        self.squash: Squash = squash
        self.projection = nn.Linear(in_features, num_nets, bias=False)  # the norm has the bias
        self.norm = nn.BatchNorm1d(num_nets, momentum=checked_momentum(norm_momentum))
        self.bank = TriangleBank(
            num_nets, depth, curvature=curvature, theorem31=theorem31, margin=margin, generator=generator
        )
        if start == "quadratic":
            self.bank.start_quadratic(generator)

    def forward(self, x: Tensor) -> Tensor:
        """Maps features (*rows, in_features) to the outputs of the subnetworks (*rows, num_nets).

        The dimensions of rows are the batch, or the batch and the tokens or positions of an image. The statistics of
        batch norm are computed over all rows.
        """
        rows = x if x.ndim == 2 else x.reshape(-1, x.shape[-1])
        if self.training and len(rows) == 1 and type(self.norm) is nn.BatchNorm1d:
            raise ValueError(
                "batch_size must be at least 2 in training, got a batch of one sample: batch norm needs two or more"
            )
        z = self.norm(self.projection(rows))
        # The waves multiply differences of their input by 2^depth or more, so eight bits (bfloat16) are not enough.
        # Autocast does not know meta tensors.
        with nullcontext() if z.is_meta else torch.autocast(z.device.type, enabled=False):
            y: Tensor = self.bank(SQUASHES[self.squash](z.to(self.bank.sign.dtype)))
        if self.projection.weight.dtype in (torch.float16, torch.bfloat16):
            y = y.to(z.dtype)  # the model is in half precision, but its bank computes in single precision
        return y if x.ndim == 2 else y.reshape(*x.shape[:-1], y.shape[-1])

    def release(self, kind: Release = "blocks") -> None:
        """Makes the weights the parameters, see `TriangleBank.release`."""
        self.bank.release(kind)


class BlockDiagonalHead(nn.Module):
    """Features → K numbers in [0, 1] → K constructed subnetworks → classes (METHOD section 4).

    Args:
        in_features: features of a sample, ≥ 1.
        num_classes: number of classes, ≥ 1.
        num_nets: subnetworks K ≥ 1; the hidden layers are 4·K wide.
        depth: hidden layers of the subnetworks, ≥ 1.
        dropout: share of the subnetworks' outputs that are set to zero in training, in [0, 1].
        options: further arguments of `BlockDiagonalLayers`.

    Raises:
        ValueError: an argument is outside its range.
    """

    def __init__(
        self,
        in_features: int,
        num_classes: int,
        num_nets: int = 64,
        depth: int = 5,
        *,
        dropout: float = 0.0,
        **options: Any,
    ) -> None:
        super().__init__()
        check_sizes(num_classes=num_classes)
        check_options(options)
        self.layers = BlockDiagonalLayers(in_features, num_nets, depth, **options)
        self.dropout = nn.Dropout(dropout)
        self.classes = nn.Linear(num_nets, num_classes)

    @property
    def bank(self) -> TriangleBank:
        """The subnetworks."""
        return self.layers.bank

    def forward(self, x: Tensor) -> Tensor:
        """Maps features (batch, in_features) to logits (batch, num_classes)."""
        logits: Tensor = self.classes(self.dropout(self.layers(x)))
        return logits

    def release(self, kind: Release = "blocks") -> None:
        """Makes the weights the parameters, see `TriangleBank.release`."""
        self.layers.release(kind)

    @torch.no_grad()
    def to_sequential(self, pieces: int = 256) -> nn.Sequential:
        """Returns the head in evaluation mode as plain `nn.Linear` and `nn.ReLU` layers with copied weights.

        Projection and batch norm become one layer, the squash another. `"hard"` is exact. A smooth squash is
        interpolated linearly. The error is below 2e-5 for 256 pieces, and 16 times smaller for four times as many.
        Subnetworks and classes multiply this error by their slopes: the largest error of a logit in the digits' head
        (logits up to 16) was 2.8e-4.

        Args:
            pieces: linear pieces of the interpolation, ≥ 1; each subnetwork gets pieces + 1 neurons.

        Returns:
            A network from (batch, in_features) to logits (batch, num_classes).
        """
        layers = self.layers
        norm, weight = layers.norm, layers.projection.weight
        assert norm.running_var is not None and norm.running_mean is not None
        gain = norm.weight / (norm.running_var + norm.eps).sqrt()
        project = (gain[:, None] * weight, norm.bias - gain * norm.running_mean)
        check_sizes(pieces=pieces)
        f = SQUASHES[layers.squash]
        knots = curvature_knots(f, pieces) if layers.squash != "hard" else torch.tensor([-2.0, 2.0])
        squash = interpolation_layers(f, knots.to(weight), len(weight))
        classes = (self.classes.weight, self.classes.bias)
        return dense.sequential(dense.chain([project], squash, self.bank.affine_layers(), [classes]))


def curvature_knots(f: Callable[[Tensor], Tensor], pieces: int, reach: float = 20.0) -> Tensor:
    """Returns knots of a piecewise linear interpolation whose pieces all have about the same largest error.

    The error of a piece of length h is h²·|f''|/8, so the knots' density follows √|f''|.

    Args:
        f: the function, almost constant beyond ±reach.
        pieces: number of pieces, ≥ 1.
        reach: the outermost knots are at −reach and reach.

    Returns:
        Shape (pieces + 1,), ascending, float64.
    """
    z = torch.linspace(-reach, reach, 40_001, dtype=torch.float64)
    density = nn.functional.pad(f(z).diff(n=2).abs().sqrt(), (1, 1)) + 1e-12  # positive, so that knots are distinct
    share = density.cumsum(0) - density[0]
    return torch.from_numpy(np.interp(np.linspace(0, float(share[-1]), pieces + 1), share.numpy(), z.numpy()))


def interpolation_layers(f: Callable[[Tensor], Tensor], knots: Tensor, n: int) -> list[dense.Affine]:
    """Interpolates a function, applied to each of n values, by one hidden ReLU layer.

    Args:
        f: the function of one variable.
        knots: ascending, shape (k,); the interpolation is linear between them and constant beyond them.
        n: number of values.

    Returns:
        Two affine maps, with a ReLU between.
    """
    values = f(knots)
    slopes = nn.functional.pad(values.diff() / knots.diff(), (1, 1))
    eye = torch.eye(n, dtype=knots.dtype, device=knots.device)
    rise = eye.repeat(len(knots), 1), -knots.repeat_interleave(n)
    return [rise, (torch.cat([turn * eye for turn in slopes.diff()], 1), values[:1].expand(n).clone())]


def checked_momentum(momentum: float) -> float:
    """Returns the momentum of batch norm; raises ValueError if it is not in (0, 1]."""
    if not 0 < momentum <= 1:
        raise ValueError(f"norm_momentum must be above 0 and at most 1, got {momentum}")
    return momentum


def check_options(options: dict[str, Any]) -> None:
    """Raises TypeError for an option that `BlockDiagonalLayers` does not take."""
    known = [name for name in inspect.signature(BlockDiagonalLayers).parameters if name != "in_features"]
    for name in options:
        if name not in known:
            raise TypeError(f"options must be among {', '.join(known)}, got {name}{did_you_mean(name, known)}")


class DenseHead(nn.Sequential):
    """An ordinary head: `depth` hidden layers of `width` neurons with ReLU, and a Linear to the classes.

    Args:
        in_features: features of a sample, ≥ 1.
        num_classes: number of classes, ≥ 1.
        width: neurons of each hidden layer, ≥ 1.
        depth: hidden layers, ≥ 0; 0 is one linear layer.
        batch_norm: put batch norm before each ReLU.
        dropout: share of the neurons that are set to zero after each ReLU, in [0, 1].
        norm_momentum: see `BlockDiagonalLayers`.

    Raises:
        ValueError: an argument is outside its range.
    """

    def __init__(
        self,
        in_features: int,
        num_classes: int,
        width: int = 256,
        depth: int = 1,
        *,
        batch_norm: bool = False,
        dropout: float = 0.0,
        norm_momentum: float = NORM_MOMENTUM,
    ) -> None:
        momentum = checked_momentum(norm_momentum)
        check_sizes(in_features=in_features, num_classes=num_classes, width=width)
        check_sizes(least=0, most=_DEEPEST, depth=depth)
        layers: list[nn.Module] = []
        for fan_in, fan_out in itertools.pairwise([in_features, *[width] * depth]):
            layers.append(nn.Linear(fan_in, fan_out, bias=not batch_norm))
            layers += [nn.BatchNorm1d(fan_out, momentum=momentum)] if batch_norm else []
            layers.append(nn.ReLU())
            layers += [nn.Dropout(dropout)] if dropout else []
        super().__init__(*layers, nn.Linear(width if depth else in_features, num_classes))
