"""A run's settings, id and folder `runs/<experiment>/<run id>/`."""

from __future__ import annotations

import math
import os
import re
import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from lit_triwave.errors import has_control_characters
from lit_triwave.files import written_whole
from lit_triwave.tracking.private_paths import hidden
from lit_triwave.tracking.run_files import WANDB_ID, run_folder_of

RUN_ID_VARIABLE = "LIT_TRIWAVE_RUN_ID"
"""Environment variable by which the first process passes the id to the processes that Lightning starts."""
SWEEP_VARIABLE = "LIT_TRIWAVE_SWEEP"
"""Environment variable that a run of `sweep` sees; the sweep itself then says how to resume."""
LONGEST_TAG = 64
"""Characters of a tag in Weights & Biases."""
LONGEST_NAME = 128
"""Characters of a project or a group in Weights & Biases."""
WandbMode = Literal["auto", "online", "offline", "disabled"]


@dataclass
class Run:
    """Where a run is kept and how it is tracked.

    Args:
        experiment: name of the experiment; by default the name of the config file.
        root: folder of all runs.
        id: id of this run; by default the time and four random digits. A resumed run keeps its id. With a checkpoint of
            another run, a new run starts from this checkpoint.
        wandb: mode of Weights & Biases. `auto` is online after `wandb login`, else offline; `disabled` turns it off.
        project: project in Weights & Biases; by default WANDB_PROJECT, else `lit_triwave`. A run that `wandb agent`
            starts is in the project of its sweep.
        group: name of a group of runs; by default WANDB_RUN_GROUP, else the experiment.
        job_type: role of the run in its group.
        tags: further tags, besides method, function or data set, depth and number of seeds.
        artifact: upload the best checkpoint of a finished run to Weights & Biases; the last one if there is no best.
        checkpoint_every: epochs between checkpoints, at least 1. The end of each stage is saved in any case.
        rank_seconds: seconds that ranks wait for a rank that does not answer or does not start. Then the run ends with
            an error that names this rank.
        checkpoint_seconds: save a checkpoint inside an epoch after this many seconds; null or 0 for never.

    Raises:
        ValueError: an argument is outside its range.
    """

    experiment: str | None = None
    root: str = "runs"
    id: str | None = None
    wandb: WandbMode = "auto"
    project: str | None = None
    group: str | None = None
    job_type: str = "fit"
    tags: list[str] = field(default_factory=list)
    artifact: bool = False
    checkpoint_every: int = 100
    rank_seconds: float = 600.0
    checkpoint_seconds: float | None = 60.0

    def __post_init__(self) -> None:
        # Without W&B its variables are not used, so a wrong value must not end a run.
        unused = self.wandb == "disabled" or (self.wandb == "auto" and _disabled_by_variable())
        variables: Mapping[str, str] = {} if unused else os.environ
        project, group = "run.project", "run.group"
        if self.project is None:
            self.project, project = variables.get("WANDB_PROJECT") or "lit_triwave", "WANDB_PROJECT"
        if self.group is None:
            self.group, group = variables.get("WANDB_RUN_GROUP") or None, "WANDB_RUN_GROUP"
        # These go to Weights & Biases and are never opened as paths, so they must not name the home folder.
        self.group, self.job_type, self.tags = hidden([self.group, self.job_type, list(self.tags)])
        what = "without control characters or / \\ # ? % :"
        _check_text(project, self.project, LONGEST_NAME, r"(?!\s*$)[^/\\#?%:]+", what)
        for name, value in {"run.experiment": self.experiment, "run.id": self.id}.items():
            what = "not only dots, without spaces, control characters or / \\ # ? % :"
            _check_text(name, value, 100, r"(?!\.+$)[^/\\#?%:\s]+", what)
        words = {group: self.group, "run.job_type": self.job_type}
        words |= {f"run.tags, number {number}": tag for number, tag in enumerate(self.tags, start=1)}
        for name, word in words.items():
            most = LONGEST_NAME if name == group else LONGEST_TAG
            _check_text(name, word, most, r"\S(.*\S)?", "in one line, without control characters")
        if not self.root:
            raise ValueError("run.root must be a folder, got '': use . for the current one")
        if has_control_characters(self.root):
            raise ValueError(f"run.root must have no control characters, got {self.root!r}")
        if self.checkpoint_every < 1:
            raise ValueError(f"run.checkpoint_every must be at least 1, got {self.checkpoint_every}")
        if not self.rank_seconds > 0:
            raise ValueError(f"run.rank_seconds must be above 0, got {self.rank_seconds}")
        if self.checkpoint_seconds is not None and not 0 <= self.checkpoint_seconds < math.inf:
            raise ValueError(f"run.checkpoint_seconds must be at least 0 or null, got {self.checkpoint_seconds}")

    @property
    def folder(self) -> Path:
        assert self.experiment is not None and self.id is not None
        return Path(self.root).expanduser() / self.experiment / self.id


