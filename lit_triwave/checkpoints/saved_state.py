"""Refuses saved states of callbacks, optimizers and schedules that the run itself would not save."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy

from lit_triwave.checkpoints.kinds import check_like, require, short
from lit_triwave.checkpoints.load import reading
from lit_triwave.checkpoints.optimizer_state import OTHER_STATES, check_optimizer, plain_number
from lit_triwave.modules.staged import STAGES, StagedModule

_KNOWN = ("lightning.", "lit_triwave.")
"""Packages whose callbacks save the same fields as a fresh callback; callbacks of the user may save anything."""


class SavedStateCheck(Callback):
    """Compares a checkpoint with what the trainer would save itself, before its states are loaded.

    Callbacks are compared first. Optimizers and schedules depend on the stage, so they are compared after the weights
    are loaded.

    Args:
        path: file of the checkpoint.
        content: what `torch.load` returned for it.
    """

    def __init__(self, path: Path, content: Mapping[str, Any]) -> None:
        self._path = path
        self._content: Mapping[str, Any] | None = content  # None once it has been compared

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if self._content is None:
            return
        with reading(self._path, fits=stage == "fit"):
            saved = self._content.get("callbacks", {})
            for one in trainer.callbacks:  # type: ignore[attr-defined]
                if type(one).__module__.startswith(_KNOWN) and one.state_key in saved:
                    check_like(f"callbacks.{one.state_key}", saved[one.state_key], one.state_dict())

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        content, self._content = self._content, None
        if content is None or not isinstance(trainer.strategy, (DDPStrategy, SingleDeviceStrategy)):
            return  # other strategies save optimizers in parts
        schedules = [config.scheduler for config in trainer.lr_scheduler_configs]
        staged = type(pl_module).configure_optimizers is StagedModule.configure_optimizers
        weights = {value.dtype for value in content["state_dict"].values() if value.is_floating_point()}
        with reading(self._path, fits=True):
            states, saved = content["optimizer_states"], content["lr_schedulers"]
            needed = f"be {len(trainer.optimizers)} and {len(schedules)}"
            fits = (len(states), len(saved)) == (len(trainer.optimizers), len(schedules))
            # Lightning would begin the missing ones again from their start.
            require(fits, "optimizer_states and lr_schedulers", needed, f"{len(states)} and {len(saved)}")
            for number, (state, optimizer) in enumerate(zip(states, trainer.optimizers, strict=True)):
                check_optimizer(f"optimizer_states.{number}", state, optimizer, weights)
            for number, (state, schedule) in enumerate(zip(saved, schedules, strict=True)):
                name, own = f"lr_schedulers.{number}", schedule.state_dict()
                check_like(name, state, own)
                require("last_epoch" not in own or "last_epoch" in state, name, "have a last_epoch", short(state))
                for key in state.keys() - own.keys():  # a schedule loads every name as one of its attributes
                    needed = f"be the state of a {type(schedule).__name__}"
                    require(not hasattr(schedule, key), name, needed, f"also {key}")
            if staged:
                assert isinstance(pl_module, StagedModule)
                _check_stage(content, pl_module, trainer.optimizers[0])


def _check_stage(content: Mapping[str, Any], module: StagedModule, optimizer: Any) -> None:
    """Refuses optimizers and schedules whose steps differ from those of the loops, or with other learning rates."""
    loop, stage = content["loops"]["fit_loop"], module.stages[module.stage]
    reached = [module.stages[name] for name in STAGES[: STAGES.index(module.stage) + 1]]
    # The loops count through all stages of a kind.
    alone = sum(bool(one.epochs) for one in reached if one.second_order == stage.second_order) < 2
    kind, of = ("manual_optimization.optim_step", "current") if stage.second_order else ("scheduler", "total")
    steps = loop[f"epoch_loop.{kind}_progress"][of]["completed"]
    (state,) = content["optimizer_states"]
    for schedule in content["lr_schedulers"]:
        _check_steps("lr_schedulers.0.last_epoch", schedule["last_epoch"], steps, alone)
        steps, alone = schedule["last_epoch"], True
        _check_steps("lr_schedulers.0._step_count", schedule["_step_count"] - 1, steps, alone)
        rates = {"lr": schedule["_last_lr"], "initial_lr": schedule["base_lrs"]}
        for number, group in enumerate(state["param_groups"]):
            known = {name: values[number] for name, values in rates.items()}
            if known["initial_lr"] != stage.lr or any(group[name] != value for name, value in known.items()):
                where = f"optimizer_states.0.param_groups.{number}"
                raise ValueError(
                    f"{where} must have the learning rates {known} of its schedule, which begins at {stage.lr}"
                )
    scaled = "MixedPrecision" in content  # the gradient scaler leaves steps out
    # Adagrad makes all states before the first step; those of parameters without gradients stay at step 0.
    early = isinstance(optimizer, torch.optim.Adagrad)
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    trained = {number for number, parameter in enumerate(parameters) if parameter.requires_grad}
    for index, values in state["state"].items():
        taken = plain_number(values.get("step", steps))
        if early and not taken and (module.task != "regression" or index not in trained):
            continue
        if not scaled and not (module.continuous and taken == content["global_step"]):
            _check_steps(f"optimizer_states.0.state.{index}.step", taken, steps, alone)
    if stage.second_order:
        optimizer.check_state("optimizer_states.0.state", state["state"], *module.optimizer_rows())
    elif module.task == "regression" and state["state"] and not isinstance(optimizer, OTHER_STATES):
        missing = trained - state["state"].keys()  # all of a function's parameters have gradients in each step
        needed = f"have all of {len(trained)} parameters"
        require(not missing, "optimizer_states.0.state", needed, f"no {min(missing, default='')}")


def _check_steps(name: str, found: Any, steps: int, exact: bool) -> None:
    fits = found == steps if exact else 0 <= found <= steps
    require(fits, name, f"be {'' if exact else 'at most '}{steps} as in loops", short(found))
