"""Small runs of `fit` for tests that read their checkpoints; the first worker that needs a run trains it once."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock
from matplotlib.figure import Figure

from lit_triwave.cli import main
from tests.conftest import REPOSITORY, save_a_pixel

FUNCTION = [
    "--config",
    str(REPOSITORY / "configs/functions/x3_minus_x.yaml"),
    "--model.depth",
    "3",
    "--model.replicas",
    "3",
]
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
    """Returns the folder of the run with a name; it is trained, without figures, at its first use."""
    folder = root / name.replace(", ", "_").replace(" ", "_") / "a"
    with FileLock(root / f"{folder.parent.name}.lock"), pytest.MonkeyPatch.context() as patch:
        patch.setattr(Figure, "savefig", save_a_pixel)
        if not folder.is_dir():
            place = ["--run.root", str(root), "--run.experiment", folder.parent.name, "--run.id", "a"]
            assert main(["fit", *place, *args]) == 0
    return folder


def untimed_summary(run: Path) -> dict[str, Any]:
    """Returns a run's summary without its times."""
    summary = json.loads((run / "summary.json").read_text())
    return {name: value for name, value in summary.items() if name not in ("wall_seconds", "fit_seconds")}
