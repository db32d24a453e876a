"""The two loggers of a run: metrics.csv in its folder, and Weights & Biases."""

from __future__ import annotations

import inspect
import io
import os
import re
import shutil
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, suppress
from functools import partial
from pathlib import Path
from typing import Any, Literal

from lightning.pytorch.loggers import CSVLogger, Logger, WandbLogger
from lightning.pytorch.utilities import rank_zero_only

from lit_triwave.background import Background
from lit_triwave.distributed.ranks import say
from lit_triwave.errors import TriwaveError, reason
from lit_triwave.files import link
from lit_triwave.goals import goal
from lit_triwave.home import hidden, names_home
from lit_triwave.runs import Run, WandbMode, swept
from lit_triwave.trees import plain
from lit_triwave.wandb_segments import last_step

FLUSH_EVERY = 20
"""Logged rows that metrics.csv may lag behind."""
INIT_TIMEOUT = 20
"""Seconds to wait for the W&B server before the run goes on offline."""
STEP = "trainer/global_step"
MOST_LETTERS = 128
"""Of an artifact's name."""


Row = tuple[int, dict[str, float]]
"""A step, and what was logged at it."""


class MetricsCSV(CSVLogger):
    """`metrics.csv`, with every row once.

    Args:
        run: whose folder it is in.
        rows: logged before the checkpoint that the run goes on from; rows of the file itself may be later, or lost.
    """

    def __init__(self, run: Run, rows: Sequence[Row] = ()) -> None:
        super().__init__(
            run.folder.parent.parent, run.experiment or "", version=run.id, flush_logs_every_n_steps=FLUSH_EVERY
        )
        self.rows: list[Row] = []
        for step, metrics in rows:
            self.log_metrics(metrics, step)

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, Any], step: int | None = None) -> None:
        row = (int(step or 0), dict(metrics))
        # A checkpoint inside an epoch has the row of its step logged before Lightning does so.
        if not self.rows or (self.rows[-1][0], self.rows[-1][1].keys()) != (row[0], row[1].keys()):
            self.rows.append(row)
            super().log_metrics(metrics, step)

    @rank_zero_only
    def log_hyperparams(self, params: Any = None) -> None:
        """Saves the model's arguments, without the words by which Lightning's CLI finds its own way back."""
        given = {name: value for name, value in dict(params or {}).items() if not name.startswith("_")}
        super().log_hyperparams(hidden(plain(given)))


