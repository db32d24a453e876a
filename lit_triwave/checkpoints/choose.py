"""Chooses the checkpoint of a command: the given file, a run's last or best one, or none."""

from __future__ import annotations

import os
from pathlib import Path

from jsonargparse import Namespace

from lit_triwave.distributed.cluster import requeued
from lit_triwave.distributed.ranks import say
from lit_triwave.errors import TriwaveError, did_you_mean, some
from lit_triwave.tracking.run import Run, place_run
from lit_triwave.tracking.run_files import checkpoint_file, newest_checkpoint, unsaved_run

_NAMED = {
    "last": "run `fit` first, or give --ckpt_path FILE",
    "best": "a validation of `fit` saves it, for a model with a `monitor`",
}
"""Names that --ckpt_path takes, and what to do if there is no such checkpoint."""
_MOST_NAMED = 8
"""Experiments that an error lists."""


def choose_checkpoint(asked: str | None, run: Namespace, fits: bool) -> tuple[Path | None, bool]:
    """Returns the checkpoint that the user means.

    Args:
        asked: value of --ckpt_path: a file or folder (see `find_checkpoint`), `last` or `best`. The last two mean the
            run with the given id, or else the run that saved this checkpoint last. None means `last`, but for `fit` no
            checkpoint.
        run: settings of the user.
        fits: whether the command is `fit`.

    Returns:
        The path, which is None for a run from its beginning, and whether the user wants to resume a run that has not
        saved a checkpoint yet.

    Raises:
        TriwaveError: there is no such checkpoint.
    """
    kept = asked if asked in _NAMED else None if asked or fits else "last"
    if kept:
        experiment = Path(run.root).expanduser() / run.experiment
        path = checkpoint_file(experiment / run.id, kept) if run.id else newest_checkpoint(experiment, kept)
        if path is not None and not path.is_file() and os.path.lexists(path):  # a run must not restart for it
            raise TriwaveError(f"checkpoint {path} must be a file, got something else or a link without a target")
        path = path if path is not None and path.is_file() else None
        where = f"{Path(run.root) / run.experiment / (run.id or '*')}/checkpoints"
        # A job that is always submitted with `--ckpt_path last --run.id ID` may have been killed before its first save.
        restarts = path is None and kept == "last" and run.id is not None and fits
        if path is None and not restarts:
            what = "checkpoint" if kept == "last" else f"{kept}.ckpt"
            raise TriwaveError(f"no {what} in {where}: {_NAMED[kept]}")
        say(f"no checkpoint in {where} yet: starting from the beginning" if restarts else f"checkpoint: {path}")
        left = unsaved_run(experiment) if fits and run.id is None else None
        if left is not None:
            say(f"a later run has saved no checkpoint: --run.id {left} --ckpt_path last starts it again")
        if path is None:
            return None, True
    elif asked is None:
        return None, False
    else:
        path = find_checkpoint(asked)
        if path != Path(asked):
            say(f"checkpoint: {path}")
    if fits and requeued():
        own = checkpoint_file(place_run(Run(**run.as_dict()), path, branches=True).folder)
        path = own if own.is_file() else path
    return path, False


def find_checkpoint(place: str | Path) -> Path:
    """Returns a checkpoint: the given file, the last one of a run's folder, or the newest one of an experiment.

    Raises:
        TriwaveError: there is none.
    """
    path = Path(place)
    if path.is_file():
        return path
    if not path.exists():
        near = did_you_mean(path.name, [other.name for other in path.parent.glob("*")])
        raise TriwaveError(f"checkpoint {path}: no such file{near}")
    found = checkpoint_file(path) if checkpoint_file(path).is_file() else newest_checkpoint(path)
    if found is None:
        last = checkpoint_file(Path())
        within = sorted({file.parents[2].name for file in path.glob(f"*/*/{last}")})
        hint = f"; experiments in it: {some(within, _MOST_NAMED)}" if within else ""
        what = "the folder of a run or an experiment"
        raise TriwaveError(f"{path} must be {what}, got no {last} or */{last} in it{hint}")
    return found
