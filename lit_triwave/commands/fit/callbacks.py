"""Makes the user's callbacks, loggers and plugins work together with those of a run, and saves its config."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint, SpikeDetection
from lightning.pytorch.cli import SaveConfigCallback
from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.plugins import CheckpointIO

from lit_triwave.errors import TriwaveError
from lit_triwave.files import written_whole
from lit_triwave.tracking.private_paths import hidden
from lit_triwave.tracking.run import Run
from lit_triwave.tracking.run_files import CHECKPOINTS, CONFIG_YAML, MODEL_CHECKPOINTS
from lit_triwave.tracking.wandb_settings import wandb_mode


def as_list(given: Any) -> list[Any]:
    """Returns the values of a trainer option that takes None, one value, or several."""
    if given is None or isinstance(given, bool):
        return []
    return list(given) if isinstance(given, Iterable) else [given]


def prepare_callbacks(callbacks: Iterable[Callback], folder: Path) -> None:
    """Gives each `ModelCheckpoint` of the user its own folder, because it could replace files such as `last.ckpt`.

    A `SpikeDetection` can load its state: Lightning 2.6 saves it from `running_mean` and loads it into `running`.
    https://github.com/Lightning-AI/pytorch-lightning/blob/2.6.0/src/lightning/fabric/utilities/spike.py

    Args:
        callbacks: callbacks of the user.
        folder: folder of the run.

    Raises:
        TriwaveError: one asks for the folder of the run's own checkpoints.
    """
    own = folder / CHECKPOINTS
    for callback in callbacks:
        if isinstance(callback, SpikeDetection) and not hasattr(callback, "running"):
            callback.running = callback.running_mean  # type: ignore[attr-defined]
        if not isinstance(callback, ModelCheckpoint):
            continue
        if callback.dirpath is None:
            callback.dirpath = str(own / MODEL_CHECKPOINTS)
        elif Path(callback.dirpath).resolve() == own.resolve():
            needed = "must be another folder than that of the run's own checkpoints"
            advice = f"leave it out for {own / MODEL_CHECKPOINTS}"
            raise TriwaveError(f"dirpath of {type(callback).__name__} {needed}, got {own}: {advice}")


def check_loggers(loggers: Iterable[Any], run: Run) -> None:
    """Refuses a second W&B run in this process.

    Raises:
        TriwaveError: there is a `WandbLogger` beside the run's own.
    """
    if any(isinstance(logger, WandbLogger) for logger in loggers) and wandb_mode(run.wandb)[0] != "disabled":
        advice = "leave it out, or set run.wandb to disabled"
        raise TriwaveError(f"trainer.logger must have no WandbLogger beside the run's own: {advice}")


def check_plugins(plugins: Iterable[Any]) -> None:
    """Refuses plugins that would save checkpoints in another way.

    Raises:
        TriwaveError: there is a `CheckpointIO`.
    """
    for plugin in plugins:
        if isinstance(plugin, CheckpointIO):
            name = type(plugin).__name__
            raise TriwaveError(f"trainer.plugins must have no CheckpointIO, got {name}: runs save files by their own")


class SaveFitConfig(SaveConfigCallback):
    """Saves `config.yaml` of a `fit`. An evaluation must not change it, because it describes how the run was made.

    The run's id and checkpoint are left out, so that the saved config starts another run of the same experiment. The
    user's name is also left out, see `private_paths`.
    """

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage == "fit":
            self.config = hidden(self.config.clone())
            self.config.run.id = self.config.ckpt_path = None
            super().setup(trainer, pl_module, stage)

    def save_config(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        # `save_to_log_dir` would leave half a file if the process were killed.
        with written_whole(Path(trainer.default_root_dir) / CONFIG_YAML) as partial:
            # The config was checked when it was parsed; a second check would take a tenth of a second.
            options = {"skip_none": False, "skip_validation": True, "multifile": False}
            self.parser.save(self.config, str(partial), overwrite=True, **options)
