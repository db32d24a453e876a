"""The overlays in `configs/debug/`, on a small classifier and a small regression."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from lit_triwave.cli import main
from tests.conftest import REPOSITORY

SMALL = {
    "digits": ["--model.channels", "[4,8]", "--model.num_nets", "8", "--model.depth", "2"],
    "x3_minus_x": ["--model.replicas", "2", "--model.polish.epochs", "1", "--data.points", "50"],
}


def debug(overlay: str, config: str, root: Path, *args: str) -> Path:
    configs = ["--config", f"configs/{config}.yaml", "--config", f"configs/debug/{overlay}.yaml"]
    epochs = ["--model.pretrain.epochs", "2", "--model.train.epochs", "2", "--run.root", str(root), "--run.id", "r"]
    assert main(["fit", *configs, *SMALL[Path(config).name], *epochs, *args]) == 0
    return root / Path(config).name / "r"


def rows(run: Path, metric: str) -> list[float]:
    with (run / "metrics.csv").open() as file:
        return [float(row[metric]) for row in csv.DictReader(file) if row[metric]]


@pytest.fixture(autouse=True)
def in_repository(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(REPOSITORY)


@pytest.mark.parametrize("config", SMALL)
def test_one_batch_saves_no_checkpoint(config: str, tmp_path: Path) -> None:
    run = debug("one_batch", config, tmp_path)
    assert not (run / "checkpoints").exists()


def test_overfit_trains_on_one_batch_alone(tmp_path: Path) -> None:
    # At a learning rate of almost nothing and with batch norm's own statistics, the same batch has the same loss.
    still = ["--model.pretrain.lr", "1e-12", "--model.train.lr", "1e-12"]
    losses = rows(debug("overfit", "digits", tmp_path, *still), "train/loss")
    assert losses == pytest.approx([losses[0]] * 4, rel=1e-4)


def test_overfit_works_for_functions_too(tmp_path: Path) -> None:
    run = debug("overfit", "functions/x3_minus_x", tmp_path, "--data.batch_size", "25", "--model.polish.epochs", "0")
    assert len(rows(run, "train/mse_min")) == 4


@pytest.mark.parametrize("config", SMALL)
def test_profile_says_where_the_time_went(config: str, tmp_path: Path) -> None:
    run = debug("profile", config, tmp_path)
    assert "run_training_batch" in (run / "fit-profile.txt").read_text()
