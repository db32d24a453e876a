"""Checkpoints of a run: the latest one, and one at the end of pretraining."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.plugins.io import TorchCheckpointIO

from lit_triwave.errors import TriwaveError
from lit_triwave.runs import written_whole

if TYPE_CHECKING:
    from lit_triwave.modules.staged import StagedModule


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint beside its place and renames it when it is whole.

    Lightning's own writes to the system's temporary folder and, where that is another file system, copies: a full disk
    or a kill then leaves half a checkpoint where the last good one was.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        try:
            with written_whole(Path(path)) as partial:
                super().save_checkpoint(checkpoint, partial, storage_options)
        except (OSError, RuntimeError) as error:  # torch reports a full disk as a RuntimeError
            reason = " ".join(str(error).split())[:150]
            raise TriwaveError(f"checkpoint {path} cannot be written ({reason}); the one before is kept") from error


class StageCheckpoint(ModelCheckpoint):
    """Keeps `checkpoints/last.ckpt`, and `checkpoints/pretrained.ckpt` from the last epoch of pretraining.

    Nothing is saved of a module that has diverged.

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

    def _save_checkpoint(self, trainer: Trainer, filepath: str) -> None:
        module: Any = trainer.lightning_module
        module.check_finite()
        super()._save_checkpoint(trainer, filepath)
