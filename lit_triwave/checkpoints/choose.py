"""Which checkpoint a command takes: the one that is asked for, a run's last or best one, or none."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from jsonargparse import Namespace

from lit_triwave.distributed.cluster import requeued
from lit_triwave.distributed.ranks import say
from lit_triwave.errors import TriwaveError, did_you_mean, some
from lit_triwave.tracking.run import Run, place_run
from lit_triwave.tracking.run_files import checkpoint_file, newest_checkpoint, unsaved_run

KEPT = {"last": "run `fit` first, or give --ckpt_path FILE", "best": "a validation of `fit` makes it"}
"""What a run keeps by a name that --ckpt_path takes, and what to do where it is not there."""
_MOST_NAMED = 8
"""Experiments that an error lists."""


@dataclass(frozen=True)
class Chosen:
    """What a command begins with.

    Attributes:
        path: of the checkpoint; None for a run from its beginning.
        begins_anew: whether the run of that id was begun but has not saved a checkpoint yet.
    """

    path: Path | None = None
    begins_anew: bool = False


def choose_checkpoint(asked: str | None, run: Namespace, fits: bool) -> Chosen:
    """The checkpoint that is meant.

    Args:
        asked: --ckpt_path: a file, `last` or `best`, of the newest run or of that of the id given; None for `last`, or
            for a fit from its beginning.
        run: as it was asked for.
        fits: whether the command is `fit`.

    Raises:
        TriwaveError: it is not there.
    """
    kept = asked if asked in KEPT else None if asked or fits else "last"
    if kept:
        experiment = Path(run.root).expanduser() / run.experiment
        path = checkpoint_file(experiment / run.id, kept) if run.id else newest_checkpoint(experiment, kept)
        path = path if path is not None and path.is_file() else None
        where = f"{Path(run.root) / run.experiment / (run.id or '*')}/checkpoints"
        # A job that is always submitted with `--ckpt_path last --run.id ID` may have been killed before it saved.
        begins_anew = path is None and kept == "last" and run.id is not None and fits
        if path is None and not begins_anew:
            what = "checkpoint" if kept == "last" else f"{kept}.ckpt"
            raise TriwaveError(f"no {what} in {where}: {KEPT[kept]}")
        say(f"no checkpoint in {where} yet: begins anew" if begins_anew else f"checkpoint: {path}")
        left = unsaved_run(experiment) if fits and run.id is None else None
        if left is not None:
            say(f"a later run was left before it saved: --run.id {left} --ckpt_path last begins it anew")
        if path is None:
            return Chosen(begins_anew=True)
    elif asked is None:
        return Chosen()
    else:
        path = Path(asked)
        if not path.is_file():
            raise TriwaveError(f"--ckpt_path {path}: no such file")
    if fits and requeued():
        own = checkpoint_file(place_run(Run(**run.as_dict()), path, branches=True).folder)
        path = own if own.is_file() else path
    return Chosen(path)


def find_checkpoint(place: str | Path) -> Path:
    """The checkpoint that is meant: a file; `checkpoints/last.ckpt` of a run's folder; that of the newest run in the
    folder of an experiment.

    Raises:
        TriwaveError: there is none.
    """
    path = Path(place)
    if path.is_file():
        return path
    if not path.exists():
        near = did_you_mean(path.name, [other.name for other in path.parent.glob("*")] if path.parent.is_dir() else [])
        raise TriwaveError(f"checkpoint {path}: no such file{near}")
    found = checkpoint_file(path) if checkpoint_file(path).is_file() else newest_checkpoint(path)
    if found is None:
        last = checkpoint_file(Path())
        within = sorted({file.parents[2].name for file in path.glob(f"*/*/{last}")})
        hint = f"; experiments in it: {some(within, _MOST_NAMED)}" if within else ""
        raise TriwaveError(f"{path} is no folder of a run or of an experiment: no {last} and no */{last} in it{hint}")
    return found
