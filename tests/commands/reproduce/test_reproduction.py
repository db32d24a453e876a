"""`reproduce`: its tables, its folder, and refused arguments."""

from __future__ import annotations

import csv
import dataclasses
import json
import math
import multiprocessing
import os
import signal
from pathlib import Path
from threading import Event
from typing import Any

import pandas as pd
import pytest
import torch
from matplotlib.figure import Figure

from datamodules import FunctionDataModule
from lit_triwave.cli import main
from lit_triwave.commands.quiet import QUIET
from lit_triwave.commands.reproduce import command
from lit_triwave.commands.reproduce.methods import METHODS, TABLE_METHODS
from lit_triwave.commands.reproduce.paper import FUNCTIONS, TABLE_FUNCTIONS, TABLES, Table, paper_value
from lit_triwave.commands.reproduce.programs import CHUNK, Program, free_knot_mse, programs, train
from lit_triwave.commands.reproduce.report import remarks, scientific
from lit_triwave.commands.reproduce.results import statistics
from lit_triwave.commands.reproduce.workers import train_in_processes

pytestmark = [pytest.mark.filterwarnings(f"ignore:{message}") for message in QUIET]  # as `reproduce` does


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes stages of 5 steps, small stacks, few points and few depths."""
    monkeypatch.setattr("lit_triwave.commands.reproduce.methods._epochs", lambda steps: 1)
    monkeypatch.setitem(FUNCTIONS, "r3", dataclasses.replace(FUNCTIONS["r3"], random_points=60, layers=(2, 2)))
    monkeypatch.setattr("lit_triwave.commands.reproduce.programs.STEPS_PER_EPOCH", 5)
    for name in ("programs.DEPTHS", "programs.STACK_DEPTHS", "figures.DEPTHS"):
        monkeypatch.setattr(f"lit_triwave.commands.reproduce.{name}", range(1, 3))


def reproduce(out: Path, *args: str) -> int:
    return main(["reproduce", "--out", str(out), "--seeds", "2", "--jobs", "1", *args])


def made_up(program: Program, tell: Any = None) -> dict[str, Any]:
    """Results in the form of `train`, without training."""
    error = iter(x * 1e-9 for x in range(1, 1000))
    cells = {
        method: {
            column: {"mse": [next(error) for _ in range(program.seeds)], "dead": [False] * program.seeds}
            | ({"regions": [2**program.depth] * program.seeds} if "pretrain" in METHODS[method].stages else {})
            for column in program.columns
        }
        for method in program.methods
    }
    return {"seconds": 1.0, "cells": cells}


@pytest.mark.parametrize("table", TABLES)
def test_every_cell_of_a_table_is_trained(table: Table, tmp_path: Path) -> None:
    assert reproduce(tmp_path, "--table", table) == 0
    (methods,) = json.loads((tmp_path / "results.json").read_text()).values()
    assert list(methods) == list(TABLE_METHODS[table])
    for cells in methods.values():
        assert list(cells) == (["1", "2"] if table == "depths" else list(TABLE_FUNCTIONS[table]))
        for cell in cells.values():
            assert set(cell) == {"min", "mean", "median", "dead"}
            assert 0 < cell["min"] <= cell["median"] and cell["min"] <= cell["mean"] < math.inf
            assert 0 <= cell["dead"] <= 1
    text = (tmp_path / "reproduction.md").read_text()
    assert "limit of a stack, then built" in text or table == "sparse"
    assert ("networks of one subnetwork have 2^d" in text) == (table != "nonconvex")


@pytest.mark.draws
def test_tables_pages_and_figures_show_the_cells(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(command, "train", made_up)
    savefig = Figure.savefig

    def coarse(figure: Figure, file: Path, **options: Any) -> None:  # a quarter of the pixels draws in half the time
        savefig(figure, file, **options, dpi=75)

    monkeypatch.setattr(Figure, "savefig", coarse)
    out, page = tmp_path / "out", tmp_path / "docs" / "page.md"
    assert reproduce(out, "--page", str(page)) == 0
    results = json.loads((out / "results.json").read_text())
    assert set(results) == set(TABLES) and set(results["dense"]) == set(METHODS)
    with (out / "results.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == sum(len(cells) for methods in results.values() for cells in methods.values())
    row = next(r for r in rows if (r["table"], r["method"], r["column"]) == ("dense", "theorem31", "x11"))
    assert float(row["min"]) == results["dense"]["theorem31"]["x11"]["min"]
    assert float(row["paper_min"]) == 8.86e-7 and float(row["paper_mean"]) == 7.87e-6
    assert math.isclose(float(row["free_knot_limit"]), 7.78e-9, rel_tol=2e-3)
    for text in (page.read_text(), (out / "reproduction.md").read_text()):
        assert "| Kaiming |" in text and "(8.86e-7)" in text
        assert "have 2^d" in text
        assert "| depth 2 |" in text  # the study by depth has a line for each depth
    for picture in (*TABLES, "regions"):
        assert (out / "figures" / f"{picture}.png").stat().st_size > 5_000
        assert f"](page_figures/{picture}.png)" in page.read_text()
        assert (tmp_path / "docs" / "page_figures" / f"{picture}.png").is_file()
    shown = capsys.readouterr().out
    assert "free-knot limit" in shown and "tanh 3x" in shown and "(7.86e-8)" in shown


def test_an_interrupted_run_keeps_its_cells_and_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    args = ("--table", "dense", "--functions", "x3,sin", "--methods", "kaiming", "theorem31", "polish")
    monkeypatch.setattr(command, "train", made_up)
    assert reproduce(tmp_path / "whole", *args) == 0
    trained: list[str] = []

    def train_two(program: Program, tell: Any) -> dict[str, Any]:
        if len(trained) == 2:
            raise KeyboardInterrupt
        trained.extend(program.methods)
        return made_up(program)

    out = tmp_path / "out"
    monkeypatch.setattr(command, "train", train_two)
    assert reproduce(out, *args) == 130
    assert "2 of 3 parts are saved" in capsys.readouterr().out
    assert not (out / "results.json").exists()
    monkeypatch.setattr(command, "train", lambda program, tell: trained.extend(program.methods) or made_up(program))
    assert reproduce(out, *args) == 0
    assert sorted(trained) == ["kaiming", "polish", "theorem31"]  # none of them twice
    assert json.loads((out / "results.json").read_text()) == json.loads((tmp_path / "whole/results.json").read_text())


def test_programs_in_processes_give_the_same_tables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "train", made_up)
    args = ("--table", "dense", "--functions", "x3,sin")
    assert reproduce(tmp_path / "one", *args) == reproduce(tmp_path / "two", *args, "--jobs", "2") == 0
    one, two = (json.loads((tmp_path / name / "results.json").read_text()) for name in ("one", "two"))
    assert one == two


def _ends(program: Program, tell: Any) -> dict[str, Any]:
    os._exit(1)


def test_a_process_that_ends_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.setattr(command, "train", _ends)
    assert reproduce(tmp_path / "out", "--table", "sparse", "--jobs", "2") == 1
    assert capsys.readouterr().err == "error: a process of --jobs ended, perhaps for want of memory: try --jobs 1\n"


def _does_not_end(program: Program, tell: Any) -> dict[str, Any]:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # in a fit, Lightning hears it, and only this fit ends
    tell(1.0)
    Event().wait()
    raise AssertionError


def test_ctrl_c_ends_processes_that_are_in_the_middle_of_a_program() -> None:
    def interrupt(share: float) -> None:
        raise KeyboardInterrupt

    todo = programs({"dense": ["x3"]}, {"dense": ["kaiming", "polish"]}, seeds=2)
    with pytest.raises(KeyboardInterrupt):
        list(train_in_processes(todo, 2, _does_not_end, interrupt))
    for process in multiprocessing.active_children():
        process.join(60)
    assert not multiprocessing.active_children()


def test_results_are_overwritten_only_when_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(command, "train", made_up)
    args = ("--table", "sparse", "--functions", "x3", "--methods", "kaiming")
    assert reproduce(tmp_path / "out", *args) == 0
    before = (tmp_path / "out/results.json").read_bytes()
    assert reproduce(tmp_path / "out", *args) == 1
    assert "--overwrite" in capsys.readouterr().err
    assert (tmp_path / "out/results.json").read_bytes() == before
    assert reproduce(tmp_path / "out", *args, "--overwrite", "--methods", "raai") == 0
    assert set(json.loads((tmp_path / "out/results.json").read_text())["sparse"]) == {"raai"}


def test_a_folder_of_other_settings_or_other_files_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(command, "train", made_up)
    args = ("--table", "sparse", "--functions", "x3", "--methods", "kaiming")
    out = tmp_path / "out"
    assert reproduce(out, *args) == 0
    (out / "results.json").unlink()
    assert main(["reproduce", "--out", str(out), "--seeds", "3", *args]) == 1
    assert "seeds 2 there and 3 here" in capsys.readouterr().err
    cut = json.loads((out / "seeds.json").read_text())
    cut["programs"] = {name: {"seconds": 1} for name in cut["programs"]}
    for damaged in ("{", "[]", "null", json.dumps(cut)):
        (out / "seeds.json").write_text(damaged)
        assert reproduce(out, *args) == 1
    assert "is damaged" in capsys.readouterr().err
    other = tmp_path / "other"
    other.mkdir()
    (other / "thesis.tex").write_text("mine")
    assert reproduce(other, *args, "--overwrite") == 1
    assert "with other files" in capsys.readouterr().err
    assert (other / "thesis.tex").read_text() == "mine"


@pytest.mark.parametrize(
    ("args", "code", "message"),
    [
        (["--methods", "kaimng"], 2, "--methods must be among kaiming, raai"),
        (["--functions", "x5"], 2, "--functions must be among x3, x11"),
        (
            ["--table", "denes"],
            2,
            "--table must be one of dense, sparse, nonconvex, depths, all, got denes; did you mean 'dense'?",
        ),
        (["--seeds", "0"], 2, "--seeds must be at least 1, got 0"),
        (["--jobs", "0"], 2, "--jobs must be at least 1, got 0"),
        (["--seeed", "3"], 2, "--seeed"),
        (["--seed", "-1"], 2, "--seed must be at least 0, got -1"),
        (
            ["--table", "dense", "--functions", "r3"],
            1,
            "--functions must be among x3, x11, sin, tanh3x for table dense, got r3",
        ),
        (["--page", "/proc/page.md"], 1, "give another --page"),
        (["--methods", "polish", "--polish", "false"], 1, "must have one of the paper's methods"),
        (["--table", "depths", "--polish", "false"], 1, "must have one of the paper's methods"),
    ],
)
def test_a_wrong_argument_is_refused_by_its_name(
    args: list[str], code: int, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["reproduce", "--out", str(tmp_path / "out"), *args]) == code
    error = capsys.readouterr().err
    assert message in error
    assert len(error.strip().splitlines()) == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("methods", [("kaiming", "raai"), ("skip_pretraining", "free_scales", "theorem31")])
def test_methods_and_functions_side_by_side_are_trained_as_alone(methods: tuple[str, ...]) -> None:
    together = train(Program("dense", methods, ("x3", "sin"), 2))["cells"]
    for method in (methods[0], methods[-1]):
        for function in ("x3", "sin"):
            alone = train(Program("dense", (method,), (function,), 2))["cells"][method][function]
            # Rounding grows at kinks, by parts in a thousand in so many steps; another start would change every figure.
            torch.testing.assert_close(
                torch.tensor(together[method][function]["mse"]), torch.tensor(alone["mse"]), rtol=0.05, atol=0
            )
            assert together[method][function].get("regions") == alone.get("regions")


def test_polish_and_limit_are_better_than_the_paper_s_best_method(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lit_triwave.commands.reproduce.programs.STEPS_PER_EPOCH", 50)
    found = {
        name: train(Program("dense", (name,), ("x3",), 2))["cells"][name]["x3"]
        for name in METHODS
        if name in ("theorem31", "polish", "limit")
    }
    assert max(found["polish"]["mse"]) < min(found["theorem31"]["mse"]) / 10
    assert found["polish"]["regions"] == [32, 32]
    assert max(found["limit"]["mse"]) < 1e-15


def test_a_stack_s_error_falls_by_sixteen_with_each_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lit_triwave.commands.reproduce.programs.STEPS_PER_EPOCH", 60)
    errors = [
        train(Program("depths", ("limit",), ("x3",), 2, depth=depth))["cells"]["limit"][str(depth)]["mse"][0]
        for depth in (3, 5)
    ]
    assert 14**2 < errors[0] / errors[1] < 18**2


def test_many_seeds_are_trained_in_chunks_that_differ() -> None:
    found = programs({"dense": ["x3"]}, {"dense": ["kaiming"]}, 2 * CHUNK + 1)
    assert [program.seeds for program in found] == [CHUNK, CHUNK, 1]
    assert len({program.name for program in found}) == 3
    few = [dataclasses.replace(program, seeds=1) for program in (*found[:2], dataclasses.replace(found[0], seed=1))]
    errors = [train(program)["cells"]["kaiming"]["x3"]["mse"][0] for program in few]
    assert len(set(errors)) == 3


def test_methods_of_one_architecture_are_one_program() -> None:
    found = programs({"dense": ["x3", "sin"]}, {"dense": list(METHODS)}, 2)
    together = [("kaiming", "raai"), ("skip_pretraining", "free_scales", "theorem31"), ("polish",), ("limit",)]
    assert [program.methods for program in found] == together


def test_limits_are_those_of_method_section_6() -> None:
    limits = {"x3": 8.87e-9, "x11": 7.78e-9, "sin": 2.14e-10, "tanh3x": 6.97e-9, "x3_minus_x": 8.9e-9}
    for function, expected in limits.items():
        found = free_knot_mse(function, 5)
        assert found is not None and math.isclose(found, expected, rel_tol=5e-3)
    assert free_knot_mse("r3", 5) is None


def test_the_paper_gives_figures_for_the_cells_of_its_tables_only() -> None:
    assert paper_value("min", "dense", "kaiming", "tanh3x") == 5.75e-5
    assert paper_value("mean", "dense", "kaiming", "x11") == 2.82e-2
    assert paper_value("mean", "dense", "kaiming", "sin") is None
    assert paper_value("min", "sparse", "raai", "x3") is None
    assert paper_value("min", "nonconvex", "theorem31", "r3") == 3.5e-6
    assert paper_value("median", "dense", "kaiming", "x3") is None


def test_remarks_name_what_is_worse_than_the_paper_or_another_baseline() -> None:
    seeds = pd.DataFrame({"table": "dense", "method": ["kaiming", "kaiming", "theorem31", "theorem31"]})
    seeds = seeds.assign(column=["sin", "sin", "x3", "x3"], mse=[4.5e-6, 2, 7.86e-8, 2.0294e-6], dead=False)
    better, worse = remarks(statistics(seeds))
    assert "sin x" in better and "10 times lower" in better
    assert "x³" in worse and "mean" in worse and "2.00 times as high" in worse


def test_every_function_is_finite_and_has_the_curvature_its_wiring_needs() -> None:
    for name, function in FUNCTIONS.items():
        data = FunctionDataModule(function.expression, function.domain, points=50, sampling="random")
        assert data.train_set.y.isfinite().all()
        if name in ("x3", "x11"):
            assert data.curvature == ["convex"]
        if name in ("sin", "tanh3x"):
            assert data.curvature == ["concave"]


def test_figures_are_written_as_people_write_them() -> None:
    assert [scientific(v) for v in (1.234e-7, 1.0, 2.5e-12, 3e10)] == ["1.23e-7", "1.00e+0", "2.50e-12", "3.00e+10"]
