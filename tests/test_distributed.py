from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.conftest import REPOSITORY


def fit(root: Path, name: str, *args: str) -> Path:
    """`fit` in processes of its own, for a number of points that does not divide by the ranks."""
    small = ["--model.replicas", "3", "--model.pretrain.epochs", "6", "--model.train.epochs", "6", "--run.id", name]
    small += ["--data.points", "203", "--data.batch_size", "67", "--run.root", str(root), "--model.polish.epochs", "0"]
    command = [sys.executable, "-m", "lit_triwave", "fit", "--config", "configs/x3_minus_x.yaml", *small, *args]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert "Warning" not in done.stderr
    assert "recommended" not in done.stderr
    return root / "x3_minus_x" / name


def largest_difference(a: Path, b: Path) -> float:
    """The largest difference of any parameter or buffer, relative to the largest value of its tensor."""
    one, two = (torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"] for run in (a, b))
    assert one.keys() == two.keys()
    assert one["best_replica"] == two["best_replica"]
    pairs = [(one[key].double(), two[key].double()) for key in one]
    return max(float((x - y).abs().max() / x.abs().max().clamp_min(1e-300)) for x, y in pairs)


POLISH = ["--data.batch_size", "null", "--model.polish.epochs", "6", "--model.polish.options", "{warmup: 3}"]


@pytest.mark.parametrize(
    "options", [["--model.release", "blocks"], ["--model.release", "dense"], POLISH], ids=["blocks", "dense", "polish"]
)
def test_two_ddp_processes_train_as_one_through_all_stages(tmp_path: Path, options: list[str]) -> None:
    one = fit(tmp_path, "one", *options)
    two = fit(tmp_path, "two", *options, "--trainer.devices", "2", "--trainer.strategy", "ddp")
    assert largest_difference(one, two) < 1e-6
    a, b = (json.loads((run / "summary.json").read_text()) for run in (one, two))
    assert a.keys() == b.keys()
    assert a["stage"] == b["stage"]
    for key in a.keys() - {"wall_seconds", "stage"}:
        assert a[key] == pytest.approx(b[key], rel=1e-6), key


def test_a_checkpoint_of_one_process_resumes_in_two(tmp_path: Path) -> None:
    whole = fit(tmp_path, "whole")
    stopped = fit(tmp_path, "stopped", "--trainer.max_epochs", "6")  # the switch is still to come
    checkpoint = str(stopped / "checkpoints" / "last.ckpt")
    fit(tmp_path, "ignored", "--ckpt_path", checkpoint, "--trainer.devices", "2", "--trainer.strategy", "ddp")
    assert largest_difference(whole, stopped) < 1e-6
