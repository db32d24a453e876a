"""Each kind of field of a checkpoint that was replaced by another kind of value is refused by its name."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from lit_triwave.cli import main
from tests.checkpoints.test_earlier_versions import SAVED
from tests.conftest import REPOSITORY

STATE = "optimizer_states/0/state/0"
GROUP = "optimizer_states/0/param_groups/0"
LOOP = "loops/fit_loop"
FORGED: list[tuple[str, str, Any, str]] = [
    # checkpoint, field, value or change, what the error says
    ("last", LOOP, {}, "loops.fit_loop must have "),
    (
        "last",
        f"{LOOP}/epoch_progress/current/processed",
        "oops",
        "current.processed must be a whole number",
    ),
    ("last", f"{LOOP}/epoch_loop.batch_progress/total", {"ready": 1}, "batch_progress.total must have ready, "),
    ("last", f"{LOOP}/epoch_loop.batch_progress/current/completed", 99, "current.completed must be at most"),
    (
        "last",
        f"{LOOP}/epoch_loop.state_dict/_batches_that_stepped",
        0,
        "loops must be of the 4 steps of the optimizers, got 0",
    ),
    ("last", "epoch", 10**30, "epoch must be 4 as in loops, got 10000"),
    ("last", "global_step", 999, "as in loops, got 999"),
    ("last", "stage_epochs", {"oops": 3}, "stage_epochs must be of stages that have ended, got 'oops'"),
    ("last", "run/rows/0/0", 999, "run.rows must be of the 5 steps in loops, got step 999"),
    ("last", "run/rows", [[1]], "run.rows must be steps and metrics, got [1]"),
    ("last", "run/rows/0/1", {"a": None}, "run.rows must have a number for a, got nothing"),
    ("last", "FunctionDataModule", {"epoch": 99}, "epoch of the data must be 5 as in loops, got 99"),
    ("last", f"{STATE}/lowest", lambda value: value * torch.nan, "lowest must be finite, at least 0, got nan"),
    ("last", f"{STATE}/excursion", lambda value: value[:, :3], "excursion must be a tensor of shape (2, "),
    ("last", f"{STATE}/step", 7, "state.0.step must be 1 as in loops, got 7"),
    ("last", f"{GROUP}/damping_factors", -1, "damping_factors must be a list of 3, got -1"),
    ("last", "callbacks/SeedHistory/epochs", torch.zeros(2, 2), "SeedHistory.epochs must be a tensor of 1 dimensions"),
    (
        "last",
        "callbacks/RegressionSummary/seconds",
        "oops",
        "seconds must be a finite number, got 'oops'",
    ),
    ("last", "callbacks/BestCheckpoint/score", "oops", "score and epoch of BestCheckpoint must be numbers, got 'oops'"),
    ("pretrained", f"{STATE}/exp_avg", lambda value: value.half(), "exp_avg must be finite numbers of torch.float64"),
    ("pretrained", f"{STATE}/exp_avg_sq", lambda value: value[:1], "exp_avg_sq must be finite numbers of"),
    ("pretrained", f"{STATE}/exp_avg_sq", lambda value: value * torch.nan, "got NaN or infinity in it"),
    ("pretrained", f"{STATE}/step", lambda value: value + 1, "state.0.step must be 2 as in loops, got 3.0"),
    ("pretrained", f"{GROUP}/betas", (7.0, 0.9), "Invalid beta parameter at index 0: 7.0"),
    ("pretrained", f"{GROUP}/lr", 1e300, "must have the learning rates"),
    ("pretrained", f"{GROUP}/params", [0, 0, 0, 0], "param_groups must be of parameters [0, 1, 2, 3]"),
    ("pretrained", "lr_schedulers/0/base_lrs", [1.0], "which begins at"),
    ("pretrained", "lr_schedulers/0/last_epoch", 0, "last_epoch must be 2 as in loops, got 0"),
    ("pretrained", "state_dict/network.bank.peak_logits", lambda value: value * torch.nan, "must be finite, got NaN"),
]
USED: list[tuple[str, str, Any, str]] = [
    # by every command
    (
        "last",
        "state_dict/network.scaling.span",
        lambda value: value * 0,
        "scaling.span must be [2.0], got [0.0]",
    ),
    ("last", "state_dict/network.bank.sign", lambda value: value * 3, "network.bank.sign must be 1 or -1, got "),
    (
        "last",
        "state_dict/network.bank.input_weight",
        lambda value: value.half(),
        "input_weight of the checkpoint must",
    ),
    ("last", "state_dict/best_replica", torch.tensor(99), "best_replica must be of 2 seeds, got 99"),
]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run folder, which was stopped inside its last stage by its number of epochs."""
    monkeypatch.chdir(REPOSITORY)
    return Path(shutil.copytree(SAVED, tmp_path / "x3_minus_x" / "r"))


