"""Ranks that Lightning starts from the first one of a machine end with it, from their first moment on.

Imported before everything that takes seconds, so it needs nothing but Python.
"""

from __future__ import annotations

import os
import sys
import threading

LAUNCHER_VARIABLE = "LIT_TRIWAVE_LAUNCHER"
"""Environment variable by which the first process tells its id to those that Lightning starts from it."""
WATCH_SECONDS = 0.1

_outlived = threading.Event()


def announce_launcher() -> None:
    """Tells this process's id to those that it is going to start, unless it is one of these itself."""
    if launcher() is None:
        os.environ[LAUNCHER_VARIABLE] = str(os.getpid())


def launcher() -> int | None:
    """The id of the process that started this rank; None for one that no other rank started."""
    if os.environ.get("LOCAL_RANK", "0") == "0" or not os.environ.get(LAUNCHER_VARIABLE):
        return None
    number = int(os.environ[LAUNCHER_VARIABLE])
    return None if number == os.getpid() else number


def end_with_launcher() -> None:
    """From now on this process ends, with code 1, when the one that started it has gone, perhaps long before.

    The others would wait for it at the meeting point for half an hour.
    """
    number = launcher()
    if number is not None:
        _outlived.clear()
        threading.Thread(target=_watch, args=(number,), daemon=True).start()


def outlive_launcher() -> None:
    """All is done, or an error is being said: whoever is first may go."""
    _outlived.set()


def _watch(number: int) -> None:
    while True:
        if os.getppid() != number:
            print("error: rank 0 was killed, and the run with it", file=sys.stderr, flush=True)
            os._exit(1)
        if _outlived.wait(WATCH_SECONDS):
            return
