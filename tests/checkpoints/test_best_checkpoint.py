from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from lit_triwave.checkpoints.best import BestCheckpoint
from lit_triwave.checkpoints.rebuild import load_module
from lit_triwave.cli import main
from lit_triwave.modules import FunctionRegressor
from tests.conftest import REPOSITORY
from tests.faults import signal_at
from tests.finished_runs import assert_ends_alike, assert_identical, state

# The best epochs below are those of five batches an epoch.
EACH = ["--data.batch_size", "100", "--trainer.check_val_every_n_epoch", "1"]
UNSTEADY = [*EACH, "--model.train.lr", "0.02", "--model.train.warmup", "0"]  # best in training
SPOILED = [*EACH, "--model.train.lr", "0.3"]  # best at the end of pretraining


def validations(run: Path) -> list[dict[str, str]]:
    """The rows of metrics.csv with a validation."""
    with (run / "metrics.csv").open() as file:
        return [row for row in csv.DictReader(file) if row.get("val/mse_min")]


def best_row(run: Path, metric: str, highest: bool = False) -> dict[str, str]:
    """The row of metrics.csv with the best validation; of equal rows the first."""
    with (run / "metrics.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row.get(metric)]
    return (max if highest else min)(rows, key=lambda row: float(row[metric]))


def checkpoint(run: Path, name: str = "best") -> dict[str, Any]:
    content: dict[str, Any] = torch.load(run / "checkpoints" / f"{name}.ckpt", weights_only=True)
    return content


def all_but_time(run: Path) -> dict[str, Any]:
    """The content of best.ckpt without the times of the run."""
    content = checkpoint(run)
    content["callbacks"].pop("RegressionSummary")
    content["run"].pop("wandb_id")
    return content


def test_best_is_the_epoch_of_the_lowest_validation_error_and_last_the_last(fit, capsys) -> None:
    run = fit("r", *UNSTEADY)
    row = best_row(run, "val/mse_min")
    assert 5 < int(row["epoch"]) < 9
    assert checkpoint(run)["epoch"] == int(row["epoch"])
    assert checkpoint(run, "last")["epoch"] == 9
    capsys.readouterr()
    again = ["--model.replicas", "3", "--model.recruit", "true", "--run.root", str(run.parents[1])]
    before = (run / "summary.json").read_bytes(), (run / "figures" / "fit.png").stat().st_mtime_ns
    best = ["--ckpt_path", str(run / "checkpoints" / "best.ckpt")]
    for command in ("validate", "test", "predict"):
        assert main([command, "--config", "configs/functions/x3_minus_x.yaml", *again, *best]) == 0
        if command == "validate":
            assert f"{float(row['val/mse_min']):.2e}" in capsys.readouterr().out
    # The run folder still describes the final weights.
    assert before == ((run / "summary.json").read_bytes(), (run / "figures" / "fit.png").stat().st_mtime_ns)
    tested = json.loads((run / "best" / "summary.json").read_text())
    last = json.loads(before[0])
    assert tested["test/mse_min"] < last["test/mse_min"]
    # The summary describes these weights, and no time but the fit's.
    saved = load_module(best[1])
    points = saved.data()
    points.setup("fit")
    errors = (saved.module(points.train_set.x) - points.train_set.y[:, None]).square().mean(0)
    assert tested["train/mse"] == pytest.approx(float(errors[saved.seed()]), rel=1e-9)
    assert 0 < tested["fit_seconds"] < last["fit_seconds"] < last["wall_seconds"] > tested["wall_seconds"]
    (run / "best" / "summary.json").unlink()
    assert main(["test", "--config", "configs/functions/x3_minus_x.yaml", *again, "--ckpt_path", "best"]) == 0
    assert json.loads((run / "best" / "summary.json").read_text()) == tested
    assert (run / "best" / "figures" / "fit.png").is_file() and (run / "best" / "predictions.csv").is_file()
    assert main(["test", "--config", "configs/functions/x3_minus_x.yaml", *again]) == 0
    assert f"checkpoint: {run / 'checkpoints' / 'last.ckpt'}" in capsys.readouterr().out  # not the newest file
    for command in ("inspect", "export"):
        assert main([command, best[1]]) == 0
    assert (run / "exported" / "best.pt").is_file()


def test_a_classifiers_best_is_the_first_of_its_highest_accuracies(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(REPOSITORY)
    saved = []
    save = BestCheckpoint._save_checkpoint
    monkeypatch.setattr(BestCheckpoint, "_save_checkpoint", lambda *a: (save(*a), saved.append(a[1].current_epoch)))
    small = ["--model.channels", "[4,4]", "--model.num_nets", "8", "--model.depth", "2", "--data.validation", "20"]
    small += ["--model.pretrain.epochs", "3", "--model.train.epochs", "4", "--run.root", str(tmp_path), "--run.id", "r"]
    assert main(["fit", "--config", "configs/digits.yaml", *small]) == 0
    run = tmp_path / "digits" / "r"
    with (run / "metrics.csv").open() as file:
        values = [float(row["val/accuracy"]) for row in csv.DictReader(file) if row["val/accuracy"]]
    better = [n for n, value in enumerate(values) if value > max(values[:n], default=0)]
    assert len(set(values)) < len(values)  # ties there are, of 20 images
    assert saved == better
    assert checkpoint(run)["epoch"] == values.index(max(values)) == better[-1]


def test_the_best_of_a_stopped_run_is_that_of_one_left_alone(fit, trained) -> None:
    whole = trained("whole", *UNSTEADY)
    run, resumed = whole.with_name("stopped"), ["--run.id", "stopped"]
    # In the step that ends the best epoch of pretraining, and after the best of all.
    for epoch, batch in ((4, 4), (8, 1)):
        fit("", *UNSTEADY, *resumed, *signal_at(epoch, batch), code=75)
        resumed = ["--ckpt_path", str(run / "checkpoints" / "last.ckpt")]
    fit("", *UNSTEADY, *resumed)
    assert_identical(all_but_time(whole), all_but_time(run))
    assert_ends_alike(whole, run)


def test_a_run_killed_between_saving_best_and_last_finds_the_same_best(fit, trained) -> None:
    whole = trained("whole", *UNSTEADY)
    killed = fit("killed", *UNSTEADY, *signal_at(5, 4), code=75)
    shutil.copy(whole / "checkpoints" / "best.ckpt", killed / "checkpoints" / "best.ckpt")  # last.ckpt knows of another
    fit("", *UNSTEADY, "--ckpt_path", str(killed / "checkpoints" / "last.ckpt"))
    assert_identical(all_but_time(whole), all_but_time(killed))
    assert_ends_alike(whole, killed)


@pytest.mark.parametrize(("options", "epoch"), [(UNSTEADY, 7), (SPOILED, 4)], ids=["in training", "at the switch"])
def test_a_run_resumed_from_its_best_epoch_repeats_itself(fit, trained, options: list[str], epoch: int) -> None:
    whole = trained("whole", *options)
    assert checkpoint(whole)["epoch"] == epoch
    copy = whole.with_name("copy")
    shutil.copytree(whole, copy)
    (copy / "checkpoints" / "last.ckpt").unlink()
    fit("", *options, "--ckpt_path", str(copy / "checkpoints" / "best.ckpt"))
    assert_ends_alike(whole, copy)
    assert_identical(checkpoint(whole), checkpoint(copy))  # not written again: nothing was better


@pytest.mark.parametrize(("lr", "epochs"), [("0.3", [4]), ("0.01", [5, 6, 7, 8, 9])], ids=["its start", "later"])
def test_a_rewound_run_keeps_the_best_of_its_new_history(fit, trained, lr: str, epochs: list[int]) -> None:
    run = trained("r", *UNSTEADY)
    assert checkpoint(run)["epoch"] == 7
    back = ["--ckpt_path", str(run / "checkpoints" / "pretrained.ckpt")]
    fit("", *EACH, "--model.train.lr", lr, *back)
    found = checkpoint(run)
    assert found["epoch"] in epochs
    assert found["epoch"] == int(best_row(run, "val/mse_min")["epoch"])
    assert found["epoch"] == 4 or found["run"]["model"]["train"]["lr"] == float(lr)
    assert found["callbacks"]["BestCheckpoint"] == checkpoint(run, "last")["callbacks"]["BestCheckpoint"]


SELDOM = ["--trainer.check_val_every_n_epoch", "50"]


def test_a_branch_takes_over_the_files_of_its_history(fit, trained, capsys) -> None:
    run = trained("r", *UNSTEADY)
    before = {path: path.read_bytes() for path in run.rglob("*.*") if path.is_file()}
    kept = {name: (run / "checkpoints" / f"{name}.ckpt").read_bytes() for name in ("best", "pretrained")}
    for name, options, code in (("early", signal_at(8, 0, "SIGINT"), 130), ("whole", [], 0)):
        branch = fit(
            name, *UNSTEADY, *SELDOM, "--ckpt_path", str(run / "checkpoints" / "best.ckpt"), *options, code=code
        )
        assert {name: (branch / "checkpoints" / f"{name}.ckpt").read_bytes() for name in kept} == kept
    assert state(branch)["epoch"] == 9
    for name in kept:  # links, if the file system has them
        (branch / "checkpoints" / f"{name}.ckpt").unlink()
    assert {path: path.read_bytes() for path in before} == before
    capsys.readouterr()
    assert main(["inspect", str(run.with_name("early"))]) == 0
    assert "not known" not in capsys.readouterr().out


def test_a_branch_from_before_the_best_keeps_the_best_of_its_own_history(fit, trained) -> None:
    run = trained("r", *UNSTEADY)
    start = ["--ckpt_path", str(run / "checkpoints" / "pretrained.ckpt")]
    early = [*EACH, *SELDOM, "--trainer.max_epochs", "9"]  # before the end of its stage
    for epoch, options in ((4, early), (9, UNSTEADY)):  # at its start, and once it is better
        branch = fit(f"b{epoch}", *UNSTEADY, *options, *start, "--model.train.lr", "0.005")
        assert checkpoint(branch)["epoch"] == epoch
    # Where another epoch was better, whose checkpoint is gone: the start, which was validated.
    worse = fit("worse", *EACH, "--model.pretrain.lr", "0.5")
    rows = [float(row["val/mse_min"]) for row in validations(worse)]
    assert min(rows[:4]) < rows[4] and checkpoint(worse)["epoch"] > 4
    start = ["--ckpt_path", str(worse / "checkpoints" / "pretrained.ckpt"), "--model.pretrain.lr", "0.5"]
    branch = fit("of_worse", *early, *start)
    assert checkpoint(branch)["callbacks"]["BestCheckpoint"] == {"score": rows[4], "epoch": 4}
    fit("", *early, "--model.pretrain.lr", "0.5", "--ckpt_path", str(branch / "checkpoints" / "last.ckpt"))
    assert checkpoint(branch)["epoch"] == 4


def test_a_branch_with_nothing_left_to_train_ends_where_it_starts(fit, trained) -> None:
    run = trained("r", *EACH)
    branch = fit("b", *EACH, "--ckpt_path", str(run / "checkpoints" / "last.ckpt"))
    for name in ("best", "last", "pretrained"):
        assert checkpoint(branch, name)["epoch"] == checkpoint(run, name)["epoch"]
    assert_ends_alike(run, branch)


def test_a_run_with_nothing_left_to_train_replaces_its_damaged_last_checkpoint(fit, trained) -> None:
    run = trained("r", *EACH)
    whole, last = run / "checkpoints" / "best.ckpt", run / "checkpoints" / "last.ckpt"
    content = last.read_bytes()
    whole.unlink()
    whole.write_bytes(content)
    last.write_bytes(content[: len(content) // 2])
    fit("", *EACH, "--ckpt_path", str(whole))
    assert checkpoint(run, "last")["epoch"] == checkpoint(run)["epoch"]
    last.unlink()
    last.write_bytes(content)
    before = last.stat().st_ino
    fit("", *EACH, "--ckpt_path", str(whole))
    assert last.stat().st_ino == before  # one that can be read stays


SHORT = ["--model.pretrain.epochs", "1", "--model.train.epochs", "1"]


def test_validations_inside_an_epoch_and_runs_without_any_keep_no_best(fit, monkeypatch) -> None:
    inside = ["--trainer.check_val_every_n_epoch", "null", "--trainer.val_check_interval", "7"]  # three steps an epoch
    run = fit("inside", *inside, "--trainer.max_epochs", "4", "--run.checkpoint_every", "1")
    assert best_row(run, "val/mse_min")
    assert not (run / "checkpoints" / "best.ckpt").exists()
    with monkeypatch.context() as context:
        context.setenv("WANDB_MODE", "offline")
        never = fit("never", *SHORT, "--trainer.limit_val_batches", "0", "--run.artifact", "true")
    assert not (never / "checkpoints" / "best.ckpt").exists()
    assert [path.name for path in never.glob("wandb/offline-run-*/artifact/*")] == ["last.ckpt"]
    quick = fit("quick", "--trainer.fast_dev_run", "true")
    assert not list(quick.glob("checkpoints/*.ckpt"))
    checked = ["--trainer.num_sanity_val_steps", "1", "--trainer.check_val_every_n_epoch", "100"]
    assert not (fit("checked", *checked, "--trainer.max_epochs", "4") / "checkpoints" / "best.ckpt").exists()


def test_the_end_of_a_stage_can_be_the_best_without_a_validation(fit) -> None:
    polish = ["--data.batch_size", "null", "--model.polish.epochs", "4", "--trainer.check_val_every_n_epoch", "3"]
    run = fit("r", *polish)
    assert int(best_row(run, "val/mse_min")["epoch"]) == 11  # of 14
    assert checkpoint(run)["epoch"] == 13
    stopped = fit("s", *polish, *signal_at(12, 0), code=75)
    assert checkpoint(stopped)["epoch"] in (9, 11)  # where it was stopped is no end of a stage
    fit("s", *polish, "--ckpt_path", str(stopped / "checkpoints" / "last.ckpt"))
    assert_identical(all_but_time(run), all_but_time(stopped))


def test_a_full_disk_names_the_best_checkpoint_and_keeps_the_one_before(fit, monkeypatch, capsys) -> None:
    save, writes = torch.save, []

    def full(*args: Any, **kwargs: Any) -> None:
        writes.append(1)
        if len(writes) > 4:
            raise OSError(28, "No space left on device")
        save(*args, **kwargs)

    monkeypatch.setattr("lightning.fabric.plugins.io.torch_io._atomic_save", lambda content, path: full(content, path))
    run = fit("r", code=1)
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert "No space left" in line and "checkpoints/" in line and "the one before is kept" in line
    assert sorted(path.name for path in (run / "checkpoints").iterdir()) == ["best.ckpt", "last.ckpt"]
    for name in ("best", "last"):
        checkpoint(run, name)
    assert state(run)["epoch"] == 2


def test_lightnings_own_loading_makes_the_module_of_a_run_without_peaks(fit) -> None:
    run = fit("r", "--model.pretrain.epochs", "0", config="configs/baselines/x3.yaml")
    module = FunctionRegressor.load_from_checkpoint(run / "checkpoints" / "last.ckpt")
    x = torch.linspace(0, 1, 9, dtype=torch.float64)[:, None]
    torch.testing.assert_close(module(x), load_module(run).module(x), rtol=0, atol=0)
