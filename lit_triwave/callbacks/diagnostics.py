"""Logs the stage, the linear regions and the dead units of a network during training."""

from __future__ import annotations

import math
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn

from lit_triwave.analysis.dead_units import HeadWatch, dead_share
from lit_triwave.analysis.regions import count_linear_regions
from lit_triwave.modules.staged import NUMBERS
from lit_triwave.nn.bank import TriangleBank

if TYPE_CHECKING:
    from lit_triwave.modules.classifier import ImageClassifier
    from lit_triwave.modules.regressor import FunctionRegressor
    from lit_triwave.modules.staged import StagedModule

_STEPS_APART = 100
"""Minimum of steps between two counts of linear regions; a count takes as long as one to three small steps."""
_MOST_PIECES = 4096
"""Maximum of pieces that are counted at validations; more take longer than the validation itself."""
_COUNTED_NETS = 4
"""Subnetworks of a bank, at most, whose pieces are counted."""
_MOST_UNITS = 1024
"""Maximum of hidden neurons of a plain network that is counted; the count takes them one by one."""


class Diagnostics(Callback):
    """Logs the number of the `stage` with every row, and at validations `linear_regions/count` and `dead_units`.

    Regions are counted at validations that are at least `_STEPS_APART` steps apart, and at the end of a stage. The
    config decides which, so that a resumed run logs the same.
    """

    def on_train_batch_start(self, trainer: Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if pl_module.is_logged(batch_idx):
            self._log(pl_module, "stage", pl_module.stage_number)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: Any) -> None:
        if trainer.state.fn == "fit" and not trainer.sanity_checking:
            self._log(pl_module, "stage", pl_module.stage_number)
            self.diagnose(trainer, pl_module)

    def on_test_epoch_end(self, trainer: Trainer, pl_module: Any) -> None:
        self._log(pl_module, "stage", NUMBERS[pl_module.trained_stage])

    def diagnose(self, trainer: Trainer, module: Any) -> None:
        """Logs diagnostics of a validated module; called on all ranks."""

    def _log(self, module: LightningModule, name: str, value: Tensor | float) -> None:
        # All ranks have the same parameters. With `rank_zero_only` Lightning synchronises nothing, despite `sync_dist`.
        dtype = torch.float32 if module.device.type == "mps" else torch.float64
        module.log(name, torch.as_tensor(value, dtype=dtype), rank_zero_only=True, sync_dist=True)


def _is_counted(trainer: Trainer, module: StagedModule) -> bool:
    """Whether regions are counted at this validation: at the end of a stage, or far enough from the last count."""
    every = trainer.check_val_every_n_epoch or 1  # type: ignore[attr-defined]
    validations = math.ceil(_STEPS_APART / (every * int(trainer.num_training_batches)))
    number = (trainer.current_epoch + 1) // every
    return number % validations == 0 or module.ends_stage(trainer.current_epoch)


class RegressionDiagnostics(Diagnostics):
    """Diagnostics of the best seed of this validation.

    `linear_regions/count` is exact, on the domain or, for several variables, along its diagonal. `dead_units` is the
    share of hidden neurons, 0 to 1, that are zero for all training inputs.
    """

    def diagnose(self, trainer: Trainer, module: FunctionRegressor) -> None:
        # The module chooses its best seed by the same numbers, after this hook.
        best = module.lowest(module.val_metrics.compute()["val/mse"]).reshape(-1).tolist()
        if module.network.segments is None:  # a stack has too many pieces and neurons
            return
        plains = [module.plain(replica) for replica in best]  # one for each target
        if sum(layer.out_features for layer in plains[0] if isinstance(layer, nn.Linear)) > _MOST_UNITS:
            return
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        shares = [dead_share(module.network, plain, data.train_set.x.to(plain[0].weight)) for plain in plains]
        self._log(module, "dead_units", sum(shares) / len(shares))
        few = module.network.segments <= _MOST_PIECES and len(plains) == 1
        if few and trainer.is_global_zero and _is_counted(trainer, module):
            self._log(module, "linear_regions/count", count_linear_regions(plains[0], *module.diagonal))


class ClassificationDiagnostics(Diagnostics):
    """Diagnostics of a classifier's head.

    `linear_regions/count` is the mean over up to four subnetworks, on [0, 1]. It is logged while each subnetwork
    depends only on its own input (peaks, or released blocks). `dead_units` is the share of the head's hidden neurons,
    0 to 1, that are zero for all validation images.

    Attributes:
        dead_units: the share for all test images; None before a test, and for a head without hidden neurons.
    """

    def __init__(self) -> None:
        self.dead_units: float | None = None
        self._watch: HeadWatch | None = None

    def _start(self, module: ImageClassifier) -> None:
        if not module.compiled:  # a compiled network does not call hooks
            self._watch = HeadWatch(module.network)

    def _share(self, trainer: Trainer) -> float | None:
        watch, self._watch = self._watch, None
        if watch is None:
            return None
        share = watch.share(partial(trainer.strategy.reduce, reduce_op="sum"))
        watch.stop()
        return share

    def on_validation_start(self, trainer: Trainer, pl_module: ImageClassifier) -> None:  # type: ignore[override]
        if trainer.state.fn == "fit" and not trainer.sanity_checking:
            self._start(pl_module)

    def on_test_start(self, trainer: Trainer, pl_module: ImageClassifier) -> None:  # type: ignore[override]
        self._start(pl_module)

    def on_test_epoch_end(self, trainer: Trainer, pl_module: ImageClassifier) -> None:  # type: ignore[override]
        super().on_test_epoch_end(trainer, pl_module)
        self.dead_units = self._share(trainer)

    def diagnose(self, trainer: Trainer, module: ImageClassifier) -> None:
        share = self._share(trainer)
        if share is not None:
            self._log(module, "dead_units", share)
        banks = [bank for bank in module.banks if bank.released != "dense" and 1 << bank.depth <= _MOST_PIECES]
        if banks and trainer.is_global_zero and _is_counted(trainer, module):
            self._log(module, "linear_regions/count", sum(map(_mean_regions, banks)) / len(banks))


def _mean_regions(bank: TriangleBank) -> float:
    """Returns the mean number of linear regions on [0, 1] of a few subnetworks of a bank, evenly spaced."""
    n = bank.shape[-1]
    chosen = torch.linspace(0, n - 1, min(_COUNTED_NETS, n)).long()
    # In float64, because peaks do not give all pieces in float32.
    return sum(count_linear_regions(bank.subset(one[None]).double()) for one in chosen) / len(chosen)
