"""Which runs are compared: the conditions of `--where`."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from lit_triwave.comparison.cells import shown
from lit_triwave.comparison.compared_run import ComparedRun
from lit_triwave.comparison.fields import Fields, is_number, value_of
from lit_triwave.comparison.statistics import sample_of
from lit_triwave.errors import TriwaveError

ORDERS: dict[str, Callable[[float, float], bool]] = {
    "<=": operator.le,
    ">=": operator.ge,
    "<": operator.lt,
    ">": operator.gt,
}
MOST_VALUES = 8
"""Of a field that are named where a condition on it leaves no run."""
CONDITION = re.compile(r"\s*(.*?)\s*(!=|<=|>=|==|=|<|>|~)\s*(.*?)\s*", flags=re.DOTALL)


@dataclass(frozen=True)
class Condition:
    """One FIELD OP VALUE.

    Args:
        text: as the user wrote it.
        field: full name.
        operator: =, !=, <, <=, >, >= or ~, which means "contains".
        value: as the user wrote it.
    """

    text: str
    field: str
    operator: str
    value: str

    def holds(self, run: ComparedRun) -> bool:
        """Whether a run meets it. A run without the field meets != only."""
        value = measured(run, self.field)
        if isinstance(value, list) and self.operator in ("=", "!=", "~"):
            found = any(self._of_one(item, "=" if self.operator == "!=" else self.operator) for item in value)
            found |= self.operator != "~" and self._of_one(shown(value), "=")
            return found != (self.operator == "!=")
        return self._of_one(value, self.operator)

    def _of_one(self, value: Any, sign: str) -> bool:
        if sign == "~":
            return value is not None and self.value.lower() in str(value).lower()
        if sign in ORDERS:
            return is_number(value) and ORDERS[sign](value, float(self.value))
        return _equal(value, self.value) == (sign == "=")


def measured(run: ComparedRun, name: str) -> Any:
    """The value of a field; of a metric that the seeds of a run have, their mean, which is what the table shows."""
    value = value_of(run, name)
    if name in run.config or not is_number(run.summary.get(f"{name}_mean")):
        return value
    sample = sample_of(run, name)
    return None if sample is None else sample.mean


def _equal(value: Any, text: str) -> bool:
    if is_number(value):
        try:
            return bool(value == float(text))
        except ValueError:
            return False
    if value is None:
        return text.lower() in ("null", "none", "")
    if isinstance(value, bool):
        return str(value).lower() == text.lower()
    return text in (str(value), shown(value))


def parse_conditions(texts: Sequence[str], fields: Fields) -> list[Condition]:
    """The conditions of a command line.

    Raises:
        TriwaveError: one is not FIELD OP VALUE, or of an unknown field.
    """
    return [_parse(text, fields) for text in texts]


def _parse(text: str, fields: Fields) -> Condition:
    match = CONDITION.fullmatch(text)
    if match is None or not match[1]:
        # A shell takes an unquoted > or < for itself.
        raise TriwaveError(f'--where {text}: FIELD OP VALUE in quotes, OP one of = != < <= > >= ~, as in "depth>=5"')
    name, sign, value = match[1], match[2].replace("==", "="), match[3]
    if value[:1] in tuple("=<>~"):
        raise TriwaveError(f"--where {text}: no such OP as {match[2]}{value[0]}; it is one of = != < <= > >= ~")
    if len(value) > 1 and value[0] == value[-1] and value[0] in "'\"":
        value = value[1:-1]
    if sign in ORDERS:
        try:
            float(value)
        except ValueError:
            raise TriwaveError(f"--where {text}: {sign} takes a number, not '{value}'") from None
    return Condition(text, fields.find(name, "--where"), sign, value)


def select(runs: Sequence[ComparedRun], conditions: Sequence[Condition]) -> list[ComparedRun]:
    """The runs that meet all conditions.

    Raises:
        TriwaveError: there is none; with the values that the field of the first unmet condition has.
    """
    left = list(runs)
    for condition in conditions:
        met = [run for run in left if condition.holds(run)]
        if not met:
            found = {shown(measured(run, condition.field)) or "nothing" for run in left}
            values = sorted(found, key=lambda text: (len(text), text))
            has = ", ".join(values[:MOST_VALUES]) + (", …" if len(values) > MOST_VALUES else "")
            raise TriwaveError(f"--where {condition.text}: no run is left of {len(left)}; {condition.field} is {has}")
        left = met
    return left
