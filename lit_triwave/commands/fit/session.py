"""The training process of a run: opens its folder, logs and records the run, and ends it properly."""

from __future__ import annotations

import os
import shlex
import signal
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import Any

from jsonargparse import Namespace
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_only

from lit_triwave.analysis.costs import final_parameters, multiply_adds
from lit_triwave.checkpoints.last import StageCheckpoint
from lit_triwave.checkpoints.origin import Origin
from lit_triwave.commands.fit.start_report import devices
from lit_triwave.distributed.interruption import Interruption
from lit_triwave.distributed.ranks import say
from lit_triwave.distributed.signals import REQUEUE, REQUEUE_SIGNAL, interrupted
from lit_triwave.errors import Interrupted, TrainingDiverged
from lit_triwave.tracking.loggers import make_loggers
from lit_triwave.tracking.run import SWEEP_VARIABLE, Run, wandb_id
from lit_triwave.tracking.run_files import CONFIG_YAML, State, checkpoint_file
from lit_triwave.tracking.run_folder import FitFolder
from lit_triwave.tracking.run_json import RunFile, flat_config, hardware, tags
from lit_triwave.tracking.wandb_rows import wandb_loggers


class FitSession:
    """One process's work on a run, from the opening of its folder to its end.

    Args:
        run: the run to train.
        origin: the start of the run.
        config: config of the command.
        kept: closed when the process is done with the run.

    Attributes:
        interruption: receives the signals that ask for a stop.
        checkpoints: saves `last.ckpt`.
        stopped: the signal that ended the training early; None for any other end.
        cut_short: what else ended the training early, or left out a part of its data; "" if nothing did.
        wandb_id: id of the run in Weights & Biases; "" without it, and on ranks other than the first.
    """

    def __init__(self, run: Run, origin: Origin, config: Namespace, kept: ExitStack) -> None:
        self.run, self.origin = run, origin
        self.interruption = Interruption()
        seconds = run.checkpoint_seconds or None
        self.checkpoints = StageCheckpoint(origin, run.checkpoint_every, seconds, self.interruption)
        self.stopped: signal.Signals | None = None
        self.cut_short = ""
        self.wandb_id = ""
        self._config = flat_config(config)
        self._kept = kept
        self._folder = FitFolder(run.folder) if rank_zero_only.rank == 0 else None  # type: ignore[attr-defined]
        self._record: RunFile | None = None

    def open(self, model: LightningModule, begun: bool) -> None:
        """Opens the run's folder, on the first rank.

        Args:
            model: the model to train.
            begun: whether an earlier process may have begun the run.

        Raises:
            TriwaveError: the folder cannot be written, is in use, has no room, or belongs to another run.
        """
        if self._folder is not None:
            self._folder.open(self._kept, begun)
            with self.undoes_a_failed_start():
                self._folder.prepare(model)

    def loggers(self, rows: Any) -> list[Any]:
        """Returns the loggers of the run.

        Args:
            rows: rows logged before the checkpoint from which the run resumes.
        """
        folder, origin = self.run.folder, self.origin
        if self._folder is not None:
            rewinds = origin.discards_steps
            if rewinds:
                advice = "--run.id NAME would leave it as it is and train on as another run"
                say(f"{folder} is rewound to step {origin.step}; {advice}")
            self.wandb_id = wandb_id(folder, origin.content if origin.resumes else {}, new=rewinds)
        return make_loggers(self.run, self.wandb_id, rows, tags(self.run, self._config))

    def recorded(self, trainer: Trainer, model: LightningModule) -> AbstractContextManager[None]:
        """Writes `run.json` during the run, on the first rank, and sends the same content to Weights & Biases."""
        if self._folder is None:
            return nullcontext()
        with self.undoes_a_failed_start():
            trackers = wandb_loggers(trainer)
            wandb, machine = self.wandb_id if trackers else None, hardware(trainer, devices(trainer))
            self._record = RunFile(self.run, self._config, wandb, machine, self.origin.record())
            costs = {"parameters": final_parameters(model), "multiply_adds": multiply_adds(model)}
            for tracker in trackers:
                tracker.log_config(costs | self._record.tracked)
        return self._record.kept(self._ended)

    def _ended(self) -> tuple[State, str]:
        if self.stopped is not None:
            return "stopped", ""
        return ("cut short" if self.cut_short else "finished"), self.cut_short

    @contextmanager
    def undoes_a_failed_start(self) -> Iterator[None]:
        """Restores the run's folder after an error before the first step.

        Removes it if this process made it, also after an error in the first epoch that left no checkpoint, such as a
        broken image or a metric that is never logged.
        """
        try:
            yield
        except BaseException as error:
            folder, last = self.run.folder, self.origin.last
            begun = self.checkpoints.settled
            if isinstance(error, TrainingDiverged):
                if not begun and self.origin.rewinds:
                    self._undo()
                kept = f"the last good checkpoint is {last}" if last.is_file() else "there is no checkpoint yet"
                raise TrainingDiverged(f"{error}; {kept}") from error
            if isinstance(error, (KeyboardInterrupt, SystemExit)) and last.is_file():
                unchanged = f"stopped before the first step: {folder} is unchanged"
                saved = f"stopped at once, the last checkpoint is {last}{self.how_to_resume()}"
                say(unchanged if not begun and self.origin.rewinds else saved)
            if not begun or (self._folder is not None and self._folder.created and not self.checkpoints.lasting):
                self._undo()
            raise

    def _undo(self) -> None:
        if self._folder is not None:
            self._folder.undo()
            self._kept.callback(self._folder.drop_tracking)
        if self._record is not None:
            self._record.void = True

    def abandon(self, number: signal.Signals) -> int:
        """Ends a run in place of a blocked main thread; returns the exit code."""
        begun = self.checkpoints.settled
        if not begun:
            self._undo()
        elif self._record is not None:
            self._record.end("stopped")
        code = REQUEUE if number == REQUEUE_SIGNAL else interrupted()
        what = f"ended without a further checkpoint{self.how_to_resume()}" if begun else "nothing has been trained yet"
        say(f"{number.name}: {what}")
        return code

    @contextmanager
    def notes_a_stop(self) -> Iterator[None]:
        """Records the signal that stopped training, after everything has been saved."""
        try:
            yield
        except Interrupted as stop:
            self.stopped = stop.signal

    def report_stop(self, place: str) -> None:
        """Prints where a stopped run was saved, and how to resume it."""
        if self.stopped is not None:
            why = "saved, to be started again" if self.stopped == REQUEUE_SIGNAL else "interrupted"
            say(f"{why} in {place}{self.how_to_resume()}")

    def report_cut(self, trainer: Trainer) -> None:
        """Reports what cut a run short, on the screen and in Weights & Biases."""
        if self.cut_short:
            say(f"cut short: {self.cut_short}")
        for tracker in wandb_loggers(trainer):
            tracker.log_cut(self.cut_short)

    def how_to_resume(self) -> str:
        """Returns the end of a line, with the command that resumes the run; "" in a sweep, which has its own."""
        if os.environ.get(SWEEP_VARIABLE):
            return ""
        config, last = self.run.folder / CONFIG_YAML, checkpoint_file(self.run.folder)
        command = ["python", "-m", "lit_triwave", "fit", "--config", str(config), "--ckpt_path", str(last)]
        return f"; resume with:\n{shlex.join(command)}"
