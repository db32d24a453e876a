"""Keeps `last.ckpt` and `pretrained.ckpt`, and stops a run with a checkpoint after a signal."""

from __future__ import annotations

import shutil
import time
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import distributed

from lit_triwave.checkpoints.best import BestCheckpoint, RunCheckpoint
from lit_triwave.checkpoints.origin import Origin, take_over
from lit_triwave.distributed.interruption import Interruption
from lit_triwave.errors import Interrupted
from lit_triwave.modules.replicas import BEST_NOW, ReplicatedModule
from lit_triwave.modules.stage_switch import ends_here
from lit_triwave.modules.staged import StagedModule
from lit_triwave.tracking.run_files import FIGURES, SUMMARY_JSON

_DUE = 1
"""Request of a rank for a checkpoint; a request to stop is larger by the number of the signal."""


class StageCheckpoint(RunCheckpoint):
    """Keeps `checkpoints/last.ckpt`, and `checkpoints/pretrained.ckpt` from the last epoch of pretraining.

    `last.ckpt` is also saved inside an epoch. This happens after some time, when a signal stops the run, and when
    `max_steps` or `max_time` ends it. All ranks save at the same step. At the last step of an epoch, the save
    waits for the validation and the end of the epoch; otherwise a resumed run would leave them out.

    When a rewound run saves its first step, everything recorded after the checkpoint from which it resumed is deleted.
    A branch has a `last.ckpt` from its first step on. It takes over the checkpoints beside its starting checkpoint that
    belong to its history.

    Args:
        origin: the start of the run.
        every_n_epochs: epochs between saves. The ends of stages and of the run, and an interruption, are always saved.
        seconds: seconds between saves inside epochs; None for no saves inside epochs.
        interruption: has the signal that asked for a stop.

    Attributes:
        settled: whether the folder describes this process's history; False while the folder is unchanged.
        lasting: whether an epoch of this process is over, or a checkpoint of it saved.
    """

    def __init__(self, origin: Origin, every_n_epochs: int, seconds: float | None, interruption: Interruption) -> None:
        super().__init__("last", origin.folder, every_n_epochs=every_n_epochs)
        self.origin = origin
        self.settled = self.lasting = False
        self._due = origin.branches or origin.rewinds  # at once
        self._replaces_last = origin.replaces_last
        self._pretrained = False  # whether this process has saved pretrained.ckpt
        self._cut = False  # whether the trainer ends the run inside this epoch
        self.seconds = seconds
        self.interruption = interruption
        self._saved_at = 0.0
        self._group: Any = None  # of all ranks, for requests

    def state_dict(self) -> dict[str, Any]:
        """Returns nothing, because Lightning's state would be the paths of this machine."""
        return {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Reads nothing; checkpoints of earlier versions have paths here."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._saved_at = time.monotonic()
        if trainer.world_size > 1 and distributed.is_initialized() and distributed.get_backend() != "gloo":
            # An exchange on the GPU would make every step wait for the step before.
            self._group = distributed.new_group(backend="gloo")

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        last = trainer.is_last_batch
        between_steps = last or (batch_idx + 1) % trainer.accumulate_grad_batches == 0
        if not between_steps or trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        if not self.origin.rewinds:
            self._settle(trainer, pl_module)
        if last:
            return
        # Lightning treats the epoch that it cuts short as complete, but this checkpoint is inside it.
        self._cut = ends_here(trainer, within_epoch=True)
        request = self._agreed(trainer) or (_DUE if self._cut else 0)
        if request:
            # Lightning logs this step's metrics only after this hook, too late for the checkpoint.
            trainer._logger_connector.update_train_step_metrics()
            self._save(trainer, pl_module, request)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        if self._cut:
            self._note_best(trainer, pl_module)
            return
        self.lasting = True
        ends = ends_here(trainer)
        if isinstance(pl_module, StagedModule):
            ends = ends or pl_module.ends_stage(trainer.current_epoch)
            if pl_module.stage == "pretrain" and pl_module.ends_stage(trainer.current_epoch):
                trainer.save_checkpoint(self.path("pretrained"))
                self._pretrained = True
        request = self._agreed(trainer)
        if request or ends or (trainer.current_epoch + 1) % self._every_n_epochs == 0:
            self._save(trainer, pl_module, request)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.settled or trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        if not self.origin.branches and not self._replaces_last:
            return
        # With nothing left to train, a branch ends where it starts, and a damaged last checkpoint is replaced.
        if trainer.is_global_zero and self.origin.path is not None:
            take_over(self.origin.path, self.path("last"))
        for callback in trainer.checkpoint_callbacks:
            callback.on_train_start(trainer, pl_module)
        self._settle(trainer, pl_module)

    def _save(self, trainer: Trainer, pl_module: LightningModule, request: int) -> None:
        self._save_checkpoint(trainer, str(self.path("last")))
        self.best_model_path = str(self.path("last"))
        self.lasting = True
        self._settle(trainer, pl_module)
        if request > _DUE:
            if isinstance(pl_module, StagedModule):
                # For the summary of the run so far; done after the checkpoint, which must not contain it.
                pl_module.on_stage_end()
                self._note_best(trainer, pl_module)
            raise Interrupted(request - _DUE)

    def _note_best(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Adds the best seeds at this step to `last.ckpt`, for tests and exports.

        They are not in the module's state: a resumed run begins with those of the last validation, as the run had them.
        """
        if trainer.is_global_zero and isinstance(pl_module, ReplicatedModule):
            path, files = self.path("last"), trainer.strategy.checkpoint_io
            files.save_checkpoint(files.load_checkpoint(path) | {BEST_NOW: pl_module.best_replicas}, path)

    def _settle(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Makes the run's folder describe this process's history; done once."""
        if self.settled:
            return
        self.settled = True
        if not trainer.is_global_zero:
            return
        for callback in trainer.checkpoint_callbacks:
            if isinstance(callback, BestCheckpoint):
                callback.settle()
        released = isinstance(pl_module, StagedModule) and pl_module.stage not in ("limit", "pretrain")
        if not released and not self._pretrained:
            self.path("pretrained").unlink(missing_ok=True)
        earlier = self.origin.beside("pretrained") if released and self.origin.branches else None
        if earlier is not None and self.origin.includes(earlier):
            take_over(earlier, self.path("pretrained"))
        # These files describe weights that are no longer the run's last ones; the end of the run writes new files.
        (self.origin.folder / SUMMARY_JSON).unlink(missing_ok=True)
        shutil.rmtree(self.origin.folder / FIGURES, ignore_errors=True)

    def _agreed(self, trainer: Trainer) -> int:
        """Returns the most urgent request of any rank: 0 for none, `_DUE`, or `_DUE` and a signal's number."""
        late = self._due or (self.seconds is not None and time.monotonic() - self._saved_at >= self.seconds)
        asked = self.interruption.requested
        request = _DUE + asked if asked else _DUE if late else 0
        if trainer.world_size > 1 and distributed.is_initialized():
            word = torch.tensor(request)
            distributed.all_reduce(word, op=distributed.ReduceOp.MAX, group=self._group)
            request = int(word)
        return request

    def _save_checkpoint(self, trainer: Trainer, filepath: str) -> None:
        super()._save_checkpoint(trainer, filepath)
        self._saved_at, self._due = time.monotonic(), False
