"""Finds what prevented a run from training all stages on all data."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import Timer

from lit_triwave.modules.stage_switch import asks_to_stop, time_is_up
from lit_triwave.modules.staged import StagedModule


def cut_short(trainer: Trainer, module: LightningModule, own: Iterable[Callback] = ()) -> str:
    """Returns what cut a fit short, and where; "" for a fit that finished all stages.

    An `EarlyStopping` in the last stage is an intended end. For a module without stages, so are a callback that ends
    the training, and `max_steps` or `max_time` without `max_epochs`.

    Args:
        trainer: the trainer after its `fit` and before its `test`.
        module: the fitted module.
        own: callbacks of the user.
    """
    if trainer.fast_dev_run:  # type: ignore[attr-defined]
        return "trainer.fast_dev_run: trained on a few batches"
    ended = _ended(trainer, module, own) if isinstance(module, StagedModule) else _ended_before(trainer, own)
    return "; ".join(filter(None, [ended, *_left_out(trainer)]))


def remarks(trainer: Trainer, module: LightningModule) -> list[str]:
    """Returns lines about an intended end of a module without stages, which prints nothing itself: where a callback
    ended it, and what it has logged that is not finite."""
    if isinstance(module, StagedModule):
        return []
    epochs, most = trainer.current_epoch, trainer.max_epochs or 0
    found = []
    if trainer.should_stop and 0 < epochs < most and not _bound(trainer, ()):
        stopped = [type(one).__name__ for one in trainer.early_stopping_callbacks if one.stopped_epoch]
        found.append(f"{', '.join(stopped) or 'a callback'} ended training in epoch {epochs}/{most}")
    for name, value in trainer.callback_metrics.items():
        if not value.isfinite():
            found.append(f"{name} is {float(value)} in the last epoch")
    return found


def _left_out(trainer: Any) -> list[str]:
    """Returns the options that leave out a part of the data, so that the results are not those of all data."""
    found = []
    # Lightning sets the second to the same as the first.
    for name in ("overfit_batches" if trainer.overfit_batches else "limit_train_batches", "limit_test_batches"):
        value = getattr(trainer, name)
        whole = _covers(trainer, name, value) if isinstance(value, int) else value == 1.0
        if name == "overfit_batches" or not whole:
            found.append(f"trainer.{name} {value} leaves out a part of the data")
    return found


def _covers(trainer: Any, name: str, batches: int) -> bool:
    """Whether a number of batches is the number of all batches of the loaders."""
    loaders: Any = trainer.train_dataloader if name == "limit_train_batches" else None
    if name == "limit_test_batches" and batches and trainer.datamodule is not None:
        loaders = trainer.datamodule.test_dataloader()
    try:
        return all(len(one) <= batches for one in (loaders if isinstance(loaders, (list, tuple)) else [loaders]))
    except TypeError:  # no length is known
        return False


def _ended(trainer: Trainer, module: StagedModule, own: Iterable[Callback]) -> str:
    """Returns what ended the stages before their time; "" if nothing did."""
    epochs, whole = trainer.current_epoch, _whole_epoch(trainer)
    chosen = any(asks_to_stop(one, module.first_epoch(module.stage)) for one in trainer.early_stopping_callbacks)
    if epochs >= module.total_epochs and (whole or chosen or not module.total_epochs):
        return ""
    what = _bound(trainer, own) or "a callback"
    if what == "a callback" and trainer.max_epochs is not None and epochs >= trainer.max_epochs:
        what = f"trainer.max_epochs {trainer.max_epochs}"
    return f"{what} ended training in {module.place(max(epochs - 1, 0))}"


def _ended_before(trainer: Trainer, own: Iterable[Callback]) -> str:
    """Returns what ended a module without stages before the trainer's `max_epochs`; "" if nothing did."""
    epochs, most = trainer.current_epoch, trainer.max_epochs or 0
    bound = _bound(trainer, own)
    if not bound or most < 0 or (epochs >= most and _whole_epoch(trainer)):
        return ""
    return f"{bound} ended training in epoch {max(epochs, 1)}/{most}"


def _whole_epoch(trainer: Trainer) -> bool:
    """Whether the last epoch went through all of its batches."""
    return trainer.fit_loop.epoch_loop.batch_progress.current.ready >= trainer.num_training_batches


def _bound(trainer: Trainer, own: Iterable[Callback]) -> str:
    """Returns which bound on steps or time ended the training; "" for none."""
    if 0 <= trainer.max_steps <= trainer.global_step:
        return f"trainer.max_steps {trainer.max_steps}"
    if time_is_up(trainer):
        return "Timer" if any(isinstance(one, Timer) for one in own) else "trainer.max_time"
    return ""
