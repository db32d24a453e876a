from __future__ import annotations

import errno
import os
import re
import shutil
import socket
import threading
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.pytorch.loops.fit_loop import _FitLoop
from lightning.pytorch.strategies.launchers.subprocess_script import _SubprocessScriptLauncher

from lit_triwave.checkpoints.io import AtomicCheckpointIO
from lit_triwave.cli import main
from lit_triwave.distributed.cluster import cluster_environment
from lit_triwave.errors import TriwaveError
from lit_triwave.optim import LeastSquares
from tests.conftest import PIXEL, REPOSITORY

CONFIG = ["--config", "configs/functions/x3_minus_x.yaml"]


def test_an_unknown_command_is_refused_with_all_commands(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["exprot"]) == 2
    assert capsys.readouterr().err == (
        "error: the command must be one of fit, validate, test, predict, sweep, reproduce, compare-heads, inspect, "
        "export, compare, got exprot; did you mean 'export'?\n"
    )


@pytest.fixture(autouse=True)
def _in_the_repository(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(REPOSITORY)


def refuse(capsys: pytest.CaptureFixture[str], root: Path, *args: str, left: bool = False) -> str:
    """Runs a command that must fail with one line and write no files; returns the line."""
    capsys.readouterr()
    assert main([args[0], "--run.root", str(root), *args[1:]]) in (1, 2)
    said = capsys.readouterr()
    assert "global batch" not in said.out  # it is refused before the run is described
    lines = said.err.strip().splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("error: ")
    assert len(lines[0]) < 400
    if not left:
        assert not root.is_dir() or not [path for path in root.iterdir() if path.is_dir()]
    return lines[0]


@pytest.mark.lowest
@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["--model.dept", "3"], "'model.dept' is not accepted; did you mean 'model.depth'?"),
        (["--model.pretrain.epohcs", "3"], "--model.pretrain.epohcs=3; did you mean 'model.pretrain.epochs'?"),
        (["--modell", "3"], "--modell 3"),
        (["--data.domian", "{x: [0, 1]}"], "'data.domian' is not accepted; did you mean 'data.domain'?"),
        (["--trainer.max_epoch", "1"], "--trainer.max_epoch 1; did you mean 'trainer.max_epochs'?"),
        (["--modle.depth", "3"], "--modle.depth 3; did you mean 'model'?"),
        (["--model.depth", "0"], "depth must be at least 1, got 0"),
        (["--model.depth", "30"], "depth must be at most 16"),
        (["--model.pretrain.epoch", "3"], "--model.pretrain.epoch=3; did you mean 'model.pretrain.epochs'?"),
        (["--trainer.precision", "bf16-true"], "got bf16-true"),
        (["--data.expression", "-x**2"], "--data.expression=-x**2"),
        (["--data.expression", "1e200*x"], "rescale the targets"),
        (["--run.id", "a#b"], "# ? % :, got 'a#b'"),
        (["--run.project", "a/b c"], "run.project must be 1 to 128 characters"),
        (["--run.root", ""], "run.root must be a folder, got ''"),
        (["--run.root", "a\x1b[31mb"], "run.root must have no control characters, got 'a\\x1b[31mb'"),
        (["--model.replicas", "null"], "model.replicas must be a whole number, got null"),
        (["--model.recruit", "[1]"], "recruit must be true or false, got [1]"),
        (["--model.pretrain", "[]"], "model.pretrain must be a mapping, such as epochs: 10, got []"),
        (["--model.class_path", "3"], "class_path"),
        (["--data.domain", "[]"], "domain must have two numbers for each variable, such as {x: [-1, 1]}, got []"),
        (
            ["--data.domain", "[-1,1]", "--data.expression=exp(-v*u) + 2e-3"],
            "such as {v: [-1, 1], u: [-1, 1]}, got [-1, 1]",
        ),
        (["--data.domain", "{x: 3}"], "two numbers for each variable, such as {x: [-1, 1]}, got 3"),
        (["--data.domain", "{x: [1, 2, 3]}"], "such as {x: [-1, 1]}, got [1, 2, 3]"),
        (["--data.domain", "{x: [a, b]}"], "such as {x: [-1, 1]}, got a"),
        (["--seed_everything", "-3"], "seed_everything must be a whole number from 0 to 4294967295, got -3"),
        (["--seed_everything", "x"], "seed_everything must be true or false or a whole number, got x"),
        (["--model.depth", "many"], "depth must be a whole number or null, got many"),
        (["--model.replicas", "0"], "replicas must be at least 1, got 0"),
        (["--model.replicas", "-3"], "replicas must be at least 1, got -3"),
        (["--model.wiring", "chain"], "wiring"),
        (["--model.margin", "0.5"], "0.5), got 0.5"),
        (["--model.pretrain.lr", "-1"], "error: pretrain.lr must be above 0 and finite, got -1.0"),
        (["--model.train.epochs", "-1"], "error: train.epochs must be at least 0, got -1"),
        (["--model.train.optimizer", "Adamm"], "got 'Adamm'"),
        (
            ["--model.train.options", "{beta: 3}"],
            "train.options must suit torch.optim.Adam, got {'beta': 3}: it has no option 'beta'",
        ),
        (
            ["--model.initialization", "kaiming"],
            "pretrain.epochs must be 0 for initialization 'kaiming', which has no peaks to pretrain, got",
        ),
        (["--data.expression", "x**3 + foo(x)"], "unknown function 'foo'"),
        (["--data.expression", "x*y"], "'y'"),
        (["--data.expression", "__import__('os').getcwd()"], "an expression has only numbers"),
        (["--data.expression", "log(x)"], "log(x)"),
        (["--data.domain", "{x: [1, -1]}"], "domain of x must have lower < upper, got 1.0 and -1.0"),
        (["--data.domain", "{x: [1, 1]}"], "domain of x must have lower < upper, got 1.0 and 1.0"),
        (["--data.domain", "{}"], "domain"),
        (["--model.polish.exchange", "2"], "exchange must be between 0 and 1/2, got 2.0"),
        (
            ["--model.polish.options", "{kick: 1}"],
            "options must suit LevenbergMarquardt, got {'kick': 1}: it has no option 'kick'; options {}",
        ),
        (["--data.points", "1"], "points"),
        (["--data.noise", "-1"], "noise"),
        (["--run.id", "a\x1b[31mb"], "control characters or / \\ # ? % :, got 'a\\x1b[31mb'"),
        (["--run.group", "a\x1bb"], "without control characters, got 'a\\x1bb'"),
        (["--run.tags", '["a\x1bb"]'], 'got ["a\\x1bb"]'),
        (["--model.a\x1bb", "3"], "a\\x1bb"),
        (["--run.id", "a/b"], "run.id must be 1 to 100 characters"),
        (["--run.checkpoint_every", "0"], "run.checkpoint_every must be at least 1, got 0"),
        (["--trainer.devices", "2", "--trainer.strategy", "fsdp"], "fsdp"),
        (["--trainer.logger", "TensorBoardLoger"], "got TensorBoardLoger; did you mean 'TensorBoardLogger'?"),
        (["--trainer.callbacks", "EarlyStoping"], "got EarlyStoping; did you mean 'EarlyStopping'?"),
        (["--trainer.callbacks", "EarlyStopping"], "callbacks must be given monitor: add --trainer.callbacks.monitor"),
        (["--trainer.callbacks", "torch.nn.Linear"], "callbacks must name a Callback, got torch.nn.Linear"),
        (
            ["--trainer.callbacks", "Timer", "--trainer.callbacks.duratoin", "1"],
            "did you mean 'trainer.callbacks.duration'",
        ),
        (["--model", "FunctionRegresor"], "got FunctionRegresor; did you mean 'FunctionRegressor'?"),
        (
            ["--data", "TableData"],
            "of data must name a class, got TableData; did you mean 'TableDataModule'?",
        ),
        (["--model", "nomod.Net"], "of model must name a class, got nomod.Net: No module named 'nomod'"),
        (["--model", "torch.nn.Lin"], "must name a class, got torch.nn.Lin: module 'torch.nn' has no attribute 'Lin'"),
        (["--model", "torch.nn.Linear"], "of model must name a LightningModule, got torch.nn.Linear"),
        (["--ckpt_path", "absent.ckpt"], "absent.ckpt: no such file"),
        (["--ckpt_path", "last"], "no checkpoint in"),
        (["--ckpt_path", "best"], "no best.ckpt in"),
    ],
)
def test_a_bad_value_gets_one_line_that_names_it(args: list[str], says: str, tmp_path: Path, capsys) -> None:
    assert says in refuse(capsys, tmp_path, "fit", *CONFIG, *args)


