"""`configs/table.yaml` on the command line: a table with words, fitted, predicted and exported."""

from __future__ import annotations

import csv
import json
import runpy
from pathlib import Path

import pytest
import torch

from lit_triwave.checkpoints.rebuild import load_module
from lit_triwave.cli import main
from tests.conftest import REPOSITORY, shared_folder
from tests.small_runs import small_run

SMALL = ["--model.layers", "[2, 2]", "--model.limit.epochs", "4", "--model.members", "2", "--model.depth", "3"]
TOWNS = ("Bern", "Genf", "Zug")


def house(i: int) -> dict[str, object]:
    """One row; its price is a function of the other columns."""
    area, town = (37 * i) % 100 + 0.5, TOWNS[i % 3]
    return {"prediction": area, "town": town, "new": i % 2 == 0, "price": area**2 / 100 + 10 * (i % 3) + i % 2}


def write(path: Path, rows: list[dict[str, object]]) -> str:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    return str(path)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folder of a small fit."""
    root = shared_folder(tmp_path_factory, "table_runs")
    path = root / "houses.csv"
    if not path.is_file():
        write(path, [house(i) for i in range(120)])
    data = ["--data.path", str(path), "--data.inputs", "[prediction, town, new]", "--data.target", "price"]
    return small_run(root, "houses", "--config", str(REPOSITORY / "configs/table.yaml"), *data, *SMALL)


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folder of a small fit of two targets, one of them a million times larger than the other."""
    root = shared_folder(tmp_path_factory, "table_of_two_targets")
    path = root / "houses.csv"
    if not path.is_file():
        write(path, [house(i) | {"tax": 1e6 * (3 - float(str(house(i)["prediction"])) / 50)} for i in range(120)])
    data = ["--data.path", str(path), "--data.inputs", "[prediction, town]", "--data.target", "[price, tax]"]
    data += ["--model.replicas", "2"]
    return small_run(root, "houses", "--config", str(REPOSITORY / "configs/table.yaml"), *data, *SMALL)


def test_each_of_several_targets_has_its_errors_and_all_have_their_mean(two: Path) -> None:
    summary = json.loads((two / "summary.json").read_text())
    assert summary["test/price/r2"] > 0.9 and summary["test/tax/r2"] > 0.9999
    for metric in ("mse", "mae", "r2"):
        each = [summary[f"test/{name}/{metric}"] for name in ("price", "tax")]
        assert summary[f"test/{metric}"] == pytest.approx(sum(each) / 2, rel=1e-12)
    assert summary["test/max_error"] == max(summary[f"test/{name}/max_error"] for name in ("price", "tax"))
    assert summary["test/mse_min"] <= summary["test/mse"] <= summary["test/mse_mean"]
    assert {path.stem for path in (two / "figures").iterdir()} >= {"agreement_1_price", "agreement_2_tax", "loss_2_tax"}


def test_predictions_of_several_targets_have_their_names_and_units(two: Path, tmp_path: Path) -> None:
    asked = write(tmp_path / "asked.csv", [{"prediction": 40.5, "town": "Zug"}])
    command = ["predict", "--config", str(two / "config.yaml"), "--ckpt_path", str(two / "checkpoints/last.ckpt")]
    assert main([*command, "--data.predict_path", asked]) == 0
    with (two / "predictions.csv").open() as file:
        (row,) = csv.DictReader(file)
    assert row["town"] == "Zug" and "price" not in row
    assert float(row["prediction_of_price"]) == pytest.approx(40.5**2 / 100 + 20.5, abs=15)
    assert float(row["prediction_of_tax"]) == pytest.approx(1e6 * (3 - 40.5 / 50), rel=0.01)
    assert float(row["lowest_seed_of_tax"]) <= float(row["prediction_of_tax"]) <= float(row["highest_seed_of_tax"])


def test_an_export_of_several_targets_has_an_output_for_each(two: Path, tmp_path: Path) -> None:
    out = tmp_path / "m.pt"
    assert main(["export", str(two), "--out", str(out)]) == 0  # refuses what differs from the model
    assert json.loads(out.with_suffix(".json").read_text())["target"] == ["price", "tax"]
    space = runpy.run_path(str(out.with_suffix(".py")))
    saved = load_module(two)
    x = saved.data().test_set.x
    expected = saved.module(x)[:, saved.module.best_replicas]
    torch.testing.assert_close(space["load"]()(x), expected)
    assert main(["export", str(two), "--out", str(tmp_path / "one.pt"), "--seed", "2"]) == 1


