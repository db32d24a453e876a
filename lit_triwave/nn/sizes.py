"""Checks of arguments that count something."""

from __future__ import annotations

import operator
from typing import Any

LARGEST = 1 << 24
"""More of anything is a slip of the keyboard: PyTorch would ask for terabytes, in words of its own."""


def check_sizes(least: int = 1, most: int = LARGEST, **sizes: Any) -> None:
    """Refuses what is no whole number between two bounds, by its name.

    Args:
        least: the smallest size.
        most: the largest.
        sizes: name ↦ value; integers of NumPy are integers, too.

    Raises:
        TypeError: for another type; True and False are no numbers here.
        ValueError: for a number out of bounds.
    """
    for name, value in sizes.items():
        try:
            number = operator.index(value)
        except TypeError:
            number = None
        if number is None or isinstance(value, bool):
            raise TypeError(f"{name} {value!r}: a whole number is expected, not {type(value).__name__}")
        if number < least:
            raise ValueError(f"{name} {value}: at least {least}")
        if number > most:
            raise ValueError(f"{name} {value}: at most {most}")
