"""Lightning's CLI with this project's run folders, loggers and callbacks."""

from __future__ import annotations

import logging
import os
import shlex
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from jsonargparse import Namespace
from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI, SaveConfigCallback
from lightning.pytorch.utilities import rank_zero_only

from lit_triwave.callbacks.checkpoint import StageCheckpoint
from lit_triwave.callbacks.figures import RegressionFigures
from lit_triwave.callbacks.history import SeedHistory
from lit_triwave.callbacks.interruption import Interruption
from lit_triwave.callbacks.predictions import PredictionCSV
from lit_triwave.callbacks.progress import StageProgress
from lit_triwave.callbacks.summary import RegressionSummary
from lit_triwave.errors import TriwaveError
from lit_triwave.loggers import make_loggers, say
from lit_triwave.modules.regressor import FunctionRegressor
from lit_triwave.runs import (
    RUN_ID_VARIABLE,
    Run,
    latest_checkpoint,
    new_run_id,
    open_run_folder,
    read_metrics,
    run_of_checkpoint,
)

INTERRUPTED = 130

LINKS = {"data.domain": "domain", "data.target_range": "target_range", "data.curvature": "data_curvature"}
"""What a module learns from its data: attribute of the data ↦ argument of the module."""

QUIET = (
    # `main(args)` is called from Python by tests and notebooks, whose own command line is not ours.
    ".*LightningCLI's args parameter is intended.*",
    # Data lies in memory as tensors; worker processes would only slow it down.
    ".*does not have many workers.*",
    # Epochs of one full batch are the paper's protocol.
    ".*smaller than the logging interval.*",
    # Resuming writes into the run's own folder; `RunCSV` puts the earlier rows back.
    ".*Experiment logs directory.*exists and is not empty.*",
    ".*Checkpoint directory.*exists and is not empty.*",
    # https://github.com/Lightning-AI/pytorch-lightning/issues/20027
    ".*`isinstance\\(treespec, LeafSpec\\)` is deprecated.*",
)


class SaveFitConfig(SaveConfigCallback):
    """Saves `config.yaml` for `fit` alone: evaluating a run must not change how it says it was made."""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage == "fit":
            super().setup(trainer, pl_module, stage)


class TriwaveCLI(LightningCLI):
    """`fit`, `validate`, `test`, `predict` in run folders `runs/<experiment>/<run id>/`.

    Args:
        started: `time.monotonic()` when the process started.
        options: for `LightningCLI`.
    """

    def __init__(self, started: float, **options: Any) -> None:
        self.started = started
        super().__init__(LightningModule, LightningDataModule, **options)

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_class_arguments(Run, "run")
        for source, target in LINKS.items():
            parser.link_arguments(source, f"model.init_args.{target}", apply_on="instantiate")

    def _parse_ckpt_path(self) -> None:
        """Not Lightning's: it would let a checkpoint's hyperparameters silently replace those that the user gave."""

    def before_instantiate_classes(self) -> None:
        """Settles which run this is: a new one, or that of the checkpoint."""
        config = self.config[self.subcommand]
        run: Namespace = config.run
        if run.experiment is None:
            files = [Path(str(path)).stem for path in config.get("config") or []]
            run.experiment = files[0] if files else "default"
        checkpoint = config.get("ckpt_path")
        if checkpoint == "last" or (checkpoint is None and self.subcommand != "fit"):
            checkpoint = latest_checkpoint(run.root, run.experiment)
            say(f"checkpoint: {checkpoint}")
        if checkpoint is not None:
            if not Path(checkpoint).is_file():
                raise TriwaveError(f"--ckpt_path {checkpoint}: no such file")
            config.ckpt_path = str(checkpoint)
            place = run_of_checkpoint(Path(checkpoint).resolve())
            if place is not None:
                run.root, run.experiment, run.id = place
        run.id = run.id or new_run_id()

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        config = self.config_init[self.subcommand]
        self.run: Run = config.run
        self.checkpoint: dict[str, Any] | None = None
        if config.ckpt_path is not None:
            self.checkpoint = load_checkpoint(Path(config.ckpt_path))
            check_same_model(self.checkpoint, self.model)
        open_run_folder(self.run.folder)
        os.environ[RUN_ID_VARIABLE] = self.run.id or ""
        callbacks: list[Callback] = []
        if self.subcommand == "fit":
            self.interruption = Interruption()
            callbacks += [self.interruption, StageCheckpoint(self.run.checkpoint_every)]
        if isinstance(self.model, FunctionRegressor):
            history = SeedHistory()
            summary = RegressionSummary(self.run.folder, config.seed_everything, self.started)
            callbacks += [history, summary, RegressionFigures(self.run.folder, history)]
            callbacks += [PredictionCSV(self.run.folder / "predictions.csv")] if self.subcommand == "predict" else []
        if config.trainer.enable_progress_bar is not False:
            callbacks.append(StageProgress())
        self.trainer_defaults["callbacks"] = callbacks
        kwargs["default_root_dir"] = self.run.folder
        if self.subcommand != "fit":
            kwargs["logger"] = False
        elif config.trainer.logger in (None, True):
            kwargs["logger"] = self._loggers()
        return super().instantiate_trainer(**kwargs)

    def _loggers(self) -> Any:
        # Read before the CSV logger starts, which would delete the file of a run that goes on.
        rows = read_metrics(self.run.folder / "metrics.csv", self.checkpoint["global_step"]) if self.checkpoint else []
        loggers = make_loggers(self.run)
        for step, metrics in rows:
            loggers[0].log_metrics(metrics, step)
        return loggers

    def before_fit(self) -> None:
        where = f"resumed from {self.config_init.fit.ckpt_path}" if self.checkpoint else "new run"
        say(f"run {self.run.folder}: {where}, {describe(self.model)}")

    def after_fit(self) -> None:
        """Tests what was fitted, also after Ctrl-C, which draws the figures and writes the summary."""
        if self.trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        self.trainer.test(self.model, datamodule=self.datamodule, verbose=False)
        if self.interruption.requested is not None:
            command = f"python -m lit_triwave fit --config {self.run.folder}/config.yaml"
            resume = shlex.join([*command.split(), "--ckpt_path", f"{self.run.folder}/checkpoints/last.ckpt"])
            say(
                f"interrupted in stage '{self.model.stage}' after epoch {self.trainer.current_epoch}; go on with:\n{resume}"
            )


