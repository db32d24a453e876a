from __future__ import annotations

import json
import shutil
import signal
from multiprocessing import forkserver
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.kill_and_resume import FUNCTION
from benchmarks.kill_and_resume import main as kill_and_resume
from benchmarks.resumability import main as measure_resumability
from lit_triwave.checkpoints.last import StageCheckpoint
from tests.conftest import REPOSITORY, SMALL
from tests.faults import signal_at
from tests.finished_runs import assert_ends_alike, assert_identical, state
from tests.run_command import in_processes, run_command

POLISH = ["--data.batch_size", "null", "--model.polish.epochs", "5"]
POLISH += ["--model.polish.options", "{warmup: 1, round_length: 1}", "--model.polish.exchange", "0.4"]
NO_TEST = ["--trainer.limit_test_batches", "0"]  # nor the figures that come with it
SECOND_ORDER = ["--model.pretrain.optimizer", "LevenbergMarquardt"]
SECOND_ORDER += ["--model.pretrain.options", "{warmup: 2, round_length: 1}"]


@pytest.mark.parametrize(
    ("options", "stops"),
    [
        # In pretraining, at its last epoch (the switch comes next), after the first epoch of training, and in training.
        (["--model.release", "blocks"], (2, 6)),
        (["--model.release", "dense"], (5, 8)),
        # At the last epoch of training, and after kicks and exchange have begun.
        (POLISH, (10, 14)),
        # In second-order pretraining, after kicks have begun, and at its end.
        ([*POLISH, *SECOND_ORDER], (4, 5)),
    ],
    ids=["blocks", "dense", "polish", "second order"],
)
def test_a_run_resumed_in_any_stage_ends_bit_identical(
    fit, trained, options: list[str], stops: tuple[int, ...]
) -> None:
    options = [*options, "--trainer.log_every_n_steps", "1"]
    whole = trained("whole", *options)
    run, resumed = whole.with_name("stopped"), ["--run.id", "stopped"]
    for epochs in stops:
        fit("", *options, *resumed, *NO_TEST, "--trainer.max_epochs", str(epochs))
        assert state(run)["epoch"] == epochs - 1
        resumed = ["--ckpt_path", str(run / "checkpoints" / "last.ckpt")]
    fit("", *options, *resumed)
    assert_ends_alike(whole, run)


@pytest.mark.parametrize(
    ("options", "places"),
    [
        ([], ((0, 1), (4, 2), (8, 1))),
        (["--model.release", "dense", "--trainer.accumulate_grad_batches", "2"], ((4, 1), (5, 0))),
        (
            ["--trainer.max_steps=24", "--trainer.precision=32-true", "--trainer.reload_dataloaders_every_n_epochs=1"],
            ((1, 2), (3, 1), (4, 2)),
        ),
    ],
    ids=["plain", "accumulating", "bounded"],
)
def test_a_run_stopped_inside_an_epoch_ends_bit_identical(
    fit, trained, options: list[str], places: tuple[tuple[int, int], ...], capsys
) -> None:
    options = [*options, "--trainer.log_every_n_steps", "3"]
    whole = trained("whole", *options)
    run, resumed = whole.with_name("stopped"), ["--run.id", "stopped"]
    # At the start of an epoch, in its middle, at its end, on both sides of the switch.
    for epoch, batch in places:
        fit("", *options, *resumed, *signal_at(epoch, batch), code=75)
        assert not (run / "summary.json").exists()
        assert "saved, to be started again" in capsys.readouterr().out
        assert state(run)["epoch"] == epoch
        resumed = ["--ckpt_path", str(run / "checkpoints" / "last.ckpt")]
    fit("", *options, *resumed)
    assert_ends_alike(whole, run)


def test_checkpoints_are_renewed_by_time_inside_an_epoch(fit, monkeypatch) -> None:
    places = []
    save = StageCheckpoint._save_checkpoint

    def noting(self: StageCheckpoint, trainer: Any, path: str) -> None:
        save(self, trainer, path)
        places.append(trainer.global_step)

    monkeypatch.setattr(StageCheckpoint, "_save_checkpoint", noting)
    rarely = ["--run.checkpoint_every", "100"]
    whole = fit("whole", *rarely)
    assert places == [15, 30]  # the ends of both stages
    often = fit("often", *rarely, "--run.checkpoint_seconds", "1e-9")
    assert places[2:] == list(range(1, 31))
    assert_ends_alike(whole, often)  # saving changes nothing
    places.clear()
    fit("never", *rarely, "--run.checkpoint_seconds", "null")
    assert places == [15, 30]


@pytest.mark.lowest
def test_a_run_resumed_from_the_end_of_pretraining_ends_bit_identical(fit, trained) -> None:
    whole = trained("whole")
    copy = whole.with_name("copy")
    shutil.copytree(whole, copy)
    (copy / "checkpoints" / "last.ckpt").unlink()
    fit("", "--ckpt_path", str(copy / "checkpoints" / "pretrained.ckpt"))
    assert_identical(state(whole), state(copy))


