"""Ctrl-C and SIGTERM end a run at the next epoch's end, with everything saved."""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_only
from rich.console import Console

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interruption(Callback):
    """Turns the first Ctrl-C (or SIGTERM) into an orderly stop at the end of the epoch; the second one stops at once.

    Attributes:
        requested: the signal that asked for the stop, or None.
    """

    def __init__(self) -> None:
        self.requested: signal.Signals | None = None
        self._previous: dict[signal.Signals, Any] = {}

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.requested is not None:
            raise KeyboardInterrupt
        self.requested = signal.Signals(number)
        self._say()

    @rank_zero_only
    def _say(self) -> None:
        name = "Ctrl-C" if self.requested == signal.SIGINT else "SIGTERM"
        Console(stderr=True).print(f"{name}: stopping after this epoch; once more stops at once", highlight=False)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # Not earlier: Lightning sets its own handler of SIGTERM after `on_fit_start`.
        if threading.current_thread() is threading.main_thread():
            self._previous = {number: signal.signal(number, self._handle) for number in SIGNALS}

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # A signal may reach the ranks in different epochs; all stop together, as soon as one has it.
        if trainer.strategy.reduce_boolean_decision(self.requested is not None, all=False):
            self.requested = self.requested or signal.SIGINT
            trainer.should_stop = True

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous = {}
