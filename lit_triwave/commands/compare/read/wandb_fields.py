"""Renames the fields of a W&B run to those of run folders."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from lit_triwave.tracking.flat_config import flat, short_names
from lit_triwave.tracking.run_files import TRACKED_FIELDS

_OWN = ("_", "trainer/global_step")
"""Beginnings of names that W&B, or Lightning for W&B, adds."""
_ABOUT = tuple(f"{name}." for name in TRACKED_FIELDS)
_COSTS = ("parameters", "multiply_adds")
"""Fields that our loggers add to a run's config; the summary of a finished run has them too."""


def flat_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a W&B config with dotted names, without `.init_args`, W&B's own entries and the fields of `about`."""
    added = (*_COSTS, *TRACKED_FIELDS)
    kept = {k: v for k, v in flat(dict(config)).items() if not k.startswith(("_", *_ABOUT)) and k not in added}
    return short_names(kept)


def about(config: Mapping[str, Any], group: str | None, job_type: str | None) -> dict[str, Any]:
    """Returns the entries of run.json other than the config, if W&B has them."""
    fields = flat(dict(config)).items()
    found = {name: value for name, value in fields if name.startswith(_ABOUT) or (value and name in TRACKED_FIELDS)}
    return found | {name: value for name, value in (("group", group), ("job_type", job_type)) if value}


def flat_summary(summary: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the numbers, texts and truth values of a W&B summary, without W&B's own entries."""
    return {k: v for k, v in summary.items() if isinstance(v, (int, float, str)) and not k.startswith(_OWN)}


def columns(rows: Iterable[Mapping[str, Any]]) -> dict[str, np.ndarray]:
    """Returns the history of a W&B run in the form of metrics.csv.

    Args:
        rows: rows in the order of logging, each with `_step`; the last of several with the same step is used.

    Returns:
        Name ↦ values, float64 of shape (rows,), NaN where a row has none; `step` is one of the names.
    """
    by_step = {int(row["_step"]): row for row in rows}
    table = [
        {"step": float(step)}
        | {k: float(v) for k, v in row.items() if isinstance(v, (int, float)) and not k.startswith(_OWN)}
        for step, row in sorted(by_step.items())
    ]
    names = dict.fromkeys(name for row in table for name in row)
    return {name: np.array([row.get(name, np.nan) for row in table]) for name in names}
