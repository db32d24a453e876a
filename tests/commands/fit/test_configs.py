from __future__ import annotations

import csv
import json
import math
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image

from lit_triwave.cli import main
from tests.conftest import REPOSITORY

REGRESSION = [
    path
    for path in sorted((REPOSITORY / "configs").rglob("*.yaml"))
    if "FunctionRegressor" in path.read_text() and path.name != "table.yaml"  # which needs a table, see test_table_fit
]
STACKS = [path for path in REGRESSION if "wiring: stack" in path.read_text()]
CONFIGS = [path for path in REGRESSION if path not in STACKS]


def drawn(config: Path) -> Any:
    """A parameter of a test; figures are only drawn for configs that are not in a folder of variants."""
    marks = [pytest.mark.draws] if config.parent.name == "configs" else []
    return pytest.param(config, id=str(config.relative_to(REPOSITORY / "configs")), marks=marks)


STABLE = ["test/mse", "test/max_error", "linear_regions/final", "wall_seconds", "fit_seconds", "seed"]
PRETRAINED = ["pretrain/mse", "linear_regions/pretrained"]
ONE_EPOCH = ["--model.pretrain.epochs", "1", "--model.train.epochs", "1"]


@pytest.mark.parametrize("config", [drawn(config) for config in CONFIGS])
def test_every_regression_config_runs_and_leaves_a_whole_run_folder(config: Path, tmp_path: Path, capsys) -> None:
    settings = yaml.safe_load(config.read_text())["model"]["init_args"]
    constructed = settings.get("initialization", "constructed") == "constructed"
    args = ["--model.train.epochs", "3", "--model.replicas", "2", "--run.root", str(tmp_path), "--run.id", "r"]
    args += ["--model.pretrain.epochs", "3"] if constructed else []
    polished = "polish" in settings
    args += ["--model.polish.epochs", "2"] if polished else []
    assert main(["fit", "--config", str(config), *args, "--trainer.log_every_n_steps", "1"]) == 0

    run = tmp_path / config.stem / "r"
    summary = json.loads((run / "summary.json").read_text())
    for key in STABLE + (PRETRAINED if constructed else []):
        assert math.isfinite(summary[key]), key
    depth = settings["depth"]
    if settings.get("wiring") == "single":
        assert summary["linear_regions/pretrained"] == 2**depth
    elif settings.get("wiring") == "difference":
        assert summary["linear_regions/pretrained"] == 2 * 2**depth - 1
    assert yaml.safe_load((run / "config.yaml").read_text())["model"]["init_args"]["depth"] == depth
    with (run / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    steps = [int(row["step"]) for row in rows if row["train/mse_min"]]
    assert steps == list(range(3 + 3 * constructed + 2 * polished))
    assert (run / "checkpoints" / "last.ckpt").is_file()
    assert (run / "checkpoints" / "pretrained.ckpt").is_file() == constructed
    two_variables = "r3" in config.stem
    for figure in ["loss", "surface"] if two_variables else ["loss", "fit", "error"]:
        with Image.open(run / "figures" / f"{figure}.png") as image:
            if config.parent.name == "configs":
                assert min(image.size) > 500
                assert len(image.convert("L").resize((64, 64)).getcolors(256) or []) > 5  # not a blank page
    shown = capsys.readouterr().out
    assert ("linear regions, diagonal" in shown) is two_variables
    for part in ["test MSE", "test maximum error", "linear regions", "time"] + ["pretrained MSE"] * constructed:
        assert part in shown


@pytest.mark.parametrize("config", STACKS, ids=lambda path: str(path.relative_to(REPOSITORY / "configs")))
def test_every_stack_config_runs_and_leaves_a_whole_run_folder(config: Path, tmp_path: Path, capsys) -> None:
    small = ["--model.layers", "[2, 2]", "--model.replicas", "2", "--model.limit.epochs", "3", "--model.depth", "3"]
    small += ["--data.points", "200", "--data.test_points", "300", "--run.root", str(tmp_path), "--run.id", "r"]
    assert main(["fit", "--config", str(config), *small]) == 0
    run = tmp_path / config.stem / "r"
    summary = json.loads((run / "summary.json").read_text())
    for key in ("test/mse", "test/r2", "test/max_error", "limit/mse", "parameters", "wall_seconds", "seed"):
        assert math.isfinite(summary[key]), key
    assert (run / "checkpoints" / "last.ckpt").is_file() and list((run / "figures").glob("*.png"))
    assert "limit MSE" in capsys.readouterr().out


def test_a_saved_config_run_again_is_another_run_of_the_same_experiment(trained, tmp_path: Path) -> None:
    run = trained("r")
    assert main(["fit", "--config", str(run / "config.yaml"), "--run.root", str(tmp_path)]) == 0
    runs = sorted(path.name for path in (tmp_path / "x3_minus_x").iterdir())
    assert len(runs) == 2
    first, second = (json.loads((tmp_path / "x3_minus_x" / r / "summary.json").read_text()) for r in runs)
    assert first["test/mse"] == second["test/mse"]  # the same seed, the same figures


@pytest.mark.lowest
def test_evaluation_uses_the_newest_run_and_predictions_are_those_of_the_best_seed(
    trained, tmp_path: Path, capsys
) -> None:
    run = trained("r")
    before = json.loads((run / "summary.json").read_text())
    config = (run / "config.yaml").read_text()
    common = ["--config", "configs/functions/x3_minus_x.yaml", "--model.replicas", "3", "--run.root", str(tmp_path)]
    (run / "figures" / "fit.png").unlink()
    assert main(["validate", *common]) == 0
    assert main(["test", *common]) == 0
    assert main(["predict", *common, "--data.test_points", "11"]) == 0
    assert str(run / "checkpoints" / "last.ckpt") in capsys.readouterr().out
    after = json.loads((run / "summary.json").read_text())
    assert after == before
    assert (run / "config.yaml").read_text() == config
    assert (run / "figures" / "fit.png").is_file()
    with (run / "predictions.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [float(row["x"]) for row in rows] == pytest.approx([-1 + i / 5 for i in range(11)])
    for row in rows:
        assert float(row["target"]) == pytest.approx(float(row["x"]) ** 3 - float(row["x"]))
        assert float(row["lowest_seed"]) <= float(row["prediction"]) <= float(row["highest_seed"])


@pytest.mark.lowest
def test_a_table_is_fitted_and_predicted_in_its_own_units(tmp_path: Path) -> None:
    # y = 40 000 + 3 000 t² for t in [1990, 2020] scaled: offsets and scales far from 1.
    lines = ["year,load"] + [f"{1990 + i / 10},{40_000 + 3_000 * (i / 300) ** 2}" for i in range(301)]
    (tmp_path / "data.csv").write_text("\n".join(lines))
    (tmp_path / "ask.csv").write_text("year\n1990\n2005\n2020\n")
    config = {
        "trainer": {"accelerator": "cpu", "precision": "64-true"},
        "model": {
            "class_path": "lit_triwave.modules.FunctionRegressor",
            "init_args": {"depth": 4, "replicas": 4, "pretrain": {"epochs": 300, "lr": 0.03}, "train": {"epochs": 0}},
        },
        "data": {
            "class_path": "datamodules.TableDataModule",
            "init_args": {"path": str(tmp_path / "data.csv"), "inputs": ["year"], "target": "load"},
        },
    }
    (tmp_path / "load.yaml").write_text(yaml.safe_dump(config))
    common = ["--config", str(tmp_path / "load.yaml"), "--run.root", str(tmp_path / "runs"), "--run.id", "r"]
    assert main(["fit", *common]) == 0
    run = tmp_path / "runs" / "load" / "r"
    summary = json.loads((run / "summary.json").read_text())
    # Yarotsky's interpolant of a parabola with 2^4 pieces is off by 3 000 / 4^5 ≈ 3 at the most.
    assert summary["test/max_error"] < 12
    assert summary["linear_regions/final"] == 16
    assert main(["predict", *common[:4], "--data.predict_path", str(tmp_path / "ask.csv")]) == 0
    with (run / "predictions.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert "target" not in rows[0]
    assert [float(row["prediction"]) for row in rows] == pytest.approx([40_000, 40_750, 43_000], abs=12)


@pytest.mark.parametrize("options", [["--model.replicas", "1"], ["--trainer.precision", "32-true"]])
def test_one_seed_and_single_precision_are_fitted_too(fit, options: list[str], tmp_path: Path, capsys) -> None:
    run = fit("r", *ONE_EPOCH, *options)
    assert ("best seed ┃" in capsys.readouterr().out) == ("--model.replicas" not in options)  # of one seed no header
    summary = json.loads((run / "summary.json").read_text())
    assert summary["linear_regions/pretrained"] == 63
    assert 0 < summary["test/mse"] < 1
    common = ["--config", "configs/functions/x3_minus_x.yaml", "--model.replicas", "3", "--run.root", str(tmp_path)]
    assert main(["predict", *common, *options]) == 0


def test_a_limit_in_steps_ends_the_run_with_a_true_summary(fit) -> None:
    run = fit("r", "--trainer.max_steps", "37", "--data.test_points", "500")
    summary = json.loads((run / "summary.json").read_text())
    assert summary["stage"] == "train"
    assert summary["train/mse"] == pytest.approx(summary["test/mse"], rel=1e-9)  # on the same 500 points


@pytest.mark.parametrize(
    ("environment", "says"),
    [
        ({"WANDB_MODE": "offline"}, "offline (WANDB_MODE=offline)"),
        ({"WANDB_API_KEY": "short"}, "offline (the login cannot be used"),
        ({"WANDB_MODE": ""}, "offline (no login)"),
    ],
)
def test_weights_and_biases_is_on_by_default_and_offline_without_a_login(
    fit, capsys, monkeypatch, tmp_path: Path, environment: dict[str, str], says: str
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))  # no login of the machine's
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.delenv("WANDB_MODE")
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    run = fit("r", *ONE_EPOCH)
    assert says in capsys.readouterr().out
    (offline,) = run.glob(f"wandb/offline-run-*-{(run / 'wandb_id').read_text().strip()}")
    assert list(offline.glob("*.wandb"))
    assert list(offline.glob("files/media/images/figures/fit*.png"))
