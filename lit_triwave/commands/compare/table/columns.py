"""Selects the fields to show: those that describe the runs, and those that best distinguish them."""

from __future__ import annotations

from collections.abc import Sequence

from lit_triwave.commands.compare.table.fields import comparable
from lit_triwave.commands.compare.table.rows import Row

_ABOUT = ("data.expression", "model.head", "model.initialization", "model.depth")
"""Fields shown before all others if the rows differ in them."""
_NEXT = ("data.class_path", "data.path", "model.backbone", "model.wiring", "model.release")
"""Fields shown next if they distinguish rows that the fields before them do not."""


def most_varied(rows: Sequence[Row], names: Sequence[str], most: int, enough: bool = False) -> list[str]:
    """Selects the fields that describe the rows, then those that best distinguish them.

    Args:
        rows: the rows to distinguish.
        names: full names of the fields to choose from. Those that are equal in all rows are never chosen.
        most: number of fields, at most.
        enough: whether to stop once the chosen fields distinguish all rows that can be distinguished.

    Returns:
        The fields of `_ABOUT` and `_NEXT` first, the others in the order of `names`.
    """
    values = {name: [comparable(row.values.get(name)) for row in rows] for name in names}
    names = [name for name in names if len(set(values[name])) > 1]
    best: list[str] = []

    def groups(fields: Sequence[str]) -> int:
        """Returns the number of groups of rows that the fields distinguish."""
        return len(set(zip(*(values[name] for name in fields), strict=True)))

    for name in (*_ABOUT, *_NEXT):
        if name in names and len(best) < most and (name in _ABOUT or groups([*best, name]) > groups(best)):
            best.append(name)
    first = list(best)
    while len(best) < min(most, len(names)) and not (enough and groups(best) == groups(names)):
        left = [name for name in names if name not in best]
        if "experiment" in left and groups([*best, "experiment"]) == groups(best):
            left.remove("experiment")  # it adds only a name
        if not left:
            break
        best.append(max(left, key=lambda name: (groups([*best, name]), len(set(values[name])))))
    return first + [name for name in names if name in best[len(first) :]]
