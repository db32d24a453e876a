"""Lightning's CLI with this project's run folders, loggers and callbacks."""

from __future__ import annotations

import os
import re
import shlex
import signal
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import Any

from jsonargparse import Namespace
from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.utilities import rank_zero_only

from datamodules import DigitsDataModule, FunctionDataModule, TableDataModule
from datamodules.resumable import ResumableDataModule
from lit_triwave.analysis.costs import final_parameters, multiply_adds
from lit_triwave.callbacks.progress import StageProgress
from lit_triwave.callbacks.reporting import reporting
from lit_triwave.checkpoints.best import best_checkpoint, kept_checkpoint
from lit_triwave.checkpoints.choose import choose_checkpoint
from lit_triwave.checkpoints.io import AtomicCheckpointIO
from lit_triwave.checkpoints.last import StageCheckpoint
from lit_triwave.checkpoints.load import load_checkpoint
from lit_triwave.checkpoints.origin import Origin
from lit_triwave.checkpoints.same_run import RunRecord, check_same_run, course_of
from lit_triwave.commands.config_checks import LINKS, check_links, check_nulls
from lit_triwave.commands.fit.start_report import devices, start_block
from lit_triwave.commands.parser import known_classes
from lit_triwave.commands.quiet import quiet
from lit_triwave.distributed.cluster import check_meeting_point, cluster_environment, leave_ranks, one_message, requeued
from lit_triwave.distributed.interruption import Interruption
from lit_triwave.distributed.launcher import LAUNCHER_VARIABLE, announce_launcher
from lit_triwave.distributed.ranks import say
from lit_triwave.distributed.signals import INTERRUPTED, REQUEUE, REQUEUE_SIGNAL, SIGNALS, interrupted
from lit_triwave.distributed.sync_batch_norm import SynchronizedBatchNorms
from lit_triwave.distributed.watch import ranks_end_together
from lit_triwave.errors import Interrupted, TrainingDiverged
from lit_triwave.modules.classifier import ImageClassifier
from lit_triwave.modules.regressor import FunctionRegressor
from lit_triwave.modules.staged import check_strategy
from lit_triwave.modules.stages import Polish, Stage
from lit_triwave.nn.networks import TriangleNetwork
from lit_triwave.tracking.config_yaml import SaveFitConfig
from lit_triwave.tracking.flat_config import plain
from lit_triwave.tracking.loggers import finish_wandb, make_loggers
from lit_triwave.tracking.private_paths import found
from lit_triwave.tracking.run import (
    RUN_ID_VARIABLE,
    SWEEP_VARIABLE,
    Run,
    given_run_id,
    place_run,
    results_folder,
    wandb_id,
)
from lit_triwave.tracking.run_folder import FitFolder
from lit_triwave.tracking.run_json import RunFile, flat_config, hardware, tags
from lit_triwave.tracking.wandb_rows import WandbRows


