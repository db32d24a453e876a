"""What a run says of itself before it begins."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.loggers import WandbLogger

from lit_triwave.analysis.costs import count_parameters, replicas_of
from lit_triwave.distributed.cluster import in_slurm_step


def start_block(
    trainer: Trainer, model: LightningModule, data: LightningDataModule, folder: Path, resumed: tuple[Path, Any] | None
) -> str:
    """The aligned lines, known to the first process before it starts others.

    Args:
        trainer: that is going to fit.
        model: that is going to be trained.
        data: to train on.
        folder: of the run.
        resumed: the checkpoint that the run goes on from, and its content.
    """
    rows = {
        "run": f"{folder}, {size(model)}",
        "resumed from": "nothing, a new run" if resumed is None else position(model, *resumed),
        "nodes": f"{trainer.num_nodes} ({nodes()})",
        "ranks": f"{trainer.world_size}, {trainer.num_devices} on each node",
        "devices": devices(trainer),
        "strategy": strategy(trainer),
        "precision": str(trainer.precision),
        "global batch": global_batch(trainer, data),
        "W&B": tracking(trainer),
    }
    return "\n".join(f"{name:<14}{value}" for name, value in rows.items())


def size(model: Any) -> str:
    """How many numbers the first stage trains."""
    replicas = replicas_of(model)
    count = f"{count_parameters(model) // replicas:,} parameters"
    return count if replicas == 1 else f"{count} in each of {replicas} seeds"


def position(model: Any, path: Path, checkpoint: Any) -> str:
    """Where a checkpoint was taken."""
    return f"{path}, {model.place(checkpoint['epoch'])}, step {checkpoint['global_step']}"


def nodes() -> str:
    """The nodes' names as far as this process knows them."""
    return os.environ["SLURM_STEP_NODELIST"] if in_slurm_step() else socket.gethostname()


def devices(trainer: Trainer) -> str:
    """How many devices, and of which kind; all ranks have the same."""
    device = trainer.strategy.root_device
    kind = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    return f"{trainer.world_size} × {kind}"


def strategy(trainer: Trainer) -> str:
    """The strategy's name, and how its ranks talk."""
    kind = type(trainer.strategy).__name__.removesuffix("Strategy")
    if trainer.world_size == 1:
        return kind
    return f"{kind} ({'nccl' if trainer.strategy.root_device.type == 'cuda' else 'gloo'})"


def global_batch(trainer: Trainer, data: Any) -> str:
    """What one step of all ranks takes."""
    size = getattr(data, "batch_size", None)
    if size is None:
        return "all training points"
    times = trainer.accumulate_grad_batches
    return f"{size}" + (f" × {times} accumulated" if times > 1 else "")


def tracking(trainer: Trainer) -> str:
    """The Weights & Biases run's id and mode."""
    for logger in trainer.loggers:
        if isinstance(logger, WandbLogger):
            return f"run id {logger.version}"
    return "disabled"
