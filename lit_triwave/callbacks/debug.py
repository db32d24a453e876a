"""A callback for finding errors, used by `configs/debug/`."""

from __future__ import annotations

from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer


class SameBatches(Callback):
    """Trains on the batches of the first epoch in every epoch.

    Lightning's `overfit_batches` replaces the sampler of a loader by one that yields single samples. The samplers of
    this project yield whole batches.
    """

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        loader: Any = trainer.train_dataloader
        loader.sampler.set_epoch(0)
