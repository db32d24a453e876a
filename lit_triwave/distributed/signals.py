"""Signals that end a run in good order, and the exit codes that say so."""

from __future__ import annotations

import signal
import sys

from lit_triwave.distributed.launcher import launcher

INTERRUPTED = 130  # the shell's exit code for Ctrl-C


REQUEUE = 75  # EX_TEMPFAIL of sysexits.h: saved because time was short, to be started again


def interrupted() -> int:
    """Says so, once for all ranks of a machine; returns the exit code."""
    if launcher() is None:
        print("interrupted", file=sys.stderr, flush=True)
    return INTERRUPTED


REQUEUE_SIGNAL = signal.SIGUSR1
"""Time is nearly over, or the nodes are wanted: save, stop and be started again."""


SIGNALS = (signal.SIGINT, signal.SIGTERM, REQUEUE_SIGNAL)
