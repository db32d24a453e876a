"""Lets one process at a time train in a run folder.

Not the library filelock: it empties the file that names the first process, and a forked worker would keep its lock.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from lit_triwave.errors import TriwaveError
from lit_triwave.tracking.run_files import LOCK_FILE

PATIENCE_SECONDS = 2.0
"""Time for another process to finish exiting."""
_POLL_SECONDS = 0.1

_held: set[int] = set()


def _close_inherited() -> None:
    """Called in a forked process. A worker that lives longer than the run's process must not keep its lock."""
    while _held:
        os.close(_held.pop())


os.register_at_fork(after_in_child=_close_inherited)


@contextmanager
def locked(folder: Path, patience: float = PATIENCE_SECONDS) -> Iterator[None]:
    """Reserves a run's folder for this process. The system releases it when the process ends, also after a kill.

    On a file system without locks the folder is not reserved.

    Args:
        folder: folder of the run; made if it does not exist.
        patience: seconds to wait for another process to end.

    Raises:
        OSError: the folder cannot be made or written.
        TriwaveError: another process has reserved the folder.
    """
    path = folder / LOCK_FILE
    until = time.monotonic() + patience
    while (file := _take(path)) is None:
        if time.monotonic() > until:
            owner = _owner(path)
            raise TriwaveError(f"run {folder} is in use by process {owner}: wait for its end, or give another --run.id")
        time.sleep(_POLL_SECONDS)
    _held.add(file)
    try:
        os.truncate(file, 0)
        os.pwrite(file, f"{os.getpid()}\n".encode(), 0)
        yield
    finally:
        if _is_at(file, path):
            with suppress(OSError):
                path.unlink()
        _held.discard(file)
        os.close(file)


def used_by(folder: Path) -> str | None:
    """Returns the id of the process that trains in a folder, as far as this machine knows; None if there is none."""
    path = folder / LOCK_FILE
    if not path.is_file():
        return None
    file = _take(path)
    if file is None:
        return _owner(path)
    os.close(file)
    return None


def _owner(path: Path) -> str:
    try:
        return path.read_text().strip() or "unknown"
    except OSError:
        return "unknown"


def _take(path: Path) -> int | None:
    """Returns a lock file, open and locked; None if another process has locked it."""
    while True:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            file = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        except FileNotFoundError:  # another process has just removed the folder
            continue
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(file)
            return None
        except OSError:
            pass  # a file system without locks
        if _is_at(file, path):
            return file
        os.close(file)  # another process has just removed the file


def _is_at(file: int, path: Path) -> bool:
    """Whether an open file is the one at a path."""
    try:
        return os.path.samestat(os.fstat(file), path.stat())
    except OSError:
        return False
