"""Signals end a run after the present step, with everything saved."""

from __future__ import annotations

import signal
import sys
import threading
import time
from types import FrameType

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_only

from lit_triwave.distributed.signals import REQUEUE_SIGNAL, SIGNALS
from lit_triwave.errors import Interrupted

SAME_SECONDS = 1.0
"""A second SIGTERM within them is the first one: SLURM's to each process, and passed on by W&B's agent."""


class Interruption(Callback):
    """Turns the first Ctrl-C, SIGTERM or SIGUSR1 into an orderly stop, which `StageCheckpoint` carries out on all ranks
    after the present step; a second Ctrl-C or SIGTERM stops at once.

    From `install` on. Before the first step there is nothing to save: Ctrl-C and SIGTERM stop at once. Once training is
    over there is nothing left to save: Ctrl-C lets figures and summary be finished, the two others, after which time is
    short, stop at once.

    Attributes:
        requested: the signal that asked for the stop, or None.
        at_once: whether the process is leaving without another step.
        begun: whether training has.
        trained: whether training is over.
    """

    def __init__(self) -> None:
        self.requested: signal.Signals | None = None
        self.at_once = False
        self.begun = False
        self.trained = False
        self._since = 0.0  # when the stop was asked for

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if number == self.requested == signal.SIGTERM and time.monotonic() - self._since < SAME_SECONDS:
            return
        # SLURM sends SIGTERM to what is still saving when its time is over, and SIGUSR1 to each process of a rank.
        impatient = number != REQUEUE_SIGNAL and self.requested != REQUEUE_SIGNAL
        unbegun = not (self.begun or self.trained) and number != REQUEUE_SIGNAL
        if self.requested is None and not unbegun:
            self.requested = signal.Signals(number)
            self._since = time.monotonic()
            self._say()
            if self.trained and self.requested != signal.SIGINT:
                raise Interrupted(number)
        elif impatient:
            self.requested = self.requested or signal.Signals(number)
            self.at_once = True
            raise KeyboardInterrupt

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
        """Takes over the signals; who calls it gives them back."""
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                signal.signal(number, self._handle)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # Again: Lightning has put a handler of SIGTERM in place that broadcasts to ranks which do not listen.
        self.install()
        self.begun = True

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.install()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.trained = True

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self.trained = True
