"""Records losses during training, for the figures."""

from __future__ import annotations

import math
from textwrap import shorten
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

_MAX_RECORDS = 2000


def validation_images(data: Any) -> str:
    """Returns "test" if the data has no validation images and validates on its test images, else "validation"."""
    images = getattr(data, "val_set", None)
    return "test" if images is not None and images is getattr(data, "test_set", None) else "validation"


class SeedHistory(Callback):
    """Records the training MSE of every replica, at most 2 000 times in a run; saved in checkpoints.

    Attributes:
        epochs: epoch of each record, with fractions, (records,).
        mse: mean squared errors, (records, replicas).
    """

    def __init__(self) -> None:
        self._epochs: list[float] = []
        self._mse: list[Tensor] = []

    @property
    def epochs(self) -> Tensor:
        return torch.tensor(self._epochs, dtype=torch.float64)

    @property
    def mse(self) -> Tensor:
        self._mse = [record.cpu() for record in self._mse]
        return torch.stack(self._mse) if self._mse else torch.zeros(0, 0)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        batches = int(trainer.num_training_batches)
        step = trainer.current_epoch * batches + batch_idx
        every = max(1, math.ceil((trainer.max_epochs or 1) * batches / _MAX_RECORDS))
        if step % every == 0:
            self._epochs.append(step / batches)
            self._mse.append(outputs["mse"])  # stays on its device, because a copy would wait for the step

    def state_dict(self) -> dict[str, Any]:
        return {"epochs": self.epochs, "mse": self.mse}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        epochs, mse = state_dict["epochs"], state_dict["mse"]
        if epochs.ndim != 1 or mse.ndim != 2 or len(epochs) != len(mse):
            shapes = f"{tuple(epochs.shape)} and {tuple(mse.shape)}"
            raise ValueError(f"epochs and mse of SeedHistory must have a row for each record, got shapes {shapes}")
        self._epochs, self._mse = epochs.tolist(), list(mse)


class EpochHistory(Callback):
    """Records what was logged after each epoch; saved in checkpoints.

    Attributes:
        rows: one for each epoch, with the number of epochs so far, the stage, and the logged metrics.
    """

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []
        self._earlier: dict[str, float] = {}  # logged before the checkpoint that this run resumes from

    def on_train_epoch_end(self, trainer: Trainer, pl_module: Any) -> None:
        # `stage` is also logged, as a number, which the name replaces.
        self.rows.append(self._logged(trainer) | {"epoch": trainer.current_epoch + 1, "stage": pl_module.stage})

    def _logged(self, trainer: Trainer) -> dict[str, float]:
        return self._earlier | {name: float(value) for name, value in trainer.callback_metrics.items()}

    def on_save_checkpoint(self, trainer: Trainer, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        checkpoint["epoch_history"] = {"rows": self.rows, "logged": self._logged(trainer)}

    def on_load_checkpoint(self, trainer: Trainer, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        rows, logged = (checkpoint["epoch_history"][key] for key in ("rows", "logged"))
        for row in (*rows, logged):
            numbers = {name: value for name, value in row.items() if name != "stage"}
            if not all(isinstance(value, (int, float)) for value in numbers.values()):
                raise ValueError(f"epoch_history must be numbers, got {shorten(repr(numbers), 80)}")
        self.rows, self._earlier = rows, logged
