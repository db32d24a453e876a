"""Trained networks as PyTorch's own modules, with nothing of ours inside."""

from __future__ import annotations

import copy
from collections import OrderedDict

import torch
from torch import Tensor, nn

from lit_triwave.checkpoints.rebuild import Saved
from lit_triwave.construction import dense
from lit_triwave.nn.backbones import Pixels, SmallCNN
from lit_triwave.nn.bank import TriangleBank
from lit_triwave.nn.baselines import DenseNetwork
from lit_triwave.nn.constructed import ConstructedNetwork
from lit_triwave.nn.heads import BlockDiagonalHead, BlockDiagonalLayers, DenseHead


class NormalCDF(nn.Module):
    """The normal distribution function, for which PyTorch has a function but no module."""

    def forward(self, z: Tensor) -> Tensor:
        """Elementwise, any shape."""
        share: Tensor = torch.special.ndtr(z)
        return share


class InFloat64(nn.Module):
    """A network that computes in float64, for inputs and outputs of any precision.

    Args:
        layers: float64.
    """

    def __init__(self, layers: nn.Module) -> None:
        super().__init__()
        self.layers = layers

    def forward(self, x: Tensor) -> Tensor:
        """As `layers`, outputs in the precision of the inputs."""
        y: Tensor = self.layers(x.double()).to(x.dtype)
        return y


@torch.no_grad()
def plain_network(
    saved: Saved, seed: int, dtype: torch.dtype | None = None, arithmetic: torch.dtype | None = None
) -> nn.Module:
    """The network of a checkpoint as it is in evaluation, made of PyTorch's own modules.

    Functions become `nn.Linear` and `nn.ReLU` alone, the clamp to the domain included, so that they are the model
    everywhere. The smooth squashes of a classifier's head stay what they are. Zeros between subnetworks are written
    out. What is computed from other numbers (weights from peaks, layers merged) is computed in float64, then rounded.

    Args:
        saved: the checkpoint.
        seed: which of a function's networks.
        dtype: of inputs and outputs; by default the model's.
        arithmetic: of the parameters and of what is computed: float64 (in `InFloat64` for float32 inputs) or, by
            default, `dtype`. In float32 two ways of computing a function in another order are up to 2e-6 apart.

    Returns:
        In evaluation mode: (batch, in_features) ↦ (batch, 1), or images (batch, C, H, W) ↦ logits (batch, classes).
    """
    dtype = dtype or saved.dtype
    arithmetic = arithmetic or dtype
    network = copy.deepcopy(saved.module.network)
    if isinstance(network, DenseNetwork):
        plain: nn.Module = network.double().to_sequential(seed)
    elif isinstance(network, ConstructedNetwork):
        plain = dense.sequential(network.double().affine_layers(seed, bank_layers, clamped=True))
    else:
        plain = without_ours(network)
    plain = plain.to(arithmetic)
    return (plain if arithmetic == dtype else InFloat64(plain)).eval().requires_grad_(False)


def without_ours(module: nn.Module) -> nn.Module:
    """A module, and all within, with PyTorch's own in the place of what is ours."""
    if isinstance(module, BlockDiagonalHead):
        module = nn.Sequential(OrderedDict(layers=module.layers, dropout=module.dropout, classes=module.classes))
    elif isinstance(module, BlockDiagonalLayers):
        bank = dense.sequential(bank_layers(copy.deepcopy(module.bank).double()))
        norm, squash = squashed(module)
        parts = OrderedDict(projection=module.projection, norm=norm, squash=squash, subnetworks=bank)
        module = nn.Sequential(parts)
    elif isinstance(module, Pixels):
        return nn.Flatten()
    elif isinstance(module, (SmallCNN, DenseHead)):
        module = nn.Sequential(OrderedDict(module.named_children()))
    for name, child in module.named_children():
        setattr(module, name, without_ours(child))
    return module


def squashed(layers: BlockDiagonalLayers) -> tuple[nn.Module, nn.Module]:
    """The batch norm before the subnetworks, and the squash of its values."""
    if layers.squash != "hard":
        return layers.norm, nn.Sigmoid() if layers.squash == "sigmoid" else NormalCDF()
    # 1/2 + z/4 clamped to [0, 1] is PyTorch's 1/2 + x/6 for x = 3/2·z.
    norm = copy.deepcopy(layers.norm)
    norm.weight.mul_(1.5)
    norm.bias.mul_(1.5)
    return norm, nn.Hardsigmoid()


def bank_layers(bank: TriangleBank) -> list[dense.Affine]:
    """A bank of shape (n,) as affine maps with a ReLU between, inputs in [0, 1]."""
    return bank.affine_layers() if bank.released else wave_layers(bank)


def wave_layers(bank: TriangleBank) -> list[dense.Affine]:
    """A bank whose peaks are trained as a ReLU network, three neurons wide, that float32 can evaluate.

    T_a(w) = 1 − relu(a − w)/a − relu(w − a)/(1 − a). The paper's w/a − relu(w − a)/(a − a²), which the release keeps
    since it is trained on, takes differences of numbers as large as 1/a: in float32, with peaks drawn at random, it was
    up to eleven times farther from the wave form. As there, waves are held multiplied by the scale before them.
    """
    peaks, scales, sign = bank.peaks[..., :-1], bank.scales, bank.sign[:, None]
    weights = bank.weights()
    shift, one = weights.input_bias[:, 0], torch.ones_like(bank.alpha)  # keeps `sum` above zero
    held = torch.cat([one[:, None], scales[:, :-1]], 1)
    below, above = scales / (held * peaks), scales / (held * (1 - peaks))
    zero = torch.zeros_like(below)
    wave = torch.stack([zero, -below, -above], -1)  # s_i·W_i less its constant s_i, of the neurons (sum, below, above)
    summed = sign[..., None] * wave + torch.tensor([1.0, 0.0, 0.0]).to(wave)
    hidden = torch.stack([summed, -wave, wave], -2)[:, :-1]  # (n, d − 1, 3, 3)
    turn = scales[:, :-1] * (1 - peaks[:, 1:])
    bias = torch.stack([sign * scales[:, :-1], -turn, turn], -1)
    first = torch.stack([bank.beta, -one, one], -1)[..., None]
    layers = [(dense.block_diagonal(first), torch.stack([shift, peaks[:, 0], -peaks[:, 0]], -1).flatten())]
    layers += [(dense.block_diagonal(hidden[:, i]), bias[:, i].flatten()) for i in range(hidden.shape[1])]
    last = (sign * scales)[:, -1] + bank.alpha - shift
    return [*layers, (dense.block_diagonal(summed[:, -1:]), last)]
