"""Watches a run from a second thread, because the main thread may be blocked inside a library.

Lightning also ends all ranks if one is gone. But it checks only every five seconds, does not say which rank it was, and
kills the first rank before it can report. It also does not react to signals while the ranks wait for each other.
"""

from __future__ import annotations

import math
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from subprocess import Popen

import torch
from lightning.pytorch import Trainer

from lit_triwave.distributed.cluster import LOST
from lit_triwave.distributed.heartbeats import Heartbeats
from lit_triwave.distributed.interruption import SAME_SECONDS, Interruption
from lit_triwave.distributed.launcher import WATCH_SECONDS, launcher, outlive_launcher
from lit_triwave.distributed.signals import REQUEUE_SIGNAL, SIGNALS, interrupted
from lit_triwave.errors import TriwaveError

_GONE_SECONDS = 3.0
"""Seconds that a rank with a lost connection waits for this watch to report which rank is gone."""
_BLOCKED_SECONDS = 1.0
"""A main thread that has not handled a signal after this time is blocked in a library, perhaps for half an hour."""
_MEET_SECONDS = 5.0
"""If ranks need longer than this to find each other, they print what they wait for."""
_LEAVE_SECONDS = 6.0
"""Time for the main thread to leave after a second signal. All ranks must be gone in 10 s, also on a busy machine."""
_TURN_SECONDS = 1.0
"""Seconds that each rank of a machine waits for the rank before it to act."""
Abandon = Callable[[signal.Signals], int]
"""Cleans up after a run that a signal ends in place of the main thread; returns the exit code."""


@contextmanager
def ranks_end_together(trainer: Trainer, interruption: Interruption, abandon: Abandon, most: float) -> Iterator[None]:
    """Ends all ranks that Lightning started on this machine if one of them is gone, and reports which one.

    Otherwise the ranks may wait for it for half an hour. Under SLURM, `srun --kill-on-bad-exit` does the same. Before
    the first step, a signal also ends a process whose main thread is blocked; a second signal does this at any time. If
    the ranks wait too long for one rank, the run ends.

    Args:
        trainer: the trainer that runs inside the block.
        interruption: the `Interruption` of the command.
        abandon: called for a signal that a blocked main thread cannot handle.
        most: seconds that ranks wait for one that does not answer.

    Raises:
        TriwaveError: the port at which ranks meet is in use.
    """
    with _signals() as arrived:
        watch = _Watch(trainer, interruption, abandon, most, arrived)
        watch.beat()  # before the ranks meet, so that a rank which is stopped right after this has been seen
        threading.Thread(target=watch.run, daemon=True).start()
        try:
            yield
        except BaseException as error:
            if LOST.search(str(error)):
                time.sleep(_GONE_SECONDS)  # the watch reports which rank
            _kill_children(trainer)
            if "EADDRINUSE" in str(error):
                port = os.environ.get("MASTER_PORT")
                raise TriwaveError(
                    f"MASTER_PORT must be a free port, got {port}, which is in use: set it to another"
                ) from error
            raise
        finally:
            watch.over.set()
            watch.heartbeats.remove()
            if watch.second < math.inf and launcher() is not None:
                # Only the first rank has something to save. The end of Python takes seconds on a busy machine.
                os._exit(interrupted())
            outlive_launcher()


