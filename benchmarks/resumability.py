"""Measures the cost of resumability: the digits fit with and without its stateful loader and checkpoints.

    python -m benchmarks.resumability [--seconds 30] [--turns 12] [--epochs 3]

Two trainers train the same network, in turns of a few epochs within one process. One uses torchdata's
`StatefulDataLoader` and `StageCheckpoint`, which checks for a request at each step. The other uses PyTorch's
`DataLoader` without checkpoints. The order changes from turn to turn, and the first pair only warms up. The time of an
epoch is processor time, which other programs disturb less than wall time. The fastest epoch of each turn is used. A
turn is shorter than the time between two checkpoints, so checkpoints are timed separately, in wall time, inside
epochs. Their share is the time of one checkpoint divided by the seconds between two.
"""

from __future__ import annotations

import argparse
import logging
import statistics
import tempfile
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, Trainer
from rich.console import Console
from rich.table import Table
from torch.utils.data import DataLoader

from datamodules import DigitsDataModule
from lit_triwave.callbacks.loss_history import EpochHistory
from lit_triwave.checkpoints.io import AtomicCheckpointIO
from lit_triwave.checkpoints.last import StageCheckpoint
from lit_triwave.checkpoints.origin import Origin
from lit_triwave.checkpoints.same_run import RunRecord
from lit_triwave.distributed.interruption import Interruption
from lit_triwave.modules import ImageClassifier
from lit_triwave.modules.stages import Stage


class PlainDigits(DigitsDataModule):
    """The digits on PyTorch's own loader."""

    def resumable_loader(self, samples: Any, sampler: Any, **options: Any) -> DataLoader[Any]:
        """Returns a loader without a state."""
        return DataLoader(samples, batch_size=None, sampler=sampler, **options)

    def state_dict(self) -> dict[str, Any]:
        """Returns no state."""
        return {}


class TimedCheckpoint(StageCheckpoint):
    """Saves in the middle of epochs if asked to, never at their end, and measures how long that takes."""

    saving = False

    def __init__(self, folder: Path) -> None:
        self.times: list[float] = []
        super().__init__(Origin(folder), every_n_epochs=100, seconds=1e9, interruption=Interruption())

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)
        if self.saving and batch_idx == int(trainer.num_training_batches) // 2:
            start = time.perf_counter()
            self._save(trainer, pl_module, 0)
            self.times.append(time.perf_counter() - start)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: Any) -> None:
        self._agreed(trainer)


class EpochTimes(Callback):
    """Records the mean processor seconds of a step in each epoch."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def on_train_epoch_start(self, trainer: Trainer, pl_module: Any) -> None:
        self.start = time.process_time()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: Any) -> None:
        self.times.append((time.process_time() - self.start) / int(trainer.num_training_batches))


def train(resumable: bool, epochs: int, folder: Path, saving: bool = False) -> tuple[float, list[float]]:
    """Returns processor seconds of a step in the fastest epoch of a short fit, and seconds of each checkpoint."""
    torch.manual_seed(0)
    data = (DigitsDataModule if resumable else PlainDigits)()
    stage = Stage(epochs=epochs, lr=0.01, optimizer="AdamW")
    model = ImageClassifier(
        num_nets=64, pretrain=Stage(epochs=0), train=stage, num_classes=10, image_shape=data.image_shape
    )
    checkpoints, epoch_times = TimedCheckpoint(folder), EpochTimes()
    checkpoints.saving = saving
    watched: list[Any] = [checkpoints, RunRecord({}, [])] if resumable else []
    trainer = Trainer(
        accelerator="cpu",
        max_epochs=epochs,
        logger=False,
        enable_checkpointing=resumable,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        limit_val_batches=0,
        use_distributed_sampler=False,
        callbacks=[epoch_times, EpochHistory(), *watched],
        plugins=[AtomicCheckpointIO()],
        default_root_dir=folder,
    )
    trainer.fit(model, datamodule=data)
    return min(epoch_times.times), checkpoints.times


def main(args: Sequence[str] | None = None) -> float:
    """Prints the measurements and returns the share of a step that resumability takes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=30.0, help="between two checkpoints")
    parser.add_argument("--turns", type=int, default=12)
    parser.add_argument("--epochs", type=int, default=3, help="of each turn")
    asked = parser.parse_args(args)
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    warnings.filterwarnings("ignore")
    with tempfile.TemporaryDirectory() as name:
        folder, ratios, steps = Path(name), [], []
        for turn in range(-1, asked.turns):
            pair = {kind: train(kind, asked.epochs, folder)[0] for kind in ((True, False), (False, True))[turn % 2]}
            if turn >= 0:
                ratios.append(pair[True] / pair[False])
                steps.append(pair[False])
        saves = train(True, asked.epochs + 2, folder, saving=True)[1]
    loop, save = statistics.median(ratios) - 1, statistics.median(saves)
    total = loop + save / asked.seconds
    table = Table("", "median", "share of a step")
    table.add_row("step without", f"{1e3 * statistics.median(steps):.2f} ms", "")
    table.add_row("loader, and check at each step", "", f"{loop:+.2%}")
    table.add_row(f"a checkpoint each {asked.seconds:g} s", f"{1e3 * save:.1f} ms", f"{save / asked.seconds:+.2%}")
    table.add_row("together", "", f"{total:+.2%}")
    Console().print(table)
    print(f"ratios of the turns: {min(ratios):.3f} to {max(ratios):.3f}")
    return total


if __name__ == "__main__":
    main()
