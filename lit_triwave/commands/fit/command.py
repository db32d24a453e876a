"""`fit`, `validate`, `test` and `predict`: Lightning's CLI with this project's run folders, loggers and callbacks."""

from __future__ import annotations

import os
import re
import signal
import sys
from collections.abc import Sequence
from contextlib import ExitStack, nullcontext
from pathlib import Path
from pkgutil import resolve_name
from typing import Any, TypeVar

from jsonargparse import Namespace
from lightning.fabric.utilities.seed import max_seed_value
from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer
from lightning.pytorch.callbacks import BasePredictionWriter, ProgressBar
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.utilities import rank_zero_only
from lightning.pytorch.utilities.model_helpers import is_overridden

import datamodules
from datamodules.regression import RegressionDataModule
from datamodules.resumable import ResumableDataModule
from lit_triwave import modules
from lit_triwave.callbacks.progress import StageProgress
from lit_triwave.callbacks.regression_summary import RegressionSummary
from lit_triwave.callbacks.reporting import reporting
from lit_triwave.callbacks.summary import LoggedSummary
from lit_triwave.checkpoints.best import BestCheckpoint, best_checkpoint, monitored
from lit_triwave.checkpoints.choose import choose_checkpoint
from lit_triwave.checkpoints.io import AtomicCheckpointIO
from lit_triwave.checkpoints.load import load_checkpoint, reading
from lit_triwave.checkpoints.origin import Origin
from lit_triwave.checkpoints.position import next_batch
from lit_triwave.checkpoints.rebuild import load_module
from lit_triwave.checkpoints.same_run import RunRecord, check_same_run, identity_of, other_arithmetic
from lit_triwave.checkpoints.saved_state import SavedStateCheck
from lit_triwave.commands.config_checks import LINKS, check_links, check_nulls, check_stages
from lit_triwave.commands.config_files import check_configs
from lit_triwave.commands.fit.callbacks import SaveFitConfig, as_list, check_loggers, check_plugins, prepare_callbacks
from lit_triwave.commands.fit.ending import cut_short, remarks
from lit_triwave.commands.fit.fields_help import describe_options, fields_help
from lit_triwave.commands.fit.session import FitSession
from lit_triwave.commands.fit.start_report import place, say_unsaved, say_what_differs, start_block
from lit_triwave.commands.parser import OneLineParser, known_classes
from lit_triwave.commands.quiet import quiet
from lit_triwave.distributed.cluster import check_meeting_point, cluster_environment, leave_ranks, one_message, requeued
from lit_triwave.distributed.interruption import Interruption, keeps_interrupts
from lit_triwave.distributed.launcher import LAUNCHER_VARIABLE, announce_launcher
from lit_triwave.distributed.ranks import say
from lit_triwave.distributed.signals import END_SIGNALS, INTERRUPTED, REQUEUE, REQUEUE_SIGNAL, SIGNALS, interrupted
from lit_triwave.distributed.sync_batch_norm import SynchronizedBatchNorms
from lit_triwave.distributed.watch import ranks_end_together
from lit_triwave.errors import TriwaveError, printable
from lit_triwave.modules.stage_switch import check_strategy
from lit_triwave.modules.staged import StagedModule
from lit_triwave.modules.stages import Limit, Polish, Stage
from lit_triwave.modules.trainer_support import Fit, check_callbacks, check_options, own_defaults
from lit_triwave.modules.trainer_values import check_values
from lit_triwave.nn.networks import TriangleNetwork
from lit_triwave.nn.sizes import available_memory, bounded_memory
from lit_triwave.tracking.flat_config import plain
from lit_triwave.tracking.loggers import finish_wandb
from lit_triwave.tracking.private_paths import found
from lit_triwave.tracking.run import RUN_ID_VARIABLE, Run, given_run_id, place_run
from lit_triwave.tracking.run_files import CUT_SHORT, checkpoint_file, results_folder
from lit_triwave.tracking.wandb_rows import wandb_loggers

_Kind = TypeVar("_Kind", bound=Callback)
_MAX_EPOCHS = 1000
"""Lightning's default. Stages have their own length."""