def set_slurm_step(monkeypatch: pytest.MonkeyPatch, **step: str) -> None:
    """Sets the variables that srun gives to the first task of a job's first step."""
    for name, value in (step | {"ID": "0"}).items():
        monkeypatch.setenv(f"SLURM_STEP_{name}", value)
    for name in ("SLURM_JOB_ID", "SLURM_PROCID", "SLURM_LOCALID", "SLURM_NODEID"):
        monkeypatch.setenv(name, "0")


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["--trainer.num_nodes", "3"], "trainer.num_nodes must be 2, as srun --nodes, got 3"),
        (["--trainer.num_nodes", "2", "--trainer.devices", "4"], "trainer.devices must be 2 and 3, the tasks"),
    ],
)
def test_options_that_contradict_an_allocation_are_named(
    args: list[str], says: str, tmp_path: Path, capsys, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_slurm_step(monkeypatch, NUM_NODES="2", NUM_TASKS="5", TASKS_PER_NODE="3,2", NODELIST="n[1-2]")
    assert says in refuse(capsys, tmp_path, "fit", *CONFIG, *args)


def test_devices_that_disagree_with_a_job_of_one_task_are_named(
    tmp_path: Path, capsys, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_slurm_step(monkeypatch, NUM_NODES="1", NUM_TASKS="1", TASKS_PER_NODE="1", NODELIST="n1")
    assert type(cluster_environment(1, 2)) is LightningEnvironment  # as under `srun --pty bash`
    monkeypatch.setenv("LIT_TRIWAVE_TASKS", "1")  # as under slurm/fit.sbatch
    assert "trainer.devices must be 1, the tasks on each node of srun, got 3" in refuse(
        capsys, tmp_path, "fit", *CONFIG, "--trainer.devices", "3"
    )


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["--trainer.num_nodes", "2"], "trainer.num_nodes must be 1 without the address of the first node, got 2"),
        (["--trainer.devices", "40", "--data.points", "20"], "at least one point for each of the 40 ranks"),
        (["--trainer.devices", "5000"], "processes on this machine's"),
        (
            ["--trainer.devices", "7", "--trainer.strategy", "ddp", "--config", "configs/digits.yaml"],
            "batch_size must be a multiple of the 7 ranks, got 64",
        ),
    ],
)
def test_impossible_ranks_are_refused_before_they_are_started(
    args: list[str], says: str, tmp_path: Path, capsys, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(_SubprocessScriptLauncher, "launch")
    assert says in refuse(capsys, tmp_path, "fit", *(args if "--config" in args else [*CONFIG, *args]))


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("MASTER_PORT", "http", "environment variable MASTER_PORT must be a whole number, got 'http'"),
        ("SLURM_RESTART_COUNT", "one", "environment variable SLURM_RESTART_COUNT must be a whole number, got 'one'"),
        ("MASTER_ADDR", "nowhere.invalid", "MASTER_ADDR must be the name or address of the first node, got nowhere"),
        ("MASTER_ADDR", "n" * 64, "n (no name of a host)"),
    ],
)
def test_variables_of_the_launcher_are_named(
    name: str, value: str, says: str, tmp_path: Path, capsys, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(_SubprocessScriptLauncher, "launch")
    monkeypatch.setenv(name, value)
    assert says in refuse(capsys, tmp_path, "fit", *CONFIG, "--trainer.devices", "2", "--trainer.strategy", "ddp")


def test_name_servers_that_do_not_answer_are_not_waited_for(
    tmp_path: Path, capsys, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda address, port: answer.wait(60))
    monkeypatch.setattr("lit_triwave.distributed.cluster._ADDRESS_SECONDS", 0.2)
    monkeypatch.delattr(_SubprocessScriptLauncher, "launch")
    monkeypatch.setenv("MASTER_ADDR", "node-1")
    several = ["--trainer.devices", "2", "--trainer.strategy", "ddp"]
    assert "got node-1 (no name server has answered for" in refuse(capsys, tmp_path, "fit", *CONFIG, *several)
    answer.set()


def test_several_nodes_without_srun_are_refused(tmp_path: Path, capsys, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "7")  # as in the shell that salloc gives
    assert "single process of SLURM job 7, got 2: start it by srun" in refuse(
        capsys, tmp_path, "fit", *CONFIG, "--trainer.num_nodes", "2"
    )


def test_a_missing_or_broken_config_is_named(tmp_path: Path, capsys) -> None:
    assert "absent.yaml" in refuse(capsys, tmp_path, "fit", "--config", "absent.yaml")
    broken = tmp_path / "broken.yaml"
    broken.write_text("model: [")
    assert "config" in refuse(capsys, tmp_path, "fit", "--config", str(broken))
    assert "did you mean 'table.yaml'?" in refuse(capsys, tmp_path, "fit", "--config", "tabel.yaml")
    misspelt = tmp_path / "misspelt.yaml"
    misspelt.write_text(Path("configs/functions/x3_minus_x.yaml").read_text().replace("replicas", "replica"))
    assert "did you mean 'replicas'?" in refuse(capsys, tmp_path, "fit", "--config", str(misspelt))
    assert "a config is needed" in refuse(capsys, tmp_path, "fit")
    assert "got fitt; did you mean 'fit'?" in refuse(capsys, tmp_path, "fitt")


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.csv", b"x,y\n" + b"1,2\n" * 9999, "for a table use --config table.yaml --data.path "),
        ("a.parquet", b"PAR1\x80\xff", "for a table use --config table.yaml --data.path "),
        ("a.png", PIXEL, "for a folder of images use --config image_folder.yaml --data.root FOLDER"),
        ("a.ckpt", b"PK\x03\x04\x80", "for a checkpoint use --ckpt_path "),
        ("a.yaml", b"", "an empty file"),
        ("a.yaml", b"- model\n", "no fields"),
        ("a.yaml", b"#" * 1_000_001, "larger than 1 MB"),
        ("a.yaml", b"model:\n  depth: 3\n bad: [\n", "line 3: "),
        ("folder/a.png", PIXEL, "a folder: for a folder of images use --config image_folder.yaml --data.root "),
        ("folder/config.yaml", b"", "a folder: use "),
    ],
)
def test_a_file_of_another_kind_given_as_config_is_told_where_it_belongs(
    name: str, content: bytes, says: str, tmp_path: Path, capsys
) -> None:
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content)
    given = path if path.parent == tmp_path else path.parent
    line = refuse(capsys, tmp_path / "runs", "fit", "--config", str(given))
    assert line.startswith(f"error: --config must be a YAML config, got {given}")
    assert says in line


