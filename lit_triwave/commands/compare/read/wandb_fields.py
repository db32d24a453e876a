"""What a W&B run holds, under the names of our own run folders."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from lit_triwave.tracking.flat_config import flat, short_names
from lit_triwave.tracking.run_files import TRACKED_FIELDS

OWN = ("_", "trainer/global_step")
"""Beginnings of names that are W&B's, or Lightning's doing for W&B."""
ABOUT = tuple(f"{name}." for name in TRACKED_FIELDS)
COSTS = ("parameters", "multiply_adds")
"""What our loggers put beside a run's config; the summary of a finished run has it too."""


def flat_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """A W&B config with dotted names, without W&B's own entries, what else run.json has, and `.init_args`."""
    kept = {k: v for k, v in flat(dict(config)).items() if not k.startswith(("_", *ABOUT)) and k not in COSTS}
    return short_names(kept)


def about(config: Mapping[str, Any], group: str | None, job_type: str | None) -> dict[str, Any]:
    """What run.json has besides the config, as far as W&B has it."""
    found = {name: value for name, value in flat(dict(config)).items() if name.startswith(ABOUT)}
    return found | {name: value for name, value in (("group", group), ("job_type", job_type)) if value}


def flat_summary(summary: Mapping[str, Any]) -> dict[str, Any]:
    """A W&B summary without figures, W&B's own entries, and what is not a number, word or truth value."""
    return {k: v for k, v in summary.items() if isinstance(v, (int, float, str)) and not k.startswith(OWN)}


def columns(rows: Iterable[Mapping[str, Any]]) -> dict[str, np.ndarray]:
    """The history of a W&B run as metrics.csv has it.

    Args:
        rows: in the order in which they were logged, each with `_step`; of rows with one step the last counts.

    Returns:
        Name ↦ values (float64, one for each row, NaN where it has none); `step` among them.
    """
    by_step = {int(row["_step"]): row for row in rows}
    table = [
        {"step": float(step)}
        | {k: float(v) for k, v in row.items() if isinstance(v, (int, float)) and not k.startswith(OWN)}
        for step, row in sorted(by_step.items())
    ]
    names = dict.fromkeys(name for row in table for name in row)
    return {name: np.array([row.get(name, np.nan) for row in table]) for name in names}