class TriwaveCLI(LightningCLI):
    """`fit`, `validate`, `test` and `predict` in run folders `runs/<experiment>/<run id>/`.

    Args:
        started: `time.monotonic()` when the process started.
        kept: closed when the process is done with the run.
        options: arguments of `LightningCLI`.

    Attributes:
        session: state of a fit; None for the other commands.
        start: path of the checkpoint; None for a run from its beginning.
    """

    def __init__(self, started: float, kept: ExitStack, **options: Any) -> None:
        self.started = started
        self.kept = kept
        self.session: FitSession | None = None
        self.interruption = Interruption((signal.SIGINT, *END_SIGNALS))  # that of a fit replaces it
        self._words = options["args"]
        self._asked = next(iter(self._words), "")
        super().__init__(LightningModule, LightningDataModule, **options)

    def subcommands(self) -> dict[str, set[str]]:  # type: ignore[override]
        """Only the given subcommand, because parsers for all four would take as long as a short run."""
        known: dict[str, set[str]] = LightningCLI.subcommands()
        return {self._asked: known[self._asked]} if self._asked in known else known

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        assert isinstance(parser, OneLineParser)
        parser.usage = f"python -m lit_triwave {self._asked} --config FILE [--KEY VALUE ...]"
        parser.further_help = lambda: fields_help(parser.words)
        describe_options(parser)
        parser.add_class_arguments(Run, "run")
        for source, target in LINKS.items():
            parser.link_arguments(source, f"model.init_args.{target}", apply_on="instantiate")

    def _parse_ckpt_path(self) -> None:
        """Does nothing. Lightning's method would silently replace the user's arguments by those of a checkpoint."""

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parses the command line. Refuses a seed here, because Lightning sets it next."""
        super().parse_arguments(parser, args)
        seed = (self.config.get(self._asked) or {}).get("seed_everything")
        if seed is not None and not 0 <= seed <= max_seed_value:
            raise TriwaveError(f"seed_everything must be a whole number from 0 to {max_seed_value}, got {seed}")

    def before_instantiate_classes(self) -> None:
        """Determines paths, the experiment's name and the checkpoint."""
        config = self.config[self.subcommand] = found(self.config[self.subcommand])
        check_nulls(plain(config))
        check_stages(plain(config))
        check_values(vars(config.trainer))
        self._take_lightnings_defaults(config)
        if config.run.experiment is None:
            files = [Path(str(path)).stem for path in config.get("config") or []]
            config.run.experiment = re.sub(r"[^\w.-]+", "_", files[0]) if files else "default"
        asked, fits = config.get("ckpt_path"), self.subcommand == "fit"
        if fits and asked is None and requeued():
            config.run.id = config.run.id or given_run_id()
            asked = "last" if config.run.id else None
        self.start, self.restarts = choose_checkpoint(asked, config.run, fits)

    def instantiate_classes(self) -> None:
        """Builds data, model and trainer. If data or a model need too much memory, this is an error."""
        with ExitStack() as self._bounded:
            self._bounded.enter_context(bounded_memory(available_memory()))
            super().instantiate_classes()

    def _take_lightnings_defaults(self, config: Namespace) -> None:
        """Sets options that the user has not given to Lightning's defaults if ours suit only this project's classes."""
        defaults: dict[str, Any] = {}
        if not issubclass(resolve_name(config.model.class_path), StagedModule):
            bounded = config.trainer.max_steps != -1 or config.trainer.max_time is not None
            defaults |= {"max_epochs": -1 if bounded else _MAX_EPOCHS, "check_val_every_n_epoch": 1}
        if not issubclass(resolve_name(config.data.class_path), ResumableDataModule):
            defaults |= {"use_distributed_sampler": True}
        if defaults:
            given = self.parser.parse_args(self._words, defaults=False)[self._asked].get("trainer") or {}
            for name, value in defaults.items():
                if name not in given:
                    config.trainer[name] = value

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Opens the run, then makes the trainer with the loggers and callbacks of the command."""
        self._bounded.close()  # the process of Weights & Biases would inherit it
        self._own = as_list(self.config_init[self.subcommand].trainer.callbacks)
        config, fits = self.config_init[self.subcommand], self.subcommand == "fit"
        self.checkpoint = None if self.start is None else load_checkpoint(self.start, fits)
        staged = isinstance(self.model, StagedModule)
        if staged and self.checkpoint:
            with reading(self.start, fits=fits):
                self.model.on_load_checkpoint(self.checkpoint)  # where `EarlyStopping` ended its stages
        identity = self._checked_identity(fits)
        if rank_zero_only.rank == 0:  # type: ignore[attr-defined]
            # Lightning does this later, and then a failed download would leave a run folder and a W&B run.
            self.datamodule.prepare_data()
        run = place_run(config.run, self.start, branches=fits)
        os.environ[RUN_ID_VARIABLE] = str(run.id)
        callbacks: list[Callback] = []
        if self.start is not None and self.checkpoint is not None:
            callbacks.append(SavedStateCheck(self.start, self.checkpoint))
        if fits:
            self.session = self._open_session(run)
            best = best_checkpoint(self.model, self.session.origin)
            self.interruption = self.session.interruption
            callbacks += [self.interruption, *best, self.session.checkpoints]
        else:
            self.interruption.install()
            callbacks.append(self.interruption)
        announce_launcher()
        folder = results_folder(run.folder, None if fits else self.start)
        predicts = self.subcommand == "predict"
        task = _reported_task(self.model, self.datamodule)
        callbacks += reporting(task, folder, config.seed_everything, self.started, predicts)
        if predicts and task is None and not self._has_own(BasePredictionWriter):
            say("predictions.csv is not written for your own module: add a BasePredictionWriter to trainer.callbacks")
        # Lightning takes one bar, and has its own for modules without stages.
        if staged and config.trainer.enable_progress_bar is not False and not self._has_own(ProgressBar):
            callbacks.append(StageProgress())
        self.trainer_defaults["callbacks"] = callbacks
        kwargs["default_root_dir"] = run.folder
        with self.session.undoes_a_failed_start() if self.session else nullcontext():
            environment = cluster_environment(config.trainer.num_nodes, config.trainer.devices)
            kwargs["plugins"] = [*as_list(config.trainer.plugins), AtomicCheckpointIO()]
            kwargs["plugins"] += [] if environment is None else [environment]
            kwargs["plugins"] += [SynchronizedBatchNorms()] if config.trainer.sync_batchnorm else []
            if self.session is None:
                kwargs["logger"] = False
            else:
                prepare_callbacks(self._own, run.folder)
                rows: list[Any] = []
                if config.trainer.logger is not False:
                    ours = self.session.loggers((self.checkpoint or {}).get("run", {}).get("rows", []))
                    kwargs["logger"], rows = [*ours, *as_list(config.trainer.logger)], ours[0].rows
                callbacks.append(RunRecord(identity | {"wandb_id": self.session.wandb_id or None}, rows))
            trainer = super().instantiate_trainer(**kwargs)
            # With `max_steps`, Lightning takes a resumed epoch for unfinished, and would end it a second time.
            trainer.fit_loop._iteration_based_training = lambda: False  # type: ignore[method-assign]
            if staged:
                self.model.check_trainer(trainer, fits)
            say_what_differs(config.trainer, trainer, fits)
            check_meeting_point(trainer)
            if fits and isinstance(self.datamodule, ResumableDataModule):
                self.datamodule.check_ranks(trainer.world_size)  # before the ranks are started
            return trainer

    def _has_own(self, kind: type) -> bool:
        """Whether the user has given a callback of this kind."""
        return any(isinstance(one, kind) for one in self._own)

    def _checked_identity(self, fits: bool) -> dict[str, Any]:
        """Refuses arguments and checkpoints that contradict each other; returns the identity of the run."""
        config = self.config[self.subcommand]
        check_links(config, self.model, self.datamodule)
        identity = identity_of(config)
        if self.checkpoint is not None and self.start is not None:
            with reading(self.start, fits=fits):
                check_same_run(self.start, self.checkpoint, self.model, identity if fits else None, LINKS.values())
                if fits and type(self.datamodule).__module__.startswith("datamodules.") and "run" in self.checkpoint:
                    state = self.checkpoint.get(type(self.datamodule).__qualname__)
                    self.datamodule.check_state(state, *next_batch(self.checkpoint))
                most, trained = config.trainer.max_epochs, next_batch(self.checkpoint)[0] if fits else 0
                if most is not None and 0 <= most < trained:
                    why = f"as many epochs as checkpoint {self.start} has trained"
                    raise TriwaveError(f"trainer.max_epochs must be at least {trained}, {why}, got {most}")
        if fits:
            monitored(self.model)
            given = self.config_init[self.subcommand].trainer
            check_strategy(given.strategy, self.model)
            if isinstance(self.model, StagedModule):
                self.model.check_start()
            make = self.model.fit_kind if isinstance(self.model, StagedModule) else Fit
            kind = make(shares_batches=isinstance(self.datamodule, ResumableDataModule), has_run=True)
            check_options(vars(given), kind)
            check_callbacks(self._own, kind)
            check_loggers(as_list(given.logger), config.run)
            check_plugins(as_list(given.plugins))
        return identity

    def _open_session(self, run: Run) -> FitSession:
        saved = self.config["fit"].run  # for config.yaml
        saved.root, saved.experiment = run.root, run.experiment
        origin = Origin(run.folder, self.start, self.checkpoint or {})
        session = FitSession(run, origin, self.config["fit"], self.kept)
        session.open(self.model, begun=origin.resumes or self.restarts)
        session.interruption.install()
        return session

    def _prepare_subcommand_kwargs(self, subcommand: str) -> dict[str, Any]:
        arguments: dict[str, Any] = super()._prepare_subcommand_kwargs(subcommand) | {"ckpt_path": self.start}
        # The summary's table says more.
        return arguments | {"verbose": False} if subcommand in ("validate", "test") else arguments

    def _run_subcommand(self, subcommand: str) -> None:
        session = self.session
        abandon = session.abandon if session else lambda number: interrupted()
        recorded = session.recorded(self.trainer, self.model) if session else nullcontext()
        restored = reading(self.start, within="restore", fits=subcommand == "fit")
        most = self.config[subcommand].run.rank_seconds
        with ranks_end_together(self.trainer, self.interruption, abandon, most), recorded, restored:
            if session is None:
                with keeps_interrupts(self.interruption):
                    super()._run_subcommand(subcommand)
                return
            try:
                with session.notes_a_stop(), keeps_interrupts(session.interruption):
                    super()._run_subcommand(subcommand)
            finally:  # also if a second Ctrl-C stops the figures
                session.interruption.over = True
                session.report_stop(f"{place(self.model, self.trainer.current_epoch)}, step {self.trainer.global_step}")

    def before_fit(self) -> None:
        resumed = (self.start, self.checkpoint) if self.start and self.checkpoint else None
        say(start_block(self.trainer, self.model, self.datamodule, self._session.run.folder, resumed))
        if self.checkpoint and (differs := other_arithmetic(self.checkpoint, self.trainer)):
            say(printable(differs))

    def fit(self, **arguments: Any) -> None:
        """`trainer.fit`."""
        session = self._session
        with session.undoes_a_failed_start(), session.notes_a_stop(), keeps_interrupts(session.interruption):
            self.trainer.fit(**arguments)
            if self.trainer.num_training_batches == 0:
                raise TriwaveError("nothing was trained: the training data have no batches")
            session.cut_short = cut_short(self.trainer, self.model, self._own)
        session.report_cut(self.trainer)
        for line in remarks(self.trainer, self.model):
            say(line)
        if session.stopped is None:
            say_unsaved(self.trainer, self._own)

    def after_fit(self) -> None:
        """Tests the trained model, also after Ctrl-C; the test draws the figures and writes the summary. After other
        signals time is short, so the resumed run tests."""
        session = self._session
        if self.trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        for summary in self._callbacks(RegressionSummary):
            summary.unfinished = "stopped" if session.stopped else session.cut_short and CUT_SHORT
        if session.stopped is not None:
            if rank_zero_only.rank > 0:  # type: ignore[attr-defined]
                signal.signal(signal.SIGTERM, signal.SIG_IGN)  # the first rank may leave, see `run`
            self.trainer.strategy.barrier()
            self.trainer.loggers = []  # a test before the run's end is not part of its history
        # A module and data of the user may lack the methods that Lightning needs for a test.
        tests = is_overridden("test_step", self.model) and is_overridden("test_dataloader", self.datamodule)
        if session.stopped in (None, signal.SIGINT) and tests:
            self.trainer.test(self._reported(), datamodule=self.datamodule, verbose=False)
        elif session.stopped is None:
            for logged in self._callbacks(LoggedSummary):
                logged.on_test_end(self.trainer, self.model)
        if session.run.artifact and session.stopped is None:
            name = "last" if self._best is None else "best"
            for tracker in wandb_loggers(self.trainer):
                tracker.log_checkpoint(checkpoint_file(session.run.folder, name))

    def _reported(self) -> LightningModule:
        """Returns the network that validation chose, where a table has rows for it; else the one that training left."""
        model: LightningModule = self.model
        best = self._best
        chooses = type(model) is modules.FunctionRegressor and getattr(self.datamodule, "validates", False)
        if best is None or not chooses or self._session.stopped is not None:
            return model
        for one in self._callbacks(RegressionSummary):
            one.chosen = f"best.ckpt of {place(model, best.epoch)}"
        return model if best.epoch == self.trainer.current_epoch - 1 else load_module(best.best_model_path).module

    @property
    def _best(self) -> BestCheckpoint | None:
        """The callback with the best checkpoint; None if there is none."""
        return next((one for one in self._callbacks(BestCheckpoint) if one.best_model_path), None)

    def _callbacks(self, kind: type[_Kind]) -> list[_Kind]:
        """Returns the trainer's callbacks of a kind."""
        return [one for one in self.trainer.callbacks if isinstance(one, kind)]  # type: ignore[attr-defined]

    @property
    def _session(self) -> FitSession:
        assert self.session is not None, "only a fit has a session"
        return self.session


