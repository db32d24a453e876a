"""`StagedModule`: a LightningModule that pretrains the peaks of its banks and then trains their weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from lightning.pytorch import Callback, LightningModule

from lit_triwave.bank import Release, TriangleBank
from lit_triwave.callbacks.stage_switch import StageSwitch
from lit_triwave.stages import Stage

StageName = Literal["pretrain", "train"]


class StagedModule(LightningModule):
    """Training in stages within one `fit`: `pretrain` (the peaks), then `train` (the released weights).

    Which stage the module is in is not stored: it is read off its banks. A checkpoint's parameters say what they are
    (`TriangleBank` loads either kind), so a resumed run, an evaluation and a fresh run all agree on the stage without
    any bookkeeping. `StageSwitch`, which this module brings along, does the switch.

    Args:
        pretrain: the stage in which peaks, scales and affine parts are the parameters. Without banks it must be empty.
        train: the stage in which the weights are.
        release: how the banks are released, `"blocks"` or `"dense"`.
    """

    def __init__(self, pretrain: Stage, train: Stage, release: Release = "blocks") -> None:
        super().__init__()
        self.stages: dict[StageName, Stage] = {"pretrain": pretrain, "train": train}
        self.release_kind: Release = release

    @property
    def banks(self) -> list[TriangleBank]:
        return [module for module in self.modules() if isinstance(module, TriangleBank)]

    @property
    def stage(self) -> StageName:
        """The stage whose parameters the module holds now."""
        return "pretrain" if any(bank.parameterization == "peaks" for bank in self.banks) else "train"

    @property
    def total_epochs(self) -> int:
        return sum(stage.epochs for stage in self.stages.values())

    def stage_at(self, epoch: int) -> StageName:
        """The stage that an epoch (from 0) belongs to."""
        return "pretrain" if epoch < self.stages["pretrain"].epochs else "train"

    def ends_stage(self, epoch: int) -> bool:
        """Whether an epoch (from 0) is the last of its stage."""
        return epoch + 1 in (self.stages["pretrain"].epochs, self.total_epochs)

    def ends_here(self) -> bool:
        """Whether this epoch is the last of its stage, of the run as limited by the user, or of an interrupted run."""
        epoch, trainer = self.trainer.current_epoch, self.trainer
        return trainer.should_stop or self.ends_stage(epoch) or epoch + 1 == trainer.max_epochs

    def enter_train_stage(self) -> None:
        """Releases all banks. Optimizers and wrappers of the old parameters are void afterwards."""
        for bank in self.banks:
            if bank.parameterization == "peaks":
                bank.release(self.release_kind)

    def on_stage_end(self) -> None:
        """Called on all ranks after the last epoch of a stage, or of an interrupted one, before checkpoints are
        saved."""

    def setup(self, stage: str) -> None:
        if stage == "fit" and self.trainer.max_epochs == -1:
            # No limit was asked for: the stages say how long the run is.
            self.trainer.fit_loop.max_epochs = self.total_epochs
        # Construction is in float64; a run in another precision says so to the trainer.
        if self.trainer.precision == "32-true":
            self.to(torch.float32)

    def configure_callbacks(self) -> Sequence[Callback]:
        return [StageSwitch()]

    def configure_optimizers(self) -> Any:
        stage = self.stages[self.stage]
        max_epochs = self.trainer.max_epochs
        assert max_epochs is not None
        steps_per_epoch = self.trainer.estimated_stepping_batches / max(1, max_epochs)
        optimizer, schedule = stage.configure(self.parameters(), round(steps_per_epoch * stage.epochs))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}