@dataclass
class _Watch:
    """The work of the second thread; `arrived` returns the signals since its last call."""

    trainer: Trainer
    interruption: Interruption
    abandon: Abandon
    most: float
    arrived: Callable[[], list[signal.Signals]]
    over: threading.Event = field(default_factory=threading.Event)
    begun: float = field(default_factory=time.monotonic)
    said = False
    pending: signal.Signals | None = None  # the first signal
    since = 0.0  # its time
    second = math.inf  # time of the second signal

    def __post_init__(self) -> None:
        trainer = self.trainer
        self.heartbeats = Heartbeats(Path(trainer.default_root_dir), trainer.global_rank, trainer.world_size)

    def run(self) -> None:
        """Looks ten times a second until the run is over."""
        while not self.over.wait(WATCH_SECONDS):
            self.beat()
            if self._leaves():
                continue  # other ranks that end after the same signal have not failed
            gone = self._gone() or self._missing()
            if gone:
                print(f"error: {gone}, and the run with it", file=sys.stderr, flush=True)
                _kill_children(self.trainer)
                os._exit(1)
            self._say_what_is_waited_for()

    def beat(self) -> None:
        """Leaves this rank's sign of life, if there are others."""
        if self.trainer.world_size > 1:
            self.heartbeats.beat(self.trainer.fit_loop.epoch_loop.batch_progress.total.ready)

    def _leaves(self) -> bool:
        """Whether a signal is ending this process before its first step; ends it if the main thread is blocked."""
        for number in self.arrived():
            now = time.monotonic()
            repeats = number == REQUEUE_SIGNAL or (number != signal.SIGINT and now - self.since < SAME_SECONDS)
            if self.pending is None:
                self.pending, self.since = number, now
            elif self.pending != REQUEUE_SIGNAL and not repeats:
                self.second = min(self.second, now)
        # The first rank ends the others; if it does not, the next rank does.
        if time.monotonic() - self.second > _LEAVE_SECONDS + _TURN_SECONDS * self.trainer.local_rank:
            silent = self.heartbeats.silent()
            if silent:
                print(f"error: {silent}", file=sys.stderr, flush=True)
            _kill_launcher()
            self._end()
        if self.interruption.at_once or self.second < math.inf:
            return True
        if self.pending is None or self.interruption.begun or self.interruption.trained:
            return False
        waited = time.monotonic() - self.since
        blocked = self.interruption.requested is None and waited > _BLOCKED_SECONDS
        # SIGUSR1 waits for the first step, which does not come while the ranks wait for each other.
        waiting = self.pending == REQUEUE_SIGNAL and self._meeting() and waited > _MEET_SECONDS
        if (blocked or waiting) and launcher() is None:  # the first rank ends the others
            self._end()
        return True

    def _end(self) -> None:
        """Ends the ranks of this machine in place of the main thread."""
        assert self.pending is not None
        _kill_children(self.trainer)
        os._exit(self.abandon(self.pending))

    def _missing(self) -> str:
        """Returns which rank this one has waited for too long; "" if none. The ranks report it one after the other."""
        if self.heartbeats.waited < self.most + _MEET_SECONDS * self.trainer.global_rank:
            return ""
        silent: str = self.heartbeats.silent() or self.heartbeats.absent()
        if silent:
            _kill_launcher()  # if it were not blocked, it would have reported this before
        return silent

    def _gone(self) -> str:
        """Returns which rank was killed or failed; "" if all are there."""
        for rank, child in enumerate(_children(self.trainer), start=1):
            code = child.poll()
            if code:
                return f"rank {rank} " + (f"was killed by {signal.Signals(-code).name}" if code < 0 else "failed")
        return ""

    def _meeting(self) -> bool:
        """Whether the ranks have not found each other yet."""
        return self.trainer.world_size > 1 and not torch.distributed.is_initialized()

    def _say_what_is_waited_for(self) -> None:
        if self.said or time.monotonic() - self.begun < _MEET_SECONDS:
            return
        self.said = True
        if self._meeting() and self.trainer.local_rank == 0 and "MASTER_PORT" in os.environ:
            place = f"{os.environ.get('MASTER_ADDR')}:{os.environ['MASTER_PORT']}"
            nodes, ranks = self.trainer.num_nodes, self.trainer.world_size
            who = f"{ranks} ranks" + (f" on {nodes} nodes" if nodes > 1 else "")
            print(f"waiting at {place} until {who} are there", file=sys.stderr, flush=True)


@contextmanager
def _signals() -> Iterator[Callable[[], list[signal.Signals]]]:
    """Collects signals, also those that Python's handlers miss while the main thread is blocked inside a library.

    Yields:
        A function that returns the `SIGNALS` since its last call; always none outside of the main thread.
    """
    if threading.current_thread() is not threading.main_thread():
        yield list
        return
    reading, writing = os.pipe()
    for end in (reading, writing):
        os.set_blocking(end, False)
    before = signal.set_wakeup_fd(writing, warn_on_full_buffer=False)

    def arrived() -> list[signal.Signals]:
        try:
            return [signal.Signals(number) for number in os.read(reading, 4096) if number in SIGNALS]
        except OSError:  # no signal, or the pipe is closed
            return []

    try:
        yield arrived
    finally:
        signal.set_wakeup_fd(before)
        os.close(writing)
        os.close(reading)


def _children(trainer: Trainer) -> list[Popen[bytes]]:
    """Returns the processes that Lightning started from this one: local ranks 1, 2, ..."""
    found: list[Popen[bytes]] = getattr(trainer.strategy.launcher, "procs", [])
    return found


def _kill_children(trainer: Trainer) -> None:
    """Kills the ranks that Lightning started from this one."""
    for child in _children(trainer):
        child.kill()


def _kill_launcher() -> None:
    """Kills the rank that started this one, if another rank did."""
    first = launcher()
    if first is not None:
        with suppress(ProcessLookupError):
            os.kill(first, signal.SIGKILL)
