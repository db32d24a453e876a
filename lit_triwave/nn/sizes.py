"""Checks arguments that count something, and bounds the memory of what they ask for."""

from __future__ import annotations

import operator
import re
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_LARGEST = 1 << 24
"""More of anything is a typing error; PyTorch would ask for terabytes of memory."""


def check_sizes(least: int = 1, most: int = _LARGEST, **sizes: Any) -> None:
    """Refuses values that are not whole numbers between two bounds, by their names.

    Args:
        least: smallest allowed value.
        most: largest allowed value.
        sizes: name ↦ value; NumPy's integers are accepted.

    Raises:
        TypeError: a value is of another type, such as bool.
        ValueError: a value is out of bounds.
    """
    for name, value in sizes.items():
        try:
            number = operator.index(value)
        except TypeError:
            number = None
        if number is None or isinstance(value, bool):
            raise TypeError(f"{name} must be a whole number, got {value!r} ({type(value).__name__})")
        if number < least:
            raise ValueError(f"{name} must be at least {least}, got {value}")
        if number > most:
            raise ValueError(f"{name} must be at most {most}, got {value}")


def available_memory() -> int | None:
    """Returns how many bytes of memory this machine could still give; None where it does not say."""
    try:
        found = re.search(r"MemAvailable: *(\d+) kB", Path("/proc/meminfo").read_text())
    except OSError:
        return None
    return int(found[1]) * 1024 if found else None


@contextmanager
def bounded_memory(room: int | None) -> Iterator[None]:
    """Lets an allocation in the block fail that needs too much memory, which would otherwise end the whole process.

    Does nothing where the system has no such limit, as outside of Linux.

    Args:
        room: bytes that the block may take; None for as many as it likes.
    """
    try:
        taken = int(Path("/proc/self/statm").read_text().split()[5]) * resource.getpagesize()
    except OSError:
        room = None
    if room is None:
        yield
        return
    # Not of the address space, of which CUDA reserves more than any machine has.
    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    limits = [limit for limit in (soft, hard) if limit != resource.RLIM_INFINITY]
    resource.setrlimit(resource.RLIMIT_DATA, (min([taken + room, *limits]), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))
