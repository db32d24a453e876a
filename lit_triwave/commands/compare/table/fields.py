"""Fields of runs by full and by short names, such as `depth` for `model.depth`."""

from __future__ import annotations

import json
import re
from collections.abc import Hashable, Sequence
from typing import Any

from lit_triwave.commands.compare.read.compared_run import ComparedRun
from lit_triwave.errors import TriwaveError, did_you_mean, is_number

OWN = ("name", "experiment", "state", "tags", "source")
"""Fields that every run has, besides those of its config and summary."""
_MOST_METRICS = 8  # named in an error if no name is similar
_MOST_NAMED = 4  # fields named for an ambiguous name


def value_of(run: ComparedRun, name: str) -> Any:
    """Returns the value of a field by its full name, None if the run has no such field."""
    for values in (run.config, run.about):
        if name in values:
            return values[name]
    return getattr(run, name) if name in OWN else run.summary.get(name)


def comparable(value: Any) -> Hashable:
    """Returns a key that is equal for equal values; 1 equals 1.0 but not True."""
    if isinstance(value, bool) or value is None:
        return (type(value).__name__, value)
    if isinstance(value, (int, float)):
        return float(value)
    if isinstance(value, (list, tuple)):
        return tuple(comparable(item) for item in value)
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True, default=str)


class Fields:
    """The fields of some runs.

    Args:
        runs: the runs whose configs and summaries are searched.

    Attributes:
        metrics: names in the summaries whose values are numbers, in order of appearance.
    """

    def __init__(self, runs: Sequence[ComparedRun]) -> None:
        config, summary, about = (
            dict.fromkeys(name for run in runs for name in getattr(run, part))
            for part in ("config", "summary", "about")
        )
        self.metrics = [name for name in summary if any(is_number(run.summary.get(name)) for run in runs)]
        self.names = list(dict.fromkeys([*OWN, *config, *summary]))
        self._meant: dict[str, list[str]] = {}  # short name ↦ full ones
        for name in self.names:
            for part in _endings(name):
                self._meant.setdefault(part, []).append(name)
        self.names += [name for name in about if name not in self.names]  # found only by their full names
        self._full = set(self.names)

    def find(self, name: str, option: str, among: Sequence[str] | None = None, besides: Sequence[str] = ()) -> str:
        """Returns the full name of a field.

        Args:
            name: full or short name.
            option: the command-line option that named it, for the error.
            among: full names of the allowed fields; all by default.
            besides: other allowed names, which are returned unchanged.

        Raises:
            TriwaveError: no field or more than one has this name.
        """
        allowed = self._full if among is None else set(among)
        if name in allowed or name in besides:
            return name
        meant = [full for full in self._meant.get(name, []) if full in allowed]
        if not meant:
            known = [part for part, names in self._meant.items() if allowed.intersection(names)] + sorted(allowed)
            near = did_you_mean(name, [*known, *besides], 3)
            if not near and among:
                near = f"; there are {', '.join(among[:_MOST_METRICS])}" + (", …" if len(among) > _MOST_METRICS else "")
            raise TriwaveError(f"{option} {name}: no run has this field{near}")
        if len(meant) > 1:
            named = " or ".join(meant[:_MOST_NAMED]) + (", …" if len(meant) > _MOST_NAMED else "")
            raise TriwaveError(f"{option} {name}: {named}? Give more of its name")
        return meant[0]

    def short(self, name: str) -> str:
        """Returns the shortest name by which `find` finds a field."""
        for part in reversed(_endings(name)):
            if part not in self._full and len(self._meant.get(part, [])) == 1:
                return part
        return name


def _endings(name: str) -> list[str]:
    """Returns the endings of a name at its dots and slashes, longest first."""
    return [name[match.end() :] for match in re.finditer(r"[./]", name)]
