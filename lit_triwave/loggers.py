"""The two loggers of a run: metrics.csv in its folder, and Weights & Biases."""

from __future__ import annotations

import inspect
import os
from typing import Any, Literal

from lightning.pytorch.loggers import CSVLogger, Logger, WandbLogger
from lightning.pytorch.utilities import rank_zero_only

from lit_triwave.runs import Run, WandbMode

FLUSH_EVERY = 20
"""Logged rows that metrics.csv may lag behind."""
INIT_TIMEOUT = 20
"""Seconds to wait for the W&B server before the run goes on offline."""


def make_loggers(run: Run) -> list[Logger]:
    """CSV first: the trainer takes the run folder from its first logger."""
    loggers: list[Logger] = [
        CSVLogger(save_dir=run.root, name=run.experiment or "", version=run.id, flush_logs_every_n_steps=FLUSH_EVERY)
    ]
    mode = wandb_mode(run.wandb)
    if mode != "disabled":
        loggers.append(start_wandb(run, mode))
    return loggers


def wandb_mode(asked: WandbMode) -> WandbMode:
    """What `auto` means here: WANDB_MODE if it is set, online if there is a login, else offline."""
    if asked != "auto":
        return asked
    mode = os.environ.get("WANDB_MODE", "").lower()
    if mode in ("online", "offline", "disabled"):
        return mode  # type: ignore[return-value]
    return "online" if has_wandb_login() else "offline"


def has_wandb_login() -> bool:
    """Whether W&B finds credentials (environment, settings or netrc), without asking for them or using them."""
    import wandb

    if "prompt" in inspect.signature(wandb.login).parameters:
        return bool(wandb.login(prompt=False, verify=False))
    return bool(wandb.api.api_key)  # wandb before 0.30


@rank_zero_only
def say(text: str) -> None:
    """One line for the user, from the first process."""
    print(text, flush=True)


def start_wandb(run: Run, mode: WandbMode) -> WandbLogger:
    """A W&B run with the run's own id, started; offline when there is no login or the server can't be reached."""
    experiment = _init_wandb(run, mode)
    return WandbLogger(project=run.project, id=run.id, save_dir=run.folder, experiment=experiment)


@rank_zero_only
def _init_wandb(run: Run, mode: WandbMode) -> Any:
    import wandb

    def init(mode: Literal["online", "offline"]) -> Any:
        experiment = wandb.init(
            project=run.project,
            name=f"{run.experiment}/{run.id}",
            group=run.experiment,
            id=run.id,
            resume="allow",
            dir=run.folder,
            mode=mode,
            settings=wandb.Settings(silent=True, init_timeout=INIT_TIMEOUT),
        )
        # Lightning counts its own steps; W&B's count of log calls would not survive a resume.
        experiment.define_metric("trainer/global_step")
        experiment.define_metric("*", step_metric="trainer/global_step", step_sync=True)
        return experiment

    why = "" if run.wandb == "offline" else " (no login)"
    if mode == "online":
        try:
            experiment = init("online")
            say(f"Weights & Biases: online, {experiment.url}")
            return experiment
        except wandb.Error as error:
            wandb.teardown()  # its service keeps the failed run's id until it is stopped
            why = f" (the server can't be used: {' '.join(str(error).split())[:100]})"
    say(f"Weights & Biases: offline{why}; to send it later: wandb sync {run.folder}/wandb/offline-run-*")
    return init("offline")
