"""Signals that stop a run in good order, and the exit codes of a stopped run."""

from __future__ import annotations

import signal
import sys

from lit_triwave.distributed.launcher import launcher

INTERRUPTED = 130
"""Exit code after Ctrl-C, SIGTERM or SIGHUP, the shell's for Ctrl-C."""
REQUEUE = 75
"""Exit code of a saved run that should be started again, EX_TEMPFAIL of sysexits.h."""
REQUEUE_SIGNAL = signal.SIGUSR1
"""Signal for: time is nearly over, or the nodes are needed; save, stop and be started again."""
END_SIGNALS = (signal.SIGTERM, signal.SIGHUP)
"""Signals for: save and end. A terminal that is closed sends the second, and systemd sends both."""
SIGNALS = (signal.SIGINT, *END_SIGNALS, REQUEUE_SIGNAL)


def interrupted() -> int:
    """Prints that the run was interrupted, once for all ranks of a machine; returns the exit code."""
    if launcher() is None:
        print("interrupted", file=sys.stderr, flush=True)
    return INTERRUPTED
