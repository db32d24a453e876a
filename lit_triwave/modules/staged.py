"""`StagedModule`: a LightningModule that pretrains the peaks of its banks and then trains their weights."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy, Strategy, StrategyRegistry
from torch import Tensor
from torch.optim import Optimizer

from lit_triwave.errors import TriwaveError
from lit_triwave.modules.stages import Limit, Parameters, Polish, Stage
from lit_triwave.nn.bank import Release, TriangleBank

StageName = Literal["limit", "pretrain", "train", "polish"]
STAGES: tuple[StageName, ...] = ("limit", "pretrain", "train", "polish")
NUMBERS: dict[StageName, int] = {"pretrain": 0, "train": 1, "polish": 2, "limit": 3}
"""What checkpoints and metrics call the stages. The limit came last and has the next free number."""


def stage_name(number: int) -> StageName:
    """The stage that a checkpoint's number means."""
    return next(name for name, own in NUMBERS.items() if own == number)


class StagedModule(LightningModule):
    """Training in stages within one `fit`: `pretrain` (the peaks), `train` (the released weights), perhaps `polish`.

    A stack has a stage before them, `limit`, in which its limit network is trained.

    The stage is a buffer, so it is in every checkpoint with the parameters that belong to it, and is known again before
    a resumed run makes its optimizers. `StageSwitch`, which this module brings along, does the switch.

    Args:
        pretrain: the stage in which peaks, scales and affine parts are the parameters. Without banks it must be empty.
        train: the stage in which the weights are.
        release: how the banks are released, `"blocks"` or `"dense"`.
        polish: a last stage of second-order steps.
        limit: a first stage of second-order steps on a limit network.
        recruit: whether the release lets neurons that carry constants make further kinks, see `triangle.recruit`.
    """

    task: Literal["regression", "classification"] | None = None
    """Selects the summary, figures and predictions that a run writes (`callbacks/reporting.py`)."""
    monitor: str | None = None
    """Logged validation metric by which `best.ckpt` is chosen."""
    stage_number: Tensor
    continuous = False
    """Whether most parameters are trained through all stages (a backbone): then one schedule spans the whole run, each
    stage taking its part of its own, and parameters that stay keep their optimizer's state at the switch."""

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
        self.release_kind: Release = release
        self.recruit = recruit
        first: StageName = "limit" if self.stages["limit"].epochs else "pretrain"
        self.register_buffer("stage_number", torch.tensor(NUMBERS[first]))
        # Kept beside the buffer, which only checkpoints need: every step asks, and reading a GPU waits for it.
        self._stage: StageName = first

    @property
    def banks(self) -> list[TriangleBank]:
        """All banks of the module."""
        return [module for module in self.modules() if isinstance(module, TriangleBank)]

    @property
    def stage(self) -> StageName:
        """The stage that the module is in."""
        return self._stage

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        """Loads the stage with its number."""
        super()._load_from_state_dict(state_dict, prefix, *args)
        self._stage = stage_name(int(self.stage_number))

    @property
    def total_epochs(self) -> int:
        """Length of all stages."""
        return sum(stage.epochs for stage in self.stages.values())

    def stage_at(self, epoch: int) -> StageName:
        """The stage that an epoch (from 0) belongs to; epochs after the last stage belong to it."""
        present: StageName = "train"
        for name, stage in self.stages.items():
            if stage.epochs:
                present = name
            if epoch < stage.epochs:
                return name
            epoch -= stage.epochs
        return present

    def first_epoch(self, name: StageName) -> int:
        """The epoch at which a stage begins."""
        return sum(self.stages[earlier].epochs for earlier in STAGES[: STAGES.index(name)])

    def place(self, epoch: int) -> str:
        """An epoch (from 0) as users count it, in its stage and from 1: `stage 'train', epoch 2/10`."""
        name = self.stage_at(epoch)
        number, epochs = epoch + 1 - self.first_epoch(name), self.stages[name].epochs
        return f"stage '{name}', " + (f"epoch {number}/{epochs}" if number <= epochs else f"after its {epochs} epochs")

    def ends_stage(self, epoch: int) -> bool:
        """Whether an epoch (from 0) is the last of its stage."""
        name = self.stage_at(epoch)
        end: int = self.first_epoch(name) + self.stages[name].epochs
        return epoch + 1 == end

    def ends_here(self) -> bool:
        """Whether this epoch is the last of its stage, of the run as limited by the user, or of an interrupted run."""
        epoch, trainer = self.trainer.current_epoch, self.trainer
        limits = epoch + 1 == trainer.max_epochs or trainer.global_step == trainer.max_steps
        return trainer.should_stop or limits or self.ends_stage(epoch)

    def enter_stage(self, name: StageName) -> None:
        """Releases all banks where the stage needs it. Optimizers and wrappers of the old parameters are void."""
        self._stage = name
        self.stage_number.fill_(NUMBERS[name])
        for bank in self.banks:
            if name not in ("limit", "pretrain") and bank.parameterization == "peaks":
                bank.release(self.release_kind, self.recruit)

    def finish(self) -> None:
        """Makes a loaded module a network as the stages leave it; a stack that is still its limit is built."""

    def is_logged(self, batch_idx: int) -> bool:
        """Whether Lightning writes the metrics of the step that takes this batch, asked before the step."""
        return False

    def on_stage_end(self) -> None:
        """Called on all ranks after the last epoch of a stage, or of an interrupted one, before checkpoints are
        saved."""

    def end_of_stage(self, metric: str) -> float | None:
        """A metric of the validation data after the last epoch of a stage, alike on all ranks; None where it is not
        taken then, but by validations alone."""
        return None

    def check_finite(self) -> Any:
        """Called on all ranks before a checkpoint is saved.

        Raises:
            TrainingDiverged: the module is not worth keeping.
        """

    def setup(self, stage: str) -> None:
        if stage == "fit" and self.trainer.max_epochs == -1:
            # No limit was asked for: the stages say how long the run is.
            self.trainer.fit_loop.max_epochs = self.total_epochs
        # Construction is in float64; a run in another precision says so to the trainer.
        if self.trainer.precision == "32-true":
            self.to(torch.float32)

    def configure_callbacks(self) -> Sequence[Callback]:
        return [StageSwitch()]

    def parameter_groups(self) -> Parameters:
        """What the optimizer of the present stage trains."""
        return self.parameters()

    def configure_optimizers(self) -> Any:
        stage = self.stages[self.stage]
        # A second-order step evaluates the network many times and takes no gradients of Lightning's.
        self.automatic_optimization = not stage.second_order
        _ = self.trainer.estimated_stepping_batches  # Lightning loads the data, if it has not yet
        steps_per_epoch = math.ceil(self.trainer.num_training_batches / self.trainer.accumulate_grad_batches)
        span, begun = (self.total_epochs, self.first_epoch(self.stage)) if self.continuous else (stage.epochs, 0)
        optimizer, schedule = stage.configure(self.parameter_groups(), steps_per_epoch * span, steps_per_epoch * begun)
        if schedule is None:
            return optimizer
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


