"""Finds and reads run folders of every version of this project, also damaged ones."""

from __future__ import annotations

import math
import os
import re
import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from textwrap import shorten
from typing import Any

from lit_triwave.commands.compare.read.checked import read_mapping, what_fails
from lit_triwave.commands.compare.read.compared_run import RUNNING_SECONDS, ComparedRun
from lit_triwave.commands.compare.read.metrics_csv import MetricsFile, last_values
from lit_triwave.errors import KIND_WORDS, printable
from lit_triwave.tracking import run_files
from lit_triwave.tracking.flat_config import describes_run, flat, short_names
from lit_triwave.tracking.metric_goals import never_negative

_RECORD: dict[str, type | Collection[str]] = {
    **dict.fromkeys(("experiment", "id", "wandb_id", "group", "job_type", "started", "ended"), str),
    **dict.fromkeys(("config", *run_files.TRACKED_FIELDS), dict),
    "cut_short": str,
    "tags": list,
    "schema": int,
    "state": run_files.STATES,
}
"""Fields of `run.json` ↦ their kind, or the texts that they may be."""
_NEVER_NULL = ("experiment", "id", "started", "config", "versions", "hardware", "tags", "schema", "state")
"""Fields of `run.json` that have a value in every version, if they are there at all."""
_LARGEST = 1e100
_BELOW_LINK = 2
"""Levels of folders that are searched below a link. A link may lead to a run, an experiment or the root of runs, but
also to a whole disk."""
_WANDB_FOLDER = re.compile(r"wandb|(offline-)?run-\d{8}_\d{6}-\w+")


def find_run_folders(root: Path, skipped: list[str]) -> list[Path]:
    """Returns the run folders in and below a folder, in the order of their names, numbers by value.

    Args:
        root: a run folder, or a folder that contains run folders at any depth.
        skipped: list to which a note on each unreadable folder is added.
    """
    return sorted(_below(root, skipped), key=_natural)


def _natural(path: Path) -> list[tuple[int, str]]:
    """Returns a sort key by which slurm-7_9 comes before slurm-7_10."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", str(path))]


def _below(root: Path, skipped: list[str]) -> Iterator[Path]:
    pending: list[tuple[Path, int | None]] = [(root, None)]  # with the levels that are left, below a link
    seen = set()
    while pending:
        folder, left = pending.pop()
        try:
            status = folder.stat()
            entries = list(os.scandir(folder))
        except OSError as error:
            skipped.append(f"{folder}: {error.strerror}")
            continue
        if (status.st_dev, status.st_ino) in seen:  # links may go in circles
            continue
        seen.add((status.st_dev, status.st_ino))
        if any(entry.name in run_files.RUN_MARKS for entry in entries):
            yield folder
            continue
        inner = (entry for entry in entries if os.path.isdir(entry) and not _WANDB_FOLDER.fullmatch(entry.name))
        for entry in inner:
            levels = left - 1 if left is not None else _BELOW_LINK if entry.is_symlink() else None
            if levels is None or levels >= 0:
                pending.append((Path(entry.path), levels))


def read_run_folder(folder: Path) -> ComparedRun:
    """Reads a run folder; damaged, missing and newer files become notes.

    Args:
        folder: a folder with at least one of `RUN_MARKS`.
    """
    notes: list[str] = []
    record = mapping_in(folder / run_files.RUN_JSON, notes, _RECORD)
    summary = mapping_in(folder / run_files.SUMMARY_JSON, notes, {"schema": int})
    config = record.get("config")
    if config is None:
        said = mapping_in(folder / run_files.CONFIG_YAML, notes, {})
        config = {name: value for name, value in short_names(flat(said)).items() if describes_run(name)}
    for name in [name for name, value in summary.items() if not _is_result(name, value)]:
        bounds = "from 0 to" if never_negative(name) else "below"
        got = shorten(repr(summary.pop(name)), 40)
        what = f"{printable(name)} must be a number {bounds} {_LARGEST:g}, got {got}"
        notes.append(f"{run_files.SUMMARY_JSON} is damaged ({what})")
    history = MetricsFile(folder / run_files.METRICS_CSV, notes)
    damaged = bool(notes)
    newest = max(record.get("schema") or 1, summary.get("schema") or 1)
    if newest > run_files.SCHEMA:
        notes.append(f"written by a newer lit_triwave (schema {newest})")
    experiment = record.get("experiment") or folder.absolute().parent.name
    state = record.get("state") or ("finished" if (folder / run_files.SUMMARY_JSON).is_file() else "running")
    if state == "running" and not _is_fresh(folder):
        state = "cut off"
    if state == "finished" and not damaged and not summary.keys() - {"schema"}:
        there = (folder / run_files.SUMMARY_JSON).is_file()
        notes.append(f"{run_files.SUMMARY_JSON} is {'damaged (it has no results)' if there else 'missing'}")
        damaged = True
    if damaged:
        state = "damaged"  # whether it was finished, or its result, is not known
    if state == run_files.CUT_SHORT and record.get("cut_short"):
        notes.append(f"cut short: {printable(record['cut_short'])}")
    if state != "finished":
        summary = last_values(history()) | summary
    return ComparedRun(
        name=f"{experiment}/{folder.absolute().name}",  # run.json may be a copy of another run's
        source=str(folder),
        state=state,
        experiment=experiment,
        config=config,
        summary={name: value for name, value in summary.items() if name != "schema"},
        history=history,
        notes=notes,
        tags=[str(tag) for tag in record.get("tags") or []],
        about=flat({name: record[name] for name in run_files.ABOUT_FIELDS if record.get(name) is not None}),
        wandb_id=record.get("wandb_id"),
    )


def _is_result(name: str, value: Any) -> bool:
    """Whether a summary may have a value.

    A metric may be None, as which a number that is not finite is written, or a number whose square is finite. Anything
    else may also be a word.
    """
    if value is None or isinstance(value, (str, bool)):
        return value is None or "/" not in name
    if not isinstance(value, (int, float)) or (never_negative(name) and value < 0):
        return False
    return abs(value) < _LARGEST or not math.isfinite(value)


def mapping_in(path: Path, notes: list[str], kinds: Mapping[str, type | Collection[str]]) -> dict[str, Any]:
    """Returns the content of a file without damaged fields, for which notes are added; {} if there is no file.

    Args:
        path: path of a JSON or YAML file.
        notes: list to which a note on each damaged part is added.
        kinds: kinds of some fields, or the texts that they may be.
    """
    try:
        content = read_mapping(path)
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        notes.append(f"{path.name} is damaged ({what_fails(error)})")
        return {}
    for name, kind in kinds.items():
        value = content.get(name)
        if isinstance(kind, type):
            fits, words = isinstance(value, kind), KIND_WORDS[kind.__name__]
        else:
            fits, words = value in tuple(kind), f"one of {', '.join(kind)}"
        if name in content and not fits and (value is not None or name in _NEVER_NULL):
            notes.append(f"{path.name} is damaged ({name} must be {words}, got {shorten(repr(content.pop(name)), 40)})")
    return content


def _is_fresh(folder: Path) -> bool:
    """Returns whether a file that `fit` writes while it runs changed within the last minutes."""
    since = time.time() - RUNNING_SECONDS
    for pattern in run_files.WRITTEN_BY_FIT:
        for path in folder.glob(pattern):
            with suppress(OSError):  # a checkpoint that has just been replaced
                if path.stat().st_mtime >= since:
                    return True
    return False
