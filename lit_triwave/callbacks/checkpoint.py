"""Checkpoints of a run: the latest one, and one at the end of pretraining."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

if TYPE_CHECKING:
    from lit_triwave.modules.staged import StagedModule


class StageCheckpoint(ModelCheckpoint):
    """Keeps `checkpoints/last.ckpt`, and `checkpoints/pretrained.ckpt` from the last epoch of pretraining.

    Lightning writes a checkpoint to a temporary file and renames it, so `last.ckpt` is always a whole one.

    Args:
        every_n_epochs: how often `last.ckpt` is renewed, besides the end of each stage, an interruption and the end.
    """

    def __init__(self, every_n_epochs: int = 100) -> None:
        super().__init__(
            filename="last",
            save_top_k=1,
            every_n_epochs=every_n_epochs,
            save_on_train_epoch_end=True,
            enable_version_counter=False,
            auto_insert_metric_name=False,
        )

    def path(self, name: str) -> Path:
        assert self.dirpath is not None
        return Path(self.dirpath) / f"{name}.ckpt"

    def on_train_epoch_end(self, trainer: Trainer, pl_module: StagedModule) -> None:  # type: ignore[override]
        if trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        if pl_module.ends_here():
            if pl_module.stage == "pretrain" and pl_module.ends_stage(trainer.current_epoch):
                trainer.save_checkpoint(self.path("pretrained"))
            self._save_checkpoint(trainer, str(self.path("last")))
            self.best_model_path = str(self.path("last"))
        else:
            super().on_train_epoch_end(trainer, pl_module)
