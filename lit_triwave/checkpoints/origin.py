"""Where a fit begins: the checkpoint that it goes on from, and what that says of files beside it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
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
    """What a fit goes on from.

    Args:
        folder: of the run.
        path: of the checkpoint; None for a run from its beginning.
        content: of the checkpoint.
    """

    folder: Path
    path: Path | None = None
    content: Mapping[str, Any] = field(default_factory=dict)

    @property
    def branches(self) -> bool:
        """Whether the checkpoint is another run's, or of no run's folder."""
        return self.path is not None and run_folder_of(self.path) != self.folder.resolve()

    @property
    def goes_on(self) -> bool:
        """Whether the checkpoint is the run's own."""
        return self.path is not None and not self.branches

    @property
    def goes_back(self) -> bool:
        """Whether the checkpoint is the run's own, and not its last one."""
        return self.goes_on and self.path is not None and self.path.resolve() != self.last.resolve()

    @property
    def leaves_steps(self) -> bool:
        """Whether the run has made steps after the checkpoint, which it goes back from."""
        if not self.goes_back or not self.last.is_file():
            return False
        try:  # mmap: of a large file only what is asked for is read
            last = torch.load(self.last, map_location="cpu", weights_only=True, mmap=True)
        except Exception:  # no checkpoint: nothing is known of such steps
            return False
        return logged_steps(last) > self.step

    @property
    def last(self) -> Path:
        """The run's own last checkpoint, if it is there."""
        return checkpoint_file(self.folder)

    @property
    def step(self) -> int:
        """Steps up to the checkpoint, through all stages."""
        return logged_steps(self.content)

    @property
    def epoch(self) -> int:
        """Of the checkpoint's last step, from 0; -1 for none."""
        return int(self.content.get("epoch", -1))

    def beside(self, name: str) -> Path | None:
        """The checkpoint of that name in the folder of the one that is gone on from."""
        path = self.path.parent / f"{name}.ckpt" if self.path is not None else None
        return path if path is not None and path.is_file() else None

    def has_passed(self, path: Path) -> bool:
        """Whether the course up to here has been at a checkpoint: the same rows were logged."""
        try:
            other = load_checkpoint(path)
        except TriwaveError:
            return False
        before, rows = (content.get("run", {}).get("rows", []) for content in (other, self.content))
        # As text: not a number equals itself there.
        return logged_steps(other) <= self.step and repr(before) == repr(rows[: len(before)])

    def file_with(self, callback: str, state: Mapping[str, Any], name: str) -> Path | None:
        """The checkpoint of that name, beside the one that is gone on from, in which a callback had that state."""
        path = self.beside(name)
        with suppress(TriwaveError):
            if path is not None and load_checkpoint(path).get("callbacks", {}).get(callback) == state:
                return path
        return None

    def validation(self, monitor: str) -> float | None:
        """A finite metric of the validation after the checkpoint's epoch; None where there was none."""
        progress = self.content.get("loops", {}).get("fit_loop", {}).get("epoch_loop.batch_progress", {})
        if not progress.get("is_last_batch"):
            return None
        last = self.step - 1
        rows = self.content.get("run", {}).get("rows", [])
        found = [row[monitor] for step, row in rows if step == last and monitor in row]
        return float(found[-1]) if found and math.isfinite(found[-1]) else None

    def record(self) -> dict[str, Any] | None:
        """What run.json says of the checkpoint that a run branches from; None for a run that does not."""
        if self.path is None or not self.branches:
            return None
        folder = run_folder_of(self.path)
        run = None if folder is None else hidden(f"{folder.parent.name}/{folder.name}")
        return {"run": run, "checkpoint": hidden(self.path.name), "epoch": self.epoch, "step": self.step}


def take_over(source: Path, target: Path, states: Mapping[str, Any] | None = None) -> None:
    """Puts a checkpoint in another place, whole; without a copy of its bytes where the file system can.

    Args:
        source: which is never written to again, only replaced.
        target: whose folder is made.
        states: of callbacks, that it is to have instead of its own.

    Raises:
        TriwaveError: it can't be written.
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
