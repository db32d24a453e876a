"""Keeps `best.ckpt`, the checkpoint of the best validation."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

from lit_triwave.checkpoints.kinds import is_count, is_finite, require, short
from lit_triwave.checkpoints.origin import Origin, take_over
from lit_triwave.distributed.ranks import say
from lit_triwave.errors import TriwaveError
from lit_triwave.modules.staged import StagedModule
from lit_triwave.tracking.metric_goals import Goal, goal
from lit_triwave.tracking.run_files import CHECKPOINTS


class RunCheckpoint(ModelCheckpoint):
    """Keeps one file in a run's `checkpoints/`, and never saves a module that has diverged.

    Args:
        name: name of the file, without its suffix.
        folder: folder of the run; it does not depend on the loggers.
        options: options of Lightning's `ModelCheckpoint`.
    """

    def __init__(self, name: str, folder: Path, **options: Any) -> None:
        options |= {"save_top_k": 1, "save_on_train_epoch_end": True}
        options |= {"enable_version_counter": False, "auto_insert_metric_name": False}
        super().__init__(folder / CHECKPOINTS, name, **options)

    @property
    def state_key(self) -> str:
        # Lightning reads the key at every step, and its own property formats all settings each time.
        return type(self).__qualname__

    def path(self, name: str) -> Path:
        """Returns a file of the folder by its name without the suffix."""
        assert self.dirpath is not None
        return Path(self.dirpath) / f"{name}.ckpt"

    def _save_checkpoint(self, trainer: Trainer, filepath: str) -> None:
        if isinstance(trainer.lightning_module, StagedModule):
            trainer.lightning_module.check_finite()
        super()._save_checkpoint(trainer, filepath)


class BestCheckpoint(RunCheckpoint):
    """Keeps `checkpoints/best.ckpt`, from the epoch with the best validation so far, in any stage.

    Candidates are the validated epochs and, for functions, the last epoch of each stage. Validations inside an epoch
    do not count. The file is saved at the end of the epoch, so that a run can resume from it, and before `last.ckpt`,
    which records it. If two epochs are equally good, the earlier one is kept. All ranks make the same decision.

    A run that starts from an earlier checkpoint, or from another run's, keeps the best of its own history. This is the
    best checkpoint that the starting checkpoint records, if the file still exists. Otherwise it is the starting
    checkpoint itself, if its epoch was validated.

    Args:
        monitor: name of the metric in the log.
        mode: whether its lowest or its highest value is the best.
        origin: the start of the run.

    Attributes:
        best_model_path: path of the file; "" while the run's history has no validation.
        epoch: epoch of the file, from 0; −1 if there is none.
    """

    def __init__(self, monitor: str, mode: Goal, origin: Origin) -> None:
        super().__init__("best", origin.folder, monitor=monitor, mode=mode)
        self.origin = origin
        self._source: Path | None = None  # becomes the file at the first step
        self._score: float | None = None  # score of the file
        self.epoch = -1
        self._found: float | None = None  # value of the validation at the end of this epoch
        self._said = False  # whether the missing metric was reported
        self._begun = False  # whether training has begun

    def state_dict(self) -> dict[str, Any]:
        """Returns epoch and score of the file, without the paths of this machine that Lightning would save."""
        return {"score": self._score, "epoch": self.epoch}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        score, epoch = state_dict["score"], state_dict["epoch"]
        fits = epoch == -1 if score is None else is_finite(score) and is_count(epoch)
        require(fits, "score and epoch of BestCheckpoint", "be numbers", f"{short(score)}, {short(epoch)}")
        self._score, self.epoch = score, epoch

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._begun = True
        if trainer.is_global_zero:
            self._source = self._best_so_far()
        known = self._source is not None, self._score, self.epoch
        there, self._score, self.epoch = trainer.strategy.broadcast(known)
        self.best_model_path = str(self.path("best")) if there else ""

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not self._begun and not trainer.fast_dev_run:  # type: ignore[attr-defined]
            self.on_train_start(trainer, pl_module)  # a run with nothing left to train also has a best checkpoint

    def _best_so_far(self) -> Path | None:
        """Returns the best checkpoint of the run's history, and sets score and epoch to match it."""
        origin = self.origin
        if self._score is not None:
            found = origin.file_with(self.state_key, self.state_dict(), "best")
            if found is not None or self.epoch == origin.epoch:
                return found or origin.path
        self._score = origin.validation(str(self.monitor))
        self.epoch = -1 if self._score is None else origin.epoch
        return None if self._score is None else origin.path

    def settle(self) -> None:
        """Writes the best checkpoint of the run's history to its path, on the first rank, after the first step."""
        if not self.best_model_path:
            self.path("best").unlink(missing_ok=True)
        elif self._source is not None and self._source.resolve() != self.path("best").resolve():
            take_over(self._source, self.path("best"), {self.state_key: self.state_dict()})
        self._source = None

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.state.fn == "fit" and not trainer.sanity_checking and trainer.is_last_batch:
            found = trainer.callback_metrics.get(str(self.monitor))
            self._found = None if found is None else float(found)
            if found is None and not self._said:
                self._said = True
                there = ", ".join(trainer.callback_metrics) or "nothing"
                needed = f"must be a metric that it logs by the end of a validation ({there}), got {self.monitor}"
                say(f"no best.ckpt: {type(pl_module).__name__}.monitor {needed}")

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        found, self._found = self._found, None
        if found is None and isinstance(pl_module, StagedModule) and pl_module.ends_stage(trainer.current_epoch):
            found = pl_module.end_of_stage(str(self.monitor))
        if found is None or trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        if trainer.strategy.reduce_boolean_decision(self._improves(found)):
            self._score, self.epoch = found, trainer.current_epoch
            self._save_checkpoint(trainer, str(self.path("best")))
            self._source = None
            self.best_model_path = str(self.path("best"))

    def _improves(self, found: float) -> bool:
        if self._score is None or not math.isfinite(found):
            return math.isfinite(found)
        return found > self._score if self.mode == "max" else found < self._score


def monitored(model: LightningModule) -> tuple[str, Goal] | None:
    """Returns the metric that chooses a model's best checkpoint, and its direction; None for a model without `monitor`.

    Raises:
        TriwaveError: neither the model's `mode` nor the metric's name says whether lower or higher is better.
    """
    monitor, mode = getattr(model, "monitor", None), getattr(model, "mode", None)
    if not isinstance(monitor, str) or not monitor:
        return None
    direction: Goal | None = mode if mode in ("min", "max") else goal(monitor)
    if direction is None:
        why = f"whether lower or higher values of its monitor {monitor} are better is not known"
        raise TriwaveError(f'{type(model).__name__}.mode must be "min" or "max", got {mode!r}: {why}')
    return monitor, direction


def best_checkpoint(model: LightningModule, origin: Origin) -> list[Callback]:
    """Returns the callback that keeps the best checkpoint by the model's `monitor`; none for a model without one."""
    found = monitored(model)
    return [BestCheckpoint(*found, origin)] if found else []
