"""Signals that stop a run with a checkpoint, and the exit codes of a stopped run."""

from __future__ import annotations

import signal
import sys

from lit_triwave.distributed.launcher import launcher

INTERRUPTED = 130
"""Exit code after Ctrl-C, SIGTERM or SIGHUP; shells use it for Ctrl-C."""
REQUEUE = 75
"""Exit code of a saved run that should be started again, EX_TEMPFAIL of sysexits.h."""
REQUEUE_SIGNAL = signal.SIGUSR1
"""Signal that the time limit is near or the nodes are needed: the run saves, stops and will be started again."""
END_SIGNALS = (signal.SIGTERM, signal.SIGHUP)
"""Signals to save and end. A closed terminal sends the second one, and systemd sends both."""
SIGNALS = (signal.SIGINT, *END_SIGNALS, REQUEUE_SIGNAL)


def interrupted() -> int:
    """Prints that the run was interrupted, once for all ranks of a machine; returns the exit code."""
    if launcher() is None:
        print("interrupted", file=sys.stderr, flush=True)
    return INTERRUPTED
