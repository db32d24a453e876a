"""One clear line for every error: what jsonargparse reports over many lines, condensed to what the user can mend."""

from __future__ import annotations

import inspect
import re
import signal
import time
from collections.abc import Iterable
from textwrap import shorten
from typing import Any, NoReturn

from lightning.pytorch.cli import LightningArgumentParser
from lightning.pytorch.utilities import rank_zero_only

from lit_triwave.errors import TriwaveError, did_you_mean
from lit_triwave.launcher import outlive_launcher

# How jsonargparse wraps the one line that matters when an argument may be of several types.
LONGEST = 350  # characters of a line; torch lists every tensor of a checkpoint that does not fit
SAME_ERROR_SECONDS = 10.0  # the first rank may have a Weights & Biases run to end
PARTS = ("model", "data", "run", "trainer")
"""Of a config."""
WORKER = "in DataLoader worker process"
NO_MEMORY = re.compile("DefaultCPUAllocator|alloc_cpu|CUDA out of memory")
WRAPPING = ("Does not validate against", "Subtypes:", "Errors:", "Expected a <class 'NoneType'>", "Given value")


class OneLineParser(LightningArgumentParser):
    """Lightning's parser, with errors in one line instead of a page of usage.

    Attributes:
        classes: whose arguments are the known keys, for near matches.
    """

    classes: Iterable[type] = ()

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, allow_abbrev=False, **options)

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Exits with code 2."""
        text = condense(message)
        if "expected one argument" in text:
            text += "; a value that begins with - needs an equals sign, as in --data.expression=-x**2"
        unknown = re.search(
            r"Option '([\w.]+)' is not accepted|unrecognized arguments: --([\w.]+)|key '([\w.]+)'", text
        )
        if unknown:
            text += self._near_match(next(group for group in unknown.groups() if group))
        if re.search(r"required: \w+\.(data|model)", text):
            text = "a config is needed: --config FILE, for example configs/x3_minus_x.yaml"
        leave_it_to_the_first_rank()
        self.exit(2, f"error: {text}\n")
        raise SystemExit(2)  # `exit` does not return; its annotation does not say so

    def _near_match(self, key: str) -> str:
        known = {name for kind in self.classes for name in inspect.signature(kind).parameters}
        first, *rest = key.split(".")
        last = rest[-1] if rest else first
        if rest and last in known and first not in PARTS:
            return did_you_mean(first, PARTS)
        return "" if last in known else did_you_mean(last, known)


def leave_it_to_the_first_rank() -> int:
    """Gives the first rank the time to say an error, which mostly all have, and to end the others with its own end.

    Returns:
        The rank of this process.
    """
    rank = int(getattr(rank_zero_only, "rank", None) or 0)
    if rank > 0:
        outlive_launcher()
        signal.signal(signal.SIGTERM, signal.SIG_DFL)  # by which srun ends the ranks that are left
        time.sleep(SAME_ERROR_SECONDS)
    return rank


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


def known_classes(*classes: Any) -> type[OneLineParser]:
    """A parser class whose near matches come from the arguments of `classes`."""
    return type("Parser", (OneLineParser,), {"classes": classes})
