from __future__ import annotations

import csv
import json
import os
import platform
import re
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from benchmarks.tracking import main as measure_tracking
from lit_triwave.analysis.costs import final_parameters, multiply_adds
from lit_triwave.checkpoints.rebuild import load_module
from lit_triwave.cli import main
from lit_triwave.modules import FunctionRegressor, ImageClassifier
from lit_triwave.modules.stages import Stage
from lit_triwave.tracking.run import Run, wandb_id
from lit_triwave.tracking.wandb_files import records, segments
from tests.compared_runs import compared
from tests.conftest import REPOSITORY
from tests.faults import signal_at
from tests.finished_runs import rows
from tests.run_command import in_processes, run_command


def run_json(run: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((run / "run.json").read_text())
    return content


def wandb_records(run: Path) -> list[Any]:
    return [record for path in segments(run, (run / "wandb_id").read_text().strip()) for record in records(path)]


def wandb_config(run: Path) -> dict[str, Any]:
    return {
        item.key or ".".join(item.nested_key): json.loads(item.value_json)
        for record in wandb_records(run)
        if record.HasField("config")
        for item in record.config.update
    }


ONE_EPOCH = ["--model.pretrain.epochs", "1", "--model.train.epochs", "1"]


def test_run_json_says_what_a_run_is(fit) -> None:
    run = fit("r", "--run.tags", "[mine]", "--run.job_type", "try")
    content = run_json(run)
    assert {key: content[key] for key in ("schema", "experiment", "id", "group", "job_type", "state")} == {
        "schema": 2,
        "experiment": "x3_minus_x",
        "id": "r",
        "group": "x3_minus_x",
        "job_type": "try",
        "state": "finished",
    }
    assert content["tags"] == ["constructed", "x**3 - x", "depth 5", "3 seeds", "mine"]
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=REPOSITORY, capture_output=True, text=True)
    assert (content["git"] or {}).get("commit", "") == head.stdout.strip()
    assert content["versions"]["python"] == platform.python_version()
    assert content["hardware"]["devices"] == "1 × cpu"
    assert content["wandb_id"] is None  # W&B is disabled here
    config = content["config"]
    assert config["model.depth"] == 5
    assert config["model.pretrain.epochs"] == 5
    assert config["model.pretrain.options.betas"] == [0.9, 0.99]
    assert config["data.domain.x"] == [-1.0, 1.0]
    assert config["trainer.precision"] == "64-true"
    assert not [name for name in config if "init_args" in name or name.startswith("run")]
    assert content["started"] <= content["ended"]


@pytest.mark.parametrize(
    ("options", "code", "state"),
    [
        (signal_at(3, 1), 75, "stopped"),
        (signal_at(3, 1, "SIGINT"), 130, "stopped"),
        (["--model.train.lr", "1e200"], 1, "failed"),
    ],
    ids=["SIGUSR1", "Ctrl-C", "diverged"],
)
def test_run_json_says_how_a_run_ended(fit, options: list[str], code: int, state: str) -> None:
    run = fit("r", *options, code=code)
    assert run_json(run)["state"] == state
    if state == "stopped":
        fit("", "--ckpt_path", str(run / "checkpoints" / "last.ckpt"))
        assert run_json(run)["state"] == "finished"


def test_a_branch_says_what_it_comes_from(fit, monkeypatch, capsys) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    run = fit("r")
    assert run_json(run)["branched_from"] is None
    start = ["--ckpt_path", str(run / "checkpoints" / "pretrained.ckpt")]
    branch = fit("b", *start, *signal_at(7, 1), code=75)
    said = {"run": "x3_minus_x/r", "checkpoint": "pretrained.ckpt", "epoch": 4, "step": 15}
    assert run_json(branch)["branched_from"] == said
    found = wandb_config(branch)
    assert {name: found[f"branched_from.{name}"] for name in said} == said
    for name in ("last", "pretrained"):  # resumes, and rewinds
        monkeypatch.setenv("WANDB_MODE", "offline")
        fit("", "--ckpt_path", str(branch / "checkpoints" / f"{name}.ckpt"))
        assert run_json(branch)["branched_from"] == said
        assert wandb_config(branch)["branched_from.step"] == 15
    assert not [name for name in wandb_config(run) if name.startswith("branched")]
    for place in (run.parent, *run.parent.glob("*/wandb/offline-run-*")):  # no field in which runs differ
        assert "branched" not in str(compared(capsys, place)["rows"])
    found_by = compared(capsys, run.parent, "--where", "branched_from.run=x3_minus_x/r")["runs"]
    assert [one["name"] for one in found_by] == ["x3_minus_x/b"]
    elsewhere = run / "moved.ckpt"
    (branch / "checkpoints" / "best.ckpt").rename(elsewhere)
    monkeypatch.setenv("WANDB_MODE", "disabled")
    other = fit("other", "--ckpt_path", str(elsewhere))
    assert run_json(other)["branched_from"]["run"] is None
    assert run_json(other)["branched_from"]["checkpoint"] == "moved.ckpt"


