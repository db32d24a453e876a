"""`configs/table.yaml` through the front door: a table with words, fitted, predicted and exported."""

from __future__ import annotations

import csv
import json
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
    """One row, whose price is a function of the others."""
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
