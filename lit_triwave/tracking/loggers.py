"""Makes the two loggers of a run: `metrics.csv` and Weights & Biases."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only

from lit_triwave.distributed.ranks import say
from lit_triwave.errors import reason
from lit_triwave.tracking.metrics_csv import MetricsCSV, Row
from lit_triwave.tracking.run import Run, WandbMode, swept
from lit_triwave.tracking.wandb_files import last_step
from lit_triwave.tracking.wandb_rows import STEP, WandbRows
from lit_triwave.tracking.wandb_settings import forget_logs, private_settings, wandb_mode


def make_loggers(run: Run, wandb_id: str, rows: Sequence[Row] = (), tags: Sequence[str] = ()) -> list[Logger]:
    """Returns the loggers of a run, `metrics.csv` first: the trainer takes the run folder from its first logger.

    Args:
        run: the run to log.
        wandb_id: id of the run in Weights & Biases.
        rows: rows logged before the checkpoint from which the run resumes.
        tags: tags of the run in Weights & Biases.
    """
    loggers: list[Logger] = [MetricsCSV(run, rows)]
    # Otherwise W&B sends its makers the tracebacks of errors, which name paths.
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
    mode, why = wandb_mode(run.wandb)
    if mode != "disabled":
        os.environ.pop("WANDB_MODE", None)  # the mode is decided here, and W&B would read the variable again
        try:
            experiment = _start_wandb(run, wandb_id, mode, why, tags)
            loggers.append(WandbRows(run, experiment, _last_sent(run, wandb_id, experiment), rows))
        except Exception as error:  # an error of tracking must not end a run
            say(f"Weights & Biases: left out ({reason(error)})")
    return loggers


def _last_sent(run: Run, wandb_id: str, experiment: Any) -> int:
    """Returns the last step that W&B has; -1 if it has none, and on ranks other than the first."""
    if experiment is None:
        return -1
    # The server knows the last step online; `step` is right only once something is logged.
    there = max(experiment.step, experiment.starting_step) - 1 if experiment.resumed else -1
    return max(there, last_step(run.folder, wandb_id) if experiment.offline else -1)


@rank_zero_only
def _start_wandb(run: Run, wandb_id: str, mode: WandbMode, why: str, tags: Sequence[str]) -> Any:
    """Starts or resumes the W&B run; offline if there is no login or the server cannot be reached."""
    import wandb

    def init(mode: Literal["online", "offline"]) -> Any:
        # W&B names its files by the second, and would overwrite one that another process began in the same second.
        while any(run.folder.glob(f"wandb/*run-{time.strftime('%Y%m%d_%H%M%S')}-{wandb_id}")):
            time.sleep(0.1)
        experiment = wandb.init(
            # A run that an agent started has both already.
            project=None if swept() else run.project,
            id=None if swept() else wandb_id,
            name=os.environ.get("WANDB_NAME") or f"{run.experiment}/{run.id}",
            group=run.group or run.experiment,
            job_type=run.job_type,
            tags=list(tags),
            resume="allow",
            dir=run.folder,
            mode=mode,
            settings=private_settings(),
        )
        # W&B's own count of log calls would be wrong after a resume.
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
            wandb.teardown()  # W&B's service keeps the failed run's id until it is stopped
            why = f"the server cannot be used: {reason(error, 100)}"
    say(f"Weights & Biases: offline ({why}); upload later with: wandb sync {run.folder}/wandb/offline-run-*")
    experiment = init("offline")
    forget_logs(run.folder)
    return experiment


def finish_wandb() -> None:
    """Ends this process's W&B run, if it has one, once everything logged is written and, online, sent."""
    wandb = sys.modules.get("wandb")
    if wandb is None:
        return
    folder = Path(wandb.run.dir).parents[2] if wandb.run is not None else None
    try:
        if wandb.run is not None:
            wandb.finish()
    except OSError as error:
        # W&B's process may have been killed: SLURM sends its signals to every process of a step.
        say(f"Weights & Biases: its process is gone ({error}); missing rows are sent when the run is resumed")
    finally:
        # `finish` returns before W&B's process has closed its file; and W&B would keep using this login.
        with suppress(OSError, SystemExit):  # SystemExit carries the exit code of W&B's process
            wandb.teardown()
        if folder is not None:
            forget_logs(folder)