def describe(model: LightningModule) -> str:
    count = sum(parameter.numel() for parameter in model.parameters())
    return f"{count} parameters"


def load_checkpoint(path: Path) -> dict[str, Any]:
    """A checkpoint's content, without unpickling arbitrary objects.

    Raises:
        TriwaveError: it can't be read.
    """
    try:
        content: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        content["state_dict"], content["global_step"]
    except Exception as error:
        reason = " ".join(str(error).split())[:150]
        raise TriwaveError(f"checkpoint {path} cannot be read ({type(error).__name__}: {reason})") from error
    return content


def check_same_model(checkpoint: dict[str, Any], model: LightningModule) -> None:
    """Refuses a checkpoint of a model with other hyperparameters; the lengths of stages may differ.

    Raises:
        TriwaveError: naming the fields that differ.
    """
    saved = checkpoint.get("hyper_parameters", {})
    differing = [
        f"{name} is {saved[name]!r} there and {value!r} here"
        for name, value in plain(dict(model.hparams)).items()
        if name not in ("pretrain", "train", "_class_path", "_instantiator")
        and name in saved
        and plain(saved[name]) != value
    ]
    if differing:
        raise TriwaveError(f"the checkpoint is of another model: {'; '.join(differing)}")


def plain(value: Any) -> Any:
    """Containers as dicts and lists, so that a saved value compares equal to a parsed one."""
    if isinstance(value, (dict, Namespace)):
        return {key: plain(item) for key, item in (value if isinstance(value, dict) else vars(value)).items()}
    return [plain(item) for item in value] if isinstance(value, (list, tuple)) else value


def run(args: Sequence[str], started: float) -> int:
    """Parses and runs one command in a process that started at `started`; returns the exit code."""
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    logging.getLogger("lightning.fabric").setLevel(logging.WARNING)
    for message in QUIET:
        warnings.filterwarnings("ignore", message=message)
    try:
        cli = TriwaveCLI(
            started,
            subclass_mode_model=True,
            subclass_mode_data=True,
            seed_everything_default=0,
            auto_configure_optimizers=False,
            save_config_callback=SaveFitConfig,
            save_config_kwargs={"overwrite": True},
            trainer_defaults={
                "max_epochs": -1,  # as many as the stages ask for
                "log_every_n_steps": 10,
                "check_val_every_n_epoch": 50,
                "num_sanity_val_steps": 0,
                "use_distributed_sampler": False,  # the data modules shard their batches themselves
                "enable_model_summary": False,
            },
            args=list(args),
        )
    finally:
        os.environ.pop(RUN_ID_VARIABLE, None)
    interruption = getattr(cli, "interruption", None)
    return INTERRUPTED if interruption is not None and interruption.requested is not None else 0
