"""Reads W&B runs from their files, without W&B's server."""

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
from lit_triwave.tracking.run_files import CUT_SHORT, RUN_JSON, STATES
from lit_triwave.tracking.wandb_files import is_cut, records

_MAGIC = b":W&B"
"""The first bytes of a segment."""


def read_offline(path: Path, skipped: list[str]) -> list[ComparedRun]:
    """Reads the W&B runs of a folder or file, each with all of its segments; a resumed run has several with one id.

    Args:
        path: a `.wandb` file, a folder `offline-run-*` or `run-*`, or a folder that contains such folders.
        skipped: list to which a note on each file without a run is added, for example on a new file.

    Raises:
        TriwaveError: there is no such file.
    """
    if path.is_file():
        files = _beside(path.parent, path)
    else:
        files = sorted(path.glob("*.wandb"))
        files = _beside(path, files[0]) if files else sorted(path.glob("*run-*/*.wandb"))
    if not files:
        raise TriwaveError(f"{path} must contain W&B runs (offline-run-*/*.wandb), but has none")
    by_id: dict[str, list[Path]] = {}
    for file in files:
        by_id.setdefault(file.stem.removeprefix("run-"), []).append(file)
    runs = []
    for segments in by_id.values():
        try:
            runs.append(_read_segments(segments))
        except TriwaveError as error:
            skipped.append(str(error))
    return runs


def _beside(folder: Path, file: Path) -> list[Path]:
    """Returns the segments of a file's run: files of the same name in the folders beside its own, oldest first."""
    if not re.match(r"(offline-)?run-", folder.name):
        return [file]
    found = folder.resolve().parent.glob(f"*run-*/{file.name}")
    return [folder.parent / other.parent.name / other.name for other in sorted(found)]


def _read_segments(files: list[Path]) -> ComparedRun:
    """Reads one run from its segments, oldest first.

    Raises:
        TriwaveError: no segment names the run.
    """
    config: dict[str, Any] = {}
    summary: dict[str, Any] = {}
    run: Any = None
    exit_code: int | None = None
    notes: list[str] = []
    for file in files:
        exit_code = None  # exit code of the last segment
        try:
            for record in _whole_records(file, notes):
                kind = record.WhichOneof("record_type")
                if kind == "run":
                    run = record.run
                    config |= {_name(item): json.loads(item.value_json) for item in record.run.config.update}
                elif kind == "config":
                    config |= {_name(item): json.loads(item.value_json) for item in record.config.update}
                elif kind == "summary":
                    summary |= _values(record.summary.update)
                elif kind == "history":
                    summary |= _values(record.history.item)
                elif kind == "exit":
                    exit_code = record.exit.exit_code
        except (ValueError, RecursionError) as error:  # of JSON
            notes.append(f"{printable(file.name)} is damaged ({reason(error, 80)})")
    if run is None:
        raise TriwaveError(f"{files[-1]}: {notes[-1] if notes else 'no W&B run in it, or none yet'}")
    title = run.display_name or run.run_id
    state = _state(files[-1], exit_code, notes)
    return ComparedRun(
        name=title,
        source=str(files[-1]),
        state=CUT_SHORT if state == "finished" and config.get("cut_short") else state,
        experiment=title.rpartition("/")[0] or run.run_group or run.project,
        config=flat_config(config),
        summary=flat_summary(summary),
        history=partial(_history, files),
        notes=notes,
        about=about(config, run.run_group, run.job_type),
        tags=list(run.tags),
        wandb_id=run.run_id,
    )


def _state(file: Path, exit_code: int | None, notes: list[str]) -> str:
    """Returns the state of a run from its last segment and its run folder, because W&B calls a stopped run finished.

    If the segment has no end, the run is incomplete even if its folder says that it ended; a note is added.
    """
    said = mapping_in(file.parent.parent.parent / RUN_JSON, [], {}).get("state")
    ended = said in STATES and said != "running"
    if exit_code is not None:
        return str(said) if ended else "failed" if exit_code else "finished"
    cut = is_cut(file)
    if cut or ended:
        what = "ends in the middle of a record" if cut else f"has no end, though the run is {said}"
        notes.append(f"{file.name} is damaged ({what}): what was logged last is missing")
        return "cut off"
    return "running" if time.time() - file.stat().st_mtime < RUNNING_SECONDS else "cut off"


def _history(files: list[Path]) -> dict[str, np.ndarray]:
    """Returns the history of all segments, see `columns`."""
    return columns(
        {**_values(record.history.item), "_step": record.history.step.num}
        for file in files
        for record in _whole_records(file, [])
        if record.HasField("history")
    )


def _whole_records(file: Path, notes: list[str]) -> Iterator[Any]:
    """Yields the readable records of a segment; a note is added if others follow."""
    try:
        with file.open("rb") as opened:
            if opened.read(len(_MAGIC)) not in (_MAGIC, b""):
                raise ValueError("wrong first bytes")
        yield from records(file)
    except Exception as error:  # raised by struct or protobuf
        notes.append(f"{printable(file.name)} is no file of W&B's, or damaged ({type(error).__name__})")


def _name(item: Any) -> str:
    """Returns the dotted name of an item of a W&B record."""
    return item.key or ".".join(item.nested_key)


def _values(items: Any) -> dict[str, Any]:
    """Returns name ↦ value of the items that are not nested; parts of figures are nested."""
    return {_name(item): json.loads(item.value_json) for item in items if len(item.nested_key) < 2}