@pytest.mark.parametrize("command", ["validate", "test", "predict"])
def test_evaluation_without_a_run_says_so(command: str, tmp_path: Path, capsys) -> None:
    assert "run `fit` first" in refuse(capsys, tmp_path, command, *CONFIG)


@pytest.mark.parametrize(
    ("table", "says"),
    [
        ("x,y\n0,1\n1,nan\n2,3\n3,4\n4,5\n", "line 3"),
        ("x,z\n0,1\n1,2\n2,3\n3,4\n", "'y'"),
        ("x,y\n0,1\n0,2\n0,3\n0,4\n", "x"),
        ("x,y\n0,a\n1,b\n2,c\n3,d\n", "y"),
        (None, "no such file"),
    ],
)
def test_bad_tables_are_refused(table: str | None, says: str, tmp_path: Path, capsys) -> None:
    path = tmp_path / "table.csv"
    if table is not None:
        path.write_text(table)
    arguments = {"path": str(path), "inputs": ["x"], "target": "y"}
    config = {
        "model": {"class_path": "lit_triwave.modules.FunctionRegressor"},
        "data": {"class_path": "datamodules.TableDataModule", "init_args": arguments},
    }
    (tmp_path / "table.yaml").write_text(yaml.safe_dump(config))
    assert says in refuse(capsys, tmp_path / "runs", "fit", "--config", str(tmp_path / "table.yaml"))


