"""Opens the folder of a fit, reserves it for one process, and restores it if training does not begin."""

from __future__ import annotations

import shutil
from contextlib import ExitStack, suppress
from pathlib import Path

from lightning.pytorch import LightningModule

from lit_triwave.distributed.cluster import requeued
from lit_triwave.distributed.heartbeats import RANKS_FOLDER
from lit_triwave.errors import TriwaveError
from lit_triwave.files import ANOTHER_ROOT, open_folder, writable, written_whole
from lit_triwave.tracking.lock import PATIENCE_SECONDS, locked
from lit_triwave.tracking.run_files import BEFORE_FIRST_STEP, CHECKPOINTS, LOCK_FILE, WANDB_RUNS

_REPORTING_BYTES = 20_000_000
"""Bytes for everything in a run folder except checkpoints: metrics, figures, Weights & Biases."""
_LOST_NODE_SECONDS = 120.0
"""Time that a requeued job waits for the lock of its predecessor, whose node may have failed."""


class FitFolder:
    """A run's folder while the first rank of a fit uses it.

    Args:
        path: path of the folder.

    Attributes:
        created: whether this process made the folder, so that it may remove it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.created = False
        self._made = [one for one in (path, *path.parents) if not one.exists()]
        self._before: dict[str, bytes | None] = {}  # name ↦ content of small files; None for one that did not exist
        self._parts: set[Path] = set()  # files of the W&B run from earlier processes

    def open(self, kept: ExitStack, begun: bool) -> None:
        """Creates the folder and reserves it for this process.

        Args:
            kept: releases the folder when it is closed.
            begun: whether an earlier process may have begun the run.

        Raises:
            TriwaveError: the folder cannot be written, is in use, or belongs to another run.
        """
        created = not self.path.is_dir()
        try:
            with writable(self.path, ANOTHER_ROOT, "run folder"):
                kept.enter_context(locked(self.path, _LOST_NODE_SECONDS if requeued() else PATIENCE_SECONDS))
        except TriwaveError:  # a full disk leaves an empty folder; another process's is not empty
            self._remove_empty()
            raise
        self.created = created  # only after the lock: before it, another process may have created the folder
        others = [path for path in self.path.iterdir() if path.name not in (LOCK_FILE, RANKS_FOLDER)]
        if others and not created and not begun:
            raise TriwaveError(f"run {self.path} exists: resume it with --ckpt_path, or give another --run.id")
        files = {name: self.path / name for name in BEFORE_FIRST_STEP}
        self._before = {name: file.read_bytes() if file.is_file() else None for name, file in files.items()}
        self._parts = {*self.path.glob(WANDB_RUNS)}

    def prepare(self, model: LightningModule) -> None:
        """Checks that there is enough room, and removes unfinished files of a process that was killed.

        Raises:
            TriwaveError: the folder cannot be written, or has too little room.
        """
        parameters = sum(value.numel() * value.element_size() for value in model.parameters())
        # Three checkpoints and one that is being written, each with two further values per parameter for Adam.
        needed = 12 * parameters + _REPORTING_BYTES
        open_folder(self.path, ANOTHER_ROOT, "run folder")
        free = shutil.disk_usage(self.path).free
        if free < needed:
            found = f"{needed / 1e6:.0f} MB free, got {free / 1e6:.0f} MB"
            raise TriwaveError(f"run folder {self.path} must have {found}; {ANOTHER_ROOT}")
        for partial in (self.path / CHECKPOINTS).glob("*.partial"):
            partial.unlink(missing_ok=True)
        shutil.rmtree(self.path / RANKS_FOLDER, ignore_errors=True)  # from ranks that were killed

    def undo(self) -> None:
        """Restores the folder as it was before this process. Removes it and its parents if this process created
        them."""
        if self.created:
            shutil.rmtree(self.path, ignore_errors=True)
            self._remove_empty()
        for name, content in {} if self.created else self._before.items():
            with suppress(OSError):  # the error before this one says more
                if content is None:
                    (self.path / name).unlink(missing_ok=True)
                else:
                    with written_whole(self.path / name) as partial:
                        partial.write_bytes(content)

    def _remove_empty(self) -> None:
        """Removes the folders that did not exist before this process, if they are empty."""
        for folder in self._made:
            with suppress(OSError):  # already gone, or another run's
                folder.rmdir()

    def drop_tracking(self) -> None:
        """Removes this process's files of the Weights & Biases run, after `undo` and the end of that run."""
        for part in {*self.path.glob(WANDB_RUNS)} - self._parts:
            shutil.rmtree(part, ignore_errors=True)
        latest = self.path / "wandb" / "latest-run"
        if latest.is_symlink() and not latest.exists():
            latest.unlink()
