"""One run as `compare` uses it, from a folder, a file or a server."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from lit_triwave.errors import printable

RUNNING_SECONDS = 600.0
"""A run without an end is still running if its files changed within this time; checkpoints are saved each minute."""


@dataclass(eq=False)
class ComparedRun:
    """A run on disk, in an offline W&B file or on W&B's server."""

    name: str  # experiment/id, or W&B's run name
    source: str  # run folder, .wandb file, or W&B path entity/project/id
    state: str  # "finished", "cut short", "running", "stopped", "failed", "cut off" or "damaged"
    experiment: str
    config: dict[str, Any]  # flat, as in run.json
    summary: dict[str, Any]  # flat, as in summary.json; for an unfinished run, what is known
    # Column name ↦ values by logged row, NaN where not logged; read when called.
    history: Callable[[], dict[str, np.ndarray]]
    notes: list[str] = field(default_factory=list)  # e.g. "written by a newer lit_triwave (schema 3)"
    tags: list[str] = field(default_factory=list)
    # Group, job type, commit, versions, hardware, times: flat, as in run.json; unknown ones are left out.
    about: dict[str, Any] = field(default_factory=dict)
    wandb_id: str | None = None  # equal for a run folder and its W&B run

    def __post_init__(self) -> None:
        for name in ("name", "source", "state", "experiment", "config", "summary", "tags", "about"):
            setattr(self, name, _printable(getattr(self, name)))


def _printable(value: Any) -> Any:
    """Returns nested containers whose texts, also those of keys, have no control characters."""
    if isinstance(value, str):
        return printable(value)
    if isinstance(value, dict):
        return {_printable(key): _printable(item) for key, item in value.items()}
    return [_printable(item) for item in value] if isinstance(value, list) else value
