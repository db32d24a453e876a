"""Values and means as text, as they stand in a cell."""

from __future__ import annotations

import json
import math
import re
import textwrap
from collections.abc import Sequence
from typing import Any

from lit_triwave.commands.compare.table.statistics import Sample

SHORTEST_PART = 14
"""Characters to which a part of a label may be shortened."""


def shown(value: Any) -> str:
    """A field's value in a cell: classes by their last name, lists without brackets around, nothing for None."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, (list, tuple)):
        return ", ".join(shown(item) for item in value)
    text = json.dumps(value, default=str) if isinstance(value, dict) else str(value)
    return text.rpartition(".")[2] if re.fullmatch(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+", text) else text


def shortened(text: str, longest: int) -> str:
    """A text of at most so many signs, without its middle if it has more: both ends tell texts apart.

    It is cut between words where that leaves more than half of what there is room for.
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
    """Parts with commas between, at most so many signs: parts in the middle are left out, then long ones shortened."""
    for kept in range(len(parts), min(2, len(parts)) - 1, -1):
        there = [*parts[: (kept + 1) // 2], *["…"] * (kept < len(parts)), *parts[len(parts) - kept // 2 :]]
        if len(text := ", ".join(there)) <= longest:
            return text
    for most in range(longest, SHORTEST_PART - 1, -1):
        if len(text := ", ".join(shortened(part, most) for part in there)) <= longest:
            return text
    return shortened(text, longest)


def in_lines(text: str, longest: int) -> str:
    """A text with line breaks between words, in lines of so many signs if no word has more."""
    return textwrap.fill(text, longest, break_long_words=False, break_on_hyphens=False)


def number(value: float) -> str:
    """A number in a cell: four digits, whole ones whole."""
    if isinstance(value, int) or (float(value).is_integer() and abs(value) < 1e15):
        return f"{int(value)}"
    return f"{value:.4g}" if 1e-3 <= abs(value) < 1e5 else f"{value:.2e}"


def mean_and_error(sample: Sample) -> str:
    """Mean ± standard error, both to the error's second digit; the mean alone where there is no error."""
    error = sample.error
    if not error or error < 1e-12 * abs(sample.mean):  # as far as floating point tells, the seeds are alike
        return number(sample.mean)
    if 1e-3 <= abs(sample.mean) < 1e5:
        decimals = min(6, max(0, 1 - math.floor(math.log10(error))))
        return f"{sample.mean:.{decimals}f} ± {error:.{decimals}f}"
    power = math.floor(math.log10(abs(sample.mean))) if sample.mean else math.floor(math.log10(error))
    scale = 10.0**power
    return f"({sample.mean / scale:.2f} ± {error / scale:.2f})e{power:+03d}"
