from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest
import yaml

from lit_triwave.cli import main
from lit_triwave.tracking.run import Run
from lit_triwave.tracking.wandb_files import last_step, segments
from lit_triwave.tracking.wandb_rows import WandbRows
from tests.faults import signal_at
from tests.finished_runs import assert_ends_alike, rows, state
from tests.run_command import in_processes, run_command
from tests.tracked_runs import assert_complete, tracked

ONE_BY_ONE = ["--trainer.log_every_n_steps", "1"]


@pytest.fixture(autouse=True)
def wandb_mode(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")  # given back afterwards: a run takes it away


def test_a_run_that_is_stopped_twice_is_one_run_in_wandb(fit) -> None:
    run = fit("r", *ONE_BY_ONE, *signal_at(1, 1), code=75)
    first = (run / "wandb_id").read_text()
    again = ["--ckpt_path", str(run / "checkpoints" / "last.ckpt")]
    fit("", *ONE_BY_ONE, *again, *signal_at(6, 1, "SIGINT"), code=130)
    assert not any("test/mse" in row for row in tracked(run))  # a test before the end is no part of the run's history
    fit("", *ONE_BY_ONE, *again)
    assert len(segments(run, first.strip())) == 3
    assert_complete(run)
    assert "figures/fit.count" in tracked(run)[-1]
    (run / "wandb_id").unlink()
    fit("", *ONE_BY_ONE, *again)
    assert (run / "wandb_id").read_text() == first  # the checkpoint knows it too


@pytest.mark.parametrize("name", ["", "branch"])
def test_a_rewound_run_is_a_new_run_in_wandb(fit, capsys, name: str) -> None:
    """In its place, or under another id, which leaves what it has come from as it is."""
    run = fit("r", *ONE_BY_ONE)
    first = (run / "wandb_id").read_text()
    before = {path: path.read_bytes() for path in run.rglob("*.*") if path.is_file()}
    other = ["--model.train.lr", "0.02", "--ckpt_path", str(run / "checkpoints" / "pretrained.ckpt")]
    fit(name, *ONE_BY_ONE, *other)
    found = run.with_name(name) if name else run
    assert (found / "wandb_id").read_text() != first
    assert_complete(found)
    assert yaml.safe_load((found / "config.yaml").read_text())["run"]["experiment"] == "x3_minus_x"
    assert (f"{run} is rewound to step 15; --run.id NAME" in capsys.readouterr().out) == (not name)
    if name:
        assert {path: path.read_bytes() for path in before} == before
        assert rows(found)[:10] == rows(run)[:10]
        fit(name, *ONE_BY_ONE, *other, code=1)
        assert f"run {found} exists: resume it" in capsys.readouterr().err
        fit(name, *ONE_BY_ONE, *other[:2], "--ckpt_path", "last")
        assert_complete(found)


def test_a_run_rewound_from_its_polish_is_a_new_run_in_wandb(fit, capsys) -> None:
    """Lightning's count of steps starts again there, and is smaller than at the checkpoint of the rewind."""
    small = [*ONE_BY_ONE, "--data.batch_size", "null", "--model.pretrain.epochs", "9", "--model.train.epochs", "0"]
    run = fit("r", *small, "--model.polish.epochs", "6", *signal_at(11, 0), code=75)
    fit("", *small, "--model.polish.epochs", "6", "--ckpt_path", str(run / "checkpoints" / "last.ckpt"))
    first = (run / "wandb_id").read_text()
    assert len(segments(run, first.strip())) == 2
    assert_complete(run)
    capsys.readouterr()
    fit("", *small, "--model.polish.epochs", "3", "--ckpt_path", str(run / "checkpoints" / "pretrained.ckpt"))
    assert f"{run} is rewound to step 9; --run.id NAME" in capsys.readouterr().out
    assert (run / "wandb_id").read_text() != first
    assert_complete(run)
    assert tracked(run)[-1]["_step"] == 12 and "figures/fit.count" in tracked(run)[-1]
    fit("", *small, "--model.polish.epochs", "6", "--ckpt_path", str(run / "checkpoints" / "last.ckpt"))
    assert "is rewound to" not in capsys.readouterr().out


def test_a_run_stopped_before_it_is_rewound_keeps_its_wandb_run(fit) -> None:
    run = fit("r", *ONE_BY_ONE)
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    back = ["--ckpt_path", str(run / "checkpoints" / "pretrained.ckpt")]
    fit("", *back, "--run.wandb", "offline", "--trainer.callbacks+=tests.faults.SignalBeforeTraining", code=130)
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before


LOGIN = """
import lit_triwave.tracking.loggers as loggers
from lit_triwave.cli import main
from lit_triwave.tracking.run import Run
loggers._start_wandb = lambda run, name, mode, *_: print(mode)
loggers.make_loggers(Run("e", "runs", "r"), "x")
"""


@in_processes
def test_looking_for_a_login_prints_nothing(tmp_path: Path) -> None:
    environment = {"WANDB_API_KEY": "0123456789abcdef" * 2 + "01234567"}
    environment |= {"WANDB_MODE": "", "WANDB_BASE_URL": "http://127.0.0.1:9", "HOME": str(tmp_path)}
    (tmp_path / "login.py").write_text(LOGIN)
    done = run_command([], tmp_path, script=tmp_path / "login.py", **environment)
    assert (done.stdout, done.stderr) == ("online\n", "")


@in_processes
def test_a_killed_run_sends_lost_rows_once_it_is_resumed(tmp_path: Path) -> None:
    command = ["fit", "--config", "configs/functions/x3_minus_x.yaml", *ONE_BY_ONE]
    command += ["--model.replicas", "2", "--model.pretrain.epochs", "12", "--model.polish.epochs", "0"]
    command += ["--data.batch_size", "100", "--run.root", str(tmp_path)]
    command += ["--run.checkpoint_every", "5", "--run.id"]
    killed = run_command([*command, "r", *signal_at(8, 1, "SIGKILL")], seconds=120)
    assert killed.returncode == -signal.SIGKILL
    run = tmp_path / "x3_minus_x" / "r"
    assert state(run)["epoch"] == 4
    for last in ("r", "whole"):
        done = run_command([*command, last, "--ckpt_path", "last"], seconds=120)
        assert done.returncode == 0, done.stderr
    assert_ends_alike(run.with_name("whole"), run)
    assert_complete(run)


def test_an_evaluation_that_fails_leaves_what_was_tracked(fit, tmp_path: Path) -> None:
    run = fit("r", "--model.pretrain.epochs", "1", "--model.train.epochs", "1")
    before = sorted(run.rglob("*"))
    place = ["--config", "configs/functions/x3_minus_x.yaml", "--model.replicas", "3", "--run.root", str(tmp_path)]
    assert main(["test", *place, "--trainer.num_nodes", "2"]) == 1
    assert sorted(run.rglob("*")) == before and list(run.glob("wandb/offline-run-*"))


class Recorder:
    """Replaces a W&B run."""

    id = "x"

    def __init__(self) -> None:
        self.sent: list[tuple[int, dict[str, Any]]] = []

    def log(self, row: dict[str, Any], step: int, commit: bool) -> None:
        self.sent.append((step, row))


@pytest.mark.parametrize("there", range(-1, 8))
def test_wandb_ends_with_each_step_once_whatever_it_had(there: int, tmp_path: Path) -> None:
    course = [(step, {"loss": step * 0.5}) for step in range(8)] + [(7, {"val": 1.0})]
    run, wandb = Run("e", str(tmp_path), "r"), Recorder()
    logger = WandbRows(run, wandb, there, course[:4])  # the checkpoint was taken after step 3
    for step, metrics in course[4:]:
        logger.log_metrics(metrics, step)
    logger.finalize("success")
    assert [step for step, _ in wandb.sent] == list(range(there + 1, 8))
    assert wandb.sent[-1:] == ([(7, {"loss": 3.5, "val": 1.0, "trainer/global_step": 7})] if there < 7 else [])


def test_an_incomplete_wandb_file_is_read_up_to_its_end(fit, tmp_path: Path) -> None:
    run = fit("r", *ONE_BY_ONE)
    name = (run / "wandb_id").read_text().strip()
    (path,) = segments(run, name)
    content, ends = path.read_bytes(), []
    for size in range(len(content), 0, -997):
        path.write_bytes(content[:size])
        ends.append(last_step(run, name))
    assert ends[0] == 30
    assert ends == sorted(ends, reverse=True)
    assert ends[-1] == -1
    assert os.path.getsize(path) < 1000