@in_processes
def test_a_killed_run_is_running_and_one_that_is_left_at_once_is_stopped(tmp_path: Path) -> None:
    command = ["fit", "--config", "configs/functions/x3_minus_x.yaml"]
    command += ["--model.replicas", "2", "--model.pretrain.epochs", "9", "--run.root", str(tmp_path), "--run.id"]
    killed = run_command([*command, "k", *signal_at(3, 0, "SIGKILL")])
    assert killed.returncode == -signal.SIGKILL
    assert run_json(tmp_path / "x3_minus_x" / "k")["state"] == "running"
    twice = [*signal_at(3, 0, "SIGINT"), *signal_at(3, 0, "SIGINT"), "--run.checkpoint_every", "1"]
    left = run_command([*command, "l", *twice])
    assert left.returncode == 130, left.stderr
    assert run_json(tmp_path / "x3_minus_x" / "l")["state"] == "stopped"


def test_every_row_has_its_stage_and_validations_count_regions_and_dead_units(fit, monkeypatch) -> None:
    monkeypatch.setattr("lit_triwave.callbacks.diagnostics._STEPS_APART", 6)  # which all validations are
    run = fit("r", "--trainer.log_every_n_steps", "1", "--model.recruit", "false")
    logged = rows(run)
    for row in logged:
        assert float(row["stage"]) == (int(row["epoch"]) >= 5)  # also of the test
    assert logged[-1]["test/mse"]
    looked = [row for row in logged if row["val/mse_min"]]
    assert [int(row["epoch"]) for row in looked] == [1, 3, 5, 7, 9]
    assert all(row["linear_regions/count"] for row in looked)
    assert [float(row["linear_regions/count"]) for row in looked[:2]] == [63, 63]  # while the peaks are trained
    assert all(0 <= float(row["dead_units"]) < 1 for row in looked)
    summary = json.loads((run / "summary.json").read_text())
    assert float(looked[-1]["linear_regions/count"]) == summary["linear_regions/final"]
    assert float(looked[-1]["dead_units"]) == summary["dead_units"]
    assert summary["schema"] == 2
    assert summary["parameters"] == 2 * 93
    assert summary["multiply_adds"] == 2 * (4 + 4 * 16 + 4)
    assert summary["test/mse_std"] > 0


@pytest.mark.parametrize("wiring", ["difference", "sum", "composition"])
@pytest.mark.parametrize("release", ["blocks", "dense"])
def test_wandb_is_told_the_parameters_that_the_summary_will_have(fit, release: str, wiring: str) -> None:
    args = [*ONE_EPOCH, "--model.release", release, "--model.wiring", wiring, "--data.points", "100"]
    if wiring != "difference":
        args += ["--data.expression", "(x**2 + y**2)**1.5", "--data.domain", "{x: [-1, 1], y: [-1, 1]}"]
        args += ["--data.sampling", "random"]
    run = fit("r", *args)
    begun = load_module(run / "checkpoints" / "pretrained.ckpt").module
    assert begun.stage == "pretrain"
    assert final_parameters(begun) == json.loads((run / "summary.json").read_text())["parameters"]


DIGITS = ["--model.channels", "[4, 4]", "--model.num_nets", "6", "--model.depth", "3"]
DIGITS += ONE_EPOCH


