"""Errors that the command line shows in one line, without a traceback."""

from __future__ import annotations

import difflib
import re
import resource
import signal
from collections.abc import Iterable, Sequence
from textwrap import shorten
from typing import Any, TypeGuard, get_args


class TriwaveError(Exception):
    """An error that the user can fix; its message says what must hold, what was found, and what to do."""


class TrainingDiverged(TriwaveError):
    """The loss or a parameter is no longer finite."""


class Interrupted(Exception):
    """A signal stopped training after a step, with a checkpoint saved.

    Attributes:
        signal: the signal that asked for the stop.
    """

    def __init__(self, number: int) -> None:
        self.signal = signal.Signals(number)
        super().__init__(f"stopped by {self.signal.name}")


_LONGEST = 350  # characters of a line; for a checkpoint that does not fit, torch would list every tensor
_WORKER = "in DataLoader worker process"
_NO_MEMORY = re.compile(
    "DefaultCPUAllocator|alloc_cpu|CUDA out of memory|failed to map segment|Cannot allocate memory|start new thread"
)
# Lightning's MisconfigurationException is not a ValueError, and importing it takes seconds.
_CLEAR = (TriwaveError, ValueError, OSError, ImportError, RuntimeError)
_NO_MATCH = "Does not validate against"
# Lines that jsonargparse adds around the important line if an argument may have several types.
_WRAPPING = (_NO_MATCH, "Subtypes:", "Errors:", "Given value")
_GIVEN = re.compile(r"(?:Given value|Got value): ?(.*)")
_NO_CLASS = re.compile(r"Expected (?:a )?dot import path string: (.*)|Given value: \{'class_path': ([^'].*?), '")
KIND_WORDS = {"int": "a whole number", "float": "a number", "bool": "true or false", "str": "text"}
KIND_WORDS |= {"list": "a list", "dict": "a mapping", "NoneType": "null"}
"""Name of a Python class ↦ word for its values in messages."""


def is_number(value: Any) -> TypeGuard[int | float]:
    """Whether a value is a number, which true and false are not."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def check_choice(choices: Any, **options: Any) -> None:
    """Raises ValueError for an option that is none of the `choices`, a `Literal`."""
    for name, value in options.items():
        if value not in get_args(choices):
            raise ValueError(f"{name} must be one of {', '.join(get_args(choices))}, got {value!r}")


def check_least(least: int, **options: int | None) -> None:
    """Raises ValueError for a number below `least`; None is accepted."""
    for name, value in options.items():
        if value is not None and value < least:
            raise ValueError(f"{name} must be at least {least}, got {value}")


def did_you_mean(name: str, known: Iterable[str], most: int = 1) -> str:
    """Returns the end of an error about an unknown name: up to `most` known names that are close to it, or ""."""
    names = list(dict.fromkeys(known))
    same = [other for other in names if other.lower() == name.lower()]  # "Y" and "y" have no letter in common
    near = [f"'{other}'" for other in same[:most] or difflib.get_close_matches(name, names, n=most)]
    return f"; did you mean {' or '.join(filter(None, [', '.join(near[:-1]), near[-1]]))}?" if near else ""


def some(names: Sequence[str], most: int = 3) -> str:
    """Returns the first few names and the number of the others, in words."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def printable(text: str) -> str:
    """Returns a text with escapes for control characters, which a terminal would execute, and for invalid Unicode."""
    if text.isprintable():
        return text
    return "".join(letter if letter.isprintable() else letter.encode("unicode_escape").decode() for letter in text)


def dtype_name(dtype: object) -> str:
    """Returns the name of a dtype of torch without its module, such as float32."""
    return str(dtype).removeprefix("torch.")


def has_control_characters(text: str) -> bool:
    """Whether a text has control characters, which a terminal would execute, other than line breaks and tabs."""
    return re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", text) is not None


def reason(error: BaseException, room: int = 150) -> str:
    """Returns an error's message in one line of at most `room` characters; its class if it has no message."""
    plain = re.sub(r"\x1b?\[[0-9;]*m", "", str(error))  # without colours
    text = printable(" ".join(plain.split())) or type(error).__name__
    if len(text) <= room:
        return text
    words = text[: room - 2].rpartition(" ")[0]
    return f"{words if len(words) > room // 2 else text[: room - 2]} …"


def condense(message: str) -> str:
    """Returns the important part of a message of jsonargparse, in one line."""
    keys = re.findall(r'Parser key "([\w.]+)":', message)
    known = ""
    if keys:
        known = _wrong_choice(keys[-1], message) or _wrong_kind(keys[-1], message) or _wrong_class(keys[-1], message)
    if known:
        return known
    text = " ".join(line for line in _important(message) if not line.startswith("Expected a <class 'NoneType'>"))
    text = re.sub(r"Problem with given class_path '([\w.]+)':", r"\1:", text)
    return re.sub(r'Parser key "([\w.]+)":', r"\1:", text)


