"""Files that are written whole or not at all, and folders that can be written."""

from __future__ import annotations

import errno
import json
import math
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from lit_triwave.errors import TriwaveError

ANOTHER_ROOT = "set run.root to another"


@contextmanager
def writable(folder: Path, advice: str = ANOTHER_ROOT, name: str = "run folder") -> Iterator[None]:
    """Says of a folder that can't be written within which it is, and what to do, as a TriwaveError."""
    try:
        yield
    except OSError as error:
        raise TriwaveError(f"{name} {folder} cannot be written: {error.strerror}; {advice}") from error


def open_folder(folder: Path, advice: str, name: str = "folder") -> None:
    """Makes a folder and shows that it can be written.

    Args:
        folder: with its parents.
        advice: what to do if it cannot.
        name: what the folder is called in the error.

    Raises:
        TriwaveError: it can't be written.
    """
    probe = folder / ".writable"
    with writable(folder, advice, name):
        folder.mkdir(parents=True, exist_ok=True)
        probe.write_bytes(b"0" * 4096)
        probe.unlink()


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """A file beside `path` to write to, which takes its place when it is whole.

    A full disk, an error or a kill leaves what was at `path` before. A link stays, and what it leads to is replaced;
    devices and pipes are written to as they are.
    """
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if path.exists() and not path.is_file():
        yield path
        return
    path = path.resolve() if path.is_symlink() else path
    partial = path.with_name(path.name + ".partial")
    try:
        yield partial
        with partial.open("rb") as file:
            os.fsync(file.fileno())
        partial.replace(path)
        with suppress(OSError):  # not every file system can
            folder = os.open(path.parent, os.O_RDONLY)
            try:
                os.fsync(folder)  # the new name, too, outlasts a power cut
            finally:
                os.close(folder)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def link(source: Path, target: Path) -> None:
    """A second name of a file, or a copy where the file system has no such thing."""
    try:
        target.hardlink_to(source.resolve())
    except OSError:
        shutil.copyfile(source, target)


def file_size(path: Path) -> str:
    """The size of a file that was written, to be said."""
    count = path.stat().st_size
    return f"{count / 1e6:.1f} MB" if count >= 1e6 else f"{count / 1e3:.1f} kB"


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Writes a JSON file that is whole or not there, also when the disk is full or the process is killed."""
    with written_whole(path) as partial, partial.open("w") as file:
        json.dump(finite(content), file, indent=2, allow_nan=False)
        file.write("\n")


def finite(value: Any) -> Any:
    """A value as JSON has it, which knows no NaN and no Infinity: None in their place."""
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
