"""Which runs are compared: the conditions of `--where`, on fields of runs and on columns of rows."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import yaml

from lit_triwave.commands.compare.read.compared_run import ComparedRun
from lit_triwave.commands.compare.table.cells import shown
from lit_triwave.commands.compare.table.fields import Fields, is_number, value_of
from lit_triwave.commands.compare.table.statistics import sample_of
from lit_triwave.commands.compare.table.table import HEADERS, Comparison
from lit_triwave.errors import TriwaveError

Thing = TypeVar("Thing")

ORDERS: dict[str, Callable[[Any, Any], bool]] = {
    "<=": operator.le,
    ">=": operator.ge,
    "<": operator.lt,
    ">": operator.gt,
}
TIME = re.compile(r"(\d{4}-\d\d-\d\d) (?=\d)")
"""A date and a time with a blank between; runs have them with a T."""
MOST_VALUES = 8
"""Values of a field that an error names when a condition matches no run."""
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

    def of(self, value: Any) -> bool:
        """Whether a value of the field meets it; None, where there is none, meets != only."""
        if isinstance(value, list) and self.operator in ("=", "!=", "~"):
            found = any(self._of_one(item, "=" if self.operator == "!=" else self.operator) for item in value)
            found |= self.operator != "~" and (shown(value) == self.value or _alike(value, _listed(self.value)))
            return found != (self.operator == "!=")
        return self._of_one(value, self.operator)

    def _of_one(self, value: Any, sign: str) -> bool:
        if sign == "~":
            return value is not None and self.value.lower() in str(value).lower()
        if sign in ORDERS:
            if isinstance(value, str):
                return ORDERS[sign](value, TIME.sub(r"\1T", self.value))
            asked = _number(self.value)
            return asked is not None and is_number(value) and ORDERS[sign](value, asked)
        return _equal(value, self.value) == (sign == "=")

    def check_order(self, values: Iterable[Any]) -> None:
        """Refuses < and > where no value of the field can be less or more than the one that is asked for.

        Args:
            values: of the field, None where there is none.

        Raises:
            TriwaveError: with what the field is.
        """
        there = [value for value in values if value is not None]
        if self.operator not in ORDERS or not there or any(isinstance(value, str) for value in there):
            return
        if not any(is_number(value) for value in there):
            what = f"{self.field} is {shown(there[0])}" + ", …" * (len(there) > 1)
            raise TriwaveError(f"--where {self.text}: {what}, which has no order; it takes = != ~")
        if _number(self.value) is None:
            raise TriwaveError(f"--where {self.text}: {self.operator} takes a number, not '{self.value}'")


def measured(run: ComparedRun, name: str) -> Any:
    """The value of a field; of a metric that the seeds of a run have, their mean, which is what the table shows."""
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
    if is_number(value):
        return bool(value == _number(text))
    if value is None:
        return text.lower() in ("null", "none", "")
    if isinstance(value, bool):
        return str(value).lower() == text.lower()
    return text in (str(value), shown(value))


def _listed(text: str) -> Any:
    """A list as a config has it, in YAML; the text itself where it is none."""
    if not re.fullmatch(r"\[.*\]", text, flags=re.DOTALL):
        return text
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        return text


def _alike(value: Any, wanted: Any) -> bool:
    """Whether a list has the items that are asked for, in their order."""
    if isinstance(value, list) and isinstance(wanted, list):
        return len(value) == len(wanted) and all(map(_alike, value, wanted))
    return not isinstance(wanted, list) and _equal(value, "null" if wanted is None else str(wanted))


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
    return Condition(text, fields.find(name, "--where", besides=HEADERS), sign, value)


def select(runs: Sequence[ComparedRun], conditions: Sequence[Condition]) -> list[ComparedRun]:
    """The runs that meet all conditions on fields.

    Raises:
        TriwaveError: there is none; with the values that the field of the first unmet condition has.
    """
    left = list(runs)
    for condition in conditions:
        if condition.field not in HEADERS:
            left = _met(left, condition, [measured(run, condition.field) for run in left], "run")
    return left


def select_rows(comparison: Comparison, conditions: Sequence[Condition]) -> Comparison:
    """The comparison of the rows that meet all conditions on columns that are no field, such as `seeds`.

    Raises:
        TriwaveError: there is none; with the values that the column of the first unmet condition has.
    """
    rows = list(comparison.rows)
    for condition in conditions:
        if condition.field in HEADERS:
            rows = _met(rows, condition, [comparison.value(row, condition.field) for row in rows], "row")
    return comparison.of_rows(rows) if len(rows) < len(comparison.rows) else comparison


def _met(left: list[Thing], condition: Condition, values: Sequence[Any], what: str) -> list[Thing]:
    """Returns the runs or rows whose value of the condition's field meets the condition."""
    condition.check_order(values)
    met = [thing for thing, value in zip(left, values, strict=True) if condition.of(value)]
    if not met:
        found = {shown(value) or "nothing" for value in values}
        texts = sorted(found, key=lambda text: (len(text), text))
        has = ", ".join(texts[:MOST_VALUES]) + (", …" if len(texts) > MOST_VALUES else "")
        raise TriwaveError(f"--where {condition.text}: no {what} is left of {len(left)}; {condition.field} is {has}")
    return met