class StageSwitch(Callback):
    """Takes a `StagedModule` into its next stage at the start of the stage's first epoch.

    All that the switch involves is here and in `TriangleBank._load_from_state_dict`:

    - (a) Released weights are new parameters, so the optimizer and its schedule are made anew by Lightning's own
      `setup_optimizers`, which asks the module's `configure_optimizers`, which looks at the stage.
    - (b) DDP's reducer knows only the parameters that it was built with, so the module is wrapped anew. Each stage has
      exactly its own parameters then: nothing is unused, and `find_unused_parameters` is not needed.
    - (c) A resumed run needs nothing: Lightning loads the module's stage and parameters, which bring the banks into
      theirs, before it wraps the module, makes the optimizers and loads their states.
    - (d) What a module trains through all stages (a backbone beside a bank) goes on as if nothing had been: a
      `continuous` module keeps the optimizer's state of every parameter that stays, so that Adam does not forget the
      gradients' sizes nor SGD its momentum. In function regression everything is exchanged, and each stage begins anew.
    - (e) A checkpoint at the end of the last pretraining epoch still holds peaks; the resumed run switches where the
      uninterrupted one does, at the start of the next epoch.
    """

    def on_train_start(self, trainer: Trainer, pl_module: StagedModule) -> None:  # type: ignore[override]
        # From a checkpoint of an epoch's last step, Lightning goes on with the next epoch, but without its start hook.
        self.on_train_epoch_start(trainer, pl_module)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: StagedModule) -> None:  # type: ignore[override]
        name = pl_module.stage_at(trainer.current_epoch)
        if name not in ("limit", pl_module.stage):  # a limit comes first or never
            pl_module.enter_stage(name)
            before = list(trainer.optimizers)
            renew_strategy(trainer)
            if pl_module.continuous:
                keep_state(before, trainer.optimizers)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: StagedModule) -> None:  # type: ignore[override]
        if pl_module.ends_here():
            before = pl_module.stage
            pl_module.on_stage_end()
            if pl_module.stage != before:
                # A stack is built at the end of its limit, so that a checkpoint of this epoch holds a ReLU network.
                renew_strategy(trainer)


def keep_state(before: Sequence[Optimizer], after: Sequence[Optimizer]) -> None:
    """Hands over the state of the parameters that stay, where the kind of optimizer stays too."""
    for old, new in zip(before, after, strict=True):
        if type(getattr(old, "optimizer", old)) is type(getattr(new, "optimizer", new)):
            for group in new.param_groups:
                for parameter in group["params"]:
                    if parameter in old.state:
                        new.state[parameter] = old.state[parameter]


def check_strategy(strategy: str | Strategy, module: LightningModule) -> None:
    """Refuses, before anything is trained, a strategy under which a module could not enter its second stage.

    Args:
        strategy: what the trainer is asked for.
        module: that is going to be trained.

    Raises:
        TriwaveError: it shards parameters (FSDP, DeepSpeed, tensor parallelism).
    """
    stages = [name for name, stage in getattr(module, "stages", {}).items() if stage.epochs]
    changes = len(stages) > 1 or "limit" in stages  # at whose end a stack is built
    kind = type(strategy)
    if isinstance(strategy, str):
        kind = StrategyRegistry[strategy]["strategy"] if strategy in StrategyRegistry else DDPStrategy
    if changes and not issubclass(kind, (DDPStrategy, SingleDeviceStrategy)):
        raise TriwaveError(
            f"strategy {strategy if isinstance(strategy, str) else kind.__name__}: it shards the parameters that there "
            "are at the start, but later stages have others: use ddp"
        )


def renew_strategy(trainer: Trainer) -> None:
    """Wraps the module and makes optimizers and schedules anew, after its parameters were exchanged."""
    strategy = trainer.strategy
    if isinstance(strategy, DDPStrategy):
        module = trainer.lightning_module
        assert isinstance(module, LightningModule)
        strategy.model = module
        strategy.configure_ddp()
    strategy.setup_optimizers(trainer)
