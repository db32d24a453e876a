"""Reads files of run folders that may be damaged or hostile, bounded in time and memory."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from typing import Any

import yaml

from lit_triwave.errors import reason

_MOST_BYTES = 8_000_000
"""Most bytes of a file. This project's files of settings and results have some kilobytes."""
_MOST_VALUES = 20_000
_LONGEST_WORD = 10_000
"""Most characters of a word without quotes; YAML would take long to test a longer one for a number."""
_LONGEST_TEXT = 10_000
"""Most characters of a text; a table would be as wide. An expression has at most 1000."""
_DEEPEST = 50
_LARGEST = 1 << 63
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def read_bytes(path: Path, most: int = _MOST_BYTES) -> bytes:
    """Returns the content of a file of at most `most` bytes.

    Raises:
        OSError: it cannot be read.
        ValueError: it is not a regular file, or larger.
    """
    with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb") as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise ValueError("it must be a regular file")  # a pipe would wait for a writer
        content = file.read(most + 1)
    if len(content) > most:
        raise ValueError(f"it must have at most {most / 1e6:.0f} MB")
    return content


def what_fails(error: OSError | ValueError) -> str:
    """Returns why a file cannot be read, in a few words, without the system's number of the error."""
    if isinstance(error, UnicodeDecodeError):
        return "it is no text in UTF-8"
    return error.strerror if isinstance(error, OSError) and error.strerror else reason(error, 80)


def read_mapping(path: Path) -> dict[str, Any]:
    """Returns the mapping in a JSON or YAML file, by the ending of its name.

    Raises:
        OSError: it cannot be read.
        ValueError: it is damaged, too large, or nested too deeply.
    """
    text = read_bytes(path)
    try:
        content = json.loads(text, object_pairs_hook=_without_twins) if path.suffix == ".json" else _parsed_yaml(text)
        if isinstance(content, dict):
            _check_values(content)
            return content
    except yaml.YAMLError as error:
        raise ValueError(str(error)) from error
    except RecursionError as error:
        raise ValueError(f"it must be nested at most {_DEEPEST} deep") from error
    raise ValueError("it must be a mapping")


def _without_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Returns the mapping of pairs in JSON.

    Raises:
        ValueError: two have the same key, so it is not known which one counts.
    """
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"it has two values for {key}")
        found[key] = value
    return found


def _parsed_yaml(text: bytes) -> Any:
    depth = 0
    # Checked before loading, because loading is recursive in C and could crash the process.
    for number, event in enumerate(yaml.parse(text, _LOADER)):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > _DEEPEST:
            raise RecursionError
        if number > 2 * _MOST_VALUES:
            raise ValueError(f"it must have at most {_MOST_VALUES} values")
        plain = event.value if isinstance(event, yaml.ScalarEvent) and not event.style else ""
        if plain == "<<" or len(plain) > _LONGEST_WORD:
            raise ValueError("<< and very long words without quotes are not allowed")  # they unfold while loading
    return yaml.load(text, _LOADER)


def _check_values(content: dict[str, Any]) -> None:
    """Refuses content that no run writes and that could make a reader fail.

    Raises:
        ValueError: too many or too deeply nested values (references in YAML can expand to these), keys that are not
            text, text that is not Unicode, or whole numbers of more than 64 bits.
    """
    left = _MOST_VALUES
    pending: list[tuple[Any, int]] = [(content, 0)]
    while pending:
        value, depth = pending.pop()
        left -= 1
        if depth > _DEEPEST:
            raise RecursionError
        if left < 0:
            raise ValueError(f"it must have at most {_MOST_VALUES} values")
        if isinstance(value, dict):
            if not all(isinstance(key, str) for key in value):
                raise ValueError("its keys must be texts")
            pending += [(item, depth + 1) for pair in value.items() for item in pair]
        elif isinstance(value, list):
            pending += [(item, depth + 1) for item in value]
        elif isinstance(value, str):
            if len(value) > _LONGEST_TEXT:
                raise ValueError(f"a text must have at most {_LONGEST_TEXT} characters, got {len(value)}")
            if any("\ud800" <= letter <= "\udfff" for letter in value if not value.isascii()):
                raise ValueError("its texts must be Unicode, got half of a pair")
        elif isinstance(value, int) and abs(value) >= _LARGEST:
            raise ValueError("a number must be below 2^63")
