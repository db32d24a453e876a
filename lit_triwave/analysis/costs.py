"""The cost of a model: the number of trained parameters, and the multiply-adds of one sample."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from lit_triwave.nn.bank import TriangleBank

_Module = TypeVar("_Module", bound=nn.Module)


def copied(module: _Module) -> _Module:
    """Returns a deep copy without forward hooks, because the hooks of PyTorch's profiler cannot be copied."""
    hooks = [held for one in module.modules() for held in (one._forward_hooks, one._forward_pre_hooks)]
    return copy.deepcopy(module, {id(held): OrderedDict() for held in hooks})


def count_parameters(module: nn.Module) -> int:
    """Returns the number of parameters that the current stage trains, without the `frozen` ones of a module."""
    frozen: list[nn.Parameter] = getattr(module, "frozen", [])
    return sum(parameter.numel() for parameter in module.parameters()) - sum(parameter.numel() for parameter in frozen)


@torch.no_grad()
def final_parameters(module: Any) -> int | None:
    """Returns the number of parameters that the last stage trains; of one replica, for a `FunctionRegressor`.

    Args:
        module: a module in any stage.

    Returns:
        None for a stack that has stages after its build, until its depth is known.
    """
    network: Any = getattr(module, "network", None)
    count, banks = count_parameters(module), getattr(module, "banks", [])
    if hasattr(network, "limit_parameters"):
        if module.stage_at(module.total_epochs) == "limit":
            return int(network.limit_parameters)
        if network.parameterization == "limit":
            if module.hparams["depth"] is None:
                return None
            network = copied(network)
            network.build(module.hparams["depth"])
            count, banks = count_parameters(network), network.banks
    for bank in banks:
        if bank.parameterization == "peaks" and module.stage_at(module.total_epochs) != "pretrain":
            released = copied(bank)
            released.release(module.release_kind, module.recruit)
            count += count_parameters(released) - count_parameters(bank)
    return count // replicas_of(module)


def replicas_of(module: Any) -> int:
    """Returns the number of seeds that a `FunctionRegressor` trains side by side; 1 for any other module."""
    return int(getattr(getattr(module, "network", None), "replicas", 1))


def multiply_adds(module: Any) -> int | None:
    """Returns the multiply-adds of one sample in matrix products and convolutions, without zeros that stay zero.

    Args:
        module: any LightningModule.

    Returns:
        For one replica of a `FunctionRegressor`, or for one image of an `ImageClassifier`; None for any other module.
    """
    network: Any = getattr(module, "network", None)
    if getattr(network, "parameterization", None) == "limit":
        return None  # the network is not built yet
    if hasattr(network, "to_sequential"):
        return _plain_multiply_adds(network)
    if hasattr(module, "image_shape"):
        return _image_multiply_adds(network, module.image_shape, next(module.parameters()))
    return None


@torch.no_grad()
def _plain_multiply_adds(network: Any) -> int:
    """Returns the multiply-adds of one replica for one sample, as plain layers without zeros that stay zero.

    Args:
        network: has replicas and `to_sequential`, such as `TriangleNetwork`. Its values do not matter. Before the
            release, whole 4 × 4 blocks are included, as after it.
    """
    network = copied(network)
    if network.parameterization == "peaks":
        network.release("blocks")
    for parameter in network.parameters():
        # With positive numbers, everything that can be nonzero is nonzero, and no two terms cancel.
        parameter.uniform_(1, 2, generator=torch.Generator(parameter.device))
    return sum(int(layer.weight.count_nonzero()) for layer in network.to_sequential() if isinstance(layer, nn.Linear))


def _bank_multiply_adds(bank: TriangleBank) -> int:
    """Returns the multiply-adds of all subnetworks of a bank for one sample.

    A bank that is released as dense matrices has whole matrices; another one has 4 × 4 blocks without zeros between.
    """
    groups, width = bank.shape.numel(), 4
    inputs = 1
    if bank.released == "dense":
        groups, width, inputs = groups // bank.shape[-1], 4 * bank.shape[-1], bank.shape[-1]
    return groups * (2 * inputs * width + (bank.depth - 1) * width * width)


@torch.no_grad()
def _image_multiply_adds(network: nn.Module, image_shape: Sequence[int], like: torch.Tensor) -> int:
    """Returns the multiply-adds of one image in convolutions and matrix products.

    Args:
        network: maps images, shape (1, C, H, W), to logits; it is run once, in evaluation mode.
        image_shape: (C, H, W).
        like: a tensor with the device and dtype of the network.
    """
    image = like.new_zeros(1, *image_shape)
    with _evaluated(network), FlopCounterMode(display=False) as counter:
        network.forward(image)  # not `network(image)`, which may be compiled
    banks = [module for module in network.modules() if isinstance(module, TriangleBank)]
    return int(counter.get_total_flops()) // 2 + sum(map(_bank_multiply_adds, banks))


@contextmanager
def _evaluated(network: nn.Module) -> Iterator[None]:
    """Puts a network in evaluation mode and makes its banks the identity; restores both afterwards."""
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
