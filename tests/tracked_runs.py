"""The data in Weights & Biases of a run that was tracked offline."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from lit_triwave.tracking.wandb_files import records, segments
from tests.finished_runs import rows


def tracked(run: Path) -> list[dict[str, Any]]:
    """The history of a run's offline segments, in the order in which `wandb sync` sends them."""
    history = []
    for path in segments(run, (run / "wandb_id").read_text().strip()):
        for record in records(path):
            if record.HasField("history"):
                items = {
                    item.key or ".".join(item.nested_key): json.loads(item.value_json) for item in record.history.item
                }
                history.append({"_step": record.history.step.num} | items)
    return history


def assert_complete(run: Path) -> None:
    """Checks that every step of metrics.csv is there once, in order, with the same values."""
    history = tracked(run)
    steps = [row["_step"] for row in history]
    assert steps == sorted(set(steps))
    assert all(row["trainer/global_step"] == row["_step"] for row in history)
    logged: dict[int, dict[str, float]] = {}
    for row in rows(run):
        step = int(row.pop("step"))
        logged.setdefault(step, {}).update({name: float(value) for name, value in row.items() if value})
    assert steps == list(logged)
    for row in history:
        assert logged[row["_step"]] == {name: row[name] for name in logged[row["_step"]]}