@pytest.mark.parametrize("head", ["blocks", "dense", "baseline"])
def test_a_classifiers_head_is_looked_at_too(head: str, tmp_path: Path) -> None:
    if head == "baseline":
        args = ["--config", str(REPOSITORY / "configs/baselines/digits.yaml"), "--model.train.epochs", "2"]
    else:
        args = ["--config", str(REPOSITORY / "configs/digits.yaml"), *DIGITS, "--model.release", head]
    place = ["--run.root", str(tmp_path), "--run.id", "r", "--run.experiment", "e"]
    assert main(["fit", *args, *place]) == 0
    run = tmp_path / "e" / "r"
    assert all(row["stage"] for row in rows(run))
    looked = [row for row in rows(run) if row["val/accuracy"]]
    counts = [row.get("linear_regions/count") for row in looked]
    assert counts[0] == (None if head == "baseline" else "8.0")  # 2^3, of subnetworks with peaks
    assert bool(counts[1]) == (head == "blocks")  # a dense bank has no functions of one variable
    assert all(0 <= float(row["dead_units"]) <= 1 for row in looked)
    summary = json.loads((run / "summary.json").read_text())
    assert 0 <= summary["dead_units"] <= 1
    if head != "baseline":
        begun = load_module(run / "checkpoints" / "pretrained.ckpt").module
        assert final_parameters(begun) == summary["parameters"] > summary["pretrain/parameters"]
    word = "dense" if head == "baseline" else "block_diagonal"
    depth = "depth 1" if head == "baseline" else "depth 3"
    assert run_json(run)["tags"] == [word, "digits", depth, "1 seed"]


def test_multiply_adds_are_those_of_the_layers() -> None:
    none, some = Stage(epochs=0), Stage(epochs=1)
    dense = FunctionRegressor("kaiming", depth=3, width=7, replicas=2, pretrain=none)
    assert multiply_adds(dense) == 7 + 2 * 49 + 7
    whole = FunctionRegressor(wiring="difference", depth=3, replicas=2, release="dense", pretrain=some)
    assert multiply_adds(whole) == 2 * (4 + 2 * 16 + 4)
    whole.enter_stage("train")
    assert multiply_adds(whole) == 8 + 2 * 64 + 8
    data = {"num_classes": 10, "image_shape": (1, 8, 8)}
    head = ImageClassifier("none", num_nets=6, depth=3, **data)  # type: ignore[arg-type]
    assert multiply_adds(head) == 64 * 6 + 6 * (4 + 2 * 16 + 4) + 6 * 10
    head.enter_stage("train")
    assert multiply_adds(head) == 64 * 6 + 6 * (4 + 2 * 16 + 4) + 6 * 10
    assert head.training
    convolution = ImageClassifier("cnn", "dense", width=5, depth=1, channels=(3,), pretrain=none, **data)  # type: ignore[arg-type]
    assert multiply_adds(convolution) == 64 * 3 * 9 + 48 * 5 + 5 * 10