def test_an_unknown_option_of_the_trainer_is_not_likened_to_a_field_of_the_data(tmp_path: Path, capsys) -> None:
    line = refuse(capsys, tmp_path, "fit", *CONFIG, "--trainer.nois", "1")
    assert line == "error: unrecognized arguments: --trainer.nois 1"


def test_what_a_table_needs_is_asked_for_by_its_options(tmp_path: Path, capsys) -> None:
    table = ("fit", "--config", "configs/table.yaml")
    line = refuse(capsys, tmp_path, *table)
    assert line == "error: data must be given path, inputs, target: add --data.path, --data.inputs, --data.target"
    named = ("--data.path", "a.csv", "--data.target", "y", "--data.inputs")
    assert refuse(capsys, tmp_path, *table, *named, "x,z") == "error: inputs must be a list, got x,z: write [x,z]"
    (tmp_path / "a.csv").write_bytes(PIXEL)
    line = refuse(capsys, tmp_path / "runs", *table, *named, "[x]", "--data.path", str(tmp_path / "a.csv"))
    assert line.endswith("a.csv must be a table, got a binary file: save it as .csv or .parquet")
    assert refuse(capsys, tmp_path, *table, *named, "[x]", "--data.decimal", ",,").endswith("one sign, got ',,'")


def test_a_run_folder_that_cannot_be_written_stops_the_run_before_it_starts(tmp_path: Path, capsys) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    assert "cannot be written" in refuse(capsys, blocked, "fit", *CONFIG)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_run_folder_is_refused(tmp_path: Path, capsys) -> None:
    tmp_path.chmod(0o500)
    assert "cannot be written" in refuse(capsys, tmp_path, "fit", *CONFIG)