EACH = ["--trainer.check_val_every_n_epoch", "1"]


def back_to(run: Path, name: str = "pretrained") -> list[str]:
    return ["--ckpt_path", str(run / "checkpoints" / f"{name}.ckpt"), "--model.train.lr", "0.02"]


def files(run: Path) -> list[str]:
    """Returns the files of a run's folder, without figures and W&B."""
    return sorted(
        str(path.relative_to(run)) for path in run.rglob("*.*") if path.is_file() and "wandb" not in str(path)
    )


@pytest.mark.parametrize(("epoch", "batch"), [(5, 0), (5, 2), (8, 1)])
def test_a_rewound_run_keeps_nothing_recorded_after_the_checkpoint(fit, trained, epoch: int, batch: int) -> None:
    run = trained("r", *EACH)
    other = fit("other", *EACH, *back_to(run))
    fit("", *EACH, *back_to(run), *signal_at(epoch, batch, "SIGTERM"), code=130)
    assert state(run)["epoch"] == epoch
    kept = [f"checkpoints/{name}.ckpt" for name in ("best", "last", "pretrained")]
    assert files(run) == [*kept, "config.yaml", "hparams.yaml", "metrics.csv", "run.json"]
    assert torch.load(run / "checkpoints" / "best.ckpt", weights_only=True)["epoch"] <= epoch
    fit("", *EACH, *back_to(run, "last"))
    assert_ends_alike(other, run)


def test_a_resumed_run_has_no_summary_until_its_end(fit, trained) -> None:
    run = trained("r")
    longer = ["--ckpt_path", str(run / "checkpoints" / "last.ckpt"), "--model.train.epochs", "9"]
    fit("", *longer, *signal_at(12, 1, "SIGTERM"), code=130)
    assert not (run / "summary.json").exists() and not (run / "figures").exists()
    fit("", *longer)
    assert (run / "summary.json").is_file() and (run / "figures" / "fit.png").is_file()


def test_a_rewound_run_is_unchanged_until_its_first_step_is_saved(fit, trained, monkeypatch, capsys) -> None:
    run = trained("r", *EACH)
    before = {path: path.read_bytes() for path in run.rglob("*.*") if path.is_file()}
    fit("", *back_to(run), "--trainer.callbacks+=tests.faults.SignalBeforeTraining", code=130)
    assert {path: path.read_bytes() for path in run.rglob("*.*") if path.is_file()} == before
    said = capsys.readouterr().out
    assert f"stopped before the first step: {run} is unchanged" in said and "resume with" not in said

    def full(content: Any, path: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("lightning.fabric.plugins.io.torch_io._atomic_save", full)
    fit("", *back_to(run), code=1)
    assert "the one before is kept" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in run.rglob("*.*") if path.is_file()} == before


def test_a_run_rewound_into_pretraining_has_no_pretrained_checkpoint(fit) -> None:
    run = fit("r", *EACH, "--model.pretrain.lr", "0.5", "--model.train.lr", "0.3")
    before = torch.load(run / "checkpoints" / "best.ckpt", weights_only=True)["epoch"]
    assert before < 4
    back = ["--ckpt_path", str(run / "checkpoints" / "best.ckpt"), "--model.pretrain.lr", "0.5"]
    fit("", *EACH, *back, *signal_at(before + 1, 1), code=75)
    assert not (run / "checkpoints" / "pretrained.ckpt").exists()
    assert torch.load(run / "checkpoints" / "best.ckpt", weights_only=True)["epoch"] == before


def test_ckpt_path_last_resumes_the_newest_run(fit, tmp_path: Path) -> None:
    older, newer = (fit(name, *NO_TEST, "--trainer.max_epochs", "3") for name in ("older", "newer"))
    fit("", "--ckpt_path", "last")
    assert state(older)["epoch"] == 2
    assert state(newer)["epoch"] == 9
    assert sorted(path.name for path in (tmp_path / "x3_minus_x").iterdir()) == ["newer", "older"]


def test_a_finished_run_resumed_by_its_folder_changes_nothing(fit, trained, capsys: pytest.CaptureFixture[str]) -> None:
    run = trained("r")
    before = state(run)
    fit("", "--ckpt_path", str(run))
    assert f"checkpoint: {run / 'checkpoints' / 'last.ckpt'}" in capsys.readouterr().out
    assert_identical(before, state(run))


def test_a_finished_run_resumes_with_an_optimizer_whose_states_begin_before_the_first_gradient(fit) -> None:
    # Subnetworks of one hidden layer have no hidden weights, whose Adagrad states stay at step 0.
    stages = ("pretrain", "train")
    options = [f"--model.{stage}.{option}" for stage in stages for option in ("optimizer=Adagrad", "options={}")]
    options += ["--model.depth", "1"]
    run = fit("r", *options)
    before = state(run)
    fit("", *options, "--ckpt_path", str(run / "checkpoints" / "last.ckpt"))
    assert_identical(before, state(run))