def test_wandb_gets_the_config_and_which_values_are_better(fit, monkeypatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    run = fit("r", *ONE_EPOCH, "--trainer.log_every_n_steps", "1", "--run.group", "mine", "--run.artifact", "true")
    found = wandb_records(run)
    (started,) = [record.run for record in found if record.HasField("run")][:1]
    assert (started.run_group, started.job_type) == ("mine", "fit")
    assert list(started.tags) == ["constructed", "x**3 - x", "depth 5", "3 seeds"]
    config = wandb_config(run)
    content = run_json(run)
    for name, value in content["config"].items():
        assert config[name] == value, name
    assert config["multiply_adds"] == 2 * (4 + 4 * 16 + 4)
    assert config["versions.torch"] == content["versions"]["torch"]
    assert config["hardware.cores"] == content["hardware"]["cores"]
    assert not [name for name in config if "instantiator" in name or ("class_path" in name.lower() and name[0] == "_")]
    best = {record.metric.name: record.metric.summary for record in found if record.HasField("metric")}
    assert best["val/mse_min"].min
    assert not best["val/mse_min"].max
    assert best["val/mse_max"].min and best["train/mse_max"].min
    artifacts = [record for record in found if record.HasField("request") or record.HasField("artifact")]
    assert artifacts
    (kept,) = run.glob("wandb/offline-run-*/artifact/*")
    assert kept.name == "best.ckpt"
    assert kept.read_bytes() == (run / "checkpoints" / "best.ckpt").read_bytes()
    hparams = (run / "hparams.yaml").read_text()
    assert "depth: 5" in hparams
    assert "instantiator" not in hparams


@in_processes
def test_a_run_survives_the_end_of_wandbs_process(tmp_path: Path) -> None:
    command = ["fit", "--config", "configs/functions/x3_minus_x.yaml", "--run.id", "r"]
    command += ["--model.replicas", "2", "--model.pretrain.epochs", "9", "--model.polish.epochs", "0"]
    command += ["--run.root", str(tmp_path), "--run.artifact", "true", "--trainer.log_every_n_steps", "1"]
    command += ["--trainer.callbacks+=tests.faults.KillWandb", "--trainer.callbacks.epoch=3"]
    done = run_command(command, WANDB_MODE="offline")
    assert done.returncode == 0, done.stderr
    assert "its process is gone" in done.stdout
    run = tmp_path / "x3_minus_x" / "r"
    assert run_json(run)["state"] == "finished"
    assert (run / "figures" / "fit.png").is_file()


def test_a_run_of_an_agent_has_the_agents_id(tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "wandb_id").write_text("other\n")
    assert wandb_id(tmp_path, {}) == "other"
    monkeypatch.setenv("WANDB_RUN_ID", "given")
    assert wandb_id(tmp_path, {}) == "other"
    monkeypatch.setenv("WANDB_SWEEP_ID", "sweep")
    assert wandb_id(tmp_path, {"run": {"wandb_id": "other"}}) == "given"
    assert (tmp_path / "wandb_id").read_text().strip() == "given"


KEY = "0123456789abcdef0123456789abcdef01234567"
HOST = "a-machine-of-ours"
ELSEWHERE = f"""
import platform, socket, sys
socket.gethostname = socket.getfqdn = lambda *_: "{HOST}"
platform.node = lambda: "{HOST}"
from lit_triwave.cli import main
for command in sys.argv[1:]:
    print("code", main(command.split()))
"""


# In a process of its own: W&B keeps the key that it has once seen for as long as the process lives.
@in_processes
def test_no_key_no_host_no_user_and_no_home_folder_lands_in_a_run_folder(tmp_path: Path) -> None:
    home, scratch = tmp_path / "home" / "our_user", tmp_path / "scratch" / "our_user"
    for folder in (home, scratch):
        folder.mkdir(parents=True)
    lines = ["t,load", *(f"{i},{(i / 40) ** 2}" for i in range(41))]
    (home / "table.csv").write_text("\n".join(lines))
    (scratch / "ask.csv").write_text("t\n3\n")
    data = {"path": f"{home}/table.csv", "inputs": ["t"], "target": "load", "predict_path": f"{scratch}/ask.csv"}
    model = {"depth": 3, "replicas": 2, "pretrain": {"epochs": 4}, "train": {"epochs": 4}}
    config = {
        "trainer": {"accelerator": "cpu", "precision": "64-true", "log_every_n_steps": 1},
        "model": {"class_path": "lit_triwave.modules.FunctionRegressor", "init_args": model},
        "data": {"class_path": "datamodules.TableDataModule", "init_args": data},
        "run": {
            "root": f"{home}/runs",
            "group": f"{home}/group",
            "tags": [f"{home}/tag"],
            "artifact": True,
            "checkpoint_every": 1,
            "wandb": "offline",
        },
    }
    (home / "load.yaml").write_text(yaml.safe_dump(config))
    run = home / "runs" / "load" / "r"
    fit = f"fit --config {home}/load.yaml --run.id r"
    again = f"--config {run}/config.yaml --run.id again --run.wandb disabled"
    commands = [f"{fit} {' '.join(signal_at(2, 0))}", f"{fit} --ckpt_path last", f"fit {again}", f"predict {again}"]
    environment = {"HOME": str(home), "LOGNAME": "our_user", "USER": "our_user", "WANDB_API_KEY": KEY}
    (tmp_path / "elsewhere.py").write_text(ELSEWHERE)
    done = run_command(commands, home, script=tmp_path / "elsewhere.py", **environment)
    assert re.findall(r"^code (\d+)", done.stdout, flags=re.MULTILINE) == ["75", "0", "0", "0"], done.stderr
    assert HOST in done.stdout  # the screen shows it, so it was available

    files = [path for path in run.rglob("*") if path.is_file()]
    assert len(files) > 10
    assert len(list(run.glob("wandb/offline-run-*/*.wandb"))) == 2
    for path in files:
        content = path.read_bytes()
        for word in (KEY, HOST, str(home), "our_user"):
            assert word.encode() not in content, f"{word} in {path.relative_to(run)}"
    assert not [path for path in run.rglob("*") if path.is_symlink() and os.readlink(path).startswith("/")]
    # W&B's own process would ask the machine itself.
    kept = wandb_records(run)
    assert not [record for record in kept if record.HasField("run") and (record.run.host or record.run.HasField("git"))]
    assert not [record for record in kept if record.HasField("environment")]
    saved = yaml.safe_load((run / "config.yaml").read_text())
    assert saved["data"]["init_args"]["path"] == "~/table.csv"
    assert saved["data"]["init_args"]["predict_path"] == f"{tmp_path}/scratch/$USER/ask.csv"
    assert run_json(run)["config"]["data.path"] == "~/table.csv"
    assert run_json(run)["tags"] == ["constructed", "table.csv", "depth 3", "2 seeds", "~/tag"]
    assert run_json(run)["group"] == "~/group"
    # What was saved is a config that runs, and predicts.
    with (run.with_name("again") / "predictions.csv").open() as file:
        assert [float(row["t"]) for row in csv.DictReader(file)] == [3]


def test_an_artifact_whose_path_would_name_the_home_folder_is_left_out(
    fit, tmp_path: Path, capsys, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("HOME", str(tmp_path / "our_home"))
    run = fit("r", *ONE_EPOCH, "--run.root", str(tmp_path / "our_home" / "runs"), "--run.artifact", "true")
    run = tmp_path / "our_home" / "runs" / run.relative_to(tmp_path)
    assert "no artifact, as its path would name the home folder" in capsys.readouterr().out
    for path in run.rglob("*"):
        assert not path.is_file() or b"our_home" not in path.read_bytes(), path


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--run.tags", f"[{'x' * 65}]"], "run.tags, number 1"),
        (["--run.job_type", ""], "run.job_type must be 1 to 64 characters"),
        (["--run.job_type", "a\nb"], "run.job_type"),
    ],
)
def test_words_that_wandb_would_refuse_are_refused_first(options: list[str], says: str, capsys, monkeypatch) -> None:
    monkeypatch.chdir(REPOSITORY)
    assert main(["fit", "--config", "configs/functions/x3_minus_x.yaml", *options]) != 0
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert says in line
    assert "64 characters" in line


@pytest.mark.parametrize("name", ["project", "group"])
def test_wandbs_variables_are_taken_as_wandb_takes_them(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    variable = {"project": "WANDB_PROJECT", "group": "WANDB_RUN_GROUP"}[name]
    monkeypatch.delenv("WANDB_MODE", raising=False)
    for value in ("my project", "x" * 128):
        monkeypatch.setenv(variable, value)
        assert getattr(Run(), name) == value
    monkeypatch.setenv(variable, "x" * 129)
    with pytest.raises(ValueError, match=f"^{variable} must be 1 to 128 characters"):
        Run(wandb="offline")
    Run(wandb="disabled")
    with pytest.raises(ValueError, match=f"^run.{name} must be 1 to 128 characters"):
        Run(wandb="disabled", **{name: "x" * 129})
    monkeypatch.setenv("WANDB_MODE", "disabled")
    Run()


def test_the_script_that_measures_tracking_prints_its_share(monkeypatch, capsys) -> None:
    monkeypatch.chdir(REPOSITORY)
    share = measure_tracking(["--turns", "1", "--epochs", "2", "--model.channels", "[4, 4]", "--model.num_nets", "4"])
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "together" in line]
    assert share > 0  # it measures something
    assert f"{share:.2%}" in line
