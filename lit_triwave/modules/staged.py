"""`StagedModule`: a LightningModule that pretrains the peaks of its banks and then trains their weights."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from lit_triwave.distributed.ranks import say
from lit_triwave.errors import TriwaveError
from lit_triwave.modules.stage_switch import StageSwitch
from lit_triwave.modules.stages import Limit, Parameters, Polish, Stage
from lit_triwave.modules.trainer_support import Fit, check_callbacks, check_options
from lit_triwave.nn.bank import Release, TriangleBank

StageName = Literal["limit", "pretrain", "train", "polish"]
STAGES: tuple[StageName, ...] = ("limit", "pretrain", "train", "polish")
NUMBERS: dict[StageName, int] = {"pretrain": 0, "train": 1, "polish": 2, "limit": 3}
"""Numbers of the stages in checkpoints and metrics. The limit was added last, so it has the highest number."""


def stage_name(number: int) -> StageName:
    """Returns the name of the stage with a number in a checkpoint."""
    return next(name for name, own in NUMBERS.items() if own == number)


class StagedModule(LightningModule):
    """Training in stages within one `fit`: `pretrain` (the peaks), `train` (the released weights), perhaps `polish`.

    A stack has a stage before them, `limit`, in which its limit network is trained. An `EarlyStopping` of the user
    ends the current stage, and the next stage begins.

    The stage is a buffer, so every checkpoint has it, together with the parameters of this stage. A resumed run knows
    the stage before it creates its optimizers. This module adds the callback `StageSwitch`, which does the switch.

    Args:
        pretrain: the stage that trains peaks, scales and affine parts. Without banks it must have 0 epochs.
        train: the stage that trains the weights.
        release: how the banks are released, `"blocks"` or `"dense"`.
        polish: a last stage of second-order steps.
        limit: a first stage of second-order steps on a limit network.
        recruit: whether the release turns neurons with constants into further breakpoints, see `triangle.recruit`.

    Attributes:
        stage_epochs: length of each stage in epochs; shorter than in the config if `EarlyStopping` ended the stage.
    """

    task: Literal["regression", "classification"] | None = None
    """Selects the summary, figures and predictions that a run writes (`callbacks/reporting.py`)."""
    monitor: str | None = None
    """Validation metric that chooses `best.ckpt`."""
    stage_number: Tensor
    fit_metrics: tuple[str, ...] = ()
    """Metrics that are logged in a fit; empty if not known."""
    continuous = False
    """Whether most parameters (a backbone) are trained in all stages. If so, the schedule spans the whole run, each
    stage uses its part of it, and parameters that stay keep their optimizer's state at the switch."""

    def __init__(
        self,
        pretrain: Stage,
        train: Stage,
        release: Release = "blocks",
        polish: Polish | None = None,
        recruit: bool = False,
        limit: Limit | None = None,
    ) -> None:
        super().__init__()
        for name, given in {"pretrain": pretrain, "train": train}.items():
            if not isinstance(given, Stage):
                raise TypeError(f"{name} must be a Stage, such as Stage(epochs=100), got {given!r}")
        if train.second_order:
            raise ValueError(f"train.optimizer must be a class in torch.optim, got {train.optimizer}: use polish")
        self.stages: dict[StageName, Any] = {
            "limit": limit or Limit(epochs=0),
            "pretrain": pretrain,
            "train": train,
            "polish": polish or Polish(epochs=0),
        }
        self.stage_epochs = {name: int(stage.epochs) for name, stage in self.stages.items()}
        self._most_epochs = math.inf  # the trainer's `max_epochs`
        self.release_kind: Release = release
        self.recruit = recruit
        first: StageName = "limit" if self.stages["limit"].epochs else "pretrain"
        self.register_buffer("stage_number", torch.tensor(NUMBERS[first]))
        # A copy of the buffer: every step reads the stage, and reading a buffer on a GPU waits for the GPU.
        self._stage: StageName = first

    @property
    def banks(self) -> list[TriangleBank]:
        """All banks of the module."""
        return [module for module in self.modules() if isinstance(module, TriangleBank)]

    @property
    def stage(self) -> StageName:
        """The current stage."""
        return self._stage

    @property
    def trained_stage(self) -> StageName:
        """The stage that trained the network last: a stack that is built is in `pretrain`, even without such epochs."""
        untrained = self._stage == "pretrain" and not self.stages["pretrain"].epochs and self.stages["limit"].epochs
        return "limit" if untrained else self._stage

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        """Loads the parameters and sets the stage from its number."""
        super()._load_from_state_dict(state_dict, prefix, *args)
        self._stage = stage_name(int(self.stage_number))

    @property
    def total_epochs(self) -> int:
        """Length of all stages."""
        return sum(self.stage_epochs.values())

    def stage_at(self, epoch: int) -> StageName:
        """Returns the stage of an epoch (from 0); epochs after the last stage belong to the last stage."""
        present: StageName = "train"
        for name, epochs in self.stage_epochs.items():
            if epochs:
                present = name
            if epoch < epochs:
                return name
            epoch -= epochs
        return present

    def first_epoch(self, name: StageName) -> int:
        """The epoch at which a stage begins."""
        return sum(self.stage_epochs[earlier] for earlier in STAGES[: STAGES.index(name)])

    def place(self, epoch: int) -> str:
        """Returns an epoch (from 0) as shown to users, counted in its stage and from 1: `stage 'train', epoch 2/10`."""
        name = self.stage_at(epoch)
        number, epochs = epoch + 1 - self.first_epoch(name), self.stages[name].epochs
        return f"stage '{name}', " + (f"epoch {number}/{epochs}" if number <= epochs else f"after its {epochs} epochs")

    def ends_stage(self, epoch: int) -> bool:
        """Whether an epoch (from 0) is the last of its stage."""
        name = self.stage_at(epoch)
        return epoch + 1 == self.first_epoch(name) + self.stage_epochs[name]

    def end_stage_early(self, epoch: int) -> None:
        """Makes an epoch (from 0) the last one of its stage."""
        name = self.stage_at(epoch)
        self.stage_epochs[name] = epoch + 1 - self.first_epoch(name)
        self._limit_epochs()

    def _limit_epochs(self) -> None:
        """Makes the trainer end after the last stage, or earlier if its `max_epochs` is smaller."""
        self.trainer.fit_loop.max_epochs = int(min(self._most_epochs, self.total_epochs))

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["stage_epochs"] = {
            name: epochs for name, epochs in self.stage_epochs.items() if epochs != self.stages[name].epochs
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.stage_epochs |= checkpoint.get("stage_epochs", {})
        if self._trainer is not None:
            self._limit_epochs()

    def enter_stage(self, name: StageName) -> None:
        """Releases all banks if the stage needs it. Optimizers and wrappers must then be created again."""
        self._stage = name
        self.stage_number.fill_(NUMBERS[name])
        for bank in self.banks:
            if name not in ("limit", "pretrain") and bank.parameterization == "peaks":
                bank.release(self.release_kind, self.recruit)

    def finish(self) -> None:
        """Brings a loaded module into a form for use: a stack that is still its limit is built."""

    def is_logged(self, batch_idx: int) -> bool:
        """Whether Lightning writes the metrics of the current step. Other steps need not log, which saves time."""
        return bool(self.trainer._logger_connector.should_update_logs)

    def on_stage_end(self) -> None:
        """Called on all ranks after the last epoch of a stage, also of an interrupted stage, before checkpoints are
        saved."""

    def end_of_stage(self, metric: str) -> float | None:
        """Returns a metric on the validation data after the last epoch of a stage, equal on all ranks. None if only
        validations compute the metric."""
        return None

    def check_start(self) -> None:
        """Called before a fit, before anything is written.

        Raises:
            TriwaveError: the module cannot be trained with these data.
        """

    def check_trainer(self, trainer: Trainer, fits: bool) -> None:
        """Called before anything runs.

        Args:
            trainer: the trainer that will run the module.
            fits: whether it will train the module.

        Raises:
            TriwaveError: the module cannot run in this precision or on this device.
        """

    def check_finite(self) -> Any:
        """Called on all ranks before a checkpoint is saved.

        Raises:
            TrainingDiverged: the module has values that are not finite.
        """

    def setup(self, stage: str) -> None:
        self.check_trainer(self.trainer, fits=stage == "fit")
        if stage == "fit":
            asked = self.trainer.max_epochs
            self._most_epochs = math.inf if asked is None or asked == -1 else asked
            if self._most_epochs < self.total_epochs and not self.trainer.fast_dev_run:  # type: ignore[attr-defined]
                place = (
                    f"after {asked} of {self.total_epochs} epochs, in {self.place(max(int(self._most_epochs) - 1, 0))}"
                )
                say(f"trainer.max_epochs {asked} ends training {place}: -1 takes all stages")
            self._limit_epochs()
        # Construction is in float64; the trainer's precision converts the module.
        if self.trainer.precision == "32-true":
            self.to(torch.float32)

    def fit_kind(self, **more: bool) -> Fit:
        """Returns the properties of a fit of this module that `trainer_support` needs; see `Fit` for all of them."""
        stages = [name for name, stage in self.stages.items() if stage.epochs]
        second = [name for name in stages if self.stages[name].second_order]
        known = type(self).__module__.startswith("lit_triwave.")  # a class of the user may log other metrics
        return Fit(tuple(stages), tuple(second), self.total_epochs, metrics=self.fit_metrics if known else (), **more)

    def configure_callbacks(self) -> Sequence[Callback]:
        trainer: Any = self.trainer
        if trainer.state.fn == "fit":  # the command line has checked this already; a Trainer of the user has not
            options = ("accumulate_grad_batches", "gradient_clip_val", "limit_train_batches", "min_epochs")
            check_callbacks(trainer.callbacks, self.fit_kind())
            check_options({name: getattr(trainer, name) for name in options}, self.fit_kind())
        for callback in self.trainer.early_stopping_callbacks:
            if callback._check_on_train_epoch_end:
                raise TriwaveError(
                    "check_on_train_epoch_end of EarlyStopping must be null or false, got true: it ends a stage, which "
                    "is decided by validations; trainer.check_val_every_n_epoch 1 validates after each epoch"
                )
            # Lightning's default checks after each epoch, which is after `StageSwitch` has run.
            callback._check_on_train_epoch_end = False
        if trainer.state.fn == "fit" and trainer.early_stopping_callbacks:
            self._say_what_never_stops(trainer.check_val_every_n_epoch)
        return [StageSwitch()]

    def _say_what_never_stops(self, every: int | None) -> None:
        """Prints which stages `EarlyStopping` cannot end, because they have no validation."""
        for name, epochs in self.stage_epochs.items():
            first = self.first_epoch(name)
            if every and epochs and first // every == (first + epochs) // every:
                say(
                    f"EarlyStopping cannot end stage {name}: its {epochs} epochs have no validation, set "
                    f"trainer.check_val_every_n_epoch lower than {every}"
                )

    def parameter_groups(self) -> Parameters:
        """Returns the parameters that the optimizer of the current stage trains."""
        return self.parameters()

    def optimizer_rows(self) -> tuple[int, int]:
        """Rows and columns of what a second-order optimizer of the present stage keeps: replicas, and their numbers."""
        raise NotImplementedError

    def configure_optimizers(self) -> Any:
        stage = self.stages[self.stage]
        # A second-order step evaluates the network many times and does not use Lightning's gradients.
        self.automatic_optimization = not stage.second_order
        _ = self.trainer.estimated_stepping_batches  # makes Lightning load the data if it has not done so
        steps_per_epoch = math.ceil(self.trainer.num_training_batches / self.trainer.accumulate_grad_batches)
        span, begun = (self.total_epochs, self.first_epoch(self.stage)) if self.continuous else (stage.epochs, 0)
        optimizer, schedule = stage.configure(self.parameter_groups(), steps_per_epoch * span, steps_per_epoch * begun)
        if schedule is None:
            return optimizer
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}
