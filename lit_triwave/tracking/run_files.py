"""The files of a run folder: their names, groups of fields of `run.json`, and which file is a run's checkpoint.

Writers and readers both take the names from here. This file imports only Python's library, because `compare` starts
without torch.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Literal, get_args

CONFIG_YAML = "config.yaml"
HPARAMS_YAML = "hparams.yaml"
METRICS_CSV = "metrics.csv"
PREDICTIONS_CSV = "predictions.csv"
RUN_JSON = "run.json"
SUMMARY_JSON = "summary.json"
WANDB_ID = "wandb_id"
LOCK_FILE = ".lock"
CHECKPOINTS = "checkpoints"
MODEL_CHECKPOINTS = "model_checkpoint"
"""Folder in `checkpoints/` for the files of a `ModelCheckpoint` of the user."""
FIGURES = "figures"
WANDB_RUNS = "wandb/*run-*"
"""Pattern of the folders that Weights & Biases writes, one for each process that worked on the run."""

BEFORE_FIRST_STEP = (CONFIG_YAML, HPARAMS_YAML, METRICS_CSV, RUN_JSON, WANDB_ID)
"""Files that `fit` writes before its first step."""
RUN_MARKS = (RUN_JSON, SUMMARY_JSON, METRICS_CSV, CONFIG_YAML)
"""A folder with one of these files is a run folder."""
WRITTEN_BY_FIT = (RUN_JSON, METRICS_CSV, CONFIG_YAML, LOCK_FILE, f"{CHECKPOINTS}/*", f"{WANDB_RUNS}/*.wandb")
"""Patterns of the files that only a training process changes; `inspect`, `test` and `export` write others."""

CUT_SHORT = "cut short"
"""State of a run that ended without an error, but before the end of its stages or without a part of its data."""
State = Literal["running", "finished", "cut short", "stopped", "failed"]
"""State of a run in `run.json`. `stopped` means stopped by a signal and ready to resume. A killed run stays
`running`."""
STATES: tuple[State, ...] = get_args(State)
SCHEMA = 2
"""Version of the layout of `run.json` and `summary.json`."""
TRACKED_FIELDS = ("git", "versions", "hardware", "branched_from", "cut_short")
"""Fields of `run.json` that Weights & Biases also gets, flat, in addition to the config."""
ABOUT_FIELDS = ("group", "job_type", "started", "ended", *TRACKED_FIELDS)
"""Fields of `run.json` that describe the run, besides its config, name and state."""


def checkpoint_file(folder: Path, name: str = "last") -> Path:
    """Returns the path of a run's checkpoint, which need not exist.

    Args:
        folder: folder of the run.
        name: `last`, `best` or `pretrained`.
    """
    return folder / CHECKPOINTS / f"{name}.ckpt"


def newest_checkpoint(experiment: Path, name: str = "last") -> Path | None:
    """Returns the checkpoint of that name that was saved last in the runs of an experiment; None if there is none.

    Args:
        experiment: folder of the experiment.
        name: see `checkpoint_file`.
    """
    return _newest(checkpoint_file(run, name) for run in _folders(experiment))


def unsaved_run(experiment: Path) -> str | None:
    """Returns the id of an experiment's newest run if it has not saved a checkpoint yet, else None."""
    newest = _newest(run / CONFIG_YAML for run in _folders(experiment))
    return None if newest is None or checkpoint_file(newest.parent).is_file() else newest.parent.name


def run_folder_of(checkpoint: Path | None) -> Path | None:
    """Returns the run folder of a checkpoint, with links resolved; None for a file outside of run folders."""
    if checkpoint is None:
        return None
    place = checkpoint.resolve().parent
    place = place.parent if place.name == MODEL_CHECKPOINTS else place
    if place.name != CHECKPOINTS:
        return None
    folder = place.parent
    return folder if (folder / CONFIG_YAML).is_file() else None


def results_folder(folder: Path, checkpoint: Path | None) -> Path:
    """Returns the folder for the results of a checkpoint.

    The run folder itself describes the final weights, so results of another checkpoint go to a subfolder of its name.

    Args:
        folder: folder of the run.
        checkpoint: the evaluated checkpoint; None for the result of the training itself.
    """
    if checkpoint is None or not checkpoint.resolve().is_relative_to((folder / CHECKPOINTS).resolve()):
        return folder
    return folder if checkpoint.resolve() == checkpoint_file(folder).resolve() else folder / checkpoint.stem


def _folders(experiment: Path) -> list[Path]:
    return list(experiment.iterdir()) if experiment.is_dir() else []


def _newest(files: Iterable[Path]) -> Path | None:
    return max((file for file in files if file.is_file()), key=lambda file: file.stat().st_mtime, default=None)
