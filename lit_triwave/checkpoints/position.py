"""Checks the position in the training that a checkpoint states: Lightning's loops, the epoch and the step."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

from lightning.pytorch.loops.fit_loop import _FitLoop

from lit_triwave.checkpoints.kinds import check_like, require, short


def check_position(content: Mapping[str, Any]) -> None:
    """Refuses a position in the training that contradicts itself.

    Args:
        content: content of a checkpoint.

    Raises:
        ValueError: two fields contradict each other; the message names one.
    """
    loop = content["loops"].get("fit_loop")
    check_like("loops.fit_loop", loop, _fresh_loop(), strict=True)
    _check_order("loops.fit_loop", loop)
    epochs = loop["epoch_progress"]["current"]["completed"]
    for name, known in {"epoch": (epochs,), "global_step": optimizer_steps(content)}.items():
        there = " or ".join(map(str, {*known}))
        require(content[name] in known, name, f"be {there} as in loops", short(content[name]))


def optimizer_steps(content: Mapping[str, Any]) -> tuple[int, int]:
    """Returns the number of first-order steps and of second-order steps, which Lightning counts separately.

    The kind that came last has the sum of both. In earlier versions second-order steps were counted from 0.
    """
    loop = content["loops"]["fit_loop"]
    by_hand = loop["epoch_loop.manual_optimization.optim_step_progress"]
    optimizer = loop["epoch_loop.automatic_optimization.optim_progress"]["optimizer"]
    return optimizer["step"]["total"]["completed"], by_hand["total"]["completed"]


def next_batch(content: Mapping[str, Any]) -> tuple[int, int]:
    """Returns where the data continue after a checkpoint: the epoch, and the number of finished batches in it."""
    loop = content["loops"]["fit_loop"]
    epochs, batches = loop["epoch_progress"]["current"], loop["epoch_loop.batch_progress"]
    if batches["is_last_batch"]:
        return epochs["ready"], 0
    return epochs["processed"], batches["current"]["ready"] if epochs["processed"] < epochs["ready"] else 0


@cache
def _fresh_loop() -> dict[str, Any]:
    """Returns what a loop saves before it has begun; this needs no trainer."""
    fresh: dict[str, Any] = _FitLoop(None).state_dict()  # type: ignore[arg-type]
    return fresh


def _check_order(name: str, counts: Mapping[str, Any]) -> None:
    """Refuses events that ended more often than they began, or more events in an epoch than in the whole run.

    A batch that a callback leaves out is counted as processed, but not as started.
    """
    for key, value in counts.items():
        # A run of an earlier version with `max_steps`, resumed at the end of an epoch, ended that epoch a second time.
        if isinstance(value, Mapping) and key != "epoch_progress":
            _check_order(f"{name}.{key}", value)
    if "ready" in counts:
        most = dict.fromkeys(counts, counts["ready"]) | {"completed": counts.get("processed", counts["ready"])}
        for key, value in counts.items():
            require(value <= most[key], f"{name}.{key}", f"be at most {most[key]}", value)
    # The total of a validation starts from 0 again, and that of second-order steps is set when a stage begins.
    if "current" in counts and not name.rpartition(".epoch_loop.")[2].startswith(("val_loop", "manual")):
        for key, value in counts["current"].items():
            require(value <= counts["total"][key], f"{name}.current.{key}", "be at most its total", value)
