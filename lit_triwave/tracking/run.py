"""Run folders: `runs/<experiment>/<run id>/`, their names, and the files that are not Lightning's."""

from __future__ import annotations

import math
import os
import re
import secrets
import shutil
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from lit_triwave.errors import TriwaveError
from lit_triwave.files import ANOTHER_ROOT, open_folder, written_whole
from lit_triwave.tracking.private_paths import hidden
from lit_triwave.tracking.run_files import WANDB_ID, run_folder_of

RUN_ID_VARIABLE = "LIT_TRIWAVE_RUN_ID"
"""Environment variable by which the first process tells the id to those that Lightning starts beside it."""
SWEEP_VARIABLE = "LIT_TRIWAVE_SWEEP"
"""Environment variable by which `sweep` tells its runs that it says itself how to go on."""
MOST_LETTERS = 64
"""Of a tag in Weights & Biases."""
WandbMode = Literal["auto", "online", "offline", "disabled"]


@dataclass
class Run:
    """Where a run is kept and how it is tracked.

    Args:
        experiment: name of the experiment; by default the name of the config file.
        root: folder of all runs.
        id: of this run; by default the time and four random digits. Resuming keeps it; another one than that of the
            checkpoint's run begins a run of its own from there.
        wandb: Weights & Biases: `auto` is online after `wandb login`, else offline; `disabled` leaves it out.
        project: in Weights & Biases; a sweep's own where `wandb agent` starts the run.
        group: of runs that belong together; by default the experiment.
        job_type: what kind of run of its group it is.
        tags: to find the run by, besides its method, function or data set, depth and number of seeds.
        artifact: keep the best checkpoint of a finished run in Weights & Biases, the last one if there is no best.
        checkpoint_every: epochs between two checkpoints, besides those at the end of each stage.
        checkpoint_seconds: renew the checkpoint also after so many seconds, inside an epoch; null or 0 for never.
    """

    experiment: str | None = None
    root: str = "runs"
    id: str | None = None
    wandb: WandbMode = "auto"
    project: str = "lit_triwave"
    group: str | None = None
    job_type: str = "fit"
    tags: list[str] = field(default_factory=list)
    artifact: bool = False
    checkpoint_every: int = 100
    checkpoint_seconds: float | None = 60.0

    def __post_init__(self) -> None:
        # No paths to be opened: what is said of them anywhere names no home folder.
        self.group, self.job_type, self.tags = hidden([self.group, self.job_type, list(self.tags)])
        names = {"run.experiment": self.experiment, "run.id": self.id, "run.project": self.project}
        for name, value in names.items():
            if value is not None and not re.fullmatch(r"(?!\.+$)[^/\\#?%:\s]{1,100}", value):
                raise ValueError(
                    f"{name} {value!r}: a plain name of up to 100 characters, without spaces or / \\ # ? % :"
                )
        words = {"run.group": self.group, "run.job_type": self.job_type}
        words |= {f"run.tags, number {number}": tag for number, tag in enumerate(self.tags, start=1)}
        for name, word in words.items():
            if word is not None and not re.fullmatch(r"\S(.{0,62}\S)?", word):
                raise ValueError(f"{name} {word!r}: 1 to {MOST_LETTERS} characters in one line, as W&B takes them")
        if not self.root:
            raise ValueError("run.root '': the folder of all runs; . is the current one")
        if self.checkpoint_every < 1:
            raise ValueError(f"run.checkpoint_every {self.checkpoint_every}: at least 1")
        if self.checkpoint_seconds is not None and not 0 <= self.checkpoint_seconds < math.inf:
            raise ValueError(f"run.checkpoint_seconds {self.checkpoint_seconds}: at least 0, or null for never")

    @property
    def folder(self) -> Path:
        assert self.experiment is not None and self.id is not None
        return Path(self.root).expanduser() / self.experiment / self.id


def given_run_id() -> str | None:
    """The id that whoever started this process has decided, None if no one has.

    SLURM's is the same for all tasks of a step, and after a requeue.
    """
    if os.environ.get(RUN_ID_VARIABLE):
        return os.environ[RUN_ID_VARIABLE]
    if int(os.environ.get("SLURM_STEP_NUM_TASKS", "1")) > 1:
        return f"slurm-{os.environ['SLURM_JOB_ID']}.{os.environ['SLURM_STEP_ID']}"
    return None


def new_run_id() -> str:
    """An id that all processes of a distributed run agree on.

    If none is given, of the form 20260131-235959-1a2b: it sorts by time, and random digits keep runs apart that start
    in the same second.
    """
    return given_run_id() or f"{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(2)}"


def wandb_id(folder: Path, checkpoint: dict[str, Any] | None, anew: bool = False) -> str:
    """The id of a run in Weights & Biases: that in its folder, or that of the checkpoint it goes on from, or a new one.

    Not the run's own id, which another experiment of the same W&B project may have too. Under `wandb agent` it is the
    agent's, whatever was before: W&B takes no other there.

    Args:
        folder: of the run, where the id is kept as `wandb_id`.
        checkpoint: its content.
        anew: a new one, as W&B has steps already that are now made in another way, and takes none back.
    """
    file = folder / WANDB_ID
    # A checkpoint may be of the run that this one has branched from, or from before it went back.
    kept = (file.read_text().strip() if file.is_file() else "") or (checkpoint or {}).get("run", {}).get("wandb_id")
    name: str = (swept() and os.environ.get("WANDB_RUN_ID")) or (not anew and kept) or secrets.token_hex(4)
    if not file.is_file() or file.read_text().strip() != name:
        with written_whole(file) as partial:
            partial.write_text(name + "\n")
    return name


def swept() -> bool:
    """Whether `wandb agent` has started this process, for one run of a sweep."""
    return bool(os.environ.get("WANDB_SWEEP_ID"))


def open_run_folder(folder: Path, needed: int = 0) -> None:
    """Makes a run's folder and shows that it can be written.

    Args:
        folder: with its parents.
        needed: bytes that the run takes.

    Raises:
        TriwaveError: it can't, or there is not enough room.
    """
    open_folder(folder, ANOTHER_ROOT, "run folder")
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise TriwaveError(
            f"run folder {folder} has {free / 1e6:.0f} MB free, a run takes {needed / 1e6:.0f} MB; {ANOTHER_ROOT}"
        )


def place_run(run: Run, checkpoint: Path | None, branches: bool = False) -> Run:
    """Where a run belongs: in the run folder of its checkpoint, else in a new one unless an id was given.

    Args:
        run: as it was asked for.
        checkpoint: that it goes on from, or that is evaluated.
        branches: whether an id that is not the checkpoint's means another run, which goes on from there.
    """
    folder = run_folder_of(checkpoint)
    if folder is None or (branches and run.id is not None and run.folder.resolve() != folder):
        return replace(run, id=run.id or new_run_id())
    experiments = folder.parent.parent
    root = os.path.relpath(experiments) if experiments.is_relative_to(Path.cwd()) else str(experiments)
    return replace(run, root=root, experiment=folder.parent.name, id=folder.name)
