"""The constructed subnetworks of a checkpoint: names, functions, and distance from the construction."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from lit_triwave.analysis.dead_units import relu_outputs
from lit_triwave.analysis.regions import count_linear_regions
from lit_triwave.checkpoints.rebuild import Saved, load_module
from lit_triwave.construction import dense
from lit_triwave.construction.triangle import nodes, theorem31_scales
from lit_triwave.errors import TriwaveError
from lit_triwave.nn.bank import TriangleBank
from lit_triwave.nn.constructed import ConstructedNetwork, WiredBank
from lit_triwave.nn.heads import BlockDiagonalLayers

_COUNTED = 128
"""Most subnetworks of a bank whose linear pieces are counted."""
_MIDDLE = 0.5
"""Value of the other inputs while one input varies, where a dense release connects subnetworks."""


@dataclass
class Group:
    """The subnetworks of one bank.

    Attributes:
        bank: the bank in the checkpoint, of shape (n,).
        name: name of the bank, such as "subnetworks" or "outer network".
        labels: names of the subnetworks.
        axis: for each subnetwork, the quantity of its input in [0, 1], as (name, lower, upper).
        shares: for each subnetwork, the indices of all subnetworks with the same input, itself included.
        constructed: the bank before the release; None if it is unknown.
        squares: whether each subnetwork was built as the square of the quantity of its input.
    """

    bank: TriangleBank
    name: str
    labels: list[str]
    axis: list[tuple[str, float, float]]
    shares: list[list[int]]
    constructed: TriangleBank | None
    squares: bool = False

    @property
    def peaks(self) -> Tensor:
        """Peaks now or at the release, shape (n, depth + 1), float64."""
        return self.bank.peaks.detach().double()

    @property
    def scales(self) -> Tensor:
        """Scales s_0 … s_{d−1}, shape (n, depth), float64.

        If only the peaks are known, these are the scales of Theorem 3.1 in units of s_0.
        """
        if self.constructed is not None:
            return self.constructed.scales.detach().double()
        return theorem31_scales(self.peaks, torch.ones_like(self.peaks[:, 0]))

    def wave(self, number: int, i: int) -> tuple[Tensor, Tensor]:
        """Returns the wave W_i of a subnetwork: the ends of its 2^(i+1) pieces and its values there, 0 or 1."""
        ends = nodes(self.peaks[number, : i + 1])
        return ends, torch.arange(len(ends)) % 2

    @cached_property
    def _weights(self) -> Any:
        """Weights in float64, also if the peaks are in float32, where rounding of weights would make further kinks."""
        return copy.deepcopy(self.bank).double().weights()

    def layers(self, number: int) -> list[dense.Affine]:
        """Returns one subnetwork as a function of its own input: affine maps in float64 with a ReLU between.

        After a dense release, the function uses all neurons of the bank, and the other inputs are 1/2.
        """
        weights = self._weights
        if not isinstance(weights, dense.DenseWeights):
            own = type(weights)(*(w.detach()[number : number + 1].double() for w in weights))
            return dense.affine_layers(dense.as_dense(own))
        whole = dense.affine_layers(dense.DenseWeights(*(w.detach().double() for w in weights)))
        moving = whole[0][0].new_zeros(len(self.labels), 1)
        moving[self.shares[number]] = 1
        whole = dense.chain([(moving, _MIDDLE * (1 - moving[:, 0]))], whole)
        weight, bias = whole[-1]
        return [*whole[:-1], (weight[number : number + 1], bias[number : number + 1])]

    def neurons(self, number: int, u: Tensor) -> list[Tensor]:
        """Returns the hidden neurons of one subnetwork at u, shape (points,): shape (points, 4) for each layer."""
        first = 4 * number if self.bank.released == "dense" else 0
        hidden = relu_outputs(dense.sequential(self.layers(number)), u.double()[:, None])
        return [h[:, first : first + 4].detach() for h in hidden]

    def outputs(self, number: int, u: Tensor) -> Tensor:
        """Returns one subnetwork's output at u, shape (points,): shape (points,)."""
        y: Tensor = dense.sequential(self.layers(number))(u.double()[:, None]).detach()
        return y[:, 0]

    @cached_property
    def counts(self) -> dict[int, int]:
        """The exact number of linear pieces on [0, 1] of at most `_COUNTED` subnetworks, by their numbers."""
        dtype = torch.float64 if self.bank.released is None else self.bank.sign.dtype
        numbers = chosen(len(self.labels), _COUNTED)
        return {n: count_linear_regions(dense.sequential(self.layers(n)).to(dtype)) for n in numbers}

    def distance(self, recruited: bool) -> dict[str, float]:
        """Returns ‖now − then‖ / ‖then‖ of each kind of weights since the release; an empty dict if it is unknown."""
        if self.bank.released is None or self.constructed is None:
            return {}
        then = copy.deepcopy(self.constructed)
        then.release(self.bank.released, recruited)
        found = {}
        for name in ("input", "hidden", "output"):
            one, two = (
                torch.cat([getattr(bank, f"{name}_{part}").detach().double().flatten() for part in ("weight", "bias")])
                for bank in (self.bank, then)
            )
            found[name] = float((one - two).norm() / two.norm()) if len(two) else 0.0
        return found

    def off_diagonal(self) -> float | None:
        """Returns the share of the hidden matrices' squared weights between subnetworks; None unless they are dense."""
        if self.bank.released != "dense":
            return None
        n = len(self.labels)
        hidden: Any = self.bank.hidden_weight
        squares = hidden.detach().double().square()
        blocks = squares.reshape(-1, n, 4, n, 4).diagonal(dim1=1, dim2=3)
        return float(1 - blocks.sum() / squares.sum()) if squares.numel() else 0.0