def _reported_task(model: LightningModule, data: LightningDataModule) -> str | None:
    """Returns the task of a model with stages, whose reports read more of model and data than Lightning knows."""
    task = model.task if isinstance(model, StagedModule) else None  # in other modules `task` may mean anything
    known = isinstance(data, RegressionDataModule) if task == "regression" else hasattr(data, "class_names")
    return task if known else None


@one_message()
def run(args: Sequence[str], started: float) -> int:
    """Parses and runs one command; returns the exit code.

    Args:
        args: arguments of the command, its name first.
        started: when the process started, `time.monotonic()` in seconds.
    """
    quiet()
    check_configs(args)
    handlers, report = {number: signal.getsignal(number) for number in SIGNALS}, sys.unraisablehook
    kept = ExitStack()
    try:
        cli = TriwaveCLI(
            started,
            kept,
            parser_class=known_classes(
                *(getattr(room, name) for room in (modules, datamodules) for name in room.__all__),
                *(TriangleNetwork, Limit, Stage, Polish, Run, Trainer),
                words=args,
            ),
            subclass_mode_model=True,
            subclass_mode_data=True,
            seed_everything_default=0,
            auto_configure_optimizers=False,
            save_config_callback=SaveFitConfig,
            save_config_kwargs={"save_to_log_dir": False},
            trainer_defaults=own_defaults(),
            args=list(args),
        )
        leave_ranks()
        stopped = cli.session and cli.session.stopped
        if not stopped:
            return 0
        if rank_zero_only.rank > 0:  # type: ignore[attr-defined]
            # The first rank's exit code tells the caller what to do; srun and Lightning end the other ranks for it.
            handlers[signal.SIGTERM] = signal.SIG_IGN
            return 0
        return REQUEUE if stopped == REQUEUE_SIGNAL else INTERRUPTED
    finally:
        finish_wandb()
        kept.close()
        for variable in (RUN_ID_VARIABLE, LAUNCHER_VARIABLE):
            os.environ.pop(variable, None)
        sys.unraisablehook = report
        for number, handler in handlers.items():
            signal.signal(number, handler)
