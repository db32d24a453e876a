"""W&B runs that were made offline, read from their files without W&B's server."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from lit_triwave.commands.compare.read.compared_run import RUNNING_SECONDS, ComparedRun
from lit_triwave.commands.compare.read.run_folders import mapping_in
from lit_triwave.commands.compare.read.wandb_fields import about, columns, flat_config, flat_summary
from lit_triwave.errors import TriwaveError, printable, reason
from lit_triwave.tracking.run_files import RUN_JSON
from lit_triwave.tracking.wandb_files import is_cut, records

MAGIC = b":W&B"
"""The first bytes of a segment."""


def read_offline(path: Path, skipped: list[str]) -> list[ComparedRun]:
    """The W&B runs of a folder or file, each with all of its segments: a run that went on has several, of one id.

    Args:
        path: a `.wandb` file, a folder `offline-run-*` or `run-*`, or a folder that holds such folders.
        skipped: to which is added what is no run, or none yet: a file that has just been begun, say.

    Raises:
        TriwaveError: there is no such file.
    """
    if path.is_file():
        files = beside(path.parent, path)
    else:
        files = sorted(path.glob("*.wandb"))
        files = beside(path, files[0]) if files else sorted(path.glob("*run-*/*.wandb"))
    if not files:
        raise TriwaveError(f"{path}: no W&B run (offline-run-*/*.wandb)")
    by_id: dict[str, list[Path]] = {}
    for file in files:
        by_id.setdefault(file.stem.removeprefix("run-"), []).append(file)
    runs = []
    for segments in by_id.values():
        try:
            runs.append(read_segments(segments))
        except TriwaveError as error:
            skipped.append(str(error))
    return runs


def beside(folder: Path, file: Path) -> list[Path]:
    """The segments of a file's run: those of the same name in the folders beside its own, oldest first."""
    if not re.match(r"(offline-)?run-", folder.name):
        return [file]
    found = folder.resolve().parent.glob(f"*run-*/{file.name}")
    return [folder.parent / other.parent.name / other.name for other in sorted(found)]


def read_segments(files: list[Path]) -> ComparedRun:
    """One run from its segments, oldest first.

    Raises:
        TriwaveError: none of them says which run it is.
    """
    config: dict[str, Any] = {}
    summary: dict[str, Any] = {}
    run: Any = None
    exit_code: int | None = None
    notes: list[str] = []
    for file in files:
        exit_code = None  # of the last segment
        try:
            for record in whole_records(file, notes):
                kind = record.WhichOneof("record_type")
                if kind == "run":
                    run = record.run
                    config |= {name(item): json.loads(item.value_json) for item in record.run.config.update}
                elif kind == "config":
                    config |= {name(item): json.loads(item.value_json) for item in record.config.update}
                elif kind == "summary":
                    summary |= values(record.summary.update)
                elif kind == "history":
                    summary |= values(record.history.item)
                elif kind == "exit":
                    exit_code = record.exit.exit_code
        except (ValueError, RecursionError) as error:  # of JSON
            notes.append(f"{printable(file.name)} is damaged ({reason(error, 80)})")
    if run is None:
        raise TriwaveError(f"{files[-1]}: {notes[-1] if notes else 'no W&B run in it, or none yet'}")
    title = run.display_name or run.run_id
    return ComparedRun(
        name=title,
        source=str(files[-1]),
        state=state(files[-1], exit_code, notes),
        experiment=title.rpartition("/")[0] or run.run_group or run.project,
        config=flat_config(config),
        summary=flat_summary(summary),
        history=partial(history, files),
        notes=notes,
        about=about(config, run.run_group, run.job_type),
        tags=list(run.tags),
        wandb_id=run.run_id,
    )


def state(file: Path, exit_code: int | None, notes: list[str]) -> str:
    """How a run ended, by its last segment. W&B takes a run that was stopped for finished; the run folder knows better.

    A segment without an end is not that of a whole run, whatever the folder says; that is noted.
    """
    said = mapping_in(file.parent.parent.parent / RUN_JSON, [], {}).get("state")
    ended = said in ("finished", "stopped", "failed")
    if exit_code is not None:
        return str(said) if ended else "failed" if exit_code else "finished"
    cut = is_cut(file)
    if cut or ended:
        what = "ends in the middle of a record" if cut else f"has no end, though the run is {said}"
        notes.append(f"{file.name} is damaged ({what}): what was logged last is missing")
        return "cut off"
    return "running" if time.time() - file.stat().st_mtime < RUNNING_SECONDS else "cut off"


def history(files: list[Path]) -> dict[str, np.ndarray]:
    """The history of all segments, see `columns`."""
    return columns(
        {**values(record.history.item), "_step": record.history.step.num}
        for file in files
        for record in whole_records(file, [])
        if record.HasField("history")
    )


def whole_records(file: Path, notes: list[str]) -> Iterator[Any]:
    """The records of a segment, as far as they can be read; what comes then is noted."""
    try:
        with file.open("rb") as opened:
            if opened.read(len(MAGIC)) not in (MAGIC, b""):
                raise ValueError("its first bytes are others")
        yield from records(file)
    except Exception as error:  # of struct's or of protobuf's
        notes.append(f"{printable(file.name)} is no file of W&B's, or damaged ({type(error).__name__})")


def name(item: Any) -> str:
    """The dotted name of an item of W&B's."""
    return item.key or ".".join(item.nested_key)


def values(items: Any) -> dict[str, Any]:
    """Name ↦ value of items that are not nested: what figures consist of is."""
    return {name(item): json.loads(item.value_json) for item in items if len(item.nested_key) < 2}