def forge(run: Path, name: str, field: str, value: Any) -> Path:
    """Replaces one value of a run's checkpoint."""
    path = run / "checkpoints" / f"{name}.ckpt"
    content = torch.load(path, weights_only=True)
    *inner, key = [int(part) if part.isdigit() else part for part in field.split("/")]
    place: Any = content
    for number, part in enumerate(inner):
        if isinstance(place[part], tuple):
            place[part] = list(place[part])  # a row
        place = place[part]
        assert place is not None, inner[: number + 1]
    place[key] = value(place[key]) if isinstance(value, Callable) else value  # type: ignore[arg-type]
    torch.save(content, path)
    return path


def files(folder: Path) -> dict[str, str]:
    """Returns the files of a folder and what is in them."""
    found = (path for path in folder.rglob("*") if path.is_file() and path.name != ".lock")
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in found}


@pytest.mark.parametrize(("name", "field", "value", "says"), [*FORGED, *USED])
def test_a_fit_refuses_a_forged_field_and_leaves_the_run_as_it_is(
    name: str, field: str, value: Any, says: str, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = forge(run, name, field, value)
    before = files(run)
    longer = ["--model.polish.epochs", "2", "--run.wandb", "disabled"]
    assert main(["fit", "--config", str(run / "config.yaml"), "--ckpt_path", str(path), *longer]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert says in line, line
    assert f"checkpoint {path} cannot be" in line
    assert files(run) == before


@pytest.mark.parametrize(("name", "field", "value", "says"), USED)
@pytest.mark.parametrize("command", ["predict", "inspect"])
def test_a_trained_network_with_a_forged_field_is_not_used(
    command: str, name: str, field: str, value: Any, says: str, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = forge(run, name, field, value)
    asked = [str(run)] if command == "inspect" else ["--config", str(run / "config.yaml"), "--ckpt_path", str(path)]
    assert main([command, *asked]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert says in line, line
    assert line.endswith(".ckpt beside it is whole"), line  # and no command: it would fit
    assert not (run / "predictions.csv").exists()


def test_only_a_usable_checkpoint_of_the_same_run_is_offered(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    elsewhere = run.parent / "copies"
    elsewhere.mkdir()
    for name in ("last", "pretrained"):
        shutil.copy(run / "checkpoints" / f"{name}.ckpt", elsewhere)
    (elsewhere / "last.ckpt").write_bytes(b"")
    assert main(["inspect", str(elsewhere / "last.ckpt")]) == 1
    assert "whole" not in capsys.readouterr().err
    for name in ("best", "pretrained"):
        forge(run, name, "loops", {})
    forge(run, "last", "epoch", 7)
    assert main(["inspect", str(run)]) == 1
    assert "whole" not in capsys.readouterr().err


def test_a_test_whose_outputs_are_infinite_leaves_no_result_of_an_earlier_one(run: Path) -> None:
    summary = json.loads((run / "summary.json").read_text()) | {"test/r2": 0.9, "test/of_before": 0.1, "layers": "4-4"}
    (run / "summary.json").write_text(json.dumps(summary))
    path = forge(run, "last", "state_dict/network.bank.output_weight", lambda value: value * 1e307)
    assert (
        main(["test", "--config", str(run / "config.yaml"), "--run.wandb", "disabled", "--ckpt_path", str(path)]) == 0
    )
    summary = json.loads((run / "summary.json").read_text())
    assert summary["test/mse"] is None and summary["test/r2"] is None
    assert "test/of_before" not in summary and summary["layers"] == "4-4"


@pytest.mark.parametrize("kind", ["folder", "pipe", "link"])
def test_a_run_does_not_restart_because_its_checkpoint_is_no_file(
    kind: str, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = run / "checkpoints" / "last.ckpt"
    path.unlink()
    make: dict[str, Callable[[], None]] = {
        "folder": path.mkdir,
        "pipe": lambda: os.mkfifo(path),
        "link": lambda: path.symlink_to("elsewhere.ckpt"),
    }
    make[kind]()
    before = files(run)
    place = ["--run.root", str(run.parents[1]), "--run.experiment", run.parent.name, "--run.id", run.name]
    assert main(["fit", "--config", str(run / "config.yaml"), *place, "--ckpt_path", "last"]) == 1
    assert f"checkpoint {path} must be a file" in capsys.readouterr().err
    assert files(run) == before
