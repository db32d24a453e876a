"""`StagedModule`: a LightningModule that pretrains the peaks of its banks and then trains their weights."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping, Timer
from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy, Strategy, StrategyRegistry
from torch import Tensor
from torch.optim import Optimizer

from lit_triwave.distributed.ranks import say
from lit_triwave.errors import TriwaveError
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


class StageSwitch(Callback):
    """Switches a `StagedModule` to its next stage at the start of the stage's first epoch.

    The whole switch is here and in `TriangleBank._load_from_state_dict`:

    - (a) Released weights are new parameters. So Lightning's `setup_optimizers` creates the optimizer and its schedule
      again. It calls the module's `configure_optimizers`, which reads the stage.
    - (b) DDP's reducer only knows the parameters with which it was built. So the module is wrapped again. Each stage
      then has exactly its own parameters, and no parameter is unused.
    - (c) A resumed run needs no special code. Lightning first loads the module's stage and parameters, which puts the
      banks into the right state. Then it wraps the module, creates the optimizers and loads their states.
    - (d) Some parameters are trained in all stages (a backbone beside a bank). A `continuous` module keeps the
      optimizer's state of these parameters, such as Adam's moments or SGD's momentum. In function regression all
      parameters are replaced, and each stage starts with a new optimizer.
    - (e) A checkpoint at the end of the last pretraining epoch still has peaks. The resumed run switches at the same
      point as the uninterrupted run, at the start of the next epoch.
    """

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        strategy = trainer.strategy
        if isinstance(strategy, DDPStrategy) and strategy.world_size > 2 and strategy.root_device.type == "cpu":
            # DDP moves gradients to other buckets after its first step, unless it searches for unused parameters. This
            # changes the order of the sum over more than two ranks, and a resumed run has another first step. On GPUs
            # runs are not bit-identical anyway, so there the search would only cost time.
            strategy._ddp_kwargs.setdefault("find_unused_parameters", True)

    def on_train_start(self, trainer: Trainer, pl_module: StagedModule) -> None:  # type: ignore[override]
        # After a checkpoint of an epoch's last step, Lightning continues with the next epoch, without its start hook.
        self.on_train_epoch_start(trainer, pl_module)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: StagedModule) -> None:  # type: ignore[override]
        name = pl_module.stage_at(trainer.current_epoch)
        if name not in ("limit", pl_module.stage):  # a limit is always the first stage
            pl_module.enter_stage(name)
            before = list(trainer.optimizers)
            renew_strategy(trainer)
            if pl_module.continuous:
                keep_state(before, trainer.optimizers)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: StagedModule) -> None:  # type: ignore[override]
        self._stop_early(trainer, pl_module)
        if ends_here(trainer) or pl_module.ends_stage(trainer.current_epoch):
            before = pl_module.stage
            pl_module.on_stage_end()
            if pl_module.stage != before:
                # A stack is built at the end of its limit, so a checkpoint of this epoch has a ReLU network.
                renew_strategy(trainer)

    def _stop_early(self, trainer: Trainer, module: StagedModule) -> None:
        """Ends the stage instead of the run if an `EarlyStopping` asked for a stop, and resets this `EarlyStopping`."""
        epoch = trainer.current_epoch
        name = module.stage_at(epoch)
        asked = [one for one in trainer.early_stopping_callbacks if asks_to_stop(one, module.first_epoch(name))]
        if not (trainer.should_stop and asked and trainer.fit_loop._can_stop_early):
            return
        say(f"EarlyStopping on {asked[0].monitor} ends {module.place(epoch)}")
        module.end_stage_early(epoch)
        if epoch + 1 < module.total_epochs and not trainer.strategy.broadcast(time_is_up(trainer)):
            trainer.should_stop = False
            for one in trainer.early_stopping_callbacks:
                # The next stage trains other parameters, so it starts with the full patience and without a best score.
                one.wait_count = one.stopped_epoch = 0
                one.best_score = torch.full_like(one.best_score, torch.inf if one.mode == "min" else -torch.inf)
                if hasattr(one, "stopping_reason"):  # since Lightning 2.6
                    one.stopping_reason = type(one.stopping_reason)(0)


def time_is_up(trainer: Any) -> bool:
    """Whether `max_time` or a `Timer` of the user has ended the training."""
    left = [one.time_remaining() for one in trainer.callbacks if isinstance(one, Timer)]
    return any(seconds is not None and seconds <= 0 for seconds in left)


def ends_here(trainer: Trainer, within_epoch: bool = False) -> bool:
    """Whether this epoch is the last one of the run; with `within_epoch`, whether this step is the last one."""
    stops = trainer.should_stop and trainer.fit_loop._can_stop_early
    last = trainer.current_epoch + 1 == trainer.max_epochs and not within_epoch
    return stops or last or trainer.global_step == trainer.max_steps


def asks_to_stop(callback: EarlyStopping, since: int) -> bool:
    """Whether an `EarlyStopping` has asked for a stop in epoch `since` or later."""
    reason = getattr(callback, "stopping_reason", None)
    asked = callback.stopped_epoch > 0 if reason is None else reason.value > 0
    return asked and callback.stopped_epoch >= since


def keep_state(before: Sequence[Optimizer], after: Sequence[Optimizer]) -> None:
    """Copies the optimizer state of the parameters that stay, if the new optimizer has the same class."""
    for old, new in zip(before, after, strict=True):
        if type(getattr(old, "optimizer", old)) is type(getattr(new, "optimizer", new)):
            for group in new.param_groups:
                for parameter in group["params"]:
                    if parameter in old.state:
                        new.state[parameter] = old.state[parameter]


def check_strategy(strategy: str | Strategy, module: LightningModule) -> None:
    """Refuses, before training, a strategy with which a module could not enter its second stage.

    Args:
        strategy: the trainer's strategy.
        module: the module to train.

    Raises:
        TriwaveError: the strategy shards parameters (FSDP, DeepSpeed, tensor parallelism).
    """
    stages = [name for name, stage in getattr(module, "stages", {}).items() if stage.epochs]
    changes = len(stages) > 1 or "limit" in stages  # at the end of a limit, a stack is built
    kind = type(strategy)
    if isinstance(strategy, str):
        kind = StrategyRegistry[strategy]["strategy"] if strategy in StrategyRegistry else DDPStrategy
    if changes and not issubclass(kind, (DDPStrategy, SingleDeviceStrategy)):
        raise TriwaveError(
            f"trainer.strategy must be ddp or auto, got {strategy if isinstance(strategy, str) else kind.__name__}: it "
            "shards the parameters of the first stage, but later stages have other parameters"
        )


def renew_strategy(trainer: Trainer) -> None:
    """Wraps the module and creates optimizers and schedules again, after its parameters were replaced."""
    strategy = trainer.strategy
    module = trainer.lightning_module
    assert isinstance(module, LightningModule)
    steps = trainer.global_step
    if isinstance(strategy, DDPStrategy):
        strategy.model = module
        strategy.configure_ddp()
    strategy.setup_optimizers(trainer)
    # Second-order stages use manual optimization, and Lightning counts their steps separately.
    loop = trainer.fit_loop.epoch_loop
    kept = loop.automatic_optimization.optim_progress.optimizer.step
    if not module.automatic_optimization:
        kept = loop.manual_optimization.optim_step_progress
    kept.total.ready = kept.total.completed = steps
