"""The folder of a fit: opened, kept for one process, and removed again where nothing came of it."""

from __future__ import annotations

import shutil
from contextlib import ExitStack, suppress
from pathlib import Path

from lightning.pytorch import LightningModule

from lit_triwave.distributed.cluster import requeued
from lit_triwave.errors import TriwaveError
from lit_triwave.files import writable, written_whole
from lit_triwave.tracking.lock import PATIENCE_SECONDS, locked
from lit_triwave.tracking.run import open_run_folder
from lit_triwave.tracking.run_files import BEFORE_FIRST_STEP, CHECKPOINTS, LOCK_FILE, WANDB_RUNS

REPORTING_BYTES = 20_000_000
"""Room in a run folder for what is not a checkpoint: metrics, figures, Weights & Biases."""
LOST_NODE_SECONDS = 120.0
"""How long a requeued job waits for the lock of its predecessor, whose node may have been lost with it."""


class FitFolder:
    """A run's folder as the first rank of a fit sees it.

    Args:
        path: of the folder.

    Attributes:
        created: whether this process has made it, so that it may remove it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.created = False
        self._before: dict[str, bytes | None] = {}  # name ↦ content of small files; None for one that was not there
        self._parts: set[Path] = set()  # of its W&B run, before

    def open(self, kept: ExitStack, goes_on: bool) -> None:
        """Makes the folder and locks it.

        Args:
            kept: frees the lock when it is closed.
            goes_on: whether the run may have begun before.

        Raises:
            TriwaveError: it can't be written, is in use, or is another run's.
        """
        created = not self.path.is_dir()
        with writable(self.path):
            kept.enter_context(locked(self.path, LOST_NODE_SECONDS if requeued() else PATIENCE_SECONDS))
        self.created = created  # only now: until the lock is there, it may be another process that made it
        if not created and not goes_on and any(path.name != LOCK_FILE for path in self.path.iterdir()):
            raise TriwaveError(f"run {self.path} exists: resume it with --ckpt_path, or give another --run.id")
        files = {name: self.path / name for name in BEFORE_FIRST_STEP}
        self._before = {name: file.read_bytes() if file.is_file() else None for name, file in files.items()}
        self._parts = {*self.path.glob(WANDB_RUNS)}

    def prepare(self, model: LightningModule) -> None:
        """Makes sure that there is room, and removes what a process that was killed while it saved has left.

        Raises:
            TriwaveError: there is not.
        """
        parameters = sum(value.numel() * value.element_size() for value in model.parameters())
        # Three checkpoints and one that is being written, each with what Adam keeps of the parameters.
        open_run_folder(self.path, 12 * parameters + REPORTING_BYTES)
        for partial in (self.path / CHECKPOINTS).glob("*.partial"):
            partial.unlink(missing_ok=True)

    def undo(self) -> None:
        """Leaves it as it was before this process, which has made no step: removed, and the experiment's with it where
        that is empty, if this process has made it."""
        if self.created:
            shutil.rmtree(self.path, ignore_errors=True)
            with suppress(OSError):
                self.path.parent.rmdir()
        for name, content in {} if self.created else self._before.items():
            with suppress(OSError):  # what went wrong before says more
                if content is None:
                    (self.path / name).unlink(missing_ok=True)
                else:
                    with written_whole(self.path / name) as partial:
                        partial.write_bytes(content)

    def drop_tracking(self) -> None:
        """Removes this process's part of the run's Weights & Biases run, which it has ended, after `undo`."""
        for part in {*self.path.glob(WANDB_RUNS)} - self._parts:
            shutil.rmtree(part, ignore_errors=True)
        latest = self.path / "wandb" / "latest-run"
        if latest.is_symlink() and not latest.exists():
            latest.unlink()