def _important(message: str) -> list[str]:
    """Returns the lines of a message of jsonargparse, without those around the important ones."""
    lines = (line.strip().removeprefix("- ").strip() for line in message.splitlines())
    return [line for line in lines if line and not line.startswith(_WRAPPING)]


def _wrong_choice(key: str, message: str) -> str:
    """Rewrites a message about a value that a `Literal` does not have; "" for any other message."""
    groups = re.findall(r"Expected a typing\.Literal\[(.*)\]", message)
    given = _GIVEN.search(message)
    if not (groups and given):
        return ""
    choices = list(dict.fromkeys(choice.strip(" '") for group in groups for choice in group.split(",")))
    value = given[1].strip()
    return f"{key} must be one of {', '.join(choices)}, got '{value}'{did_you_mean(value, choices)}"


def _wrong_kind(key: str, message: str) -> str:
    """Rewrites a message about a value of a wrong type, such as a list for a number; "" for any other message."""
    no_class = _NO_CLASS.search(message)
    if no_class:
        return f"class_path of {key} must name a class, got {no_class[1] or no_class[2]}"
    given = _GIVEN.search(message)
    errors = [line for line in _important(message) if not line.startswith("Parser key")]
    found = [re.match(r"Expected (?:an? )?<class '(\w+)'>", line) for line in errors]
    words = list(dict.fromkeys(KIND_WORDS[match[1]] for match in found if match and match[1] in KIND_WORDS))
    if not (given and words and all(found)):
        return ""
    value, advice = given[1] or repr(""), ""
    if "text" in words and re.fullmatch(r"[\w.+-]+|\{.*", value):  # YAML reads `on` as True and `a: 0` as a mapping
        words, advice = ["text"], ": put it in quotes"
    elif "a list" in words and re.fullmatch(r"\[.*\]", value):  # YAML could not read it
        advice = ": put names with signs such as # in quotes"
    elif "a list" in words and not re.search(r"[][{}:]", value):
        advice = f": write [{value}]"
    return f"{key} must be {' or '.join(words)}, got {value}{advice}"


def _wrong_class(key: str, message: str) -> str:
    """Rewords a message about a class that cannot be imported, or is of another kind; "" for any other message."""
    given = re.search(r"Expected a path but (\S+) either not accessible", message)
    base = re.search(r"does not correspond to a subclass of (\w+)", message)
    absent = re.search(r"Problem with given class_path '[\w.]+':\s+(No module named .*|module '.*' has no .*)", message)
    if given and base:
        return f"class_path of {key} must name a {base[1]}, got {given[1]}"
    if given and absent:
        return f"class_path of {key} must name a class, got {given[1]}: {absent[1]}"
    return ""


def out_of_memory(error: BaseException) -> bool:
    """Whether an error of Python or PyTorch means that there is not enough memory."""
    return isinstance(error, MemoryError) or _NO_MEMORY.search(str(error)) is not None


def address_space() -> int:
    """Returns the limit of this process's address space in bytes; 0 if there is none."""
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    return 0 if limit == resource.RLIM_INFINITY else limit


def one_line(error: BaseException) -> str:
    """Returns an error's message in one line. The type comes first if the message alone is not enough."""
    text = str(error)
    while text.startswith(_NO_MATCH) and error.__cause__ is not None:
        error = error.__cause__  # the error of a constructor, before jsonargparse wrapped it
        text = str(error)
    if _WORKER in text:  # a worker process sends its traceback; the last line has the message
        text = text.rstrip().splitlines()[-1].partition(": ")[2]
    if out_of_memory(error):
        asked = re.search(r"allocate (\d+) bytes", text)
        size = f" {int(asked[1]) / 1e9:,.1f} GB more" if asked else " more than there is"
        limit = address_space()
        advice = f"; raise the limit of {limit / 1e9:.1f} GB (ulimit -v), or" if limit else ";"
        return f"out of memory: PyTorch asks for{size}{advice} use a smaller model or smaller batches"
    if isinstance(error, OSError) and error.strerror:  # without the system's number of the error
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    text = printable(" ".join(condense(text).split()))
    if not isinstance(error, TriwaveError):  # ours are short
        text = shorten(text, _LONGEST, placeholder=" …")
    if text and (isinstance(error, _CLEAR) or type(error).__name__ == "MisconfigurationException"):
        return text
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
