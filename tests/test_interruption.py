from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.conftest import REPOSITORY

ARGS = ["--model.replicas", "3", "--model.pretrain.epochs", "400", "--model.train.epochs", "400"]
ARGS += ["--model.polish.epochs", "100"]


def start(root: Path, *args: str) -> subprocess.Popen[str]:
    command = [
        sys.executable,
        "-m",
        "lit_triwave",
        "fit",
        "--config",
        "configs/x3_minus_x.yaml",
        "--run.root",
        str(root),
    ]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(
        [*command, *ARGS, *args], cwd=REPOSITORY, env=os.environ | {"PYTHONUNBUFFERED": "1"}, **pipes
    )


@pytest.mark.parametrize(
    ("stage", "number"), [("pretrain", signal.SIGINT), ("train", signal.SIGTERM), ("polish", signal.SIGINT)]
)
def test_an_interrupted_run_is_whole_and_goes_on_as_if_nothing_had_been(
    tmp_path: Path, stage: str, number: signal.Signals
) -> None:
    run = tmp_path / "x3_minus_x" / "r"
    with start(tmp_path, "--run.id", "r") as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith(f"{stage} "):
                process.send_signal(number)
                break
        output, errors = process.communicate(timeout=120)
    assert process.returncode == 130
    assert "Traceback" not in errors
    assert "stopping after this epoch" in errors
    assert f"interrupted in stage '{stage}'" in output
    summary = json.loads((run / "summary.json").read_text())
    assert summary["stage"] == stage
    assert (run / "figures" / "fit.png").is_file()
    reached = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["epoch"]
    assert 0 < reached < 899

    # The line that it printed, run as printed (with this Python), ends where an uninterrupted run does.
    resume = shlex.split(re.search(r"python -m lit_triwave fit .*", output)[0])  # type: ignore[index]
    assert subprocess.run([sys.executable, *resume[1:]], cwd=REPOSITORY, capture_output=True).returncode == 0
    with start(tmp_path, "--run.id", "whole") as process:
        process.communicate(timeout=120)
    a, b = (json.loads((tmp_path / "x3_minus_x" / r / "summary.json").read_text()) for r in ("r", "whole"))
    a.pop("wall_seconds"), b.pop("wall_seconds")
    assert a == b
