"""Describes the start of a fit: nothing, a checkpoint of its own run, or a checkpoint of another run."""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from lit_triwave.checkpoints.load import load_checkpoint, logged_steps
from lit_triwave.errors import TriwaveError, reason
from lit_triwave.files import link, written_whole
from lit_triwave.tracking.private_paths import hidden
from lit_triwave.tracking.run_files import checkpoint_file, run_folder_of


@dataclass(frozen=True)
class Origin:
    """The start of a fit.

    Args:
        folder: folder of the run.
        path: path of the checkpoint; None for a run from its beginning.
        content: content of the checkpoint.
    """

    folder: Path
    path: Path | None = None
    content: Mapping[str, Any] = field(default_factory=dict)

    @property
    def branches(self) -> bool:
        """Whether the checkpoint belongs to another run, or is in no run folder."""
        return self.path is not None and run_folder_of(self.path) != self.folder.resolve()

    @property
    def resumes(self) -> bool:
        """Whether the checkpoint is the run's own."""
        return self.path is not None and not self.branches

    @property
    def rewinds(self) -> bool:
        """Whether the checkpoint is the run's own, but not its last one."""
        return self.resumes and self.path is not None and self.path.resolve() != self.last.resolve()

    @property
    def discards_steps(self) -> bool:
        """Whether the run has made steps after the checkpoint, which rewinding discards."""
        return self._last_step is not None and self._last_step > self.step

    @property
    def replaces_last(self) -> bool:
        """Whether the run's own last checkpoint cannot be read, and the fit starts from another one of the run."""
        return self.rewinds and self.last.is_file() and self._last_step is None

    @cached_property
    def _last_step(self) -> int | None:
        """Number of steps of the run's own last checkpoint if the fit starts from another one of the run; None if it
        cannot be read."""
        if not self.rewinds or not self.last.is_file():
            return None
        try:
            return logged_steps(load_checkpoint(self.last))
        except TriwaveError:  # not a checkpoint: no such steps are known
            return None

    @property
    def last(self) -> Path:
        """Path of the run's own last checkpoint, which need not exist."""
        return checkpoint_file(self.folder)

    @property
    def step(self) -> int:
        """Number of steps up to the checkpoint, through all stages."""
        return logged_steps(self.content)

    @property
    def epoch(self) -> int:
        """Epoch of the checkpoint's last step, from 0; -1 without a checkpoint."""
        return int(self.content.get("epoch", -1))

    def beside(self, name: str) -> Path | None:
        """Returns the checkpoint `name` in the folder of the starting checkpoint; None if there is none."""
        path = self.path.parent / f"{name}.ckpt" if self.path is not None else None
        return path if path is not None and path.is_file() else None

    def includes(self, path: Path) -> bool:
        """Whether a checkpoint belongs to the history of the starting checkpoint: the same rows were logged before."""
        try:
            other = load_checkpoint(path)
        except TriwaveError:
            return False
        before, rows = (content.get("run", {}).get("rows", []) for content in (other, self.content))
        # As text, in which NaN equals itself.
        return logged_steps(other) <= self.step and repr(before) == repr(rows[: len(before)])

    def file_with(self, callback: str, state: Mapping[str, Any], name: str) -> Path | None:
        """Returns the checkpoint `name` beside the starting one if it has this state of a callback, else None."""
        path = self.beside(name)
        with suppress(TriwaveError):
            if path is not None and load_checkpoint(path).get("callbacks", {}).get(callback) == state:
                return path
        return None

    def validation(self, monitor: str) -> float | None:
        """Returns a metric of the validation after the checkpoint's epoch; None if there is no finite one."""
        progress = self.content.get("loops", {}).get("fit_loop", {}).get("epoch_loop.batch_progress", {})
        if not progress.get("is_last_batch"):
            return None
        last = self.step - 1
        rows = self.content.get("run", {}).get("rows", [])
        found = [row[monitor] for step, row in rows if step == last and monitor in row]
        return float(found[-1]) if found and math.isfinite(found[-1]) else None

    def record(self) -> dict[str, Any] | None:
        """Returns what run.json says about the checkpoint of another run; None if the fit starts from none."""
        if self.path is None or not self.branches:
            return None
        folder = run_folder_of(self.path)
        run = None if folder is None else hidden(f"{folder.parent.name}/{folder.name}")
        return {"run": run, "checkpoint": hidden(self.path.name), "epoch": self.epoch, "step": self.step}


def take_over(source: Path, target: Path, states: Mapping[str, Any] | None = None) -> None:
    """Puts a checkpoint at another path, as a link if the file system allows it.

    Args:
        source: a checkpoint. Its file may be replaced later, but is never changed.
        target: new path; its folder is created.
        states: states of callbacks that replace those in the checkpoint.

    Raises:
        TriwaveError: it cannot be written.
    """
    content = load_checkpoint(source) if states else {}
    own = content.get("callbacks", {})
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with written_whole(target) as partial:
            if states and any(own.get(name) != state for name, state in states.items()):
                torch.save({**content, "callbacks": {**own, **states}}, partial)
            else:
                partial.unlink(missing_ok=True)
                link(source, partial)
    except (OSError, RuntimeError) as error:  # torch reports a full disk as a RuntimeError
        raise TriwaveError(f"checkpoint {target} cannot be written ({reason(error)})") from error