class WandbRows(WandbLogger):
    """Sends one row for each step to Weights & Biases, W&B's own step being Lightning's, each of them once.

    What is logged at a step is sent when the next step comes or all is well at the end, so that a row is whole or not
    there at all. Another thread sends it: on a busy machine W&B's answer takes longer than the step. A run that goes on
    sends what its checkpoint knows and W&B lacks, then leaves out the steps, computed again since the checkpoint, that
    W&B has.

    Args:
        run: to be tracked.
        experiment: the started W&B run; None on ranks but the first.
        sent: the last step that W&B has, -1 for none.
        rows: logged before the checkpoint that the run goes on from.
    """

    def __init__(self, run: Run, experiment: Any, sent: int = -1, rows: Sequence[Row] = ()) -> None:
        name = experiment.id if experiment is not None else None
        super().__init__(project=run.project, id=name, save_dir=run.folder, experiment=experiment)
        self._sent = sent
        self._lost = False  # W&B's process is gone
        self._step = -1
        self._row: dict[str, Any] = {}  # logged at `_step`, not yet sent
        self._summary: dict[str, Any] = {}
        self._defined: set[str] = set()
        self._background = Background()
        self._artifact = f"{run.experiment}-{run.id}"
        for step, metrics in rows:
            self.log_metrics(metrics, step)

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        if step is not None and step != self._step:
            self._send()
            self._step = step
        self._row |= metrics

    def _send(self) -> None:
        if self._row and self._step > self._sent and not self._lost:
            self._background.call(partial(self._send_row, self._row, self._step))
            self._sent = self._step
        self._row = {}

    def _send_row(self, row: dict[str, Any], step: int) -> None:
        if not self._lost:
            with self._may_be_lost():
                self._define(row)
                self.experiment.log({**row, STEP: step}, step=step, commit=True)

    @contextmanager
    def _may_be_lost(self) -> Iterator[None]:
        """Notes that W&B's process is gone, which must not cost the run; `finish_wandb` will say it."""
        try:
            yield
        except OSError:
            self._lost = True

    def _define(self, names: Iterable[str]) -> None:
        """Says of each metric of the course, once, whether its lowest or its highest value counts."""
        for name in names:
            wanted = goal(name)
            if name.startswith(("train/", "val/")) and wanted and name not in self._defined:
                self.experiment.define_metric(name, step_metric=STEP, step_sync=True, summary=wanted)
                self._defined.add(name)

    @rank_zero_only
    def log_hyperparams(self, params: Any) -> None:
        """Nothing: W&B has the whole config, of which these are a part."""

    @rank_zero_only
    def log_config(self, config: Mapping[str, Any]) -> None:
        """Sets W&B's config, flat; a sweep's own values stay."""
        self._background.wait()
        kept = set(self.experiment.config.keys()) if swept() else set()
        given = {name: value for name, value in config.items() if name not in kept}
        with self._may_be_lost():
            self.experiment.config.update(given, allow_val_change=True)

    @rank_zero_only
    def log_summary(self, summary: Mapping[str, Any]) -> None:
        """Sets W&B's summary when the last row is sent, whose `stage` is a number where the summary's is a name; of the
        metrics of the course W&B keeps the best value itself."""
        self._summary |= summary

    @rank_zero_only
    def log_checkpoint(self, path: Path) -> None:
        """Keeps a file as an artifact of the run and of its name, to be uploaded from where it lies."""
        self._background.wait()
        if self._lost:
            return
        import wandb

        # A link of its own: the run may be prolonged, and then has another checkpoint before this one is uploaded.
        own = Path(os.path.relpath(self.experiment.dir)).parent / "artifact" / path.name
        if names_home(own):
            say("Weights & Biases: no artifact, as its path from here would name the home folder; start from within it")
            return
        own.parent.mkdir(exist_ok=True)
        link(path, own)
        artifact = wandb.Artifact(re.sub(r"[^\w.-]", "-", self._artifact)[-MOST_LETTERS:], type="model")
        # W&B's own copy would be in the home folder, which the segment would then name.
        artifact.add_file(str(own), name=path.name, policy="immutable")
        with self._may_be_lost():
            self.experiment.log_artifact(artifact)

    @rank_zero_only
    def finalize(self, status: str) -> None:
        if status == "success":
            self._send()
        self._background.wait()
        if self._summary and not self._lost:
            with self._may_be_lost():
                self.experiment.summary.update({k: v for k, v in self._summary.items() if k not in self._defined})
        super().finalize(status)


def make_loggers(run: Run, wandb_id: str, rows: Sequence[Row] = (), tags: Sequence[str] = ()) -> list[Logger]:
    """CSV first: the trainer takes the run folder from its first logger.

    Args:
        run: to be logged.
        wandb_id: of its Weights & Biases run.
        rows: logged before the checkpoint that it goes on from.
        tags: of the Weights & Biases run.
    """
    loggers: list[Logger] = [MetricsCSV(run, rows)]
    # W&B would time each row for its makers and send them the traces of errors, which name paths.
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
    mode, why = wandb_mode(run.wandb)
    if mode != "disabled":
        os.environ.pop("WANDB_MODE", None)  # settled; W&B would read it again
        try:
            loggers.append(start_wandb(run, wandb_id, mode, why, rows, tags))
        except Exception as error:  # tracking must not cost a run
            say(f"Weights & Biases: left out ({reason(error)})")
    return loggers


def wandb_mode(asked: WandbMode) -> tuple[WandbMode, str]:
    """The mode, and why. `auto` means WANDB_MODE or WANDB_DISABLED if set, online if there is a login, else offline.

    Raises:
        TriwaveError: WANDB_MODE is none of W&B's modes.
    """
    if asked != "auto":
        return asked, "run.wandb"
    if os.environ.get("WANDB_DISABLED", "").lower() in ("true", "1"):
        return "disabled", "WANDB_DISABLED"
    mode = os.environ.get("WANDB_MODE", "").lower()
    if mode:
        modes: dict[str, WandbMode] = {"online": "online", "shared": "online", "offline": "offline"}
        modes |= {"dryrun": "offline", "disabled": "disabled"}
        if mode not in modes:
            raise TriwaveError(f"WANDB_MODE {mode!r}: online, offline or disabled")
        return modes[mode], f"WANDB_MODE={mode}"
    os.environ.pop("WANDB_MODE", None)  # W&B itself refuses an empty one
    try:
        return ("online", "") if has_wandb_login() else ("offline", "no login")
    except Exception as error:  # a malformed key, say; W&B has many kinds
        return "offline", f"the login can't be used: {reason(error, 100)}"