class TriwaveCLI(LightningCLI):
    """`fit`, `validate`, `test`, `predict` in run folders `runs/<experiment>/<run id>/`.

    Args:
        started: `time.monotonic()` when the process started.
        kept: closed when the process, or what runs this in one, is done with the run.
        options: for `LightningCLI`.
    """

    def __init__(self, started: float, kept: ExitStack, **options: Any) -> None:
        self.started = started
        self.kept = kept
        self.interruption: Interruption | None = None  # of a fit
        self.checkpoints: StageCheckpoint | None = None  # of a fit
        self.record: RunFile | None = None  # of a fit, on the first rank
        self.stopped: signal.Signals | None = None  # by which signal, before the run's end
        self.wandb_id: str | None = None
        super().__init__(LightningModule, LightningDataModule, **options)

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_class_arguments(Run, "run")
        for source, target in LINKS.items():
            parser.link_arguments(source, f"model.init_args.{target}", apply_on="instantiate")

    def _parse_ckpt_path(self) -> None:
        """Not Lightning's: it would let a checkpoint's hyperparameters silently replace those that the user gave."""

    def before_instantiate_classes(self) -> None:
        """Settles paths, the experiment's name and the checkpoint."""
        config = self.config[self.subcommand] = found(self.config[self.subcommand])
        check_nulls(plain(config))
        if config.run.experiment is None:
            files = [Path(str(path)).stem for path in config.get("config") or []]
            config.run.experiment = re.sub(r"[^\w.-]+", "_", files[0]) if files else "default"
        asked, fits = config.get("ckpt_path"), self.subcommand == "fit"
        if fits and asked is None and requeued():
            config.run.id = config.run.id or given_run_id()
            asked = "last" if config.run.id else None
        self.chosen = choose_checkpoint(asked, config.run, fits)

    def _run_subcommand(self, subcommand: str) -> None:
        with ranks_end_together(self.trainer, self.interruption, self._abandon), self._recorded(subcommand):
            super()._run_subcommand(subcommand)

    def _recorded(self, subcommand: str) -> AbstractContextManager[None]:
        """Keeps `run.json`, and tells Weights & Biases the same."""
        if subcommand != "fit" or rank_zero_only.rank > 0:  # type: ignore[attr-defined]
            return nullcontext()
        with self._leave_nothing_half_written():
            found_hardware = hardware(self.trainer, devices(self.trainer))
            tracked = self.wandb_id if self._trackers() else None
            config, parent = flat_config(self.config["fit"]), self.origin.record()
            costs = {"parameters": final_parameters(self.model), "multiply_adds": multiply_adds(self.model)}
            self.record = file = RunFile(self.run, config, costs, tracked, found_hardware, parent)
            for tracker in self._trackers():
                tracker.log_config(file.tracked)
        return file.kept(lambda: self.stopped is not None)

    def _trackers(self) -> list[WandbRows]:
        return [logger for logger in self.trainer.loggers if isinstance(logger, WandbRows)]

    def _prepare_subcommand_kwargs(self, subcommand: str) -> dict[str, Any]:
        arguments: dict[str, Any] = super()._prepare_subcommand_kwargs(subcommand)
        arguments["ckpt_path"] = self.chosen.path
        if subcommand in ("validate", "test"):
            arguments["verbose"] = False  # the summary's table says more
        return arguments

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        config = self.config_init[self.subcommand]
        check_links(self.config[self.subcommand], self.model)
        course = course_of(self.config[self.subcommand])
        self.checkpoint = None if self.chosen.path is None else load_checkpoint(self.chosen.path)
        if self.checkpoint is not None:
            same = course if self.subcommand == "fit" else None
            check_same_run(self.checkpoint, self.model, same, linked=list(LINKS.values()))
        if self.subcommand == "fit":
            check_strategy(config.trainer.strategy, self.model)
        if rank_zero_only.rank == 0:  # type: ignore[attr-defined]
            # Lightning does so too, once the run has a folder and a W&B run: a download that fails should leave none.
            self.datamodule.prepare_data()
        fits = self.subcommand == "fit"
        self.run = place_run(config.run, self.chosen.path, branches=fits)
        if fits:  # as config.yaml is to say it
            saved = self.config["fit"].run
            saved.root, saved.experiment = self.run.root, self.run.experiment
        self.origin = Origin(self.run.folder, self.chosen.path, self.checkpoint or {})
        self._open_folder()
        os.environ[RUN_ID_VARIABLE] = str(self.run.id)
        announce_launcher()
        callbacks: list[Callback] = []
        if self.subcommand == "fit":
            self.interruption = Interruption()
            self.interruption.install()
            every, seconds = self.run.checkpoint_every, self.run.checkpoint_seconds or None
            self.checkpoints = StageCheckpoint(self.origin, every, seconds, self.interruption)
            callbacks += [self.interruption, *best_checkpoint(self.model, self.origin), self.checkpoints]
        predicts = self.subcommand == "predict"
        evaluated = None if self.subcommand == "fit" else self.chosen.path
        place = results_folder(self.run.folder, evaluated)
        callbacks += reporting(self.model, place, config.seed_everything, self.started, predicts)
        if config.trainer.enable_progress_bar is not False:
            callbacks.append(StageProgress())
        self.trainer_defaults["callbacks"] = callbacks
        kwargs["default_root_dir"] = self.run.folder
        if self.subcommand != "fit":
            kwargs["logger"] = False
        with self._leave_nothing_half_written():
            plugins = config.trainer.plugins or []
            kwargs["plugins"] = [*(plugins if isinstance(plugins, list) else [plugins]), AtomicCheckpointIO()]
            kwargs["plugins"] += distributed_plugins(config.trainer)
            if self.subcommand == "fit" and config.trainer.logger in (None, True):
                kwargs["logger"] = self._loggers()
            if self.subcommand == "fit":
                rows = kwargs["logger"][0].rows if "logger" in kwargs else []
                identity = course | {"wandb_id": self.wandb_id}
                callbacks.append(RunRecord(identity, rows))
            trainer = super().instantiate_trainer(**kwargs)
            check_meeting_point(trainer)
            if self.subcommand == "fit" and isinstance(self.datamodule, ResumableDataModule):
                self.datamodule.check_ranks(trainer.world_size)  # before so many are started
            return trainer

    def _open_folder(self) -> None:
        """A fit's folder, from the first rank."""
        self.folder = FitFolder(self.run.folder)
        if self.subcommand == "fit" and rank_zero_only.rank == 0:  # type: ignore[attr-defined]
            self.folder.open(self.kept, goes_on=self.origin.goes_on or self.chosen.begins_anew)
            with self._leave_nothing_half_written():
                self.folder.prepare(self.model)

    @contextmanager
    def _leave_nothing_half_written(self) -> Iterator[None]:
        """Leaves the folder of a run that fails before its first step as it was, and none of a new one."""
        try:
            yield
        except BaseException as error:
            folder, last = self.run.folder, self.origin.last
            unbegun = self.checkpoints is None or not self.checkpoints.settled
            if isinstance(error, TrainingDiverged):
                if unbegun and self.origin.goes_back:
                    self._undo()
                kept = f"the last good checkpoint is {last}" if last.is_file() else "there is no checkpoint yet"
                raise TrainingDiverged(f"{error}; {kept}") from error
            if self.subcommand == "fit" and isinstance(error, (KeyboardInterrupt, SystemExit)) and last.is_file():
                as_it_was = f"stopped before its first step: {folder} is as it was"
                made = f"stopped at once, the last checkpoint is {last}{self._how_to_go_on()}"
                say(as_it_was if unbegun and self.origin.goes_back else made)
            if unbegun:
                self._undo()
            raise

    def _undo(self) -> None:
        """Leaves the run's folder as if this process had not been."""
        self.folder.undo()
        self.kept.callback(self.folder.drop_tracking)
        if self.record is not None:
            self.record.void = True

    def _abandon(self, number: signal.Signals) -> int:
        """Ends a fit before its first step in place of the main thread, which does not hear; returns the exit code."""
        self._undo()
        code = REQUEUE if number == REQUEUE_SIGNAL else interrupted()
        say(f"{number.name}: nothing has been trained yet")
        return code

    def _loggers(self) -> Any:
        first = rank_zero_only.rank == 0  # type: ignore[attr-defined]
        self.wandb_id = self._wandb_id() if first else ""  # decided, tracked and saved there
        rows = (self.checkpoint or {}).get("run", {}).get("rows", [])
        return make_loggers(self.run, self.wandb_id, rows, tags(self.run, flat_config(self.config["fit"])))

    def _wandb_id(self) -> str:
        """The id of this run in Weights & Biases, which is another one than that of the run it has come from."""
        folder, origin = self.run.folder, self.origin
        if not origin.goes_on:
            return wandb_id(folder, None)
        back = origin.leaves_steps
        if back:
            say(f"{folder} goes back to step {origin.step}; --run.id NAME would leave it and go on as another run")
        return wandb_id(folder, self.checkpoint, anew=back)

    def before_fit(self) -> None:
        resumed = (self.chosen.path, self.checkpoint) if self.chosen.path and self.checkpoint else None
        say(start_block(self.trainer, self.model, self.datamodule, self.run.folder, resumed))

    def fit(self, **arguments: Any) -> None:
        """`trainer.fit`."""
        with self._leave_nothing_half_written(), self._stop_in_good_order():
            self.trainer.fit(**arguments)

    @contextmanager
    def _stop_in_good_order(self) -> Iterator[None]:
        """Notes the signal that ended what is within, for which all has been saved."""
        try:
            yield
        except Interrupted as stop:
            self.stopped = stop.signal

    def after_fit(self) -> None:
        """Tests what was fitted, also after Ctrl-C, which draws the figures and writes the summary. After the other
        signals time is short: the run that goes on will do it."""
        if self.trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        if self.stopped is not None:
            if rank_zero_only.rank > 0:  # type: ignore[attr-defined]
                signal.signal(signal.SIGTERM, signal.SIG_IGN)  # the first rank may leave, see `run`
            self.trainer.strategy.barrier()
            self.trainer.loggers = []  # a test in the middle of a run is no part of its course
        try:
            if self.stopped in (None, signal.SIGINT):
                with self._stop_in_good_order():
                    self.trainer.test(self.model, datamodule=self.datamodule, verbose=False)
            for tracker in self._trackers() if self.run.artifact and self.stopped is None else ():
                tracker.log_checkpoint(self.run.folder / "checkpoints" / kept_checkpoint(self.trainer))
        finally:  # also when a second Ctrl-C leaves the figures out
            if self.stopped is not None:
                why = "saved, to be started again" if self.stopped == REQUEUE_SIGNAL else "interrupted"
                where = f"in {self.model.place(self.trainer.current_epoch)}, step {self.trainer.global_step}"
                say(f"{why} {where}{self._how_to_go_on()}")

    def _how_to_go_on(self) -> str:
        """The end of a line that says where a run was left: with the command that resumes it, unless that is the
        sweep's."""
        if os.environ.get(SWEEP_VARIABLE):
            return ""
        folder = self.run.folder
        command = ["python", "-m", "lit_triwave", "fit", "--config", f"{folder}/config.yaml"]
        return f"; go on with:\n{shlex.join([*command, '--ckpt_path', f'{folder}/checkpoints/last.ckpt'])}"


