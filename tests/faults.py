"""Faults of clusters as Trainer callbacks: a signal or a kill at a chosen step."""

from __future__ import annotations

import os
import signal
import threading
import time
from multiprocessing.util import Finalize
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, Trainer


class SignalAt(Callback):
    """Sends this process a signal in the middle of a step.

    Args:
        epoch: of the step, from 0.
        batch: of the step in its epoch, from 0.
        name: of the signal.
        rank: which alone gets it.
    """

    def __init__(self, epoch: int, batch: int, name: str = "SIGUSR1", rank: int = 0) -> None:
        self.place = (epoch, batch, rank)
        self.number = signal.Signals[name]

    def on_train_batch_start(self, trainer: Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if (trainer.current_epoch, batch_idx, trainer.global_rank) == self.place:
            os.kill(os.getpid(), self.number)


class KillWhileSaving(Callback):
    """Kills this process when a checkpoint has been written but not yet renamed.

    Args:
        count: of the checkpoint, from 1.
    """

    def __init__(self, count: int) -> None:
        self.left = count

    def on_save_checkpoint(self, trainer: Trainer, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        self.left -= 1
        if self.left == 0:
            os.fsync = lambda _: os.kill(os.getpid(), signal.SIGKILL)


class SignalBeforeTraining(Callback):
    """Sends this process a signal when everything is ready, before the first step.

    Args:
        name: of the signal.
    """

    def __init__(self, name: str = "SIGINT") -> None:
        self.number = signal.Signals[name]

    def setup(self, *_: Any, **__: Any) -> None:
        os.kill(os.getpid(), self.number)


class ManySignals(Callback):
    """Sends this process Ctrl-C sixty times, from a second thread, from the third epoch on.

    Attributes:
        sender: the thread, of the last run.
    """

    sender: threading.Thread

    def on_train_epoch_start(self, trainer: Trainer, pl_module: Any) -> None:
        if trainer.current_epoch == 2:
            ManySignals.sender = threading.Thread(target=self._send, daemon=True)
            ManySignals.sender.start()

    def _send(self) -> None:
        for _ in range(60):
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.005)


class SignalInTest(Callback):
    """Sends this process SIGUSR1 in the test after training."""

    def on_test_batch_start(self, *_: Any) -> None:
        os.kill(os.getpid(), signal.SIGUSR1)


def signal_at(epoch: int, batch: int, name: str = "SIGUSR1", rank: int = 0) -> list[str]:
    """The arguments of `fit` that add this callback."""
    prefix = "--trainer.callbacks"
    at = [f"{prefix}+=tests.faults.SignalAt", f"{prefix}.epoch={epoch}", f"{prefix}.batch={batch}"]
    return [*at, f"{prefix}.name={name}", f"{prefix}.rank={rank}"]


class KillWandb(Callback):
    """Kills W&B's process at a step, as SLURM's signals may do.

    Args:
        epoch: of the step, from 0.
    """

    def __init__(self, epoch: int) -> None:
        self.epoch = epoch

    def on_train_batch_start(self, trainer: Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if trainer.current_epoch == self.epoch and batch_idx == 0:
            for child in Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text().split():
                if Path(f"/proc/{child}/comm").read_text().startswith("wandb"):
                    os.kill(int(child), signal.SIGKILL)


class SayAtExitWhetherRanksAreConnected(Callback):
    """Prints `connected: True` or `connected: False` at the end of this process."""

    def setup(self, *_: Any, **__: Any) -> None:
        Finalize(None, lambda: print("connected:", torch.distributed.is_initialized(), flush=True), exitpriority=0)
