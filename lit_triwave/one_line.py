"""One clear line for every error: what is said over many lines, condensed to what the user can mend."""

from __future__ import annotations

import re
from textwrap import shorten

from lit_triwave.errors import TriwaveError, did_you_mean

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
