"""Prints the folder and the resources of a run before it begins."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import WandbLogger

from lit_triwave.analysis.costs import count_parameters, replicas_of
from lit_triwave.distributed.cluster import in_slurm_step
from lit_triwave.distributed.ranks import say
from lit_triwave.modules.staged import StagedModule


def start_block(
    trainer: Trainer, model: LightningModule, data: LightningDataModule, folder: Path, resumed: tuple[Path, Any] | None
) -> str:
    """Returns aligned lines about a run, which the first process knows before it starts others.

    Args:
        trainer: trainer of the fit.
        model: model to train.
        data: training data.
        folder: folder of the run.
        resumed: the checkpoint that the run starts from, and its content; None without one.
    """
    size, times = getattr(data, "batch_size", "that of the data module"), trainer.accumulate_grad_batches
    batch = "all training points" if size is None else size
    nodes = os.environ["SLURM_STEP_NODELIST"] if in_slurm_step() else socket.gethostname()
    rows = {
        "run": f"{folder}, {_size(model)}",
        "resumed from": "nothing, a new run",
        "nodes": f"{trainer.num_nodes} ({nodes})",
        "ranks": f"{trainer.world_size}, {trainer.num_devices} on each node",
        "devices": devices(trainer),
        "strategy": _strategy(trainer),
        "precision": str(trainer.precision),
        "global batch": f"{batch} × {times} accumulated" if times > 1 else f"{batch}",
        "W&B": "disabled",
    }
    if resumed is not None:
        path, checkpoint = resumed
        rows["resumed from"] = f"{path}, {place(model, checkpoint['epoch'])}, step {checkpoint['global_step']}"
    for logger in trainer.loggers:
        if isinstance(logger, WandbLogger):
            rows["W&B"] = f"run id {logger.version}"
    lines = [f"{name:<14}{value}" for name, value in rows.items()]
    return "\n".join([*lines, *(f"{'data':<14}{remark}" for remark in getattr(data, "remarks", ()))])


def say_what_differs(options: Any, trainer: Trainer, fits: bool) -> None:
    """Prints what options of the trainer do that a user may not expect.

    Args:
        options: options of the user.
        trainer: the trainer that was made from them.
        fits: whether it will train.
    """
    if str(options.precision) in ("16", "16-mixed") and trainer.precision == "bf16-mixed":
        say(f"trainer.precision {options.precision} is bf16-mixed here: CPUs have no 16-mixed")
    if fits and options.log_every_n_steps == 0:
        say("trainer.log_every_n_steps 0: only validations are logged, no training steps")


def say_unsaved(trainer: Trainer, own: Iterable[Callback]) -> None:
    """Prints which `ModelCheckpoint`s of the user have saved nothing in a whole fit.

    Args:
        trainer: the trainer after its `fit`.
        own: callbacks of the user.
    """
    for one in own:
        if not isinstance(one, ModelCheckpoint) or one.best_model_path or one.last_model_path:
            continue
        if trainer.fast_dev_run or not (one.save_top_k or one.save_last):  # type: ignore[attr-defined]
            continue
        logged = one.monitor is None or one.monitor in trainer.callback_metrics
        why = "its interval is longer" if logged else f"its monitor {one.monitor} was never logged"
        say(f"{type(one).__name__} has saved nothing in {trainer.current_epoch} epochs: {why}")


def _size(model: Any) -> str:
    """Returns how many parameters the first stage trains."""
    replicas, targets = replicas_of(model), getattr(model, "num_targets", 1)
    count = f"{count_parameters(model) // replicas:,} parameters"
    if targets > 1:
        count += f" for each of {targets} targets"
    return count if replicas == targets else f"{count} in each of {replicas // targets} seeds"


def place(model: LightningModule, epoch: int) -> str:
    """Returns an epoch (from 0) in words, with its stage where the model has stages."""
    return model.place(epoch) if isinstance(model, StagedModule) else f"epoch {epoch + 1}"


def devices(trainer: Trainer) -> str:
    """Returns number and kind of the devices, which is the same on all ranks."""
    device = trainer.strategy.root_device
    kind = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    return f"{trainer.world_size} × {kind}"


def _strategy(trainer: Trainer) -> str:
    """Returns the name of the strategy, and the backend by which its ranks communicate."""
    kind = type(trainer.strategy).__name__.removesuffix("Strategy")
    if trainer.world_size == 1:
        return kind
    return f"{kind} ({'nccl' if trainer.strategy.root_device.type == 'cuda' else 'gloo'})"
