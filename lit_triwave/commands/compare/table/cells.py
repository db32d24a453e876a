"""Values and means as texts of cells."""

from __future__ import annotations

import json
import math
import re
import textwrap
from collections.abc import Sequence
from typing import Any

from lit_triwave.commands.compare.table.statistics import Sample
from lit_triwave.tracking.metric_goals import nines

_SHORTEST_PART = 14
"""Characters that a shortened part of a label keeps, at least."""


def shown(value: Any) -> str:
    """Returns a field's value as text: a class by its last name, a list without brackets, nothing for None."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, (list, tuple)):
        # Both ends of a domain may have many digits in common.
        return ", ".join(repr(item).removesuffix(".0") if isinstance(item, float) else shown(item) for item in value)
    text = json.dumps(value, default=str) if isinstance(value, dict) else str(value)
    return text.rpartition(".")[2] if re.fullmatch(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+", text) else text


def shortened(text: str, longest: int) -> str:
    """Returns a text of at most `longest` characters; a longer one loses its middle, as both ends distinguish texts.

    It is cut between words if that leaves more than half of the room filled.
    """
    if len(text) <= longest:
        return text
    end = (longest - 1) // 2
    first, last = text[: longest - 1 - end], text[len(text) - end :]
    if text[len(first)].isalnum() and (words := re.match(r".*[\W_]", first)) and 2 * len(words[0]) > len(first):
        first = words[0]
    if text[len(text) - end - 1].isalnum() and (words := re.search(r"[\W_].*", last)) and 2 * len(words[0]) > end:
        last = words[0]
    return f"{first}…{last}"


def joined(parts: Sequence[str], longest: int) -> str:
    """Joins parts by commas in at most `longest` characters: middle parts are omitted, then long ones shortened."""
    for kept in range(len(parts), min(2, len(parts)) - 1, -1):
        there = [*parts[: (kept + 1) // 2], *["…"] * (kept < len(parts)), *parts[len(parts) - kept // 2 :]]
        if len(text := ", ".join(there)) <= longest:
            return text
    for most in range(longest, _SHORTEST_PART - 1, -1):
        if len(text := ", ".join(shortened(part, most) for part in there)) <= longest:
            return text
    return shortened(text, longest)


def in_lines(text: str, longest: int) -> str:
    """Breaks a text between words into lines of at most `longest` characters; a longer word is kept whole."""
    return textwrap.fill(text, longest, break_long_words=False, break_on_hyphens=False)


def number(value: float) -> str:
    """Returns a number with four digits, a whole number with all of them, one just below 1 with all of its nines."""
    if isinstance(value, int) or (float(value).is_integer() and abs(value) < 1e15):
        return f"{int(value)}"
    if 0.999 <= value < 1:
        return nines(value)
    return f"{value:.4g}" if 1e-3 <= abs(value) < 1e5 else f"{value:.2e}"


def mean_and_error(sample: Sample) -> str:
    """Returns mean ± standard error, both to the error's second digit; the mean alone if there is no error."""
    error = sample.error
    if not error or error < 1e-12 * abs(sample.mean):  # the seeds are equal up to rounding
        return number(sample.mean)
    if 1e-3 <= abs(sample.mean) < 1e5:
        decimals = min(6, max(0, 1 - math.floor(math.log10(error))))
        return f"{sample.mean:.{decimals}f} ± {error:.{decimals}f}"
    power = math.floor(math.log10(abs(sample.mean))) if sample.mean else math.floor(math.log10(error))
    scale = 10.0**power
    return f"({sample.mean / scale:.2f} ± {error / scale:.2f})e{power:+03d}"