def _check_text(name: str, text: str | None, most: int, pattern: str, what: str) -> None:
    """Refuses a text that does not fit its pattern, is too long, or has characters that cannot be printed."""
    if text is not None and not (re.fullmatch(pattern, text) and len(text) <= most and text.isprintable()):
        raise ValueError(f"{name} must be 1 to {most} characters, {what}, got {text!r}")


def _disabled_by_variable() -> bool:
    mode, disabled = (os.environ.get(name, "").lower() for name in ("WANDB_MODE", "WANDB_DISABLED"))
    return mode == "disabled" or disabled in ("true", "1")


def given_run_id() -> str | None:
    """Returns the run id that was chosen by the program that started this process; None if there is none.

    The id from SLURM is the same for all tasks of a step, and after a requeue.
    """
    if os.environ.get(RUN_ID_VARIABLE):
        return os.environ[RUN_ID_VARIABLE]
    if int(os.environ.get("SLURM_STEP_NUM_TASKS", "1")) > 1:
        return f"slurm-{os.environ['SLURM_JOB_ID']}.{os.environ['SLURM_STEP_ID']}"
    return None


def new_run_id() -> str:
    """Returns an id that all processes of a distributed run agree on.

    If no id is given, it has the form 20260131-235959-1a2b. These ids sort by time, and the random digits distinguish
    runs that start in the same second.
    """
    return given_run_id() or f"{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(2)}"


def wandb_id(folder: Path, checkpoint: Mapping[str, Any], new: bool = False) -> str:
    """Returns a run's id in Weights & Biases: the one in its folder or in its checkpoint, else a new one.

    It differs from the run's id, because another experiment of the same W&B project may have the same run id. Under
    `wandb agent` it is always the agent's id, because W&B accepts no other id there.

    Args:
        folder: folder of the run, with the file `wandb_id`.
        checkpoint: content of the checkpoint from which the run resumes; {} if it does not.
        new: whether to create a new id, because W&B cannot delete the steps of a run that is rewound.
    """
    file = folder / WANDB_ID
    # The folder has priority: a checkpoint may be from before the run was rewound.
    kept = (file.read_text().strip() if file.is_file() else "") or checkpoint.get("run", {}).get("wandb_id")
    name: str = (swept() and os.environ.get("WANDB_RUN_ID")) or (not new and kept) or secrets.token_hex(4)
    if not file.is_file() or file.read_text().strip() != name:
        with written_whole(file) as partial:
            partial.write_text(name + "\n")
    return name


def swept() -> bool:
    """Whether `wandb agent` started this process for one run of a W&B sweep."""
    return bool(os.environ.get("WANDB_SWEEP_ID"))


def place_run(run: Run, checkpoint: Path | None, branches: bool = False) -> Run:
    """Returns the run with its final folder: the checkpoint's folder, a new one, or the folder with the given id.

    Args:
        run: settings of the user.
        checkpoint: checkpoint from which the run resumes, or that is evaluated.
        branches: whether an id other than the checkpoint's means a new run that starts from the checkpoint.
    """
    folder = run_folder_of(checkpoint)
    if folder is None or (branches and run.id is not None and run.folder.resolve() != folder):
        return replace(run, id=run.id or new_run_id())
    experiments = folder.parent.parent
    root = os.path.relpath(experiments) if experiments.is_relative_to(Path.cwd()) else str(experiments)
    return replace(run, root=root, experiment=folder.parent.name, id=folder.name)
