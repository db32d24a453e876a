"""Errors that the command line shows as one line, without a traceback."""

from __future__ import annotations

import difflib
import re
import signal
from collections.abc import Iterable, Sequence
from textwrap import shorten


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


LONGEST = 350  # characters of a line; torch lists every tensor of a checkpoint that does not fit


WORKER = "in DataLoader worker process"


NO_MEMORY = re.compile("DefaultCPUAllocator|alloc_cpu|CUDA out of memory")


# How jsonargparse wraps the one line that matters when an argument may be of several types.
WRAPPING = ("Does not validate against", "Subtypes:", "Errors:", "Expected a <class 'NoneType'>", "Given value")


def condense(message: str) -> str:
    """The lines of a jsonargparse message that say something, joined; of a wrong choice, what there is to choose."""
    choice = wrong_choice(message)
    if choice:
        return choice
    lines = (line.strip().removeprefix("- ").strip() for line in message.splitlines())
    kept = [line for line in lines if line and not line.startswith(WRAPPING)]
    text = re.sub(r"Problem with given class_path '([\w.]+)':", r"\1:", " ".join(kept))
    return re.sub(r'Parser key "([\w.]+)":', r"\1:", text)


def wrong_choice(message: str) -> str:
    """A jsonargparse message about a value that is none of a `Literal`'s, in words; "" for any other message."""
    groups = re.findall(r"Expected a typing\.Literal\[(.*)\]", message)
    given = re.search(r"(?:Given value|Got value): (.*)", message)
    keys = re.findall(r'Parser key "([\w.]+)":', message)
    if not (groups and given and keys):
        return ""
    choices = list(dict.fromkeys(choice.strip(" '") for group in groups for choice in group.split(",")))
    value = given[1].strip()
    return f"{keys[-1]} '{value}': one of {', '.join(choices)}{did_you_mean(value, choices)}"


def one_line(error: BaseException) -> str:
    """An error's message in one line, led by its type where the message alone says too little."""
    text = str(error)
    while text.startswith(WRAPPING[0]) and error.__cause__ is not None:
        error = error.__cause__  # what a constructor raised, before jsonargparse wrapped it
        text = str(error)
    if WORKER in text:  # what a worker process raised comes with its traceback; the last line says what
        text = text.rstrip().splitlines()[-1].partition(": ")[2]
    if NO_MEMORY.search(text):
        bytes_asked = re.search(r"allocate (\d+) bytes", text)
        size = f" {int(bytes_asked[1]) / 1e9:,.1f} GB more" if bytes_asked else ""
        return (
            f"out of memory: PyTorch asks for{size or ' more than there is'}; take a smaller model or smaller batches"
        )
    if isinstance(error, OSError) and error.filename:
        return f"{error.filename}: {error.strerror}"
    text = " ".join(condense(text).split())
    if not isinstance(error, TriwaveError):  # whose words are measured
        text = shorten(text, LONGEST, placeholder=" …")
    if text and isinstance(error, (TriwaveError, ValueError, OSError)):
        return text
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
