"""Run folders, found and read: those of every version of this project, whole ones and others."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from lit_triwave.commands.compare.read.compared_run import RUNNING_SECONDS, ComparedRun
from lit_triwave.commands.compare.read.metrics_csv import MetricsFile, last_values
from lit_triwave.errors import reason
from lit_triwave.tracking.flat_config import describes_run, flat, short_names
from lit_triwave.tracking.run_files import (
    ABOUT_FIELDS,
    CONFIG_YAML,
    METRICS_CSV,
    RUN_JSON,
    RUN_MARKS,
    SCHEMA,
    SUMMARY_JSON,
    WRITTEN_BY_FIT,
)

WANDB_FOLDER = re.compile(r"wandb|(offline-)?run-\d{8}_\d{6}-\w+")


def find_run_folders(root: Path, skipped: list[str]) -> list[Path]:
    """The run folders in and below a folder, in the order of their names, numbers by value.

    Args:
        root: a run folder, or one that holds some, however deep.
        skipped: to which folders that may not be read are added.
    """
    return sorted(_below(root, set(), skipped), key=natural)


def natural(path: Path) -> list[tuple[int, str]]:
    """A key by which slurm-7_9 comes before slurm-7_10."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", str(path))]


def _below(folder: Path, seen: set[tuple[int, int]], skipped: list[str]) -> Iterator[Path]:
    try:
        status = folder.stat()
        entries = list(os.scandir(folder))
    except OSError as error:
        skipped.append(f"{folder}: {error.strerror}")
        return
    if (status.st_dev, status.st_ino) in seen:  # links may go in circles
        return
    seen.add((status.st_dev, status.st_ino))
    if any(entry.name in RUN_MARKS for entry in entries):
        yield folder
        return
    for entry in entries:
        if _is_folder(entry) and not WANDB_FOLDER.fullmatch(entry.name):
            yield from _below(Path(entry.path), seen, skipped)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that may not be followed
        return False


def read_run_folder(folder: Path) -> ComparedRun:
    """A run folder as it is: damaged, missing and newer files become notes.

    Args:
        folder: that has one of `RUN_MARKS`.
    """
    notes: list[str] = []
    record = json_object(folder / RUN_JSON, notes)
    summary = json_object(folder / SUMMARY_JSON, notes)
    config = record.get("config")
    if not isinstance(config, dict):
        config = _old_config(folder / CONFIG_YAML, notes)
    newest = max(_schema(record), _schema(summary))
    if newest > SCHEMA:
        notes.append(f"written by a newer lit_triwave (schema {newest})")
    experiment = str(record.get("experiment") or folder.absolute().parent.name)
    state = record.get("state") or ("finished" if (folder / SUMMARY_JSON).is_file() else "running")
    if state == "running" and not _is_fresh(folder):
        state = "cut off"
    if state == "finished" and not (folder / SUMMARY_JSON).is_file():
        notes.append(f"{SUMMARY_JSON} is missing")
    if state == "finished" and (not summary or (not record and (folder / RUN_JSON).is_file())):
        state = "damaged"  # whether it was finished, or what came of it, is not known
    history = MetricsFile(folder / METRICS_CSV, notes)
    if state != "finished":
        summary = last_values(history()) | summary
    tags = record.get("tags")
    return ComparedRun(
        name=f"{experiment}/{record.get('id') or folder.absolute().name}",
        source=str(folder),
        state=str(state),
        experiment=experiment,
        config=config,
        summary={name: value for name, value in summary.items() if name != "schema"},
        history=history,
        notes=notes,
        tags=[str(tag) for tag in tags] if isinstance(tags, list) else [],
        about=flat({name: record[name] for name in ABOUT_FIELDS if record.get(name) is not None}),
        wandb_id=record.get("wandb_id"),
    )


def json_object(path: Path, notes: list[str]) -> dict[str, Any]:
    """The object in a JSON file; {} with a note when it is damaged, without one when it is not there."""
    try:
        content = json.loads(path.read_bytes())
        if not isinstance(content, dict):
            raise ValueError("no object")
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        notes.append(f"{path.name} is damaged ({reason(error, 80)})")
        return {}
    return content


def _schema(content: dict[str, Any]) -> int:
    schema = content.get("schema", 1)
    return schema if isinstance(schema, int) else 1


def _old_config(path: Path, notes: list[str]) -> dict[str, Any]:
    """The config of a run without run.json: flat, without the words init_args and the fields that say where it was."""
    try:
        content = yaml.load(path.read_bytes(), getattr(yaml, "CSafeLoader", yaml.SafeLoader))
        if not isinstance(content, dict):
            raise ValueError("no mapping")
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, yaml.YAMLError) as error:
        notes.append(f"{path.name} is damaged ({reason(error, 80)})")
        return {}
    return {name: value for name, value in short_names(flat(content)).items() if describes_run(name)}


def _is_fresh(folder: Path) -> bool:
    """Whether one of the files that a fit writes while it runs changed within the last minutes."""
    since = time.time() - RUNNING_SECONDS
    for pattern in WRITTEN_BY_FIT:
        for path in folder.glob(pattern):
            try:
                if path.stat().st_mtime >= since:
                    return True
            except OSError:  # a checkpoint that has just been replaced
                continue
    return False
