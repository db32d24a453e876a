"""Selects runs and rows by the conditions of `--where`, on fields of runs and on columns of the table."""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import yaml

from lit_triwave.commands.compare.read.compared_run import ComparedRun
from lit_triwave.commands.compare.table.cells import shown
from lit_triwave.commands.compare.table.fields import Fields, value_of
from lit_triwave.commands.compare.table.statistics import sample_of
from lit_triwave.commands.compare.table.table import HEADERS, Comparison
from lit_triwave.errors import TriwaveError, is_number

_Thing = TypeVar("_Thing")

_ORDERS: dict[str, Callable[[Any, Any], bool]] = {
    "<=": operator.le,
    ">=": operator.ge,
    "<": operator.lt,
    ">": operator.gt,
}
_TIME = re.compile(r"(\d{4}-\d\d-\d\d) (?=\d)")
"""A date and a time with a space between; runs record them with a T."""
_MOST_VALUES = 8
"""Values of a field that an error names when a condition matches no run."""
_OPERATORS = "one of = != < <= > >= ~"
_CONDITION = re.compile(r"\s*(.*?)\s*(!=|<=|>=|==|=|<|>|~)\s*(.*?)\s*", flags=re.DOTALL)


@dataclass(frozen=True)
class Condition:
    """One condition, FIELD OP VALUE.

    Args:
        text: the whole condition as the user wrote it.
        field: full name of the field or header of the column.
        operator: =, !=, <, <=, >, >= or ~, which means "contains".
        value: value as the user wrote it.
    """

    text: str
    field: str
    operator: str
    value: str

    def of(self, value: Any) -> bool:
        """Returns whether a value meets the condition; None, a missing value, meets only !=."""
        if self.operator == "!=":
            return not self._meets(value, "=")
        return self._meets(value, self.operator)

    def _meets(self, value: Any, sign: str) -> bool:
        """Returns whether a value, or one of the items of a list, meets the condition with a sign other than !=."""
        if isinstance(value, list) and sign in ("=", "~"):
            whole = sign == "=" and _equal(value, self.value)
            return whole or any(self._meets(item, sign) for item in value)
        if sign == "~":
            return value is not None and self.value.lower() in str(value).lower()
        if sign in _ORDERS:
            if isinstance(value, str):
                return _ORDERS[sign](value, _TIME.sub(r"\1T", self.value))
            asked = _number(self.value)
            return asked is not None and is_number(value) and _ORDERS[sign](value, asked)
        return _equal(value, self.value)

    def check_order(self, values: Iterable[Any]) -> None:
        """Checks that < and > can compare the values of the field with that of the condition.

        Args:
            values: values of the field, None if missing.

        Raises:
            TriwaveError: the values have no order or the condition's value is not a number.
        """
        there = [value for value in values if value is not None]
        if self.operator not in _ORDERS or not there or any(isinstance(value, str) for value in there):
            return
        if not any(is_number(value) for value in there):
            what = f"{self.field} is {shown(there[0])}" + ", …" * (len(there) > 1)
            raise TriwaveError(f"--where {self.text}: {what}, which has no order; use = != or ~")
        number = _number(self.value)
        if number is None or math.isnan(number):
            raise TriwaveError(f"--where {self.text}: value must be a number for {self.operator}, got '{self.value}'")


def _measured(run: ComparedRun, name: str) -> Any:
    """Returns the value of a field; for a metric, the mean over the run's seeds, which the table shows."""
    value = value_of(run, name)
    if name in run.config or not is_number(run.summary.get(f"{name}_mean")):
        return value
    sample = sample_of(run, name)
    return None if sample is None else sample.mean


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _equal(value: Any, text: str) -> bool:
    if isinstance(value, list):
        wanted = _listed(text)
        same_length = wanted is not None and len(wanted) == len(value)
        return shown(value) == text or (same_length and all(map(_equal, value, map(str, wanted or []))))
    if is_number(value):
        return bool(value == _number(text))
    if value is None:
        return text.lower() in ("null", "none", "")
    if isinstance(value, bool):
        return str(value).lower() == text.lower()
    return text in (str(value), shown(value))


def _listed(text: str) -> list[Any] | None:
    """Returns the items of a list in YAML; None for any other text."""
    try:
        items = yaml.safe_load(text) if text.startswith("[") else None
    except yaml.YAMLError:
        return None
    return items if isinstance(items, list) else None


def parse_condition(text: str, fields: Fields) -> Condition:
    """Parses a condition of the command line.

    Raises:
        TriwaveError: it is not FIELD OP VALUE or names an unknown field.
    """
    match = _CONDITION.fullmatch(text)
    if match is None or not match[1]:
        # A shell interprets an unquoted > or <.
        raise TriwaveError(f'--where {text}: must be FIELD OP VALUE in quotes, as in "depth>=5"; OP is {_OPERATORS}')
    name, sign, value = match[1], match[2].replace("==", "="), match[3]
    if value[:1] in tuple("=<>~"):
        raise TriwaveError(f"--where {text}: OP must be {_OPERATORS}, got {match[2]}{value[0]}")
    if len(value) > 1 and value[0] == value[-1] and value[0] in "'\"":
        value = value[1:-1]
    return Condition(text, fields.find(name, "--where", besides=HEADERS), sign, value)


def select(runs: Sequence[ComparedRun], conditions: Sequence[Condition]) -> list[ComparedRun]:
    """Returns the runs that meet all conditions on fields.

    Raises:
        TriwaveError: there is none; the message lists the field's values.
    """
    left = list(runs)
    for condition in conditions:
        if condition.field not in HEADERS:
            left = _met(left, condition, [_measured(run, condition.field) for run in left], "run")
    return left


def select_rows(comparison: Comparison, conditions: Sequence[Condition]) -> Comparison:
    """Returns the comparison of the rows that meet all conditions on columns that are not fields, such as `seeds`.

    Raises:
        TriwaveError: there is none; the message lists the column's values.
    """
    rows = list(comparison.rows)
    for condition in conditions:
        if condition.field in HEADERS:
            rows = _met(rows, condition, [comparison.value(row, condition.field) for row in rows], "row")
    return comparison.of_rows(rows) if len(rows) < len(comparison.rows) else comparison


def _met(left: list[_Thing], condition: Condition, values: Sequence[Any], what: str) -> list[_Thing]:
    """Returns the runs or rows whose value of the condition's field meets the condition."""
    condition.check_order(values)
    met = [thing for thing, value in zip(left, values, strict=True) if condition.of(value)]
    if not met:
        found = {shown(value) or "nothing" for value in values}
        texts = sorted(found, key=lambda text: (len(text), text))
        has = ", ".join(texts[:_MOST_VALUES]) + (", …" if len(texts) > _MOST_VALUES else "")
        raise TriwaveError(f"--where {condition.text}: no {what} is left of {len(left)}; {condition.field} is {has}")
    return met
