"""Errors that the command line shows as one line, without a traceback."""

from __future__ import annotations

import difflib
import re
import signal
from collections.abc import Iterable, Sequence


class TriwaveError(Exception):
    """Something that the user can mend; its message says what was wrong and what would be right."""


class TrainingDiverged(TriwaveError):
    """The loss is no longer finite."""


def did_you_mean(name: str, known: Iterable[str], most: int = 1) -> str:
    """The end of an error about an unknown name: up to `most` known ones that are near it, or nothing."""
    near = [f"'{other}'" for other in difflib.get_close_matches(name, dict.fromkeys(known), n=most)]
    return f"; did you mean {' or '.join(filter(None, [', '.join(near[:-1]), near[-1]]))}?" if near else ""


def reason(error: BaseException, room: int = 150) -> str:
    """The message of an error in one line of at most `room` characters, cut between words; its class if it has none."""
    text = " ".join(re.sub(r"\x1b?\[[0-9;]*m", "", str(error)).split()) or type(error).__name__  # without colours
    if len(text) <= room:
        return text
    words = text[: room - 2].rpartition(" ")[0]
    return f"{words if len(words) > room // 2 else text[: room - 2]} …"


def some(names: Sequence[str], most: int = 3) -> str:
    """The first few names, and how many more there are."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


class Interrupted(Exception):
    """Training was left in good order, with a checkpoint, because of a signal.

    Attributes:
        signal: that asked for it.
    """

    def __init__(self, number: int) -> None:
        self.signal = signal.Signals(number)
        super().__init__(f"stopped by {self.signal.name}")
