"""The command `compare` on runs of `fit` and on run folders in the documented layout."""

from __future__ import annotations

import csv
import json
import math
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from scipy import stats

from lit_triwave.cli import main
from lit_triwave.commands.compare.read.metrics_csv import MetricsFile
from lit_triwave.commands.compare.read.run_folders import read_run_folder
from lit_triwave.commands.compare.show.curves import read_curves
from lit_triwave.commands.compare.table.fields import Fields
from lit_triwave.commands.compare.table.table import compare
from tests.compared_runs import compared, refused, replicas, write_run
from tests.conftest import REPOSITORY


def test_runs_of_fit_are_one_row_for_each_depth(
    fit: Callable[..., Path], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    folders = [fit(f"a{seed}", "--seed_everything", str(seed)) for seed in (0, 1)]
    folders.append(fit("deep", "--model.depth", "6"))
    content = compared(capsys, tmp_path)
    rows = {row["fields"]["model.depth"]: row for row in content["rows"]}
    assert rows[5]["runs"] == ["x3_minus_x/a0", "x3_minus_x/a1"]
    assert (rows[5]["seeds"], rows[6]["seeds"]) == (6, 3)  # three replicas in each
    means = [json.loads((folder / "summary.json").read_text())["test/mse_mean"] for folder in folders]
    assert rows[5]["metrics"]["test/mse"]["mean"] == pytest.approx(sum(means[:2]) / 2)
    assert rows[6]["metrics"]["test/mse"]["mean"] == pytest.approx(means[2])
    assert [run["state"] for run in content["runs"]] == ["finished"] * 3
    assert main(["compare", str(folders[0]), str(folders[2]), "--figures", str(tmp_path / "figures")]) == 0
    assert "depth" in capsys.readouterr().out
    assert (tmp_path / "figures" / "curves.png").is_file()


def test_the_best_row_is_marked_and_its_lead_is_weighed(sweep: Path, capsys: pytest.CaptureFixture[str]) -> None:
    content = compared(capsys, sweep)
    assert [row["fields"] for row in content["rows"] if row["best"]] == [{"model.depth": 6, "model.release": "blocks"}]
    (said,) = content["verdict"]
    assert "larger than the seeds' spread" in said and "not larger" not in said
    assert said.startswith("Best by test/mse: depth 6, blocks")
    p = stats.ttest_ind([1e-6, 1.01e-6, 1.02e-6], [2e-6, 2.02e-6, 2.04e-6], equal_var=False).pvalue
    assert f"n = 3 and 3, p = {p:.2g}" in said
    assert main(["compare", str(sweep)]) == 0
    said = capsys.readouterr().out
    assert [line for line in said.splitlines() if "★" in line and " 6 " in line and " blocks " in line]


def test_a_small_lead_and_a_single_seed_are_said_to_be_worth_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_run(tmp_path / "x3" / "a", {"model.depth": 4}, replicas([1.0, 2.0, 3.0]))
    write_run(tmp_path / "x3" / "b", {"model.depth": 5}, replicas([1.1, 2.1, 3.1]))
    assert "not larger than the seeds' spread" in compared(capsys, tmp_path)["verdict"][0]
    write_run(tmp_path / "x3" / "c", {"model.depth": 6}, {"test/mse": 0.5})
    assert (
        "without a spread over the seeds (n = 1 and 3) the lead may be chance"
        in compared(capsys, tmp_path)["verdict"][0]
    )
    only = compared(capsys, tmp_path, "--where", "depth=6")
    assert "the only finished row" in only["verdict"][0]


def test_seeds_within_and_between_runs_are_pooled_as_one_sample(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    values = [[1.0, 2.0, 4.0], [3.0, 5.0, 5.5, 9.0], [2.5]]
    for seed, of_run in enumerate(values):
        summary = replicas(of_run) if len(of_run) > 1 else {"replicas": 1, "test/mse": of_run[0]}
        write_run(tmp_path / "x3" / f"seed{seed}", {"seed_everything": seed}, summary)
    (row,) = compared(capsys, tmp_path)["rows"]
    every = [value for of_run in values for value in of_run]
    found = row["metrics"]["test/mse"]
    assert row["seeds"] == found["n"] == len(every)
    assert found["mean"] == pytest.approx(np.mean(every))
    assert found["deviation"] == pytest.approx(np.std(every, ddof=1))
    assert found["standard_error"] == pytest.approx(stats.sem(every))
    assert found["best"] == 1.0
    assert main(["compare", str(tmp_path), "--format", "md"]) == 0
    cell = capsys.readouterr().out.splitlines()[2]
    assert f"{np.mean(every):.2f} ± {stats.sem(every):.2f}" in cell and "| **1** |" in cell


def test_a_run_that_repeats_another_stands_beside_it_and_is_no_second_seed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, error in (("parent", 1.0), ("branch", 2.0)):
        summary = replicas([error, 3 * error]) | {"parameters": 20}
        write_run(tmp_path / "x3" / name, {"seed_everything": 3}, summary)
    write_run(tmp_path / "x3" / "other", {"seed_everything": 4}, replicas([5.0, 7.0]))
    content = compared(capsys, tmp_path, tmp_path / "x3" / "parent")
    (row,) = content["rows"]
    assert (row["runs"], row["seeds"]) == (["x3/branch", "x3/other", "x3/parent"], 4)
    assert row["not_counted_again"] == []
    assert row["metrics"]["test/mse"]["mean"] == pytest.approx(((2 + 4) / 2 + 6) / 2)
    assert row["metrics"]["test/mse"]["best"] == 1.0
    assert any(line.endswith("and add no seeds: x3/branch and x3/parent.") for line in content["remarks"])


def test_a_copy_of_a_runs_folder_is_the_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for place in ("here", "there"):
        write_run(tmp_path / place / "x3" / "a", {"seed_everything": 3}, {"test/mse": 1.0})
    content = compared(capsys, tmp_path)
    assert [(row["seeds"], row["not_counted_again"]) for row in content["rows"]] == [(1, ["x3/a"])]
    assert f"Copies of runs, which are included once: {tmp_path}/here/x3/a." in content["remarks"]
    (tmp_path / "there" / "x3" / "a" / "summary.json").unlink()  # what has results counts
    finished, damaged = compared(capsys, tmp_path)["rows"]
    assert (finished["state"], finished["metrics"]["test/mse"]["mean"]) == ("finished", 1.0)
    assert damaged["state"] == "damaged"


def test_rows_are_what_the_user_says(sweep: Path, capsys: pytest.CaptureFixture[str]) -> None:
    content = compared(capsys, sweep, "--group-by", "depth", "--sort", "depth", "--descending")
    assert [row["fields"] for row in content["rows"]] == [{"model.depth": 6}, {"model.depth": 5}]
    assert [row["seeds"] for row in content["rows"]] == [6, 6]
    assert any("2 of 2 rows pool runs that differ in more than the seed: " in line for line in content["remarks"])
    content = compared(capsys, sweep, "--metrics", "fit_seconds", "--sort", "test/mse")
    assert content["main_metric"] == "fit_seconds"
    assert [row["fields"]["model.depth"] for row in content["rows"]] == [6, 6, 5, 5]


def test_the_columns_shown_tell_the_rows_apart(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number in range(8):
        config: dict[str, Any] = {f"model.f{field}": number // 2 for field in range(9)}  # which all say the same
        write_run(tmp_path / "x3" / str(number), config | {"model.release": "ab"[number % 2]}, {"test/mse": 1.0})
    assert main(["compare", str(tmp_path), "--format", "md"]) == 0
    header, _, *rows = capsys.readouterr().out.splitlines()
    assert "| release |" in header
    assert "4 more fields differ" in "".join(rows)
    with_columns = [row.split(" | ")[1:7] for row in rows[:8]]
    assert len({tuple(row) for row in with_columns}) == 8


@pytest.mark.parametrize(
    ("conditions", "left"),
    [
        (["depth>=6"], 6),
        (["model.depth < 6", "release=blocks"], 3),
        (["release!=blocks"], 6),
        (["name~6-dense"], 3),
        (["state=finished", "tags=constructed", "seed_everything<=0"], 4),
        (["test/mse<1.5e-6"], 3),
        (["seeds>=3", "depth>=6"], 6),
        (["lowest<2.5e-6"], 6),
        (["lowest<2.5e-6", "release=dense"], 3),
        (["release>blocks"], 6),
        (["started>2026-11-25"], 12),
        (["started > 2026-11-25 10:30"], 6),
        (["scales=[0.03, 1e-1]"], 6),
        (["scales=[ .03,0.1 ]"], 6),
        (["scales!=[0.03, 0.1]"], 6),
        (["scales=0.1"], 12),
        (["layers=[]"], 12),
        (["layers!=abc"], 12),
        (["lr=1e-3", "fit_seconds>4"], 4),
        (["release='blocks'", 'depth = "5"'], 3),
    ],
)
def test_conditions_leave_the_runs_that_meet_them(
    sweep: Path, capsys: pytest.CaptureFixture[str], conditions: list[str], left: int
) -> None:
    for path in sweep.rglob("run.json"):
        record = json.loads(path.read_text())
        late = record["config"]["model.depth"] == 6
        record |= {"started": f"2026-11-25T1{int(late)}:00:00Z"}
        record["config"] |= {"model.scales": [0.03, 0.1] if late else [0.1], "model.layers": []}
        path.write_text(json.dumps(record))
    assert len(compared(capsys, sweep, "--where", *conditions)["runs"]) == left


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["--where", "dept=5"], "--where dept: no run has this field; did you mean 'depth'?"),
        (["--where", "model.dept=5"], "did you mean 'model.depth'"),
        (["--where", "points>many"], "--where points>many: value must be a number for >, got 'many'"),
        (["--where", "points>nan"], "--where points>nan: value must be a number for >, got 'nan'"),
        (["--where", "seeds>9"], "--where seeds>9: no row is left of 4; seeds is 3"),
        (["--where", "lowest<many"], "--where lowest<many: value must be a number for <, got 'many'"),
        (
            ["--where", "tags>1"],
            "--where tags>1: tags is constructed, x**3 - x, …, which has no order; use = != or ~",
        ),
        (["--where", "sede=3"], "--where sede: no run has this field; did you mean 'seed' or 'seeds'?"),
        (["--where", "depth"], "FIELD OP VALUE in quotes"),
        (["--where", "depth>7"], "--where depth>7: no run is left of 12; model.depth is 5, 6"),
        (["--sort", "realease"], "--sort realease: no run has this field; did you mean 'release'"),
        (["--group-by", "width"], "--group-by width: no run has this field"),
        (["--metrics", "test/mes"], "--metrics test/mes: no run has this field; did you mean 'test/mse'"),
        (["--metrics", "qqq"], "--metrics qqq: no run has this field; there are test/mse, parameters, fit_seconds"),
        (["--sort", "lowst"], "--sort lowst: no run has this field; did you mean 'lowest'"),
        (["--where", "depth=>5"], "--where depth=>5: OP must be one of = != < <= > >= ~, got =>"),
        (["--out", "configs", "--format", "csv"], "--out must be a file, got the folder configs"),
        (["--format", "hmtl"], "--format must be one of table, md, csv, json, html, got hmtl; did you mean 'html'?"),
        (
            ["--out", "table.xls"],
            "without --format, --out must end in .txt, .md, .csv, .json, .html, .htm, got table.xls",
        ),
        (["--fromat", "md"], "unrecognized arguments: --fromat md; did you mean '--format'?"),
    ],
)
def test_a_wrong_command_line_is_said_in_one_line(
    sweep: Path, capsys: pytest.CaptureFixture[str], args: list[str], says: str
) -> None:
    assert says in refused(capsys, sweep, *args)


def test_an_unknown_option_is_no_misspelt_help(sweep: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert refused(capsys, sweep, "--model.depth", "5").endswith("unrecognized arguments: --model.depth 5")


def test_options_with_several_values_may_be_given_several_times(
    sweep: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert compared(capsys, sweep, "--group-by", "depth", "--group-by", "release") == compared(
        capsys, sweep, "--group-by", "depth", "release"
    )


def test_an_ambiguous_field_names_both(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_run(tmp_path / "x3" / "a", {"model.pretrain.lr": 0.1}, {"test/mse": 1.0})
    said = refused(capsys, tmp_path, "--where", "lr=0.1")
    assert "model.train.lr or model.pretrain.lr?" in said
    assert len(compared(capsys, tmp_path, "--where", "pretrain.lr=0.1")["runs"]) == 1


@pytest.mark.parametrize("make", ["nothing", "folder", "text", "empty"])
def test_a_folder_without_a_run_is_told_what_one_looks_like(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], make: str
) -> None:
    place = tmp_path / "there"
    if make == "text":
        place.write_text("no run")
    elif make == "folder":
        (place / "deep" / "wandb" / "run-20260101_000000-abcd1234").mkdir(parents=True)
        (place / "notes.txt").write_text("no run")
        (place / "deep" / "wandb" / "run-20260101_000000-abcd1234" / "config.yaml").write_text("a: 1")
        (place / "deep" / "around").symlink_to(place)
    elif make == "empty":
        place.mkdir()
    said = refused(capsys, place)
    assert str(place) in said and "a run's folder has run.json, summary.json, metrics.csv or config.yaml" in said


def test_the_band_of_a_run_of_many_seeds_reaches_from_the_lowest_to_the_highest(tmp_path: Path) -> None:
    rows = "step,val/mse_min,val/mse_mean,val/mse_max\n" + "".join(f"{n},{n + 1},{n + 2},{n + 9}\n" for n in range(5))
    runs = [read_run_folder(write_run(tmp_path / "a" / name, {}, {"test/mse": 1.0}, metrics=rows)) for name in "ab"]
    for some in (runs[:1], runs):
        (curve,) = read_curves(compare(some, Fields(some)), lambda done, total: None).by_row.values()
        assert (curve.low.tolist(), curve.mean.tolist()) == ([1, 2, 3, 4, 5], [2, 3, 4, 5, 6])
        assert curve.high.tolist() == [9, 10, 11, 12, 13]


def test_unfinished_runs_are_shown_and_never_count(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root, metrics = (
        tmp_path / "x3",
        "epoch,step,train/mse_mean,train/mse_min\n9,9,0.5,0.4\n19,19,1e-9,1e-10\n29,29,2e-9",
    )
    write_run(root / "whole", {"seed_everything": 0}, {"test/mse": 1.0})
    write_run(root / "going", {"seed_everything": 1}, state="running", metrics=metrics)
    write_run(root / "killed", {"seed_everything": 2}, state="running", metrics=metrics)
    write_run(root / "asked", {"seed_everything": 3}, {"test/mse": 1e-9}, state="stopped", metrics=metrics)
    write_run(root / "fell", {"seed_everything": 4}, state="failed")
    long_ago = time.time() - 3600
    for path in [*(root / "killed").iterdir(), root / "killed"]:
        os.utime(path, (long_ago, long_ago))
    content = compared(capsys, tmp_path)
    states = {run["name"]: run["state"] for run in content["runs"]}
    expected = {"whole": "finished", "going": "running", "killed": "cut off", "asked": "stopped", "fell": "failed"}
    assert states == {f"x3/{name}": state for name, state in expected.items()}
    assert [(row["name"], row["seeds"]) for row in content["rows"] if row["best"]] == [("x3/whole", 1)]
    assert next(r for r in content["runs"] if r["state"] == "cut off")["summary"]["train/mse_mean"] == 1e-9
    assert any(line.startswith("4 of 5 runs did not finish") for line in content["remarks"])
    assert main(["compare", str(tmp_path)]) == 0
    assert "(1.00e-09 train/mse_mean)" in capsys.readouterr().out
    assert main(["compare", str(tmp_path), "--format", "md"]) == 0
    said = capsys.readouterr().out
    assert all(f"| {state} |" in said for state in ("running", "cut off", "stopped", "failed"))
    assert main(["compare", str(tmp_path), "--format", "csv"]) == 0
    rows = {row["name"]: row for row in csv.DictReader(capsys.readouterr().out.splitlines())}
    assert {name: row["counted"] for name, row in rows.items() if row["counted"] == "True"} == {"x3/whole": "True"}


def test_runs_of_both_layouts_and_of_a_newer_one_are_compared(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_run(tmp_path / "x3" / "new", {"model.width": 4}, replicas([1.0, 2.0]) | {"parameters": 93})
    write_run(tmp_path / "x3" / "newest", {"model.depth": 7}, replicas([1.0, 3.0]) | {"later": {"a": 1}}, schema=3)
    old = tmp_path / "x3" / "old"
    old.mkdir()
    arguments = {"depth": 6, "release": "blocks", "train": {"lr": 0.001}}
    config = {"seed_everything": 0, "model": {"class_path": "a.B", "init_args": arguments}, "data": {"points": 500}}
    config |= {"run": {"id": None}, "ckpt_path": None}
    (old / "config.yaml").write_text("# lightning.pytorch==2.6.6\n" + yaml.safe_dump(config))
    (old / "summary.json").write_text(json.dumps({"replicas": 2, "test/mse_mean": 5.0, "test/mse_min": 4.0, "seed": 0}))
    content = compared(capsys, tmp_path)
    assert {row["name"]: row["fields"] for row in content["rows"]} == {
        f"x3/{name}": {"model.depth": depth} for name, depth in (("new", 5), ("newest", 7), ("old", 6))
    }
    assert "x3/newest: written by a newer lit_triwave (schema 3)" in content["remarks"]
    assert main(["compare", str(tmp_path)]) == 0
    assert "│ x3/old" in capsys.readouterr().out


def test_damaged_files_are_named_and_the_runs_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = "step,train/mse_mean\n" + "".join(f"{step},{1 / (1 + step)}\n" for step in range(10))
    write_run(tmp_path / "x3" / "whole", summary={"test/mse": 1.0}, metrics=rows)
    damaged = write_run(tmp_path / "x3" / "damaged", {"model.depth": 6}, metrics=rows.replace("\n5,", "\n5,#"))
    (damaged / "summary.json").write_text('{"test/mse": 1e-')
    (write_run(tmp_path / "x3" / "bytes", {"model.depth": 7}) / "metrics.csv").write_bytes(b"\xff\xfe\x00step")
    (write_run(tmp_path / "x3" / "record", {"model.depth": 7}, {"test/mse": 2.0}) / "run.json").write_text("[]")
    assert main(["compare", str(tmp_path), "--out", str(tmp_path / "page.html")]) == 0
    page = (tmp_path / "page.html").read_text()
    assert "x3/damaged: summary.json is damaged" in page
    assert "x3/damaged: metrics.csv is damaged (train/mse_mean is &#x27;#0.16" in page
    assert "x3/bytes: metrics.csv is damaged" in page
    assert "x3/record: run.json is damaged (it must be a mapping)" in page
    content = compared(capsys, tmp_path)
    assert [row["name"] for row in content["rows"] if row["best"]] == ["x3/whole"]
    assert len(content["runs"]) == 4
    other = write_run(tmp_path / "again" / "x3" / "damaged", {"model.depth": 6}) / "summary.json"
    other.write_text("{")
    assert f"{other.parent}: summary.json is damaged" in str(compared(capsys, tmp_path)["remarks"])


def test_every_format_goes_to_standard_output_or_to_a_file(
    sweep: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    for ending, form in {"txt": "table", "md": "md", "csv": "csv", "json": "json", "html": "html"}.items():
        out = tmp_path / "out" / f"table.{ending}"
        assert main(["compare", str(sweep), "--out", str(out)]) == 0
        assert re.fullmatch(rf"written  {re.escape(str(out))}, [\d.]+ [kM]B\n", capsys.readouterr().out)
        assert main(["compare", str(sweep), "--format", form]) == 0
        assert capsys.readouterr().out == out.read_text()
    with (tmp_path / "out" / "table.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 12 and {row["model.depth"] for row in rows} == {"5", "6"}
    for row in rows:
        summary = json.loads((Path(row["source"]) / "summary.json").read_text())
        assert float(row["test/mse"]) == summary["test/mse"]
    assert not (tmp_path / "out" / "table.csv.partial").exists()


def test_numbers_are_not_lost_in_blank_cells(tmp_path: Path) -> None:
    (tmp_path / "metrics.csv").write_text("a,step,b\n,0,\n1.5,1,\n,2,nan\n,3,-inf\n2e-3,4,7\n,5")
    notes: list[str] = []
    history = MetricsFile(tmp_path / "metrics.csv", notes)()
    assert not notes  # the last row is in the writing
    nan = math.nan
    assert history["step"].tolist() == [0, 1, 2, 3, 4]
    np.testing.assert_array_equal(history["a"], [nan, 1.5, nan, nan, 2e-3])
    np.testing.assert_array_equal(history["b"], [nan, nan, nan, -math.inf, 7])


def test_neither_torch_nor_lightning_is_imported(sweep: Path, tmp_path: Path) -> None:
    # What makes it quick; a time would measure the machine.
    code = (
        "import sys\nfrom lit_triwave.cli import main\n"
        f"assert main(['compare', {str(sweep)!r}, '--out', 'page.html', '--figures', '.']) == 0\n"
        "assert not {'torch', 'lightning', 'wandb', 'pandas'} & set(sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr


def test_ctrl_c_and_a_reader_that_leaves_are_quiet(sweep: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    from lit_triwave.commands.compare import command

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    command_line = f"{sys.executable} -m lit_triwave compare {sweep} --format json | head -c 10"
    done = subprocess.run(command_line, shell=True, cwd=REPOSITORY, capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ('{\n "main_m', "")
    monkeypatch.setattr(command, "read_all", interrupted)
    assert main(["compare", str(sweep)]) == 130
    assert capsys.readouterr().err == "interrupted\n"


@pytest.mark.lowest
def test_a_run_and_its_wandb_copy_are_one(
    fit: Callable[..., Path], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    run = fit("a", "--run.group", "another")
    (row,) = compared(capsys, run, run / "wandb")["rows"]
    assert row["seeds"] == 3
    assert row["runs"] == ["x3_minus_x/a"]
    content = compared(capsys, run / "wandb")  # alone it is read, and as the folder is
    (copy,), (alone,) = content["runs"], compared(capsys, run)["runs"]
    assert copy["experiment"] == alone["experiment"] == "x3_minus_x"
    assert copy["config"] == alone["config"]
    assert copy["summary"]["parameters"] == alone["summary"]["parameters"]


def test_what_is_no_file_is_written_through_and_a_link_stays(sweep: Path, tmp_path: Path) -> None:
    target, link, pipe = tmp_path / "target.csv", tmp_path / "link.csv", tmp_path / "pipe.csv"
    target.write_text("old")
    link.symlink_to(target)
    assert main(["compare", str(sweep), "--out", str(link)]) == 0
    assert link.is_symlink() and "name" in target.read_text()
    os.mkfifo(pipe)
    reader = subprocess.Popen(["cat", str(pipe)], stdout=subprocess.PIPE, text=True)
    assert main(["compare", str(sweep), "--out", str(pipe)]) == 0
    assert reader.communicate(timeout=60)[0] == target.read_text()
    assert pipe.is_fifo()
