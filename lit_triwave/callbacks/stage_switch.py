"""The switch from one stage of training to the next inside a running `fit`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy, Strategy, StrategyRegistry
from torch.optim import Optimizer

from lit_triwave.errors import TriwaveError

if TYPE_CHECKING:
    from lit_triwave.modules.staged import StagedModule


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
        if name != pl_module.stage:
            pl_module.enter_stage(name)
            before = list(trainer.optimizers)
            renew_strategy(trainer)
            if pl_module.continuous:
                keep_state(before, trainer.optimizers)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: StagedModule) -> None:  # type: ignore[override]
        if pl_module.ends_here():
            pl_module.on_stage_end()


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
    kind = type(strategy)
    if isinstance(strategy, str):
        kind = StrategyRegistry[strategy]["strategy"] if strategy in StrategyRegistry else DDPStrategy
    if len(stages) > 1 and not issubclass(kind, (DDPStrategy, SingleDeviceStrategy)):
        raise TriwaveError(
            f"strategy {strategy if isinstance(strategy, str) else kind.__name__}: it shards the parameters that there "
            f"are at the start, and the stages {' and '.join(stages)} have different ones: use ddp"
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
