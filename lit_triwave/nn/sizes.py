"""Checks arguments that count something."""

from __future__ import annotations

import operator
from typing import Any

_LARGEST = 1 << 24
"""More of anything is a typing error; PyTorch would ask for terabytes of memory."""


def check_sizes(least: int = 1, most: int = _LARGEST, **sizes: Any) -> None:
    """Refuses values that are not whole numbers between two bounds, by their names.

    Args:
        least: smallest allowed value.
        most: largest allowed value.
        sizes: name ↦ value; NumPy's integers are accepted.

    Raises:
        TypeError: a value is of another type, such as bool.
        ValueError: a value is out of bounds.
    """
    for name, value in sizes.items():
        try:
            number = operator.index(value)
        except TypeError:
            number = None
        if number is None or isinstance(value, bool):
            raise TypeError(f"{name} must be a whole number, got {value!r} ({type(value).__name__})")
        if number < least:
            raise ValueError(f"{name} must be at least {least}, got {value}")
        if number > most:
            raise ValueError(f"{name} must be at most {most}, got {value}")
