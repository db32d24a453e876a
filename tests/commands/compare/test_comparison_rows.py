"""The rows of `compare`: their runs, their names, their means, and the best row."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from lit_triwave.cli import main
from lit_triwave.commands.compare.read.run_folders import read_run_folder
from lit_triwave.commands.compare.show.charts import parallel_rows
from lit_triwave.commands.compare.table.cells import shown
from lit_triwave.commands.compare.table.fields import Fields
from lit_triwave.commands.compare.table.table import compare
from tests.compared_runs import compared, refused, replicas, write_run


def test_each_function_has_its_best_row_and_no_row_is_weighed_against_another_function(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    errors = {"a": ("sin(x)", 4, 1e-3), "b": ("sin(x)", 5, 1e-2), "c": ("x**3", 4, 1e-6), "d": ("x**3", 5, 1e-5)}
    errors["e"] = ("exp(x)", 4, 1e-9)
    for name, (expression, depth, error) in errors.items():
        config = {"data.expression": expression, "data.domain.x": [0.0, 1.0], "model.depth": depth}
        write_run(tmp_path / "all" / name, config, replicas([error, 1.1 * error, 1.2 * error]))
    write_run(tmp_path / "all" / "image", {"data.class_path": "datamodules.DigitsDataModule"}, {"test/accuracy": 0.9})
    content = compared(capsys, tmp_path)
    assert [row["name"] for row in content["rows"] if row["best"]] == ["all/a", "all/c"]
    assert [row["name"][-1] for row in content["rows"][:5]] == ["a", "b", "c", "d", "e"]  # target by target
    first, sine, cubic, alone = content["verdict"]
    assert "3 functions" in first
    assert sine.startswith("Best for sin(x): depth 4") and "the next, depth 5" in sine and "x**3" not in sine
    assert cubic.startswith("Best for x**3: depth 4")
    assert alone.endswith("nothing to compare: exp(x).")
    assert any(line.endswith("--metrics names another): all/image.") for line in content["remarks"])
    write_run(tmp_path / "all" / "f", {"data.expression": "x**3", "data.domain.x": [0.0, 9.0]}, {"test/mse": 0.0})
    assert compared(capsys, tmp_path)["verdict"][2].startswith("Best for x**3, x in [0, 1]: depth 4")


def test_what_a_run_is_about_is_shown_before_all_else(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number in range(8):
        config: dict[str, Any] = {f"model.f{field}": number * field for field in range(1, 8)}
        config |= {"data.expression": "x" if number < 6 else "x**2", "model.initialization": "ab"[number % 2]}
        write_run(tmp_path / "x3" / str(number), config, {"test/mse": 1.0 + number})
    assert main(["compare", str(tmp_path), "--format", "md"]) == 0
    header = capsys.readouterr().out.splitlines()[0]
    assert header.startswith("| run | expression | initialization | f1 |")


@pytest.mark.parametrize(("sort", "order"), [("lowest", "acb"), ("seeds", "bac"), ("run", "abc")])
def test_rows_are_put_in_order_by_every_column(sort: str, order: str, tmp_path: Path, capsys: Any) -> None:
    for depth, (name, values) in enumerate({"a": [1.0, 9.0], "b": [4.0], "c": [3.0, 3.5, 4.5]}.items()):
        write_run(tmp_path / "x3" / name, {"model.depth": depth}, replicas(values) if values[1:] else {"test/mse": 4.0})
    rows = compared(capsys, tmp_path, "--sort", sort)["rows"]
    assert "".join(row["name"][-1] for row in rows) == order
    rows = compared(capsys, tmp_path, "--sort", sort, "--descending")["rows"]
    assert "".join(row["name"][-1] for row in rows) == order[::-1]


def test_an_unfinished_run_has_the_seeds_that_it_trains(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_run(tmp_path / "x3" / "a", {"model.replicas": 30}, state="stopped", metrics="step,val/mse_mean\n1,2\n")
    content = compared(capsys, tmp_path)
    assert [row["seeds"] for row in content["rows"]] == [30]
    assert content["main_metric"] == "test/mse" and "test/mse" in content["verdict"][0]


@pytest.mark.parametrize("mean", [math.inf, None, "many"])
def test_no_seed_stands_in_for_a_mean_that_is_not_there(
    mean: object, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_run(tmp_path / "e" / "a", summary=replicas([1.0, 2.0]) | {"test/mse_mean": mean})
    write_run(tmp_path / "e" / "b", {"model.depth": 6}, replicas([3.0, 4.0]))
    rows = {row["runs"][0]: row["metrics"].get("test/mse") for row in compared(capsys, tmp_path)["rows"]}
    assert rows["e/a"] is None
    assert rows["e/b"]["mean"] == 3.5


def test_conditions_on_a_metric_are_on_what_the_table_shows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_run(tmp_path / "e" / "a", summary=replicas([1.0, 9.0]))  # a lowest of 1, a mean of 5
    write_run(tmp_path / "e" / "b", {"model.depth": 6}, replicas([2.0, 4.0]))
    assert compared(capsys, tmp_path, "--where", "test/mse<4")["rows"][0]["runs"] == ["e/b"]
    assert "test/mse is 3, 5" in refused(capsys, tmp_path, "--where", "test/mse<2.5")
    assert len(compared(capsys, tmp_path, "--where", "test/mse_min<1.5")["rows"]) == 1


def test_in_parallel_coordinates_the_darkest_line_is_the_lowest_error_of_whatever_function(tmp_path: Path) -> None:
    errors = {"a": ("sin(x)", 1e-3), "b": ("sin(x)", 1e-2), "c": ("x**3", 1e-6), "d": ("x**3", 1e-5)}
    for name, (expression, error) in errors.items():
        write_run(tmp_path / "all" / name, {"data.expression": expression, "model.f": name}, {"test/mse": error})
    runs = [read_run_folder(tmp_path / "all" / name) for name in errors]
    comparison = compare(runs, Fields(runs))
    assert [row.name[-1] for row in parallel_rows(comparison)] == ["c", "d", "a", "b"]
    assert [row.name[-1] for row in comparison.best()] == ["a", "c"]


def test_a_seed_that_is_not_finite_leaves_no_mean_of_the_others(tmp_path: Path, capsys: Any) -> None:
    write_run(tmp_path / "x3" / "a", {"seed_everything": 0}, {"test/mse": 1e-9})
    write_run(tmp_path / "x3" / "b", {"seed_everything": 1}, {"test/mse": None})  # as summary.json has NaN
    write_run(tmp_path / "x3" / "c", {"model.depth": 6}, {"test/mse": 1e-3})
    content = compared(capsys, tmp_path)
    assert [row["name"] for row in content["rows"] if row["best"]] == ["x3/c"]
    assert "test/mse is missing or not finite, so not compared (--metrics names another): x3/b." in content["remarks"]
    assert main(["compare", str(tmp_path), "--metrics", "test/mse", "test/mse"]) == 0
    said = capsys.readouterr().out
    assert "│ not finite │" in said and said.count("test/mse ┃") == 1


def test_group_commit_versions_and_times_are_fields_and_rows_of_several_codes_are_said(
    tmp_path: Path, capsys: Any
) -> None:
    for number, commit in enumerate("aab"):
        run = write_run(tmp_path / "x3" / f"r{number}", {"seed_everything": number}, {"test/mse": 1.0 + number})
        record = json.loads((run / "run.json").read_text())
        record |= {"group": "short" if number else "long", "git": {"commit": 40 * commit, "dirty": False}}
        (run / "run.json").write_text(json.dumps(record | {"versions": {"torch": "2.15.0"}}))
    assert len(compared(capsys, tmp_path, "--where", "group=short")["runs"]) == 2
    assert len(compared(capsys, tmp_path, "--where", "git.commit~aaa", "versions.torch=2.15.0")["runs"]) == 2
    assert "did you mean 'git.commit'" in refused(capsys, tmp_path, "--where", "git.comit=a")
    assert (
        "1 of 1 rows pool runs that differ in more than the seed: git.commit." in compared(capsys, tmp_path)["remarks"]
    )
    assert [row["name"] for row in compared(capsys, tmp_path, "--group-by", "group")["rows"]] == [
        "x3/r0",
        "x3 (2 runs)",
    ]
    assert main(["compare", str(tmp_path), "--format", "csv"]) == 0
    assert ",git.commit," in capsys.readouterr().out.splitlines()[0]


def test_no_file_that_it_writes_names_the_home_folder(tmp_path: Path, capsys: Any, monkeypatch: Any) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    write_run(tmp_path / "runs" / "x3" / "a", {}, {"test/mse": 1.0})
    for form in ("table", "md", "csv", "json", "html"):
        assert main(["compare", str(tmp_path / "runs"), "--format", form]) == 0
        assert str(tmp_path) not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("metric", "says"),
    [
        ("test/mse_min", "a run of many seeds has one test/mse_min, so the lead may be chance"),
        ("fit_seconds", "a run of many seeds has one fit_seconds, so the lead may be chance"),
    ],
)
def test_one_number_of_many_seeds_is_not_called_one_seed(
    metric: str, says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for depth in (5, 6):
        write_run(
            tmp_path / "x3" / f"{depth}", {"model.depth": depth}, replicas([1.0 * depth, 9]) | {"fit_seconds": depth}
        )
    (said,) = compared(capsys, tmp_path, "--metrics", metric)["verdict"]
    assert says in said and "one seed" not in said and "n = 1" not in said


def test_rows_whose_worse_seeds_were_stopped_early_are_compared_by_their_best(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    many = {"model.limit.halving": 10, "model.depth": 4}
    write_run(tmp_path / "all" / "many", many, replicas([1e-14, 1e-3, 1e-2]))
    write_run(tmp_path / "all" / "one", {"model.limit.halving": 10}, {"test/mse": 1e-13, "test/mse_min": 1e-13})
    content = compared(capsys, tmp_path)
    assert content["main_metric"] == "test/mse_min"
    assert [row["name"] for row in content["rows"] if row["best"]] == ["all/many"]
    (said,) = (line for line in content["remarks"] if line.startswith("1 of 2 rows stopped their worse seeds early"))
    assert said.endswith("the best seeds are compared (test/mse_min).")
    other = compared(capsys, tmp_path, "--metrics", "test/mse")
    assert other["rows"][0]["name"] == "all/one"
    assert any(line.endswith("--metrics test/mse_min is more telling.") for line in other["remarks"])


def test_an_option_that_only_some_runs_give_is_a_difference(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = {"a": {"model.limit.options": {}}, "b": {"model.limit.options.accelerated": False}, "c": {}}
    for name, config in options.items():
        write_run(tmp_path / "all" / name, config, replicas([1e-3, 2e-3]))
    content = compared(capsys, tmp_path)
    assert {tuple(row["runs"]) for row in content["rows"]} == {("all/a", "all/c"), ("all/b",)}


def test_metrics_of_ones_own_modules_are_compared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    own = {"model.class_path": "mine.MyClassifier"}
    for name, share in (("a", 0.6), ("b", 0.8)):
        summary = {"test_loss": share, "test_acc": share, "parameters": 9}
        write_run(tmp_path / "known" / name, own | {"model.hidden": share}, summary)
        summary = {"test_zeal": share, "monitor": "val_zeal", "mode": "min"}
        write_run(tmp_path / "said" / name, own | {"model.hidden": share}, summary)
    content = compared(capsys, tmp_path / "known")
    assert {*content["rows"][0]["metrics"]} == {"test_acc", "test_loss", "parameters"}
    assert content["verdict"][0].startswith("Best by test_acc: hidden 0.8")
    assert compared(capsys, tmp_path / "said")["verdict"][0].startswith("Best by test_zeal: hidden 0.6")


def test_the_ends_of_a_narrow_domain_are_told_apart() -> None:
    assert shown([1e6, 1e6 + 3.0]) == "1000000, 1000003"
    assert shown([-1.0, 0.1, 0.10000000000000002]) == "-1, 0.1, 0.10000000000000002"
