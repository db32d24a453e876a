"""How freed memory is kept."""

from __future__ import annotations

import ctypes
import platform
from contextlib import suppress

TRIM_THRESHOLD, TOP_PAD, MMAP_THRESHOLD = -1, -2, -3  # of mallopt(3)


def keep_freed_memory() -> None:
    """Lets the process keep large blocks that it has freed, where the C library is glibc; elsewhere does nothing.

    glibc gives blocks of megabytes back to the system at once. Every training step of a batch of networks asks for the
    same blocks again, and the system clears them page by page: a third of the time of such a step on a CPU.
    """
    if platform.libc_ver()[0] == "glibc":
        with suppress(OSError, AttributeError):
            libc = ctypes.CDLL(None)
            libc.mallopt(MMAP_THRESHOLD, 1 << 30)
            libc.mallopt(TRIM_THRESHOLD, (1 << 31) - 1)
            libc.mallopt(TOP_PAD, 1 << 26)
