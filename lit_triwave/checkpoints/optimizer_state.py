"""Refuses a saved state that the optimizer of these parameters would not save."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Set
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from lit_triwave.checkpoints.kinds import check_like, is_finite, require, short

OTHER_STATES = (torch.optim.LBFGS, torch.optim.SparseAdam)
"""Optimizers whose state does not have the shapes of the parameters, or that take no ordinary gradients."""


def check_optimizer(name: str, saved: Mapping[str, Any], optimizer: Optimizer, weights: Set[torch.dtype]) -> None:
    """Refuses a state that an optimizer of these parameters would not have.

    Args:
        name: name of the state, for the error.
        saved: the state, as `Optimizer.state_dict` returns it.
        optimizer: the optimizer that is to load the state; it does not change. A class of the user may keep anything.
        weights: precisions of the checkpoint's weights, which may differ from those of the run.

    Raises:
        ValueError: a value is not like this optimizer's own; the message names the value.
    """
    groups, own = saved["param_groups"], optimizer.state_dict()["param_groups"]
    check_like(f"{name}.param_groups", groups, own)
    for group, like in zip(groups, own, strict=True):
        fits = group["params"] == like["params"]
        require(fits, f"{name}.param_groups", f"be of parameters {like['params']}", short(group["params"]))
    of_torch = type(optimizer).__module__.startswith("torch.optim.") and not isinstance(optimizer, OTHER_STATES)
    if not of_torch and not type(optimizer).__module__.startswith("lit_triwave."):
        return
    taken = {*inspect.signature(type(optimizer)).parameters} - {"params"}
    for group, here in zip(groups, optimizer.param_groups, strict=True):
        small = [_small(parameter) for parameter in here["params"]] if of_torch else here["params"]
        # The class itself refuses options that are out of range.
        trial: Any = type(optimizer)(small, **{option: group[option] for option in taken & group.keys()})
        if of_torch:
            trial.step()
            for index, one, parameter in zip(group["params"], small, here["params"], strict=True):
                if index in saved["state"]:
                    state = {key: _sized(value, one, parameter) for key, value in trial.state[one].items()}
                    _check_state(f"{name}.state.{index}", saved["state"][index], state, weights)


def _small(parameter: Tensor) -> Tensor:
    """Returns a small copy of a parameter, at most two values in each dimension, for an optimizer on trial."""
    shape = [min(size, 2) for size in parameter.shape]
    one = torch.ones(shape, dtype=parameter.dtype, device=parameter.device, requires_grad=True)
    one.grad = torch.ones_like(one)
    return one


def _sized(value: Any, small: Tensor, parameter: Tensor) -> Any:
    """Returns a meta tensor with the shape of a parameter's state, from the state of its small copy."""
    if not isinstance(value, Tensor) or not value.ndim:
        return value
    sizes = zip(value.shape, small.shape, parameter.shape, strict=True)
    return value.new_empty([whole if size == part else size for size, part, whole in sizes], device="meta")


def _check_state(name: str, saved: Any, own: Mapping[str, Any], weights: Set[torch.dtype]) -> None:
    """Refuses a parameter's state that its optimizer would not have."""
    missing = own.keys() - saved.keys()
    require(not missing, name, f"have {', '.join(own)}", f"no {min(missing, default='')}")
    for key, like in own.items():
        value = saved[key]
        if isinstance(like, Tensor) and like.ndim:
            fits = isinstance(value, Tensor) and value.shape == like.shape and value.dtype in {like.dtype, *weights}
            needed = f"be finite numbers of {like.dtype}, shape {tuple(like.shape)}"
            found = "NaN or infinity in it" if fits else short(value)
            require(fits and value.isfinite().all(), f"{name}.{key}", needed, found)
        elif isinstance(like, (Tensor, int, float)):
            require(is_finite(plain_number(value)), f"{name}.{key}", "be a finite number", short(value))


def plain_number(value: Any) -> Any:
    """Returns a 0-d tensor as a number, and everything else as it is."""
    return value.item() if isinstance(value, Tensor) and not value.ndim else value