def test_a_checkpoint_of_another_shape_is_refused_by_its_fields(trained, tmp_path: Path, capsys) -> None:
    run = trained("r")
    before = sorted(path.name for path in run.rglob("*"))
    checkpoint = ["--ckpt_path", str(run / "checkpoints" / "last.ckpt")]
    line = refuse(
        capsys, tmp_path, "fit", *CONFIG, "--model.replicas", "3", "--model.depth", "4", *checkpoint, left=True
    )
    assert "depth is 5 there and 4 here" in line
    line = refuse(
        capsys,
        tmp_path,
        "test",
        *CONFIG,
        "--model.replicas",
        "3",
        "--data.domain",
        "{x: [0, 2]}",
        *checkpoint,
        left=True,
    )
    assert "domain" in line
    assert sorted(path.name for path in run.rglob("*")) == before


@pytest.mark.parametrize(
    ("epochs", "args", "says"),
    [
        ("3", ["--data.batch_size", "50"], "data.batch_size is 167 there and 50 here"),
        ("3", ["--data.points", "400"], "data.points is 500 there and 400 here"),
        ("3", ["--model.pretrain.lr", "0.2"], "model.pretrain.lr is 0.1 there and 0.2 here"),
        ("7", ["--model.pretrain.epochs", "4"], "model.pretrain.epochs is 5 there and 4 here"),
        ("7", ["--seed_everything", "1"], "seed_everything is 0 there and 1 here"),
        ("3", ["--model.depth", "4", "--seed_everything", "1"], "seed_everything is 0 there and 1 here; depth is 5"),
    ],
)
def test_a_checkpoint_of_another_run_is_refused_by_its_fields(
    fit, trained, capsys, epochs: str, args: list[str], says: str
) -> None:
    run = trained("r", "--trainer.max_epochs", epochs)
    before = (run / "checkpoints" / "last.ckpt").read_bytes()
    fit("", *args, "--ckpt_path", str(run / "checkpoints" / "last.ckpt"), code=1)
    said = capsys.readouterr().err
    assert f"error: checkpoint {run / 'checkpoints' / 'last.ckpt'} is of another config: {says}" in said
    assert (run / "checkpoints" / "last.ckpt").read_bytes() == before


