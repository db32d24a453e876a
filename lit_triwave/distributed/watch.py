"""What a process does while its main thread is busy or waits: it hears signals, and sees other ranks go."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from subprocess import Popen

import torch
from lightning.pytorch import Trainer

from lit_triwave.distributed.cluster import LOST
from lit_triwave.distributed.interruption import Interruption
from lit_triwave.distributed.launcher import WATCH_SECONDS, outlive_launcher
from lit_triwave.distributed.signals import REQUEUE_SIGNAL, SIGNALS
from lit_triwave.errors import TriwaveError

GONE_SECONDS = 3.0
"""How long a rank that has lost a connection leaves it to the watch to say which rank is gone."""
DEAF_SECONDS = 1.0
"""After so long without an answer the main thread is inside a library, which may wait for half an hour."""
MEET_SECONDS = 5.0
"""Ranks that need longer to find each other say what they wait for."""
Abandon = Callable[[signal.Signals], int]
"""Tidies up after a run that a signal ends before its first step; returns the exit code."""


@contextmanager
def ranks_end_together(trainer: Trainer, interruption: Interruption | None, abandon: Abandon | None) -> Iterator[None]:
    """Where Lightning started the ranks of this machine: when one is gone, says which, and ends the others.

    A collective that waits for it may do so for half an hour. Under SLURM `srun --kill-on-bad-exit` does the same.
    Before the first step a signal ends the process also where the main thread does not hear it.

    Args:
        trainer: that runs within.
        interruption: of a fit.
        abandon: for a signal that the main thread does not hear.

    Raises:
        TriwaveError: the port at which ranks meet is taken.
    """
    with ear() as heard:
        watch = Watch(trainer, interruption, abandon, heard)
        threading.Thread(target=watch.run, daemon=True).start()
        try:
            yield
        except BaseException as error:
            if LOST.search(str(error)):
                time.sleep(GONE_SECONDS)  # the watch says which rank
            kill_children(trainer)
            if "EADDRINUSE" in str(error):
                port = os.environ.get("MASTER_PORT")
                raise TriwaveError(
                    f"MASTER_PORT {port}, where the ranks meet, is in use: set it to a free port"
                ) from error
            raise
        finally:
            watch.over.set()
            outlive_launcher()


class Watch:
    """A thread beside the main one.

    Args:
        trainer: that runs in the main thread.
        interruption: of a fit, which knows whether a signal has been heard there.
        abandon: see `ranks_end_together`.
        heard: the signals that have come since it was last asked.
    """

    def __init__(
        self,
        trainer: Trainer,
        interruption: Interruption | None,
        abandon: Abandon | None,
        heard: Callable[[], list[signal.Signals]],
    ) -> None:
        self.trainer, self.interruption, self.abandon, self.heard = trainer, interruption, abandon, heard
        self.over = threading.Event()
        self.begun = time.monotonic()
        self.said = False
        self.pending: signal.Signals | None = None
        self.since = 0.0

    def run(self) -> None:
        """Looks ten times a second, until all is over."""
        while not self.over.wait(WATCH_SECONDS):
            if self._leaves():
                continue  # ranks that got the same signal are no failure
            gone = self._gone()
            if gone:
                print(f"error: {gone}, and the run with it", file=sys.stderr, flush=True)
                kill_children(self.trainer)
                os._exit(1)
            self._say_what_is_waited_for()

    def _leaves(self) -> bool:
        """Whether a signal is ending this process before its first step; does it, where the main thread does not."""
        if self.interruption is None or self.abandon is None:
            return False
        for number in self.heard():
            if self.pending is None:
                self.pending, self.since = number, time.monotonic()
        if self.interruption.at_once:
            return True
        if self.pending is None or self.interruption.begun or self.interruption.trained:
            return False
        waited = time.monotonic() - self.since
        deaf = self.interruption.requested is None and waited > DEAF_SECONDS
        # One that lets the first step be made first; which there will not be.
        alone = self.pending == REQUEUE_SIGNAL and self._meeting() and waited > MEET_SECONDS
        if deaf or alone:
            kill_children(self.trainer)
            os._exit(self.abandon(self.pending))
        return True

    def _gone(self) -> str:
        """Which rank has been killed or has failed; "" if all are there."""
        for rank, child in enumerate(children(self.trainer), start=1):
            code = child.poll()
            if code:
                return f"rank {rank} " + (f"was killed by {signal.Signals(-code).name}" if code < 0 else "failed")
        return ""

    def _meeting(self) -> bool:
        """Whether the ranks have not found each other yet."""
        return self.trainer.world_size > 1 and not torch.distributed.is_initialized()

    def _say_what_is_waited_for(self) -> None:
        if self.said or time.monotonic() - self.begun < MEET_SECONDS:
            return
        self.said = True
        if self._meeting() and self.trainer.local_rank == 0 and "MASTER_PORT" in os.environ:
            place = f"{os.environ.get('MASTER_ADDR')}:{os.environ['MASTER_PORT']}"
            nodes, ranks = self.trainer.num_nodes, self.trainer.world_size
            who = f"{ranks} ranks" + (f" on {nodes} nodes" if nodes > 1 else "")
            print(f"waiting at {place} until {who} are there", file=sys.stderr, flush=True)


@contextmanager
def ear() -> Iterator[Callable[[], list[signal.Signals]]]:
    """Signals, also those that Python's handlers are not told of as long as the main thread is inside a library.

    Yields:
        A function that returns those of `SIGNALS` that have come since it was last called; never any in a thread that
        is not the main one.
    """
    if threading.current_thread() is not threading.main_thread():
        yield list
        return
    reading, writing = os.pipe()
    for end in (reading, writing):
        os.set_blocking(end, False)
    before = signal.set_wakeup_fd(writing, warn_on_full_buffer=False)

    def heard() -> list[signal.Signals]:
        try:
            return [signal.Signals(number) for number in os.read(reading, 4096) if number in SIGNALS]
        except OSError:  # nothing came, or it is over
            return []

    try:
        yield heard
    finally:
        signal.set_wakeup_fd(before)
        os.close(writing)
        os.close(reading)


def children(trainer: Trainer) -> list[Popen[bytes]]:
    """The processes that Lightning started from this one: local ranks 1, 2, ..."""
    found: list[Popen[bytes]] = getattr(trainer.strategy.launcher, "procs", [])
    return found


def kill_children(trainer: Trainer) -> None:
    """Ends them all, at once."""
    for child in children(trainer):
        child.kill()
