"""Writes `predictions.csv`: values and the range of the seeds, or classes and how sure the model is."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import BasePredictionWriter
from torch import Tensor

from lit_triwave.errors import TriwaveError
from lit_triwave.files import written_whole


class PredictionCSV(BasePredictionWriter):
    """Writes the columns of the data, the best seed's prediction and the range over seeds, in the units of the data.

    If the data also have a column `prediction`, the new column is called `prediction_of_<target>`; other computed
    columns follow the same rule. With several targets, computed columns always have these names.

    Args:
        path: path of the CSV file.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(write_interval="epoch")
        self.path = path

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.world_size > 1:
            raise TriwaveError(f"predict runs in one process, not {trainer.world_size}: add --trainer.devices 1")

    def write_on_epoch_end(
        self, trainer: Trainer, pl_module: LightningModule, predictions: Sequence[Any], batch_indices: Sequence[Any]
    ) -> None:
        found = {key: torch.cat([batch[key] for batch in predictions]) for key in predictions[0]}
        columns = self.columns(trainer.datamodule, found)  # type: ignore[attr-defined]
        count = len(next(iter(found.values())))  # the trainer's `limit_predict_batches` may leave some rows out
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with written_whole(self.path) as partial, partial.open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(columns)
            writer.writerows(zip(*(values[:count] for values in columns.values()), strict=True))
        print(f"{count} predictions: {self.path}", flush=True)

    def columns(self, data: Any, found: dict[str, Tensor]) -> dict[str, Sequence[Any]]:
        """Returns the columns of the file from the predictions of all rows, name ↦ (rows,) or (rows, targets)."""
        computed: dict[str, list[float]] = {}
        for key, values in found.items():
            if values.ndim == 1:
                computed[key] = values.tolist()
            elif key not in ("x", "target"):
                each = zip(data.target_names, values.T.tolist(), strict=True)
                computed |= {f"{key}_of_{target}": column for target, column in each}
        computed.pop("target", None)  # it is one of the columns of the data
        columns: dict[str, Sequence[Any]] = data.prediction_columns()
        for name, column in computed.items():
            free = name if name not in columns else f"{name}_of_{data.target_name}"
            while free in columns:
                free += "_"
            columns[free] = column
        return columns


class ClassCSV(PredictionCSV):
    """Writes file, label, predicted class and confidence, 0 to 1, of each image in the order of the data.

    Data without files have no `file`, and images without labels no `label`.
    """

    def columns(self, data: Any, found: dict[str, Tensor]) -> dict[str, Sequence[Any]]:
        columns: dict[str, Sequence[Any]] = data.prediction_columns() if hasattr(data, "prediction_columns") else {}
        for key, values in found.items():
            if key == "confidence":
                columns[key] = values.tolist()
            elif (values >= 0).any():  # −1 stands for no label
                columns[key] = [data.class_names[number] for number in values.tolist()]
        return columns
