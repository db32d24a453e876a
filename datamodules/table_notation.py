"""Advice about text in a table that stands for numbers or times."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import yaml

if TYPE_CHECKING:
    import pandas

_CLOCK = r"\s*\d{1,2}:[0-5]\d(:[0-5]\d(\.\d+)?)?(\s?[AaPp]\.?[Mm]\.?)?\s*"
_DURATION = r"\s*-?(\d+ days?,? \+?\d{1,2}:\d\d:\d\d(\.\d+)?|P(\d+D)?T?(\d+H)?(\d+M)?(\d+(\.\d+)?S)?)\s*"
_MONTH = r"\s*((19|20)\d\d[-/.](0[1-9]|1[0-2])|(0?[1-9]|1[0-2])[-/.](19|20)\d\d|(19|20)\d\d-?[WM]\d\d)\s*"
_MONTH_NAME = r"(?i:jan|feb|mar|mär|apr|may|mai|jun|jul|aug|sep|oct|okt|nov|dec|dez)[a-z]{0,6}\.?"
_NAMED_MONTH = rf"\s*({_MONTH_NAME}[\s\-/,']*((19|20)\d\d|\d\d)|((19|20)\d\d|\d\d)[\s\-/,']*{_MONTH_NAME})\s*"
_QUARTER = r"\s*((19|20)\d\d[\s\-/]?[Qq][1-4]|[Qq][1-4][\s\-/]?(19|20)\d\d)\s*"
_DATES = "dates: replace it by numbers, such as the days since the first date, the month or the day of the week"
OR_CATEGORIES = ", or name it in categorical"
_TIMES = "times of day: replace it by numbers, such as the hours since midnight" + OR_CATEGORIES
_DURATIONS = "durations: replace it by numbers, such as the seconds or the hours"
_TIME_PATTERNS = (
    (_CLOCK, _TIMES),
    (_DURATION, _DURATIONS),
    (rf"{_MONTH}|{_NAMED_MONTH}|{_QUARTER}", _DATES),
)


def how_to_read(text: str) -> str:
    """Returns what to do about a text that is a number in another notation, as the end of an error; else ""."""
    text = text.strip()
    if re.fullmatch(r"[−–]\s?[\d.,]+|\([\d.,]+\)", text):
        return ": write a - before negative numbers"
    if re.fullmatch(r"[-+]?\d{1,3}((\.\d{3})+,\d+|(\.\d{3}){2,})", text):
        return ": set decimal to ',' and thousands to '.'"
    if re.fullmatch(r"[-+]?[\d.]*,[\d,]+(\.\d+)?", text):
        return ": set decimal or thousands to ','"
    groups = re.fullmatch(r"[-+]?\d{1,3}(['’\s])\d{3}(\1\d{3})*(([.,])\d+)?", text)
    if groups:
        comma = "decimal to ',' and " if groups[4] == "," else ""
        return f": set {comma}thousands to the sign between the digits{_in_bash(groups[1])}"
    if re.fullmatch(r"\W{0,2}[-+]?[\d.,]*\d[\d.,]*(e[-+]?\d+)?\s?(%|\W|[A-Za-z€$£°]{1,3})?", text):
        return ": write the numbers without signs and units"
    return ""


def has_german_thousands(texts: Sequence[str]) -> bool:
    """Whether numbers look like 1.234 and 567, where a point may separate thousands; 0.5 and 1.25 do not."""
    return any("." in text for text in texts) and all(
        re.fullmatch(r"-?[1-9]\d{0,2}(\.\d{3})*|0?", text) for text in texts
    )


def in_quotes(sign: str) -> str:
    """Returns a sign or word as it is written on the command line: in quotes of its own where YAML needs them."""
    try:
        plain = yaml.safe_load(sign) == sign
    except yaml.YAMLError:
        plain = False
    return repr(sign) if plain else f"\"'{sign}'\""


def _in_bash(sign: str) -> str:
    """Returns how to type a sign that no keyboard has, such as a narrow blank, as the end of a hint; else ""."""
    return "" if sign in "' " else f", $'\\u{ord(sign):04x}' in bash"


def notation(texts: list[str]) -> str:
    """Returns what to do about texts that are all numbers in another notation, as the end of an error; else ""."""
    if not texts or not all(map(how_to_read, texts)):
        return ""
    # 10% and 20% are numbers, but 1st and 2nd, or 1.0.1 and 1.0.2, are names.
    units = {re.sub(r"[\d.,]+", "", text) for text in texts}
    return how_to_read(texts[0]) if "set " in how_to_read(texts[0]) or (len(units) == 1 and units != {""}) else ""


def time_advice(column: pandas.Series[Any]) -> str:
    """Returns what to do about a column of dates, times of day or durations, as such or as text; "" for any other."""
    import pandas

    kind = pandas.api.types
    if kind.is_datetime64_any_dtype(column) or isinstance(column.dtype, pandas.PeriodDtype):
        return _DATES
    if kind.is_timedelta64_dtype(column):
        return _DURATIONS
    if not (kind.is_object_dtype(column) or kind.is_string_dtype(column)):
        return ""
    texts = column.dropna().astype(str).drop_duplicates().head(100)
    for pattern, advice in _TIME_PATTERNS:
        if len(texts) and texts.str.fullmatch(pattern).all():
            return advice
    # Three groups of digits, or two beside a month's name: "18-25" is an age, not the 25th of a month.
    if not len(texts) or not texts.str.contains(r"\d+\D+\d+\D+\d|\d.*[A-Za-z]{3}.*\d|[A-Za-z]{3}.*\d\D+\d").all():
        return ""
    dates = pandas.to_datetime(texts, errors="coerce", format="mixed", utc=True)
    return _DATES if bool(dates.notna().all()) else ""