def chosen(count: int, most: int) -> list[int]:
    """Returns at most `most` numbers from 0 … count − 1, evenly spaced."""
    return torch.linspace(0, count - 1, min(count, most)).round().long().tolist()


def groups(saved: Saved, seed: int) -> list[Group]:
    """Returns the banks of a checkpoint for one seed; an empty list for networks with a random start."""
    before = _construction(saved)
    network, banks = saved.module.network, saved.module.banks
    earlier = [None] * len(banks) if before is None else before.module.banks
    if isinstance(network, ConstructedNetwork):
        wired_banks = network.wired_banks(saved.variables, seed)
        return [_wired_group(wired, then, seed) for wired, then in zip(wired_banks, earlier, strict=True)]
    return [_head_group(bank, then) for bank, then in zip(banks, earlier, strict=True)]


def _wired_group(wired: WiredBank, before: TriangleBank | None, seed: int) -> Group:
    """The subnetworks of one bank of a function's network."""
    shares = [[i for i, other in enumerate(wired.sources) if other == source] for source in wired.sources]
    then = None if before is None else before.select(seed)
    return Group(wired.bank.select(seed), wired.name, wired.labels, wired.inputs, shares, then, wired.squares)


def _head_group(bank: TriangleBank, before: TriangleBank | None) -> Group:
    """The subnetworks of a classifier's constructed layer."""
    n = bank.shape.numel()
    axis = [("input, squashed", 0.0, 1.0)] * n
    return Group(bank, "subnetworks", [f"subnetwork {j}" for j in range(n)], axis, [[j] for j in range(n)], before)


def head_layers(saved: Saved) -> list[BlockDiagonalLayers]:
    """Returns the constructed layers of a classifier."""
    return [module for module in saved.module.modules() if isinstance(module, BlockDiagonalLayers)]


def _construction(saved: Saved) -> Saved | None:
    """Returns the same networks before the release: this checkpoint, or the `pretrained.ckpt` beside it.

    Returns None if that file is missing or the weights were not released from it.
    """
    banks = saved.module.banks
    if not banks or all(bank.released is None for bank in banks):
        return saved if banks else None
    beside = saved.path.with_name("pretrained.ckpt")
    if not beside.is_file():
        return None
    try:
        other = load_module(beside)
    except TriwaveError:
        return None
    pairs = zip(other.module.banks, banks, strict=False)
    same = len(other.module.banks) == len(banks) and all(
        # NaN, as in seeds that were lost before the release, equals NaN.
        then.released is None and torch.equal(then.peaks.nan_to_num(), now.peaks.nan_to_num())
        for then, now in pairs
    )
    return other if same else None
