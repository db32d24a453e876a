"""Records losses during training, for the figures."""

from __future__ import annotations

import math
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
        epochs: of each record, with fractions, (records,).
        mse: (records, replicas).
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
        self._epochs = state_dict["epochs"].tolist()
        self._mse = list(state_dict["mse"])


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
        self.rows, self._earlier = (checkpoint["epoch_history"][key] for key in ("rows", "logged"))
