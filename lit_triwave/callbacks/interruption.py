"""Ctrl-C and SIGTERM end a run at the next epoch's end, with everything saved."""

from __future__ import annotations

import signal
import sys
import threading
from types import FrameType

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_only

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interruption(Callback):
    """Turns the first Ctrl-C (or SIGTERM) into an orderly stop at the end of the epoch; the second one stops at once.

    From `install` on; once training is over, the first one lets figures and summary be finished.

    Attributes:
        requested: the signal that asked for the stop, or None.
        trained: whether training is over.
    """

    def __init__(self) -> None:
        self.requested: signal.Signals | None = None
        self.trained = False

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.requested is not None:
            raise KeyboardInterrupt
        self.requested = signal.Signals(number)
        self._say()

    @rank_zero_only
    def _say(self) -> None:
        name = "Ctrl-C" if self.requested == signal.SIGINT else "SIGTERM"
        what = "finishing figures and summary" if self.trained else "stopping after this epoch"
        print(f"{name}: {what}; once more stops at once", file=sys.stderr, flush=True)

    def install(self) -> None:
        """Takes over the two signals; who calls it gives them back."""
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                signal.signal(number, self._handle)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.install()  # again: Lightning has put its own handler of SIGTERM in place

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # A signal may reach the ranks in different epochs; all stop together, as soon as one has it.
        if trainer.strategy.reduce_boolean_decision(self.requested is not None, all=False):
            self.requested = self.requested or signal.SIGINT
            trainer.should_stop = True

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.trained = True
