"""Stops a run after a signal, with a checkpoint."""

from __future__ import annotations

import math
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_only

from lit_triwave.distributed.signals import END_SIGNALS, REQUEUE_SIGNAL, SIGNALS
from lit_triwave.errors import Interrupted

SAME_SECONDS = 1.0
"""Seconds in which a second SIGTERM or SIGHUP counts as the first. SLURM sends a signal to each process and W&B's agent
passes it on, so it comes twice; and both the kernel and the shell send SIGHUP."""

_LEAVING_SECONDS = 5.0
"""Seconds in which a process that leaves at once ignores further signals, so that it can report how it ended."""

_REPLACED_SECONDS = 1.0
"""Seconds after the exception of a signal in which another error has probably replaced it."""

_REPEAT_SECONDS = 0.05
"""Seconds after which a signal comes again whose exception Python dropped."""


@contextmanager
def keeps_interrupts(interruption: Interruption) -> Iterator[None]:
    """Raises the exception of a signal again if another error has replaced it.

    After Ctrl-C while the loader workers start, Lightning closes an iterator that does not exist yet. Compiled code,
    such as matplotlib's, replaces an exception that comes while it calls Python: "Invalid bounding box".

    Args:
        interruption: the handlers that raise the exceptions.
    """
    try:
        yield
    except Exception as error:
        if isinstance(error.__context__, KeyboardInterrupt):
            raise KeyboardInterrupt from error
        replaced = interruption.just_raised()
        if replaced and error is not replaced:
            raise replaced from error
        raise


def _starts_ranks(frame: FrameType | None) -> bool:
    """Whether Lightning is starting the other ranks of this machine."""
    return frame is not None and (frame.f_code.co_name == "_call_children_scripts" or _starts_ranks(frame.f_back))


class Interruption(Callback):
    """Turns the first Ctrl-C, SIGTERM, SIGHUP or SIGUSR1 into a request to stop after the current step.

    `StageCheckpoint` carries out the request on all ranks. A second signal, except SIGUSR1, stops at once. Before
    training, the first signal also stops at once, because there is nothing to save. After training, a run finishes
    figures and summary after Ctrl-C; the other signals stop it at once, because they mean that time is short. Commands
    without a training are stopped at once by each signal.

    Args:
        numbers: signals that it receives.

    Attributes:
        requested: the signal that asked for the stop, or None.
        at_once: whether the process leaves without another step.
        begun: whether training has begun.
        trained: whether training is over.
        over: whether the work that a first signal could end is done and the process is about to leave.
    """

    def __init__(self, numbers: Sequence[signal.Signals] = SIGNALS) -> None:
        self._numbers = numbers
        self.requested: signal.Signals | None = None
        self.at_once = False
        self.begun = False
        self.trained = False
        self.over = False
        self._since = 0.0  # time of the request
        self._left = -math.inf  # time of the last KeyboardInterrupt
        self._raised: tuple[float, Interrupted | KeyboardInterrupt | None] = -math.inf, None  # when, last exception
        self._report = sys.unraisablehook

    def _handle(self, number: int, frame: FrameType | None) -> None:
        again = number in END_SIGNALS and self.requested in END_SIGNALS
        if again and time.monotonic() - self._since < SAME_SECONDS:
            return
        # After SIGUSR1 SLURM sends SIGTERM to processes that are still saving, and SIGUSR1 to each process of a rank.
        impatient = number != REQUEUE_SIGNAL and self.requested != REQUEUE_SIGNAL
        unbegun = not (self.begun or self.trained) and number != REQUEUE_SIGNAL
        if unbegun and _starts_ranks(frame):
            return  # `ranks_end_together` ends the run: an exception would leave a rank that is not in its list yet
        if self.requested is None and not unbegun:
            self.requested = signal.Signals(number)
            self._since = time.monotonic()
            self._say()
            if self.trained and not self.over and self.requested != signal.SIGINT:
                raise self._noted(Interrupted(number))
        elif impatient and time.monotonic() - self._left > _LEAVING_SECONDS:
            self.requested = self.requested or signal.Signals(number)
            self.at_once = True
            self._left = time.monotonic()
            raise self._noted(KeyboardInterrupt())

    def _noted(self, error: Interrupted | KeyboardInterrupt) -> Interrupted | KeyboardInterrupt:
        self._raised = time.monotonic(), error
        return error

    def just_raised(self) -> Interrupted | KeyboardInterrupt | None:
        """Returns the exception that a handler raised a moment ago, else None."""
        since, error = self._raised
        return None if time.monotonic() - since > _REPLACED_SECONDS else error

    def _repeat(self, dropped: sys.UnraisableHookArgs) -> None:
        """Sends a signal again: Python drops the exception of a handler that runs while an object is destroyed."""
        if self.requested is None or not isinstance(dropped.exc_value, (Interrupted, KeyboardInterrupt)):
            self._report(dropped)
            return
        number, self._since, self._left = self.requested, -math.inf, -math.inf
        if isinstance(dropped.exc_value, Interrupted):
            self.requested = None
        later = threading.Timer(_REPEAT_SECONDS, os.kill, [os.getpid(), number])
        later.daemon = True
        later.start()

    @rank_zero_only
    def _say(self) -> None:
        assert self.requested is not None
        name = "Ctrl-C" if self.requested == signal.SIGINT else self.requested.name
        if self.trained:
            what = "finishing figures and summary" if self.requested == signal.SIGINT else "stopping"
        else:
            what = "stopping after this step"
        more = "" if self.requested == REQUEUE_SIGNAL else "; once more stops at once"
        print(f"{name}: {what}{more}", file=sys.stderr, flush=True)

    def install(self) -> None:
        """Installs the handlers and a `sys.unraisablehook`; the caller restores the previous ones."""
        if threading.current_thread() is threading.main_thread():
            if sys.unraisablehook != self._repeat:
                self._report, sys.unraisablehook = sys.unraisablehook, self._repeat
            for number in self._numbers:
                # `nohup` lets a run outlive its terminal.
                if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:
                    signal.signal(number, self._handle)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # Again, because Lightning has installed a handler of SIGTERM that sends messages which the ranks do not read.
        self.install()
        self.begun = True

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.install()

    on_validation_start = on_predict_start = on_test_start

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.trained = True

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self.trained = True
