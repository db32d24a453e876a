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
def writable(folder: Path, advice: str, name: str) -> Iterator[None]:
    """Turns an OSError in the block into a TriwaveError that names the folder and says what to do."""
    try:
        yield
    except OSError as error:
        raise TriwaveError(f"{name} {folder} cannot be written: {error.strerror}; {advice}") from error


def open_folder(folder: Path, advice: str, name: str = "folder") -> None:
    """Makes a folder, with its parents, and checks that it can be written.

    Args:
        folder: the folder to create.
        advice: what the user should do if it cannot be written.
        name: name of the folder in the error.

    Raises:
        TriwaveError: it cannot be written.
    """
    probe = folder / ".writable"
    with writable(folder, advice, name):
        folder.mkdir(parents=True, exist_ok=True)
        probe.write_bytes(b"0" * 4096)
        probe.unlink()


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """Yields a temporary path beside `path`; on success the file written there replaces `path` at once.

    After a full disk, an error or a kill, `path` is unchanged. If it is a symbolic link, its target is replaced.
    Devices and pipes are written to directly.
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
        with suppress(OSError):  # not all file systems support this
            folder = os.open(path.parent, os.O_RDONLY)
            try:
                os.fsync(folder)  # so that the new name also survives a power failure
            finally:
                os.close(folder)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def link(source: Path, target: Path) -> None:
    """Makes `target` a hard link to `source`, or a copy on file systems without hard links."""
    try:
        target.hardlink_to(source.resolve())
    except OSError:
        shutil.copyfile(source, target)


def file_size(path: Path) -> str:
    """Returns the size of a file in words: `1.5 MB` or `12.3 kB`."""
    count = path.stat().st_size
    return f"{count / 1e6:.1f} MB" if count >= 1e6 else f"{count / 1e3:.1f} kB"


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Writes a JSON file, whole or not at all; NaN and infinity become null."""
    with written_whole(path) as partial, partial.open("w") as file:
        json.dump(finite(content), file, indent=2, allow_nan=False)
        file.write("\n")


def read_json(path: Path) -> dict[str, Any]:
    """Returns the mapping in a JSON file; {} if there is none that can be read."""
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def finite(value: Any) -> Any:
    """Returns nested containers with None in place of NaN and infinity, which JSON does not have."""
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
