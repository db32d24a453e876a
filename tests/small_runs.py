"""Runs trained for a moment through the front door, for the tests of what is done with their checkpoints."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from lit_triwave.cli import main
from tests.conftest import REPOSITORY

FUNCTION = ["--config", str(REPOSITORY / "configs/x3_minus_x.yaml"), "--model.depth", "3", "--model.replicas", "3"]
FUNCTION += ["--data.points", "50", "--data.test_points", "100"]
FUNCTION += ["--model.pretrain.epochs", "5", "--model.train.epochs", "5", "--model.polish.epochs", "0"]

DIGITS = [
    "--config",
    str(REPOSITORY / "configs/digits.yaml"),
    "--model.depth",
    "3",
    "--model.channels",
    "[4,8]",
    "--model.num_nets",
    "8",
]
DIGITS += ["--model.pretrain.epochs", "1", "--model.train.epochs", "1"]


def small_run(root: Path, name: str, *args: str) -> Path:
    """The folder of the run of that name, which is trained when it is first asked for."""
    folder = root / name.replace(", ", "_").replace(" ", "_") / "a"
    if not folder.is_dir():
        place = ["--run.root", str(root), "--run.experiment", folder.parent.name, "--run.id", "a"]
        assert main(["fit", *place, *args]) == 0
    return folder


def untimed_summary(run: Path) -> dict[str, Any]:
    """A run's summary, all but the time it took."""
    summary = json.loads((run / "summary.json").read_text())
    return {name: value for name, value in summary.items() if name not in ("wall_seconds", "fit_seconds")}