def test_training_can_be_prolonged(fit, trained) -> None:
    run = trained("r")
    fit("", "--ckpt_path", str(run / "checkpoints" / "last.ckpt"), "--model.train.epochs", "7")
    assert state(run)["epoch"] == 11


def test_stages_of_no_epochs_are_left_out(fit) -> None:
    skipped = fit("skipped", "--model.pretrain.epochs", "0")
    assert "pretrain/mse" not in json.loads((skipped / "summary.json").read_text())
    only = fit("only", "--model.train.epochs", "0")
    summary = json.loads((only / "summary.json").read_text())
    assert summary["stage"] == "pretrain"
    assert summary["linear_regions/final"] == 63


@in_processes
@pytest.mark.parametrize(("count", "name", "epoch"), [(6, "last", 2), (5, "best", 2)])
def test_a_process_killed_while_it_saves_leaves_the_checkpoint_before(
    fit, trained, tmp_path: Path, count: int, name: str, epoch: int
) -> None:
    command = ["fit", "--config", "configs/functions/x3_minus_x.yaml", *SMALL, "--run.root", str(tmp_path)]
    command += ["--run.id", "r"]
    command += ["--trainer.callbacks+=tests.faults.KillWhileSaving", f"--trainer.callbacks.count={count}"]
    killed = run_command(command, seconds=120)
    assert killed.returncode == -signal.SIGKILL
    run = tmp_path / "x3_minus_x" / "r"
    assert state(run)["epoch"] == epoch
    partial = run / "checkpoints" / f"{name}.ckpt.partial"
    assert partial.is_file()
    partial.write_bytes(partial.read_bytes()[:1000])  # nor does half a file matter
    fit("r", "--ckpt_path", "last")
    assert not partial.exists()
    assert_ends_alike(trained("whole"), run)


def test_ckpt_path_last_with_an_id_starts_a_run_that_saved_nothing(fit, trained, capsys) -> None:
    whole = trained("whole")
    run = fit("r", "--ckpt_path", "last")  # not even a folder
    assert "r/checkpoints yet: starting from the beginning" in capsys.readouterr().out
    assert_ends_alike(whole, run)
    shutil.rmtree(run / "checkpoints")
    (run / "summary.json").unlink()
    fit("", "--ckpt_path", "last")  # takes the one with a checkpoint, and says so
    assert "a later run has saved no checkpoint: --run.id r" in capsys.readouterr().out
    fit("r", "--ckpt_path", "last")
    assert "starting from the beginning" in capsys.readouterr().out
    assert_ends_alike(whole, run)
    fit("r", "--ckpt_path", "last")
    assert "starting from the beginning" not in capsys.readouterr().out


def test_a_run_killed_in_its_test_ends_as_if_it_had_not_been_killed(fit, trained) -> None:
    whole, run = trained("whole"), trained("r")
    (run / "summary.json").unlink()
    fit("r", "--ckpt_path", "last")
    assert_ends_alike(whole, run)


@in_processes
def test_the_script_that_kills_and_resumes_finds_no_difference(monkeypatch, capsys) -> None:
    monkeypatch.chdir(REPOSITORY)
    forkserver.ensure_running()  # with the imports of tests/run_command.py, not with those of the script
    short = ["--model.pretrain.epochs", "8", "--model.train.epochs", "8", "--model.polish.epochs", "4"]
    monkeypatch.setattr("benchmarks.kill_and_resume.CASES", {"function": [*FUNCTION, *short]})
    assert kill_and_resume(["--times", "1"]) == 0
    assert "1 of 1 bit-identical" in capsys.readouterr().out


def test_the_script_that_measures_resumability_saves_inside_an_epoch(monkeypatch, capsys) -> None:
    monkeypatch.chdir(REPOSITORY)
    share = measure_resumability(["--turns", "1", "--epochs", "1"])
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "together" in line]
    assert f"{share:+.2%}" in line


def test_a_requeued_branch_resumes_from_its_own_checkpoint(fit, trained, monkeypatch) -> None:
    whole = trained("r")
    begin = ["--ckpt_path", str(whole / "checkpoints" / "pretrained.ckpt")]
    fit("b", *begin, *NO_TEST, "--trainer.max_epochs", "7")
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    monkeypatch.setenv("SLURM_JOB_ID", "1")
    assert_ends_alike(whole, fit("b", *begin))


def test_a_finished_run_takes_no_more_time_when_it_is_resumed(fit, trained) -> None:
    run = trained("r")
    before = (run / "summary.json").read_text()
    fit("r", "--ckpt_path", str(run / "checkpoints" / "last.ckpt"))
    assert (run / "summary.json").read_text() == before
