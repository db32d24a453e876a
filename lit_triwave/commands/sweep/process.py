"""One run of a sweep in a process of its own, forked from the one that has imported everything.

A short fit of 50 epochs took 1.7 s so, as it does in one process with those before it, and 8 s in a new Python, 6 of
them for imports (two cores). And a run that is killed, or that starts ranks of its own, leaves the sweep as it was.

Only the command's own process is forked, which has computed nothing: threads of PyTorch's that are at work are not in
the fork, which then waits for them for ever. A sweep that is started from another program has new Pythons.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.connection import Connection
from types import FrameType
from typing import Any

from lit_triwave.cli import main
from lit_triwave.distributed.signals import SIGNALS
from lit_triwave.tracking.run import SWEEP_VARIABLE

RELAY_SECONDS = 0.3
"""How long a signal to the sweep may take to reach its run too, from a terminal or from SLURM."""


class Stop:
    """The first signal to the sweep: its run stops as `fit` does, and no other begins.

    Attributes:
        requested: that signal, or None.
    """

    def __init__(self) -> None:
        self.requested: signal.Signals | None = None
        self._pipe: int | None = None

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self.requested = self.requested or signal.Signals(number)
        if self._pipe is not None:
            os.write(self._pipe, bytes([number]))

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Takes over the signals, and gives them back."""
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
        """Runs `fit` in a process of its own.

        Args:
            arguments: of the command.

        Returns:
            Its exit code; −N where signal N killed it.
        """
        sys.stdout.flush()
        sys.stderr.flush()
        context: Any = multiprocessing.get_context("fork" if own_process() else "spawn")
        reader, writer = context.Pipe(duplex=False)
        process = context.Process(target=fit_here, args=(arguments, reader, writer))
        try:
            process.start()
            self._pipe = writer.fileno()
            process.join()
        finally:
            self._pipe = None
            reader.close()
            writer.close()
        code: int = process.exitcode
        return code


def own_process() -> bool:
    """Whether this process was started as `python -m lit_triwave`."""
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    return spec is not None and spec.name == "lit_triwave.__main__"


def fit_here(arguments: Sequence[str], reader: Connection, writer: Connection) -> None:
    """What the process of a run does.

    Args:
        arguments: of `fit`.
        reader: end of the pipe by which the sweep hands its signals on.
        writer: its other end, which is the sweep's.
    """
    writer.close()
    for number in SIGNALS:
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
    threading.Thread(target=relay, args=(reader,), daemon=True).start()
    os.environ[SWEEP_VARIABLE] = "1"
    sys.argv[1:] = ["fit", *arguments]  # with which Lightning starts further ranks
    code = main(["fit", *arguments])
    if "wandb" in sys.modules:
        sys.modules["wandb"].teardown()  # its service would wait for this process, which ends without Python's own end
    sys.exit(code)


def relay(reader: Connection) -> None:
    """Passes on what the sweep was sent, unless this process got it too: pressed twice, Ctrl-C means another thing."""
    while number := os.read(reader.fileno(), 1):
        time.sleep(RELAY_SECONDS)
        interruption = getattr(signal.getsignal(number[0]), "__self__", None)
        if getattr(interruption, "requested", None) is None:
            os.kill(os.getpid(), number[0])
    os.kill(os.getpid(), signal.SIGTERM)  # the sweep is gone
