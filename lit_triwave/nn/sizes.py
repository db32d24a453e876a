"""Checks arguments that are sizes, and limits the memory that large sizes need."""

from __future__ import annotations

import re
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from numbers import Integral
from pathlib import Path
from typing import Any

_LARGEST = 1 << 24
"""Largest size of anything. A larger number is a typing error, and PyTorch would need terabytes of memory for it."""


def check_sizes(least: int = 1, most: int = _LARGEST, **sizes: Any) -> None:
    """Raises an error with the name of a value that is not a whole number between two bounds.

    Args:
        least: smallest allowed value.
        most: largest allowed value.
        sizes: name ↦ value; NumPy's integers are accepted.

    Raises:
        TypeError: a value is of another type, such as bool.
        ValueError: a value is out of bounds.
    """
    for name, value in sizes.items():
        is_whole = isinstance(value, Integral) and not isinstance(value, bool)
        if not is_whole:
            raise TypeError(f"{name} must be a whole number, got {value!r} ({type(value).__name__})")
        if value < least:
            raise ValueError(f"{name} must be at least {least}, got {value}")
        if value > most:
            raise ValueError(f"{name} must be at most {most}, got {value}")


def available_memory() -> int | None:
    """Returns the number of bytes of free memory on this machine; None if the system does not report it."""
    try:
        found = re.search(r"MemAvailable: *(\d+) kB", Path("/proc/meminfo").read_text())
    except OSError:
        return None
    return int(found[1]) * 1024 if found else None


@contextmanager
def bounded_memory(room: int | None) -> Iterator[None]:
    """Makes an allocation that needs too much memory fail; otherwise the system would end the whole process.

    Does nothing if the system has no limit for this, that is, on systems other than Linux.

    Args:
        room: bytes that the block may allocate; None for no limit.
    """
    try:
        taken = int(Path("/proc/self/statm").read_text().split()[5]) * resource.getpagesize()
    except OSError:
        room = None
    if room is None:
        yield
        return
    # Not a limit of the address space: CUDA reserves more of it than any machine has memory.
    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    limits = [limit for limit in (soft, hard) if limit != resource.RLIM_INFINITY]
    resource.setrlimit(resource.RLIMIT_DATA, (min([taken + room, *limits]), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))
