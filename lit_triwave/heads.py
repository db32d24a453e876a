"""Constructed subnetworks as classifier heads, and the ordinary dense head to compare with."""

from __future__ import annotations

import itertools
import math
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from lit_triwave import dense
from lit_triwave.bank import Curvature, Release, TriangleBank

Squash = Literal["normal", "sigmoid", "hard"]

SQUASHES: dict[Squash, Callable[[Tensor], Tensor]] = {
    "normal": torch.special.ndtr,
    "sigmoid": torch.sigmoid,
    "hard": lambda z: (0.5 + z / 4).clamp(0, 1),
}


class BlockDiagonalHead(nn.Module):
    """Features → K numbers in [0, 1] → K constructed subnetworks → classes (METHOD section 4).

    Args:
        in_features: features of a sample, ≥ 1.
        num_classes: ≥ 2.
        num_nets: subnetworks K ≥ 1; the hidden layers are 4·K wide.
        depth: hidden layers of the subnetworks, ≥ 1.
        squash: how a batch-normalised projection z becomes a number in [0, 1]: `"normal"`, the normal distribution
            function; `"sigmoid"`; `"hard"`, 1/2 + z/4 clamped to [0, 1].
        dropout: share of the subnetworks' outputs that are set to zero in training, 0 ≤ dropout < 1.
        curvature, theorem31, margin, generator: see `TriangleBank`.

    Attributes:
        bank: of shape (num_nets,).

    Raises:
        ValueError: for an argument outside its range.
    """

    def __init__(
        self,
        in_features: int,
        num_classes: int,
        num_nets: int = 64,
        depth: int = 5,
        *,
        squash: Squash = "normal",
        dropout: float = 0.0,
        curvature: Curvature = "convex",
        theorem31: bool = True,
        margin: float = 1e-2,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        check_sizes(in_features=in_features, num_nets=num_nets, depth=depth)
        if squash not in get_args(Squash):
            raise ValueError(f"squash {squash!r}: one of {', '.join(get_args(Squash))}")
        self.squash: Squash = squash
        self.projection = nn.Linear(in_features, num_nets, bias=False)  # the norm has the bias
        self.norm = nn.BatchNorm1d(num_nets)
        self.bank = TriangleBank(
            num_nets, depth, curvature=curvature, theorem31=theorem31, margin=margin, generator=generator
        )
        self.dropout = nn.Dropout(dropout)
        self.classes = nn.Linear(num_nets, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """x (batch, in_features) ↦ logits (batch, num_classes)."""
        z = self.norm(self.projection(x))
        # The waves multiply differences of their input by up to 2^depth and more: eight bits are not enough for them.
        with torch.autocast(z.device.type, enabled=False):
            y = self.bank(SQUASHES[self.squash](z.to(self.bank.sign.dtype)))
        logits: Tensor = self.classes(self.dropout(y))
        return logits

    def release(self, kind: Release = "blocks") -> None:
        """See `TriangleBank.release`."""
        self.bank.release(kind)


class DenseHead(nn.Sequential):
    """An ordinary head: `depth` hidden layers of `width` neurons, Linear (, BatchNorm), ReLU, and a Linear to the classes.

    Args:
        in_features: features of a sample.
        num_classes: classes.
        width: neurons of each hidden layer, ≥ 1.
        depth: hidden layers, ≥ 0; 0 is one linear layer.
        batch_norm: batch norm before each ReLU.
        dropout: after each ReLU.

    Raises:
        ValueError: for an argument outside its range.
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
    ) -> None:
        check_sizes(in_features=in_features, width=width)
        if depth < 0:
            raise ValueError(f"depth {depth}: at least 0")
        layers: list[nn.Module] = []
        for fan_in, fan_out in itertools.pairwise([in_features, *[width] * depth]):
            layers.append(nn.Linear(fan_in, fan_out, bias=not batch_norm))
            layers += [nn.BatchNorm1d(fan_out)] if batch_norm else []
            layers.append(nn.ReLU())
            layers += [nn.Dropout(dropout)] if dropout else []
        super().__init__(*layers, nn.Linear(width if depth else in_features, num_classes))


def check_sizes(**sizes: int) -> None:
    """Raises ValueError for a size below 1, naming it."""
    for name, value in sizes.items():
        if value < 1:
            raise ValueError(f"{name} {value}: at least 1")