def distributed_plugins(trainer: Namespace) -> list[Any]:
    """How processes find each other and how batch norms agree, for a trainer's configuration."""
    environment = cluster_environment(trainer.num_nodes, trainer.devices)
    found = [] if environment is None else [environment]
    return [*found, SynchronizedBatchNorms()] if trainer.sync_batchnorm else found


@one_message()
def run(args: Sequence[str], started: float) -> int:
    """Parses and runs one command in a process that started at `started`; returns the exit code."""
    quiet()
    handlers = {number: signal.getsignal(number) for number in SIGNALS}
    kept = ExitStack()
    try:
        cli = TriwaveCLI(
            started,
            kept,
            parser_class=known_classes(
                FunctionRegressor,
                ImageClassifier,
                FunctionDataModule,
                TableDataModule,
                DigitsDataModule,
                TriangleNetwork,
                Stage,
                Polish,
                Run,
                Trainer,
                words=args,
            ),
            subclass_mode_model=True,
            subclass_mode_data=True,
            seed_everything_default=0,
            auto_configure_optimizers=False,
            save_config_callback=SaveFitConfig,
            save_config_kwargs={"save_to_log_dir": False},
            trainer_defaults={
                "max_epochs": -1,  # as many as the stages ask for
                "log_every_n_steps": 10,
                "check_val_every_n_epoch": 50,
                "num_sanity_val_steps": 0,
                "use_distributed_sampler": False,  # the data modules shard their batches themselves
                "sync_batchnorm": True,  # ranks train as one process does on the same global batch
                "enable_model_summary": False,
            },
            args=list(args),
        )
        leave_ranks()
        if cli.stopped is None:
            return 0
        if rank_zero_only.rank > 0:  # type: ignore[attr-defined]
            # The first rank's exit code says what is wanted. srun and Lightning end the other ranks for such a code.
            handlers[signal.SIGTERM] = signal.SIG_IGN
            return 0
        return REQUEUE if cli.stopped == REQUEUE_SIGNAL else INTERRUPTED
    finally:
        finish_wandb()
        kept.close()
        for variable in (RUN_ID_VARIABLE, LAUNCHER_VARIABLE):
            os.environ.pop(variable, None)
        for number, handler in handlers.items():
            signal.signal(number, handler)
