"""Says what kept a run from training all of its stages, on all of its data."""

from __future__ import annotations

from lightning.pytorch import LightningModule, Trainer

from lit_triwave.modules.staged import StagedModule, asks_to_stop, time_is_up

_PARTS = ("limit_train_batches", "limit_test_batches", "overfit_batches")
"""Options that leave out data for which a run's results stand."""


def cut_short(trainer: Trainer, module: LightningModule) -> str:
    """Returns what cut a fit short, and where; "" for a fit that went through all stages.

    An `EarlyStopping` in the last stage ends a run as its user means it to end. So does everything that ends the
    training of a module without stages, whose length is that of the trainer.

    Args:
        trainer: after its `fit` and before its `test`.
        module: that was fitted.
    """
    if trainer.fast_dev_run:  # type: ignore[attr-defined]
        return "trainer.fast_dev_run: trained on a few batches"
    found = [*([_ended(trainer, module)] if isinstance(module, StagedModule) else []), *_left_out(trainer)]
    return "; ".join(filter(None, found))


def _left_out(trainer: Trainer) -> list[str]:
    given = {name: getattr(trainer, name) for name in _PARTS}
    whole = {"overfit_batches": 0}
    return [
        f"trainer.{name} {value} leaves out a part of the data"
        for name, value in given.items()
        if value != whole.get(name, 1.0) or (isinstance(value, int) and value == 1)
    ]


def _ended(trainer: Trainer, module: StagedModule) -> str:
    """Returns what ended the stages before their time; "" if nothing did."""
    epochs, loop = trainer.current_epoch, trainer.fit_loop.epoch_loop
    whole = loop.batch_progress.current.ready >= trainer.num_training_batches
    chosen = any(asks_to_stop(one, module.first_epoch(module.stage)) for one in trainer.early_stopping_callbacks)
    if epochs >= module.total_epochs and (whole or chosen):
        return ""
    if 0 <= trainer.max_steps <= trainer.global_step:
        what = f"trainer.max_steps {trainer.max_steps}"
    elif time_is_up(trainer):
        what = "trainer.max_time"
    elif trainer.max_epochs is not None and epochs >= trainer.max_epochs:
        what = f"trainer.max_epochs {trainer.max_epochs}"
    else:
        what = "a callback"
    return f"{what} ended training in {module.place(max(epochs - 1, 0))}"