def test_inspect_shows_the_target_that_is_asked_for(
    two: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = ["--out", str(tmp_path)]
    assert main(["inspect", str(two), "--target", "tax", *place]) == 0
    assert "tax is shown" in capsys.readouterr().out
    assert main(["inspect", str(two), "--target", "taxes", *place]) == 1
    assert "--target must be one of price, tax, got taxes; did you mean 'tax'?" in capsys.readouterr().err


def test_a_fit_needs_the_path_the_inputs_and_the_target_alone(run: Path) -> None:
    summary = json.loads((run / "summary.json").read_text())
    assert summary["test/r2"] > 0.9
    assert load_module(run).variables == ["prediction", "town=Bern", "town=Genf", "town=Zug", "new"]


def test_what_was_fitted_to_the_columns_is_plain_data_in_the_checkpoint(run: Path) -> None:
    content = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
    assert content["TableDataModule"]["columns"] == load_module(run).columns
    assert load_module(run).columns[1] == {"name": "town", "kind": "onehot", "categories": list(TOWNS)}


def test_predictions_have_the_target_the_row_and_all_inputs_by_their_names(run: Path, tmp_path: Path) -> None:
    asked = write(tmp_path / "asked.csv", [house(i) for i in (5, 2)])
    command = ["predict", "--config", str(run / "config.yaml"), "--ckpt_path", str(run / "checkpoints/last.ckpt")]
    assert main([*command, "--data.predict_path", asked]) == 0
    with (run / "predictions.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["row"] for row in rows] == ["1", "2"]
    assert not any("seed" in name for name in rows[0])  # there is one only
    for row, i in zip(rows, (5, 2), strict=True):
        for name, value in house(i).items():
            assert row[name] == str(value)
        assert float(row["prediction_of_price"]) == pytest.approx(float(row["price"]), abs=20)


def test_an_export_has_the_columns_beside_it(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "m.pt"
    assert main(["export", str(run), "--out", str(out)]) == 0
    beside = json.loads(out.with_suffix(".json").read_text())
    assert beside["columns"] == load_module(run).columns
    assert beside["inputs"] == load_module(run).variables and beside["target"] == "price"


def test_predictions_need_the_inputs_in_their_order(run: Path, tmp_path: Path, capsys) -> None:
    data = ["--data.path", str(run.parents[1] / "houses.csv"), "--data.inputs", "[town, prediction, new]"]
    args = ["--config", str(REPOSITORY / "configs/table.yaml"), *data, "--data.target", "price", *SMALL]
    assert main(["predict", *args, "--ckpt_path", str(run / "checkpoints" / "last.ckpt")]) == 1
    assert "inputs is " in (said := capsys.readouterr().err) and "data_curvature" not in said


def test_another_format_is_exported_beside_the_first(run: Path, tmp_path: Path) -> None:
    for kind, suffix in (("torch", "pt"), ("program", "pt2")):
        assert main(["export", str(run), "--format", kind, "--out", str(tmp_path / f"model.{suffix}")]) == 0
    (tmp_path / "model.json").write_text("{}")
    assert main(["export", str(run), "--format", "program", "--out", str(tmp_path / "model.pt2")]) == 1


def test_what_is_reported_is_the_checkpoint_that_validation_chose(run: Path, tmp_path: Path, capsys) -> None:
    data = ["--data.path", str(run.parents[1] / "houses.csv"), "--data.inputs", "[prediction, town, new]"]
    later = ["--model.train.epochs", "3", "--model.train.lr", "1", "--trainer.check_val_every_n_epoch", "1"]
    place = ["--run.root", str(tmp_path), "--run.id", "r"]
    config = ["--config", str(REPOSITORY / "configs/table.yaml"), *data, "--data.target", "price", *SMALL, *later]
    assert main(["fit", *config, *place]) == 0
    assert "this is best.ckpt of stage 'limit', epoch 4/4, the best on the 12 validation" in capsys.readouterr().out
    summary = tmp_path / "table" / "r" / "summary.json"
    reported = json.loads(summary.read_text())
    for checkpoint, same in (("best", True), ("last", False)):
        assert main(["test", *config, *place, "--ckpt_path", checkpoint]) == 0
        assert (json.loads(summary.read_text())["test/mse"] == reported["test/mse"]) is same
    assert main(["fit", *config, *place, "--ckpt_path", "last"]) == 0  # with nothing left to train
    assert json.loads(summary.read_text())["test/mse"] == reported["test/mse"]