def has_wandb_login() -> bool:
    """Whether W&B finds credentials (environment, settings or netrc), without asking for them or using them."""
    import wandb

    if "prompt" in inspect.signature(wandb.login).parameters:
        with redirect_stderr(io.StringIO()):  # where it says whose login it found
            return bool(wandb.login(prompt=False, verify=False))
    return bool(wandb.api.api_key)  # wandb before 0.30


def start_wandb(
    run: Run, wandb_id: str, mode: WandbMode, why: str, rows: Sequence[Row] = (), tags: Sequence[str] = ()
) -> WandbRows:
    """The W&B run, started or gone on with; offline when there is no login or the server can't be reached."""
    experiment = _init_wandb(run, wandb_id, mode, why, tags)
    sent = -1
    if experiment is not None:
        # Online the server says it; `step` does only once something is logged.
        next_step = max(experiment.step, experiment.starting_step)
        there = next_step - 1 if experiment.resumed else -1
        sent = max(there, last_step(run.folder, wandb_id) if experiment.offline else -1)
    return WandbRows(run, experiment, sent, rows)


@rank_zero_only
def _init_wandb(run: Run, wandb_id: str, mode: WandbMode, why: str, tags: Sequence[str]) -> Any:
    import wandb

    def init(mode: Literal["online", "offline"]) -> Any:
        # W&B names a segment by the second, and would write over one that another process began in the same one.
        while any(run.folder.glob(f"wandb/*run-{time.strftime('%Y%m%d_%H%M%S')}-{wandb_id}")):
            time.sleep(0.1)
        experiment = wandb.init(
            # The run of an agent has both already.
            project=None if swept() else run.project,
            id=None if swept() else wandb_id,
            name=f"{run.experiment}/{run.id}",
            group=run.group or run.experiment,
            job_type=run.job_type,
            tags=list(tags),
            resume="allow",
            dir=run.folder,
            mode=mode,
            settings=private_settings(),
        )
        # Lightning counts its own steps; W&B's count of log calls would not survive a resume.
        experiment.define_metric(STEP)
        experiment.define_metric("*", step_metric=STEP, step_sync=True)
        return experiment

    if mode == "online":
        try:
            experiment = init("online")
            forget_logs(run.folder)
            say(f"Weights & Biases: online, {experiment.url}")
            return experiment
        except wandb.Error as error:
            wandb.teardown()  # its service keeps the failed run's id until it is stopped
            why = f"the server can't be used: {reason(error, 100)}"
    say(f"Weights & Biases: offline ({why}); to send it later: wandb sync {run.folder}/wandb/offline-run-*")
    experiment = init("offline")
    forget_logs(run.folder)
    return experiment


def private_settings() -> Any:
    """W&B's settings, with which it notes no host, user, path, command line or output; the system's load it does."""
    import wandb

    settings: dict[str, Any] = {"silent": True, "init_timeout": INIT_TIMEOUT}
    # The output names the machine and the run folder.
    settings |= {"console": "off", "host": "", "username": "", "email": "", "x_disable_meta": True}
    settings |= {"disable_git": True, "disable_code": True, "save_code": False}
    known = getattr(wandb.Settings, "model_fields", {})  # W&B has renamed some, and will again
    return wandb.Settings(**{name: value for name, value in settings.items() if name in known})


def forget_logs(folder: Path) -> None:
    """Takes W&B's debug logs, which name paths, out of a run folder; W&B writes on where no one reads, and a killed run
    has none either. Kept with WANDB_DEBUG=true."""
    if os.environ.get("WANDB_DEBUG", "").lower() not in ("true", "1"):
        for logs in folder.glob("wandb/*run-*/logs"):
            shutil.rmtree(logs, ignore_errors=True)
        for link in folder.glob("wandb/debug*.log"):
            link.unlink(missing_ok=True)


def finish_wandb() -> None:
    """Ends this process's W&B run, if it has one: all that was logged is written, and sent when online."""
    wandb = sys.modules.get("wandb")
    if wandb is None:
        return
    folder = Path(wandb.run.dir).parents[2] if wandb.run is not None else None
    try:
        if wandb.run is not None:
            wandb.finish()
    except OSError as error:
        # W&B's own process is gone: SLURM sends its signals to every process of a step.
        say(f"Weights & Biases: its process is gone ({error}); what it lacks is sent when the run goes on")
    finally:
        # `finish` comes back before W&B's process has closed the segment, and a session keeps the login that it found.
        with suppress(OSError, SystemExit):  # SystemExit: with the exit code of that process, which is not ours
            wandb.teardown()
        if folder is not None:
            forget_logs(folder)
