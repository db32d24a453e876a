"""What is looked at in a network while it is trained: the stage, its linear regions, its dead units."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn

from lit_triwave.analysis.dead_units import HeadWatch, dead_share
from lit_triwave.analysis.head_regions import mean_regions
from lit_triwave.analysis.regions import count_linear_regions

if TYPE_CHECKING:
    from lit_triwave.modules.classifier import ImageClassifier
    from lit_triwave.modules.regressor import FunctionRegressor
    from lit_triwave.modules.staged import StagedModule

STEPS_APART = 100
"""Between two counts of linear regions, at the least: one takes as long as one to three steps of a small network."""
MOST_PIECES = 4096
"""That are counted at validations: more take longer than the validation; stage ends count whatever there is."""
MOST_UNITS = 1024
"""Hidden neurons of a plain network that is looked at: the count takes them one by one."""


class Diagnostics(Callback):
    """Logs the `stage` (0 pretrain, 1 train, 2 polish) with every row, that of the test too, and at validations
    `linear_regions/count` and `dead_units`. On runs with a run folder alone: tables of many runs need none of it.

    Regions are counted at validations that are `STEPS_APART` or more, and at one that ends a stage; which ones follows
    from the config, so that a resumed run logs the same.
    """

    def on_train_batch_start(  # type: ignore[override]
        self, trainer: Trainer, pl_module: StagedModule, batch: Any, batch_idx: int
    ) -> None:
        if pl_module.is_logged(batch_idx):
            self._log(pl_module, "stage", pl_module.stage_number)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: Any) -> None:
        if trainer.state.fn == "fit" and not trainer.sanity_checking:
            self._log(pl_module, "stage", pl_module.stage_number)
            self.look(trainer, pl_module)

    def on_test_epoch_end(self, trainer: Trainer, pl_module: Any) -> None:
        self._log(pl_module, "stage", pl_module.stage_number)

    def look(self, trainer: Trainer, module: Any) -> None:
        """Logs what a validated module has become, on all ranks."""

    def _log(self, module: LightningModule, name: str, value: Tensor | float) -> None:
        # All ranks hold the same parameters: of the first alone nothing is synchronised, whatever Lightning is told.
        dtype = torch.float32 if module.device.type == "mps" else torch.float64
        module.log(name, torch.as_tensor(value, dtype=dtype), rank_zero_only=True, sync_dist=True)


def is_counted(trainer: Trainer, module: StagedModule) -> bool:
    """Whether the regions are counted at this validation: the end of a stage, or one of those that are far apart."""
    every = trainer.check_val_every_n_epoch or 1  # type: ignore[attr-defined]
    validations = math.ceil(STEPS_APART / (every * int(trainer.num_training_batches)))
    number = (trainer.current_epoch + 1) // every
    return number % validations == 0 or module.ends_stage(trainer.current_epoch)


class RegressionDiagnostics(Diagnostics):
    """Of the seed that this validation finds best: the exact number of linear regions (on the domain, or along its
    diagonal where there are several variables), and the share of the hidden neurons of its plain network that are zero
    for all training inputs."""

    def look(self, trainer: Trainer, module: FunctionRegressor) -> None:
        # The module chooses by the same numbers, after this hook; torchmetrics keeps them.
        best = int(module.lowest(module.val_metrics.compute()["val/mse"]))
        plain = module.plain(best)
        if sum(layer.out_features for layer in plain if isinstance(layer, nn.Linear)) > MOST_UNITS:
            return
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        self._log(module, "dead_units", dead_share(module.network, plain, data.train_set.x.to(plain[0].weight)))
        few = module.network.segments <= MOST_PIECES
        if few and trainer.is_global_zero and is_counted(trainer, module):
            self._log(module, "linear_regions/count", count_linear_regions(plain, *module.diagonal))


class ClassificationDiagnostics(Diagnostics):
    """Of the subnetworks of a head: the mean number of linear regions on [0, 1] of up to four of them, evenly chosen,
    as long as each is a function of its own input alone (peaks, or released blocks); and the share of the head's hidden
    neurons, of the subnetworks or of a `DenseHead`, that are zero for all validation images.

    Attributes:
        dead_units: the share for all test images, after a test; None where the head has no such neurons.
    """

    def __init__(self) -> None:
        self.dead_units: float | None = None
        self._watch: HeadWatch | None = None

    def _start(self, module: ImageClassifier) -> None:
        if not module.compiled:  # what is compiled does not look whether it is watched
            self._watch = HeadWatch(module.network)
            self._watch.start()

    def _share(self, over_ranks: Callable[[Tensor], Tensor]) -> float | None:
        share = self._watch.share(over_ranks) if self._watch else None
        if self._watch:
            self._watch.stop()
        self._watch = None
        return share

    def on_validation_start(self, trainer: Trainer, pl_module: ImageClassifier) -> None:  # type: ignore[override]
        if trainer.state.fn == "fit" and not trainer.sanity_checking:
            self._start(pl_module)

    def on_test_start(self, trainer: Trainer, pl_module: ImageClassifier) -> None:  # type: ignore[override]
        self._start(pl_module)

    def on_test_epoch_end(self, trainer: Trainer, pl_module: ImageClassifier) -> None:  # type: ignore[override]
        super().on_test_epoch_end(trainer, pl_module)
        self.dead_units = self._share(summed(trainer))

    def look(self, trainer: Trainer, module: ImageClassifier) -> None:
        share = self._share(summed(trainer))
        if share is not None:
            self._log(module, "dead_units", share)
        banks = [bank for bank in module.banks if bank.released != "dense" and 1 << bank.depth <= MOST_PIECES]
        if banks and trainer.is_global_zero and is_counted(trainer, module):
            self._log(module, "linear_regions/count", sum(map(mean_regions, banks)) / len(banks))


def summed(trainer: Trainer) -> Callable[[Tensor], Tensor]:
    """Sums a tensor over all ranks."""
    return lambda values: trainer.strategy.reduce(values, reduce_op="sum")  # type: ignore[return-value]
