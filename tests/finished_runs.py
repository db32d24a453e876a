"""The content of a finished run, to compare two runs."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import torch

from tests.small_runs import untimed_summary


def state(run: Path) -> dict[str, Any]:
    content: dict[str, Any] = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
    return {key: content[key] for key in ("epoch", "global_step", "state_dict", "optimizer_states", "lr_schedulers")}


def assert_identical(a: Any, b: Any) -> None:
    if isinstance(a, torch.Tensor):
        torch.testing.assert_close(a, b, rtol=0, atol=0, equal_nan=True)
    elif isinstance(a, dict):
        assert a.keys() == b.keys()
        for key in a:
            assert_identical(a[key], b[key])
    elif isinstance(a, (list, tuple)):
        assert len(a) == len(b)
        for x, y in zip(a, b, strict=True):
            assert_identical(x, y)
    else:
        assert a == b


def rows(run: Path) -> list[dict[str, str]]:
    with (run / "metrics.csv").open() as file:
        return list(csv.DictReader(file))


def assert_ends_alike(whole: Path, resumed: Path) -> None:
    """Parameters, optimizers, logged rows and summary, without times."""
    assert_identical(state(whole), state(resumed))
    assert rows(whole) == rows(resumed)
    assert untimed_summary(whole) == untimed_summary(resumed)
