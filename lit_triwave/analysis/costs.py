"""What a model costs: the numbers that are trained, and the multiply-adds of one sample."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from lit_triwave.nn.bank import TriangleBank


def count_parameters(module: nn.Module) -> int:
    """Numbers that the present stage trains."""
    return sum(parameter.numel() for parameter in module.parameters())


@torch.no_grad()
def final_parameters(module: Any) -> int:
    """Numbers that the last stage trains: of one replica of a `FunctionRegressor`, all of any other module.

    Args:
        module: in any stage.
    """
    count = count_parameters(module)
    if getattr(module, "banks", None) and module.stage_at(module.total_epochs) != "pretrain":
        for bank in module.banks:
            if bank.parameterization == "peaks":
                released = copy.deepcopy(bank)
                released.release(module.release_kind, module.recruit)
                count += count_parameters(released) - count_parameters(bank)
    return count // replicas_of(module)


def replicas_of(module: Any) -> int:
    """How many seeds a `FunctionRegressor` trains side by side; 1 for any other module."""
    return int(getattr(getattr(module, "network", None), "replicas", 1))


def multiply_adds(module: Any) -> int | None:
    """Multiply-adds of one sample in matrix products and convolutions, without the zeros that the wiring keeps: of one
    replica of a `FunctionRegressor`, of one image for an `ImageClassifier`; None for any other module."""
    network: Any = getattr(module, "network", None)
    if hasattr(network, "to_sequential"):
        return plain_multiply_adds(network)
    if hasattr(module, "image_shape"):
        return image_multiply_adds(network, module.image_shape, next(module.parameters()))
    return None


@torch.no_grad()
def plain_multiply_adds(network: Any) -> int:
    """Multiply-adds of one replica for one sample, as plain layers without the zeros that the wiring keeps.

    Args:
        network: with replicas and `to_sequential`, such as `TriangleNetwork`; its values do not matter. Before the
            release, the 4 × 4 blocks count whole, as after it.
    """
    network = copy.deepcopy(network)
    if network.parameterization == "peaks":
        network.release("blocks")
    for parameter in network.parameters():
        # What may become other than zero is, and no two terms cancel.
        parameter.uniform_(1, 2, generator=torch.Generator(parameter.device))
    return sum(int(layer.weight.count_nonzero()) for layer in network.to_sequential() if isinstance(layer, nn.Linear))


def bank_multiply_adds(bank: TriangleBank) -> int:
    """Multiply-adds of all subnetworks for one sample: whole matrices where they are released as such, else 4 × 4
    blocks without the zeros between them."""
    groups, width = bank.shape.numel(), 4
    inputs = 1
    if bank.released == "dense":
        groups, width, inputs = groups // bank.shape[-1], 4 * bank.shape[-1], bank.shape[-1]
    return groups * (2 * inputs * width + (bank.depth - 1) * width * width)


@torch.no_grad()
def image_multiply_adds(network: nn.Module, image_shape: Sequence[int], like: torch.Tensor) -> int:
    """Multiply-adds of one image in convolutions and matrix products, the subnetworks' by `bank_multiply_adds`.

    Args:
        network: images (1, C, H, W) ↦ logits; is run once, in evaluation.
        image_shape: (C, H, W).
        like: a tensor of the device and dtype of the network.
    """
    image = like.new_zeros(1, *image_shape)
    with evaluated(network), FlopCounterMode(display=False) as counter:
        network.forward(image)  # not `network(image)`, which may be compiled
    banks = [module for module in network.modules() if isinstance(module, TriangleBank)]
    return int(counter.get_total_flops()) // 2 + sum(map(bank_multiply_adds, banks))


@contextmanager
def evaluated(network: nn.Module) -> Iterator[None]:
    """A network in evaluation, its banks left out; afterwards as it was."""
    modes = {module: module.training for module in network.modules()}
    banks = [module for module in modes if isinstance(module, TriangleBank)]
    network.eval()
    for bank in banks:
        bank.forward = lambda u: u  # type: ignore[method-assign]
    try:
        yield
    finally:
        for bank in banks:
            del bank.forward
        for module, mode in modes.items():
            module.training = mode