def test_all_fields_of_another_config_are_named_and_values_while_there_is_room(trained, tmp_path: Path, capsys) -> None:
    run = trained("r", "--trainer.max_epochs", "3")
    stage = {"lr": "0.2", "warmup": "0.5", "optimizer": "AdamW", "epochs": "6"}
    args = [word for name, value in stage.items() for word in (f"--model.pretrain.{name}", value)]
    args += [
        "--data.expression",
        "x**3-x+0*x",
        "--data.points",
        "400",
        "--data.noise",
        "0.25",
        "--data.batch_size",
        "7",
    ]
    args += ["--model.depth", "4", "--model.margin", "0.02", "--model.replicas", "2", "--seed_everything", "1"]
    line = refuse(
        capsys, tmp_path, "fit", *CONFIG, *args, "--ckpt_path", str(run / "checkpoints" / "last.ckpt"), left=True
    )
    fields = ["data.expression", "data.points", "data.noise", "data.batch_size", "seed_everything", "depth", "margin"]
    fields += ["replicas", *(f"model.pretrain.{name}" for name in stage if name != "epochs")]
    names = line.partition(" differ; ")[0].partition("another config: ")[2].split(", ")
    assert sorted(names) == sorted(fields)
    assert "model.pretrain.lr is 0.1 there and 0.2 here" in line


def test_an_evaluation_ignores_options_of_the_training(tmp_path: Path, capsys) -> None:
    base = ["--config", "configs/digits.yaml", "--run.root", str(tmp_path), "--run.id", "r", "--model.num_nets", "4"]
    short = ["--model.pretrain.epochs", "1", "--model.train.epochs", "0"]
    assert main(["fit", *base, *short, "--model.label_smoothing", "0.1", "--model.mixup", "0.2"]) == 0
    assert main(["test", *base, "--model.cutmix", "0.5"]) == 0
    assert "dropout is 0.0 there" in refuse(capsys, tmp_path, "test", *base, "--model.dropout", "0.5", left=True)


def test_later_stages_may_be_changed(fit, trained) -> None:
    run = trained("r", "--trainer.max_epochs", "3")
    checkpoint = ["--ckpt_path", str(run / "checkpoints" / "last.ckpt")]
    fit("", "--model.pretrain.epochs", "4", "--model.train.lr", "0.002", *checkpoint)
    assert torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["epoch"] == 8


def test_a_checkpoint_that_is_cut_is_refused(fit, trained, capsys) -> None:
    last = trained("r") / "checkpoints" / "last.ckpt"
    for content in (last.read_bytes()[:5000], b"epoch 3\n"):
        last.write_bytes(content)
        fit("r", "--ckpt_path", "last", code=1)
        line = capsys.readouterr().err.strip().splitlines()[-1]
        assert line.startswith(f"error: checkpoint {last} cannot be read (it is incomplete or not a checkpoint)")


def _full(*args: Any) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize(
    ("place", "answer", "says"),
    [
        ((shutil, "disk_usage"), lambda path: SimpleNamespace(free=1000), "MB free, got"),
        ((os, "pwrite"), _full, "cannot be written: No space left on device; set run.root to another"),
    ],
)
def test_a_full_disk_stops_the_run_before_it_starts_and_leaves_nothing(
    place: tuple[Any, str], answer: Any, says: str, tmp_path: Path, capsys, monkeypatch
) -> None:
    monkeypatch.setattr(*place, answer)
    assert says in refuse(capsys, tmp_path / "new" / "runs", "fit", *CONFIG)
    assert list(tmp_path.iterdir()) == []


def test_an_existing_run_is_not_overwritten(trained, tmp_path: Path, capsys) -> None:
    trained("r")
    assert "exists" in refuse(capsys, tmp_path, "fit", *CONFIG, "--run.id", "r", left=True)


def test_a_broken_checkpoint_is_refused(tmp_path: Path, capsys) -> None:
    (tmp_path / "torn.ckpt").write_bytes(b"PK\x03\x04 torn")
    assert "cannot be read" in refuse(
        capsys, tmp_path / "r", "fit", *CONFIG, "--ckpt_path", str(tmp_path / "torn.ckpt")
    )

    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "pwned"),)

    torch.save({"state_dict": {}, "global_step": Evil()}, tmp_path / "evil.ckpt")
    assert "cannot be read" in refuse(
        capsys, tmp_path / "r", "fit", *CONFIG, "--ckpt_path", str(tmp_path / "evil.ckpt")
    )
    with pytest.raises(TriwaveError):  # nor when Lightning asks for it
        AtomicCheckpointIO().load_checkpoint(tmp_path / "evil.ckpt", weights_only=False)
    assert not (tmp_path / "pwned").exists()


