"""One run of a sweep in a separate process, forked from the sweep's process, which has already imported everything.

A short fit takes 1.7 s in this way and 8 s in a new Python, 6 of them for imports (50 epochs, two cores). A run that is
killed, or that starts several ranks, does not affect the sweep.

Only `python -m lit_triwave` is forked, because it has not used PyTorch's threads. A fork does not have these threads,
and if they had been used, it would wait for them forever. In other programs, each run is a new Python process.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any

from lit_triwave.cli import main
from lit_triwave.distributed.signals import SIGNALS
from lit_triwave.tracking.run import SWEEP_VARIABLE


class Stop:
    """Stops the sweep at the first signal: the current run stops as `fit` does, and no other run begins.

    Attributes:
        requested: the first signal, or None.
    """

    def __init__(self) -> None:
        self.requested: signal.Signals | None = None
        self._group: int | None = None

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self.requested = self.requested or signal.Signals(number)
        if self._group is not None:
            with suppress(ProcessLookupError):  # the run has just ended
                os.killpg(self._group, number)

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Handles the signals within the context, and restores the handlers before it."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, self._handle) for number in SIGNALS}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def fit(self, arguments: Sequence[str]) -> int:
        """Runs `fit` in a separate process.

        Args:
            arguments: arguments of the command.

        Returns:
            The exit code of `fit`; −N if signal N killed it.
        """
        sys.stdout.flush()
        sys.stderr.flush()
        context: Any = multiprocessing.get_context("fork" if _own_process() else "spawn")
        process = context.Process(target=_fit, args=(arguments,))
        process.start()
        with suppress(OSError):  # the run has already created its process group
            os.setpgid(process.pid, process.pid)
        self._group = process.pid
        try:
            process.join()
        finally:
            self._group = None
        return int(process.exitcode)


def _own_process() -> bool:
    """Returns whether this process was started as `python -m lit_triwave`."""
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    return spec is not None and spec.name == "lit_triwave.__main__"


def _fit(arguments: Sequence[str]) -> None:
    """Runs `fit` in its own process group, so that the run gets a terminal's Ctrl-C once, from the sweep."""
    with suppress(OSError):  # the sweep has already created the group
        os.setpgid(0, 0)
    for number in SIGNALS:
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
    os.environ[SWEEP_VARIABLE] = "1"
    sys.argv[1:] = ["fit", *arguments]  # Lightning starts further ranks with these
    code = main(["fit", *arguments])
    if "wandb" in sys.modules:
        sys.modules["wandb"].teardown()  # its service would wait for this process, which skips Python's exit handlers
    sys.exit(code)
