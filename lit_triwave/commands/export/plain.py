"""Trained networks as PyTorch's own modules, without modules of this project."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Sequence

import torch
from torch import nn

from lit_triwave.checkpoints.rebuild import Saved
from lit_triwave.construction import dense
from lit_triwave.nn.backbones import Pixels, SmallCNN
from lit_triwave.nn.bank import TriangleBank
from lit_triwave.nn.baselines import DenseNetwork
from lit_triwave.nn.constructed import ConstructedNetwork
from lit_triwave.nn.heads import BlockDiagonalHead, BlockDiagonalLayers, DenseHead


# A script of `--format torch` contains the source of these two classes, so they use only `torch` and `nn`.
class NormalCDF(nn.Module):
    """The normal distribution function. PyTorch has a function for it, but no module."""

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        """Returns the probabilities, elementwise, for any shape."""
        share: torch.Tensor = torch.special.ndtr(z)
        return share


class InFloat64(nn.Module):
    """A network that computes in float64; outputs have the precision of the inputs.

    Args:
        layers: the network, in float64.
    """

    def __init__(self, layers: nn.Module) -> None:
        super().__init__()
        self.layers = layers

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Returns the outputs of `layers` in the precision of the inputs."""
        y: torch.Tensor = self.layers(x.double()).to(x.dtype)
        return y


@torch.no_grad()
def plain_network(saved: Saved, networks: Sequence[int], dtype: torch.dtype, arithmetic: torch.dtype) -> nn.Module:
    """Returns the network of a checkpoint in evaluation mode, made of PyTorch's own modules.

    Functions become only `nn.Linear` and `nn.ReLU`, with the clamp to the domain, so that they equal the model
    everywhere. The smooth squashes of a classifier's head are kept. Matrices include the zeros between subnetworks.
    Weights that are computed, from peaks or by merging layers, are computed in float64 and then rounded.

    Args:
        saved: the checkpoint.
        networks: index of a function's network for each target.
        dtype: dtype of inputs and outputs.
        arithmetic: dtype of the parameters and of the computation. Float64 with float32 inputs gives an `InFloat64`. In
            float32, two orders of the same computation differ by up to 2e-6.

    Returns:
        A network (batch, in_features) ↦ (batch, targets), or images (batch, C, H, W) ↦ logits (batch, classes).
    """
    network = copy.deepcopy(saved.module.network)
    if isinstance(network, DenseNetwork):
        replicas = [network.double().to_sequential(replica) for replica in networks]
        linear = [[layer for layer in each if isinstance(layer, nn.Linear)] for each in replicas]
        layers: list[list[dense.Affine]] = [[(layer.weight, layer.bias) for layer in each] for each in linear]
        plain: nn.Module = dense.sequential(dense.of_same_inputs(layers))
    elif isinstance(network, ConstructedNetwork):
        layers = [network.double().affine_layers(replica, _bank_layers, clamped=True) for replica in networks]
        plain = dense.sequential(dense.of_same_inputs(layers))
    else:
        plain = _without_ours(network)
    plain = plain.to(arithmetic)
    return (plain if arithmetic == dtype else InFloat64(plain)).eval().requires_grad_(False)


def _without_ours(module: nn.Module) -> nn.Module:
    """Replaces the modules of this project by PyTorch's own, in a module and all its children."""
    if isinstance(module, BlockDiagonalHead):
        module = nn.Sequential(OrderedDict(layers=module.layers, dropout=module.dropout, classes=module.classes))
    elif isinstance(module, BlockDiagonalLayers):
        bank = dense.sequential(_bank_layers(copy.deepcopy(module.bank).double()))
        norm, squash = _squashed(module)
        parts = OrderedDict(projection=module.projection, norm=norm, squash=squash, subnetworks=bank)
        module = nn.Sequential(parts)
    elif isinstance(module, Pixels):
        return nn.Flatten()
    elif isinstance(module, (SmallCNN, DenseHead)):
        module = nn.Sequential(OrderedDict(module.named_children()))
    for name, child in module.named_children():
        setattr(module, name, _without_ours(child))
    return module


def _squashed(layers: BlockDiagonalLayers) -> tuple[nn.Module, nn.Module]:
    """Returns the batch norm before the subnetworks, and the squash behind it."""
    if layers.squash != "hard":
        return layers.norm, nn.Sigmoid() if layers.squash == "sigmoid" else NormalCDF()
    # The squash 1/2 + z/4, clamped to [0, 1], is PyTorch's hard sigmoid 1/2 + x/6 of x = 3/2·z.
    norm = copy.deepcopy(layers.norm)
    norm.weight.mul_(1.5)
    norm.bias.mul_(1.5)
    return norm, nn.Hardsigmoid()


def _bank_layers(bank: TriangleBank) -> list[dense.Affine]:
    """Returns a bank of shape (n,) as affine maps with a ReLU between, for inputs in [0, 1]."""
    return bank.affine_layers() if bank.released else _wave_layers(bank)


def _wave_layers(bank: TriangleBank) -> list[dense.Affine]:
    """Returns a bank with trained peaks as a ReLU network, three neurons wide, that is accurate in float32.

    It uses T_a(w) = 1 − relu(a − w)/a − relu(w − a)/(1 − a). The paper's form w/a − relu(w − a)/(a − a²) subtracts
    numbers as large as 1/a: in float32 with random peaks, its error was up to eleven times larger. The release keeps
    the paper's form. In both forms, neurons hold the waves multiplied by the scale of the wave before.
    """
    peaks, scales, sign = bank.peaks[..., :-1], bank.scales, bank.sign[:, None]
    weights = bank.weights()
    shift, one = weights.input_bias[:, 0], torch.ones_like(bank.alpha)  # keeps the `sum` neuron above zero
    held = torch.cat([one[:, None], scales[:, :-1]], 1)
    below, above = scales / (held * peaks), scales / (held * (1 - peaks))
    zero = torch.zeros_like(below)
    wave = torch.stack([zero, -below, -above], -1)  # s_i·W_i − s_i in terms of the neurons (sum, below, above)
    summed = sign[..., None] * wave + torch.tensor([1.0, 0.0, 0.0]).to(wave)
    hidden = torch.stack([summed, -wave, wave], -2)[:, :-1]  # (n, d − 1, 3, 3)
    turn = scales[:, :-1] * (1 - peaks[:, 1:])
    bias = torch.stack([sign * scales[:, :-1], -turn, turn], -1)
    first = torch.stack([bank.beta, -one, one], -1)[..., None]
    layers = [(dense.block_diagonal(first), torch.stack([shift, peaks[:, 0], -peaks[:, 0]], -1).flatten())]
    layers += [(dense.block_diagonal(hidden[:, i]), bias[:, i].flatten()) for i in range(hidden.shape[1])]
    last = (sign * scales)[:, -1] + bank.alpha - shift
    return [*layers, (dense.block_diagonal(summed[:, -1:]), last)]
