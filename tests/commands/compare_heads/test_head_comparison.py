from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
import torch
from PIL import Image

from lit_triwave.cli import main
from lit_triwave.commands.compare_heads import runs as head_comparison
from lit_triwave.commands.compare_heads.report import verdict
from tests.conftest import REPOSITORY


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small copy of the digits' config, run in an empty folder."""
    text = (REPOSITORY / "configs" / "digits_pixels.yaml").read_text()
    for old, new in {
        "epochs: 20": "epochs: 1",
        "epochs: 0": "epochs: 1",
        "nets: 128": "nets: 4",
        "depth: 5": "depth: 2",
    }.items():
        text = text.replace(old, new)
    path = tmp_path / "small.yaml"
    path.write_text(text.replace("check_val_every_n_epoch: 1", "limit_train_batches: 4"))
    monkeypatch.chdir(tmp_path)
    return path


@pytest.mark.draws
def test_heads_are_compared_at_equal_parameters_width_and_depth_and_an_interrupted_comparison_goes_on(
    config: Path, tmp_path: Path, capsys, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    command = ["compare-heads", "--config", str(config), "--seeds", "2", "--own_splits", "--out", str(out)]
    train, calls = head_comparison.train, []

    def interrupted(cells, name, seed, *callbacks):
        calls.append((name, seed))
        if len(calls) == 4:
            raise KeyboardInterrupt
        return train(cells, name, seed, *callbacks)

    monkeypatch.setattr(head_comparison, "train", interrupted)
    monkeypatch.setattr(head_comparison, "LINE_SECONDS", 0)
    assert main(command) == 130
    assert len(list((out / "runs").iterdir())) == 3
    assert "epoch 1/2\nseed 0  constructed" in capsys.readouterr().out  # not a terminal: lines
    assert main(command) == 0
    assert len(calls) == 2 * 7 + 1  # no finished run is made again
    results = json.loads((out / "comparison.json").read_text())
    assert len(results) == 7
    parameters = {name: runs[0]["parameters"] for name, runs in results.items()}
    assert parameters["dense, equal parameters"] == pytest.approx(parameters["constructed"], rel=0.1)
    assert parameters["dense, equal width"] == 64 * 16 + 16 + 16 * 10 + 10
    assert parameters["dense, equal depth"] == parameters["dense, equal width"] + 16 * 17
    assert parameters["dense, equal depth + batch norm"] == parameters["dense, equal depth"] + 2 * 16
    for runs in results.values():
        assert [run["seed"] for run in runs] == [0, 1]
        for run in runs:
            assert len(run["accuracy"]) == 2  # both stages' epochs
            assert run["accuracy"][-1] == pytest.approx(run["test/accuracy"])
    shown = capsys.readouterr().out
    assert "3 of 14 runs are kept from before" in shown
    assert shown.count("%  kept from before") == 3
    table = (out / "comparison.md").read_text()
    mean = 100 * torch.tensor([run["test/accuracy"] for run in results["constructed"]]).mean()
    for text in (shown, table):
        assert f"{mean:.2f} ± " in text
        assert "of 2 seeds, each with its own split" in " ".join(text.split())
        assert "after epoch 1 it is ahead of" in " ".join(text.split())
        assert "on the test images after some epochs" in " ".join(text.split())
    assert (
        "| head | parameters | processor, s | epoch 1 | epoch 2 |\n" in table
    )  # the last epoch's images are those of the test
    with (out / "comparison.csv").open() as file:
        assert len(list(csv.DictReader(file))) == 7 * 2 * 2
    with Image.open(out / "accuracy.png") as image:
        assert len(image.convert("L").resize((64, 64)).getcolors(256) or []) > 5


def test_test_images_have_a_column_of_their_own_where_others_are_set_aside(config: Path, tmp_path: Path) -> None:
    config.write_text(config.read_text() + "    validation: 100\n")
    assert main(["compare-heads", "--config", str(config), "--seeds", "1", "--out", str(tmp_path / "out")]) == 0
    table = (tmp_path / "out" / "comparison.md").read_text()
    assert "on the validation images after some epochs and, at the end, on the test images, one seed" in table
    assert "| head | parameters | processor, s | epoch 1 | epoch 2 | test |\n" in table
    (run, *_) = json.loads((tmp_path / "out" / "comparison.json").read_text())["constructed"]
    assert f"{100 * run['accuracy'][-1]:.2f} | {100 * run['test/accuracy']:.2f} |\n" in table


@pytest.mark.parametrize(
    ("rival", "says"),
    [
        (97.0, "1 of 2 dense heads, 0.50 points below the best of them (b)"),
        (96.5, "level with"),
        (96.0, "0.50 points above"),
    ],
)
def test_the_verdict_names_the_side_of_the_best_rival(rival: float, says: str) -> None:
    curves = {"constructed": 96.5, "a": 95.0, "b": rival}
    assert says in verdict({name: torch.tensor([[value]]) for name, value in curves.items()}, [1])


def test_a_seed_gives_the_same_run_again(config: Path) -> None:
    cells = head_comparison.Cells(config)
    one, same, other = (head_comparison.train(cells, "constructed", seed) for seed in (3, 3, 4))
    assert one["test/loss"] == same["test/loss"] != other["test/loss"]
    assert one["accuracy"] == same["accuracy"]


def test_a_head_that_is_never_released_has_rivals_as_small(config: Path) -> None:
    def width() -> int:
        width: int = head_comparison.Cells(config).heads["dense, equal parameters"]["width"]
        return width

    released = width()
    config.write_text(config.read_text().replace("train: {epochs: 1}", "train: {epochs: 0}"))
    norm, peaks, weights = 2, 3 + 3, 2 * 4 + 20 + 5  # of each subnetwork of depth 2
    assert width() == round(4 * (64 + norm + peaks + 10) / (64 + 1 + 10))
    assert released == round(4 * (64 + norm + weights + 10) / (64 + 1 + 10))


def test_seeds_have_one_split_unless_their_own_are_asked_for(config: Path) -> None:
    for own_splits in (False, True):
        images = []
        for seed in (0, 1):
            _, _, data = head_comparison.Cells(config, own_splits).instantiate("constructed", seed)
            data.setup("fit")
            images.append(data.test_set.images)
        assert torch.equal(*images) != own_splits


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["--config", "absent.yaml"], "--config must be a YAML config, got absent.yaml: there is no such file"),
        (["--config", "."], "--config must be a YAML config, got ., a folder"),
        (["--config", "small.yaml", "--seeds", "0"], "--seeds must be at least 1, got 0"),
        (["--config", "small.yaml", "--sedes", "3"], "did you mean '--seeds'?"),
        (["--config", "small.yaml", "--out", "."], "must be a new folder or one of earlier results, got ."),
        (
            ["--config", str(REPOSITORY / "configs/baselines/digits.yaml")],
            "must be block_diagonal, got dense",
        ),
        ([], "required: --config"),
    ],
)
def test_a_bad_argument_gets_one_line(config: Path, args: list[str], says: str, capsys) -> None:
    assert main(["compare-heads", *args]) in (1, 2)
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("error: ")
    assert says in lines[0]


def test_runs_of_another_config_are_kept_unless_told_otherwise(config: Path, tmp_path: Path, capsys) -> None:
    head_comparison.open_results(tmp_path / "out", "another", False)
    (tmp_path / "out" / "runs" / "kept").write_text("")
    assert main(["compare-heads", "--config", str(config), "--seeds", "1", "--out", str(tmp_path / "out")]) == 1
    assert "contains runs of another config: give another, or --overwrite" in capsys.readouterr().err
    assert (tmp_path / "out" / "runs" / "kept").exists()