@pytest.mark.parametrize("every", ["1", "100"])
def test_a_diverging_run_stops_names_stage_and_step_and_keeps_the_last_good_checkpoint(fit, capsys, every: str) -> None:
    options = ["--model.train.optimizer", "SGD", "--model.train.options", "{}", "--model.train.lr", "1e200"]
    run = fit("r", *options, "--model.train.warmup", "0", "--run.checkpoint_every", every, code=1)
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert "not finite in stage 'train', epoch 1/5, step" in line
    assert "lower train.lr" in line
    assert str(run / "checkpoints" / "last.ckpt") in line
    kept = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
    assert kept["epoch"] == 4
    assert all(value.isfinite().all() for value in kept["state_dict"].values())


def test_a_run_that_diverges_in_its_last_step_is_no_success(fit, capsys) -> None:
    options = ["--model.pretrain.epochs", "0", "--model.train.epochs", "1", "--model.train.lr", "1e300"]
    run = fit("r", *options, "--model.train.warmup", "0", "--data.batch_size", "null", code=1)
    assert "not finite in stage 'train', epoch 1/1, step 0" in capsys.readouterr().err
    assert not (run / "summary.json").exists()


def test_a_full_disk_keeps_the_checkpoint_before(tmp_path: Path) -> None:
    writer, path = AtomicCheckpointIO(), tmp_path / "last.ckpt"
    content = {"state_dict": {"x": torch.ones(3)}, "epoch": 0, "global_step": 0}
    content["loops"] = {"fit_loop": _FitLoop(None).state_dict()}  # not begun
    writer.save_checkpoint(content | {"pytorch-lightning_version": "2"}, path)

    class Full:
        def __reduce__(self):
            raise OSError(28, "No space left on device")

    with pytest.raises(TriwaveError, match="cannot be written .* the one before is kept"):
        writer.save_checkpoint({"x": Full()}, path)
    assert torch.equal(torch.load(path, weights_only=True)["state_dict"]["x"], torch.ones(3))
    assert [file.name for file in tmp_path.iterdir()] == ["last.ckpt"]


def test_a_model_too_large_for_memory_is_refused(tmp_path: Path, capsys, monkeypatch: pytest.MonkeyPatch) -> None:
    args = ["fit", "--config", "configs/digits.yaml", "--model.num_nets"]
    assert "num_nets must be at most 1048576, got 1000000000" in refuse(capsys, tmp_path, *args, str(10**9))
    # More than a processor can address: refused also where the system promises memory that it has not.
    monkeypatch.setattr("lit_triwave.modules.classifier.build_network", lambda *_, **__: torch.empty(1 << 46))
    assert "out of memory: PyTorch asks for 281,475.0 GB more" in refuse(capsys, tmp_path, *args, "64")


def test_a_value_that_contradicts_the_data_is_refused(tmp_path: Path, capsys) -> None:
    command = ["fit", "--config", "configs/digits.yaml", "--run.root", str(tmp_path), "--model.num_classes", "7"]
    assert main(command) == 1
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert line == "error: model.num_classes must be 10, which data.num_classes says, got 7: leave it out"
    assert not list(tmp_path.iterdir())


def test_second_order_steps_that_need_too_much_memory_are_refused(
    fit: Callable[..., Path], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    rooms: list[int | None] = []
    monkeypatch.setattr("lit_triwave.modules.second_order.available_memory", lambda: 50_000_000)
    monkeypatch.setattr("lit_triwave.modules.second_order.bounded_memory", lambda room: nullcontext(rooms.append(room)))
    # What a process has freed before does not count for the limit, so a small one is no test; this fails anywhere.
    monkeypatch.setattr(LeastSquares, "normal_equations", lambda _: torch.empty(1 << 46))
    whole = ["--data.batch_size", "null", "--model.train.epochs", "0", "--model.polish.epochs", "1"]
    run = fit("r", *whole, code=1)
    (line,) = capsys.readouterr().err.strip().splitlines()
    matrices = r"two matrices of (\d+) × \1 for each of 3 networks, 0\.\d GB"
    assert re.match(f"error: out of memory: stage polish needs {matrices}: use fewer seeds", line)
    assert rooms == [50_000_000]
    assert (run / "checkpoints" / "last.ckpt").is_file()
