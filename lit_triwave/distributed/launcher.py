"""Ends the ranks that Lightning starts on a machine if the rank that started them is gone.

Lightning only does the opposite. This file imports only Python's library, because it runs before the slow imports.
"""

from __future__ import annotations

import os
import sys
import threading

from lit_triwave.errors import TriwaveError

LAUNCHER_VARIABLE = "LIT_TRIWAVE_LAUNCHER"
"""Environment variable by which the first rank passes its process id to the ranks that Lightning starts."""
_NUMBERS = (
    LAUNCHER_VARIABLE,
    *("MASTER_PORT", "RANK", "LOCAL_RANK", "NODE_RANK", "GROUP_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE"),
    *("SLURM_PROCID", "SLURM_LOCALID", "SLURM_NODEID", "SLURM_STEP_NUM_NODES", "SLURM_STEP_NUM_TASKS"),
    "SLURM_RESTART_COUNT",
)
"""Environment variables with counts of processes; torch, Lightning and this package read them as whole numbers."""
WATCH_SECONDS = 0.1
"""Seconds between two checks of other ranks."""

_may_outlive = threading.Event()


def check_numbers() -> None:
    """Refuses an environment variable that must be a whole number and is not.

    Raises:
        TriwaveError: a variable is not a whole number; the message names it.
    """
    for name in _NUMBERS:
        value = os.environ.get(name, "")
        if value and not value.isdecimal():
            raise TriwaveError(f"environment variable {name} must be a whole number, got {value!r}")


def announce_launcher() -> None:
    """Passes this process's id to the ranks that Lightning will start from it."""
    if launcher() is None:
        os.environ[LAUNCHER_VARIABLE] = str(os.getpid())


def launcher() -> int | None:
    """Returns the id of the rank that started this one; None if no other rank did."""
    if os.environ.get("LOCAL_RANK", "0") == "0" or not os.environ.get(LAUNCHER_VARIABLE):
        return None
    number = int(os.environ[LAUNCHER_VARIABLE])
    return None if number == os.getpid() else number


def end_with_launcher() -> None:
    """Makes this process end with code 1 when the rank that started it is gone.

    Otherwise it would wait for that rank to connect for half an hour.
    """
    number = launcher()
    if number is not None:
        _may_outlive.clear()
        threading.Thread(target=_watch, args=(number,), daemon=True).start()


def outlive_launcher() -> None:
    """Lets this process live longer than the first rank: it is done, or is about to report an error."""
    _may_outlive.set()


def _watch(number: int) -> None:
    while True:
        if os.getppid() != number:
            if os.environ.get("LOCAL_RANK") == "1":  # only one of the other ranks prints it
                print("error: rank 0 was killed, and the run with it", file=sys.stderr, flush=True)
            os._exit(1)
        if _may_outlive.wait(WATCH_SECONDS):
            return
