"""One process at a time trains in a run folder."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from lit_triwave.errors import TriwaveError
from lit_triwave.tracking.run_files import LOCK_FILE

try:
    import fcntl
except ImportError:  # no Unix, no locks
    fcntl = None  # type: ignore[assignment]

PATIENCE_SECONDS = 2.0
"""For a process that is just ending."""
LOOK_SECONDS = 0.1

_held: set[int] = set()


def _let_go() -> None:
    """In a forked process: a worker that outlives the run's process for a moment must not keep its lock."""
    while _held:
        os.close(_held.pop())


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_let_go)


@contextmanager
def locked(folder: Path, patience: float = PATIENCE_SECONDS) -> Iterator[None]:
    """Keeps a run's folder for this process. The system frees it when the process ends, in whatever way.

    Where the file system knows no locks, goes on without one.

    Args:
        folder: of the run; made if it is not there.
        patience: seconds to wait for another process to let go.

    Raises:
        OSError: the folder can't be made or written.
        TriwaveError: another process has it.
    """
    path = folder / LOCK_FILE
    until = time.monotonic() + patience
    file = take(path)
    while file is None:
        if time.monotonic() > until:
            owner = path.read_text().strip() if path.is_file() else ""
            raise TriwaveError(
                f"run {folder} is in use by process {owner or 'unknown'}: wait for its end, or give another --run.id"
            )
        time.sleep(LOOK_SECONDS)
        file = take(path)
    _held.add(file)
    os.truncate(file, 0)
    os.pwrite(file, f"{os.getpid()}\n".encode(), 0)
    try:
        yield
    finally:
        if is_at(file, path):
            with suppress(OSError):
                path.unlink()
        _held.discard(file)
        os.close(file)


def used_by(folder: Path) -> str | None:
    """The process that has a run's folder now, as far as this machine knows; None if there is none."""
    path = folder / LOCK_FILE
    if not path.is_file():
        return None
    file = take(path)
    if file is None:
        return path.read_text().strip() or "unknown" if path.is_file() else None
    os.close(file)
    return None


def take(path: Path) -> int | None:
    """A lock file, open and locked; None if another process has locked it."""
    while True:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            file = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        except FileNotFoundError:  # whoever had the folder has removed it in this moment
            continue
        try:
            if fcntl is not None:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(file)
            return None
        except OSError:
            pass  # a file system without locks
        if is_at(file, path):
            return file
        os.close(file)  # whoever had it has removed it in this moment


def is_at(file: int, path: Path) -> bool:
    """Whether an open file is the one at a path."""
    try:
        return os.path.samestat(os.fstat(file), path.stat())
    except OSError:
        return False
