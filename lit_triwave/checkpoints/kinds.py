"""Compares a saved value with what a fresh object has in its place: the same keys and the same kinds of values."""

from __future__ import annotations

import math
from collections.abc import Mapping
from textwrap import shorten
from typing import Any

from torch import Tensor

from lit_triwave.errors import KIND_WORDS, is_number

_MOST = 2**53  # counts beyond it are no longer exact as numbers of float64


def short(value: Any) -> str:
    """Returns a value as an error shows it."""
    if isinstance(value, Tensor):
        return f"a tensor of {value.dtype}, shape {tuple(value.shape)}"
    return "nothing" if value is None else shorten(repr(value), 40)


def require(holds: Any, name: str, needed: str, found: Any) -> None:
    """Refuses a value of a checkpoint.

    Args:
        holds: whether the value is as needed.
        name: name of the value.
        needed: what it must be, with the verb.
        found: what it is.

    Raises:
        ValueError: it is not as needed.
    """
    if not holds:
        raise ValueError(f"{name} must {needed}, got {found}")


def is_count(value: Any) -> bool:
    """Whether a value is a whole number from 0 to 2^53 − 1."""
    return isinstance(value, int) and is_number(value) and 0 <= value < _MOST


def is_finite(value: Any) -> bool:
    """Whether a value is a finite number."""
    return is_number(value) and abs(value) < math.inf


def check_like(name: str, saved: Any, own: Any, strict: bool = False) -> None:
    """Refuses a value of another kind than the one that a fresh object has in its place.

    Args:
        name: name of the value, for the error.
        saved: the value in a checkpoint.
        own: the value of the fresh object. None accepts every value, and an empty container any content.
        strict: refuses keys that are missing or new, and counts that are not whole numbers from 0. Otherwise another
            version may have other keys, and only those in both are compared.

    Raises:
        ValueError: the kinds differ; the message names the innermost value.
    """
    needed = _needed(saved, own, strict)
    require(not needed, name, f"be {needed}", short(saved))
    if isinstance(own, Mapping):
        if strict and own:
            missing, new = own.keys() - saved.keys(), saved.keys() - own.keys()
            found = f"no {min(missing)}" if missing else f"also {short(min(new, key=str, default=None))}"
            require(not missing and not new, name, f"have {', '.join(own)}", found)
        for key in own:
            if key in saved:
                check_like(f"{name}.{key}", saved[key], own[key], strict)
    elif isinstance(own, (list, tuple)):
        for number, (one, two) in enumerate(zip(saved, own, strict=False)):
            check_like(f"{name}.{number}", one, two, strict)


def _needed(saved: Any, own: Any, strict: bool) -> str:
    """Returns what a value must be in words; "" if it is."""
    if own is None:
        return ""
    if isinstance(own, Tensor):
        kind = own.is_floating_point()
        fits = isinstance(saved, Tensor) and (saved.ndim, saved.is_floating_point()) == (own.ndim, kind)
        return "" if fits else f"a tensor of {own.ndim} dimensions, {'floating-point' if kind else 'whole'} numbers"
    if isinstance(own, Mapping):
        return "" if isinstance(saved, Mapping) else KIND_WORDS["dict"]
    if isinstance(own, (bool, str)):
        return "" if isinstance(saved, type(own)) else KIND_WORDS[type(own).__name__]
    if isinstance(own, (list, tuple)):
        fits = isinstance(saved, (list, tuple)) and (not own or len(saved) == len(own))
        return "" if fits else "a list" + (f" of {len(own)}" if own else "")
    if isinstance(own, int) and strict:
        return "" if is_count(saved) else "a whole number from 0"
    if isinstance(own, (int, float)):
        return "" if is_finite(saved) or (saved == own) else "a finite number"
    return ""
