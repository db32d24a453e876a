"""Errors that the command line shows as one line, without a traceback."""

from __future__ import annotations

import signal


class TriwaveError(Exception):
    """Something that the user can mend; its message says what was wrong and what would be right."""


class TrainingDiverged(TriwaveError):
    """The loss is no longer finite."""


class Interrupted(Exception):
    """Training was left in good order, with a checkpoint, because of a signal.

    Attributes:
        signal: that asked for it.
    """

    def __init__(self, number: int) -> None:
        self.signal = signal.Signals(number)
        super().__init__(f"stopped by {self.signal.name}")
