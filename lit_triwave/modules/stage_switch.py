"""`StageSwitch`: the change from one stage to the next inside one `fit`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping, Timer
from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy, Strategy, StrategyRegistry
from torch.optim import Optimizer

from lit_triwave.distributed.ranks import say
from lit_triwave.errors import TriwaveError

if TYPE_CHECKING:
    from lit_triwave.modules.staged import StagedModule


class StageSwitch(Callback):
    """Switches a `StagedModule` to its next stage at the start of the stage's first epoch.

    What the module does at the switch is in `StagedModule.enter_stage`: it releases the banks. The rest is here and in
    `TriangleBank._load_from_state_dict`:

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
