"""The state that `compare` shows for a run without an end, or with damaged files."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lit_triwave.cli import main
from lit_triwave.tracking.wandb_files import _BLOCK_BYTES, is_cut, records
from tests.compared_runs import compared, write_run


def age(folder: Path, seconds: float = 3600) -> None:
    """Makes a folder and all its files older."""
    then = time.time() - seconds
    for path in [folder, *folder.rglob("*")]:
        os.utime(path, (then, then))


@pytest.mark.parametrize(
    ("written", "state"),
    [
        ("figures/inspect/waves.png", "cut off"),
        ("exported/last.pt", "cut off"),
        ("predictions.csv", "cut off"),
        ("metrics.csv", "running"),
        ("checkpoints/last.ckpt", "running"),
        ("wandb/offline-run-20261125_193143-6423f5bb/run-6423f5bb.wandb", "running"),
    ],
)
def test_a_run_is_going_while_a_fit_writes(
    written: str, state: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = write_run(tmp_path / "x3" / "a", state="running", metrics="step,train/mse\n1,2\n")
    age(run)
    (run / written).parent.mkdir(parents=True, exist_ok=True)
    (run / written).write_text("step,train/mse\n1,2\n")
    assert [row["state"] for row in compared(capsys, run)["rows"]] == [state]


@pytest.fixture
def tracked(fit: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run that was finished, with its W&B files."""
    monkeypatch.setenv("WANDB_MODE", "offline")
    return fit("a")


def segment(run: Path) -> Path:
    (file,) = run.glob("wandb/offline-run-*/*.wandb")
    return file


def test_a_wandb_file_that_was_cut_is_cut_off_wherever_it_lies(
    tracked: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = segment(tracked)
    os.truncate(file, file.stat().st_size // 3)
    while not is_cut(file):  # a third of it may end where a record does
        os.truncate(file, file.stat().st_size - 1)
    elsewhere = Path(shutil.copytree(file.parent, tmp_path / "elsewhere" / file.parent.name))
    for place in (tracked / "wandb", elsewhere):
        content = compared(capsys, place)
        assert [row["state"] for row in content["rows"]] == ["cut off"]
        (note,) = content["runs"][0]["notes"]
        assert note.startswith(f"{file.name} is damaged (ends in the middle of a record)")
        assert main(["compare", str(place), "--format", "csv"]) == 0
        assert note in capsys.readouterr().err
        assert main(["compare", str(place), "--out", str(tmp_path / "table.md")]) == 0
        assert note in capsys.readouterr().err


def test_a_regression_that_was_cut_before_any_summary_has_no_accuracy(
    tracked: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = segment(tracked)
    kinds = [record.WhichOneof("record_type") for record in records(file)]
    for _ in range(40):
        os.truncate(file, file.stat().st_size * 9 // 10)
        if "summary" not in {record.WhichOneof("record_type") for record in records(file)}:
            break
    assert "summary" in kinds
    assert main(["compare", str(tracked / "wandb")]) == 0
    said = capsys.readouterr()
    assert "accuracy" not in said.out and "is damaged" in said.err


def test_a_wandb_file_in_the_writing_ends_with_a_block_and_is_no_damage(
    tracked: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    file = segment(tracked)
    elsewhere = Path(shutil.copytree(file.parent, tmp_path / "elsewhere" / file.parent.name)) / file.name
    whole = elsewhere.read_bytes()
    assert len(whole) < _BLOCK_BYTES
    os.truncate(elsewhere, len(whole) // 2)
    monkeypatch.setattr("lit_triwave.tracking.wandb_files._BLOCK_BYTES", len(whole) // 2)
    (run,) = compared(capsys, elsewhere)["runs"]
    assert (run["state"], run["notes"]) == ("running", [])


def test_files_are_named_as_they_are_written(sweep: Path, tmp_path: Path, capsys: Any) -> None:
    figures = tmp_path / "figures"
    assert main(["compare", str(sweep), "--figures", str(figures)]) == 0
    said = capsys.readouterr()
    assert "written" not in said.out
    names = ("curves", "parallel", "parameters", "time")
    assert [line.partition(", ")[0] for line in said.err.splitlines()] == [
        f"written  {figures / name}.png" for name in names
    ]
    assert main(["compare", str(sweep), "--figures", str(figures), "--out", str(tmp_path / "page.html")]) == 0
    said = capsys.readouterr()
    assert said.out.count("written  ") == 5 and said.err == ""
    assert said.out.splitlines()[-1].endswith(" MB")


def test_what_is_not_known_to_be_finished_with_results_counts_for_nothing(tmp_path: Path, capsys: Any) -> None:
    write_run(tmp_path / "x3" / "whole", {"seed_everything": 0}, {"test/mse": 2.0, "replicas": 3})
    write_run(tmp_path / "x3" / "lost", {"seed_everything": 1, "model.replicas": 3})
    record = write_run(tmp_path / "x3" / "record", {"seed_everything": 2}, {"test/mse": 1.0}) / "run.json"
    record.write_text(record.read_text()[:40])
    content = compared(capsys, tmp_path)
    assert [(row["state"], row["seeds"]) for row in content["rows"] if row["state"] == "finished"] == [("finished", 3)]
    assert {run["name"]: run["state"] for run in content["runs"]} == {
        "x3/whole": "finished",
        "x3/lost": "damaged",
        "x3/record": "damaged",
    }
    assert not any("Best" in line and "record" in line for line in content["verdict"])
