from __future__ import annotations

import itertools
import json
import os
import re
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning.pytorch.plugins.environments import LightningEnvironment
from lightning.pytorch.strategies import DDPStrategy

from lit_triwave.cli import main
from lit_triwave.modules.stage_switch import StageSwitch
from tests.conftest import REPOSITORY
from tests.finished_runs import rows
from tests.run_command import run_command, run_ranks, start_command
from tests.small_runs import untimed_summary

pytestmark = pytest.mark.xdist_group("distributed")  # as `in_processes`, and half of those tests' time
UNUSED = "find_unused_parameters"
TWO = ["--trainer.devices", "2", "--trainer.strategy", "ddp"]


def run(root: Path, config: str, name: str, *args: str) -> Path:
    """`fit` in processes of its own: in two, as torchrun starts them, with `TWO`."""
    command = ["fit", "--config", config, "--run.root", str(root), "--run.id", name, *args]
    for done in run_ranks(command) if TWO[0] in args else [run_command(command)]:
        assert done.returncode == 0, done.stderr
        assert "Traceback" not in done.stderr
        assert "Warning" not in done.stderr
        assert "recommended" not in done.stderr
    return root / Path(config).stem / name


def fit(root: Path, name: str, *args: str) -> Path:
    """A small regression, on a number of points that the ranks do not divide evenly."""
    small = ["--model.replicas", "3", "--model.pretrain.epochs", "6", "--model.train.epochs", "6"]
    small += ["--data.points", "203", "--data.batch_size", "67", "--model.polish.epochs", "0"]
    small += ["--trainer.check_val_every_n_epoch", "4"]
    return run(root, "configs/functions/x3_minus_x.yaml", name, *small, *args)


def classify(root: Path, name: str, *args: str) -> Path:
    """A small classifier, with batch norms in its backbone and in its head."""
    small = ["--model.channels", "[4, 4]", "--model.num_nets", "6", "--model.pretrain.epochs", "1"]
    small += ["--model.train.epochs", "1", "--trainer.precision", "64-true", "--trainer.log_every_n_steps", "1"]
    return run(root, "configs/digits.yaml", name, *small, *args)


def stack(root: Path, name: str, *args: str) -> Path:
    """A small stack by second order, on a number of points that the ranks do not divide evenly."""
    small = ["--model.layers", "[2, 2]", "--model.replicas", "2", "--model.depth", "3", "--model.limit.epochs", "4"]
    small += ["--model.pretrain.epochs", "2", "--model.polish.epochs", "2", "--trainer.check_val_every_n_epoch", "2"]
    small += ["--data.points", "203", "--data.test_points", "200", "--data.expression", "exp(x*y)"]
    return run(root, "configs/stack.yaml", name, *small, *args)


def largest_difference(a: Path, b: Path, name: str = "last") -> float:
    """The largest difference of any parameter or buffer, relative to the largest value of its tensor."""
    there, here = (torch.load(run / "checkpoints" / f"{name}.ckpt", weights_only=True) for run in (a, b))
    assert there["epoch"] == here["epoch"]
    one, two = there["state_dict"], here["state_dict"]
    assert one.keys() == two.keys()
    assert one.get("best_replica") == two.get("best_replica")
    pairs = [(one[key].double(), two[key].double()) for key in one]
    return max(float((x - y).abs().max() / x.abs().max().clamp_min(1e-300)) for x, y in pairs)


SECOND_ORDER = [
    "--model.release",
    "dense",
    "--data.batch_size",
    "null",
    "--model.pretrain.optimizer",
    "LevenbergMarquardt",
]
SECOND_ORDER += ["--model.pretrain.options", "{warmup: 3}"]
SECOND_ORDER += ["--model.polish.epochs", "6", "--model.polish.options", "{warmup: 3}"]


@pytest.mark.parametrize(
    "options", [["--model.release", "blocks"], SECOND_ORDER], ids=["blocks, first order", "dense, second order"]
)
def test_two_ddp_processes_train_as_one_through_all_stages(tmp_path: Path, options: list[str]) -> None:
    one = fit(tmp_path, "one", *options)
    two = fit(tmp_path, "two", *options, *TWO)
    assert largest_difference(one, two) < 1e-6
    assert largest_difference(one, two, "best") < 1e-6
    a, b = untimed_summary(one), untimed_summary(two)
    assert a.keys() == b.keys()
    assert a["stage"] == b["stage"]
    for key in a.keys() - {"stage"}:
        assert a[key] == pytest.approx(b[key], rel=1e-6), key


def test_two_processes_train_a_stack_as_one_through_all_stages(tmp_path: Path) -> None:
    one, two = stack(tmp_path, "one"), stack(tmp_path, "two", *TWO)
    a, b = untimed_summary(one), untimed_summary(two)
    assert a.keys() == b.keys()
    # Some combinations of a stack's weights are hardly determined, so only what it computes is compared.
    for name in ("limit/mse", "pretrain/mse", "train/mse", "test/mse", "test/max_error"):
        assert a[name] == pytest.approx(b[name], rel=1e-4), name


def test_ranks_close_their_connections(tmp_path: Path) -> None:
    # gloo's threads abort a process that ends while one is at work: one in hundreds did.
    said = "--trainer.callbacks+=tests.faults.SayAtExitWhetherRanksAreConnected"
    fit = ["fit", "--config", "configs/digits.yaml", "--run.root", str(tmp_path), "--trainer.fast_dev_run", "1"]
    for done in run_ranks([*fit, *TWO, said]):
        assert done.returncode == 0, done.stderr
        assert done.stdout.splitlines()[-1] == "connected: False"


def test_a_checkpoint_of_one_process_resumes_in_two(tmp_path: Path) -> None:
    whole = fit(tmp_path, "whole")
    stopped = fit(tmp_path, "stopped", "--trainer.max_epochs", "6")  # the switch is still to come
    checkpoint = str(stopped / "checkpoints" / "last.ckpt")
    other = fit(tmp_path, "other", "--ckpt_path", checkpoint, *TWO)  # another run, which begins there
    fit(tmp_path, "stopped", "--ckpt_path", checkpoint, *TWO)
    for run in (stopped, other):
        assert largest_difference(whole, run) < 1e-6
        assert largest_difference(whole, run, "best") < 1e-6


@pytest.mark.parametrize("release", ["blocks", "dense"])
def test_two_processes_train_a_classifier_as_one_through_all_stages(tmp_path: Path, release: str) -> None:
    # No stage has parameters of another: `ddp` does not look for unused ones, and
    # raises in the second step if there is one.
    one = classify(tmp_path, "one", "--model.release", release)
    two = classify(tmp_path, "two", "--model.release", release, *TWO)
    assert largest_difference(one, two) < 1e-6
    assert largest_difference(one, two, "best") < 1e-6
    a, b = (json.loads((run / "summary.json").read_text()) for run in (one, two))
    assert a["test/loss"] == pytest.approx(b["test/loss"], rel=1e-6)
    losses = [[float(row["train/loss"]) for row in rows(run) if row["train/loss"]] for run in (one, two)]
    assert len(losses[0]) == 2 * 22
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)
    names = ("stage", "linear_regions/count", "dead_units")
    seen = [[[row.get(name) for name in names] for row in rows(run) if row["val/loss"]] for run in (one, two)]
    assert seen[0] == seen[1]
    assert seen[0][0][:2] == ["0.0", "32.0"]
    assert json.loads((two / "run.json").read_text())["hardware"]["devices"] == "2 × cpu"


BLOCK = """\
resumed from  nothing, a new run
nodes         1 ({host})
ranks         2, 2 on each node
devices       2 × cpu
strategy      DDP (gloo)
precision     32-true
global batch  64
W&B           disabled
"""


@pytest.mark.parametrize("victim", [0, 1])
def test_a_run_says_what_it_runs_on_and_ends_with_a_rank_that_is_killed(tmp_path: Path, victim: int) -> None:
    command = ["fit", "--config", "configs/digits.yaml", "--run.root", str(tmp_path), "--run.id", "r", *TWO]
    run = start_command([*command, "--model.pretrain.epochs", "5"], tmp_path / "said")
    first, *rest = itertools.takewhile(lambda line: not line.startswith("pretrain"), run.lines())
    os.kill(int(_children(run.pid)) if victim else run.pid, signal.SIGKILL)
    done = run.wait(60)
    assert first.startswith(f"run           {tmp_path}/digits/r, ")
    assert "".join(f"{line}\n" for line in rest) == BLOCK.format(host=socket.gethostname())
    assert done.returncode != 0
    # Whichever sees it first, this suite or Lightning, which looks every five seconds.
    seen = rf"^error: rank {victim} was killed|^\[rank: {victim}\] Child process"
    _until(lambda: re.search(seen, run.err.read_text(), re.MULTILINE))


def _children(pid: int) -> str:
    return Path(f"/proc/{pid}/task/{pid}/children").read_text()


def _ranks(pid: int) -> list[str]:
    """The processes of other ranks that a first rank has started; for a short time it may also have other processes."""
    return [child for child in _children(pid).split() if b"digits.yaml" in Path(f"/proc/{child}/cmdline").read_bytes()]


def _until(holds: Callable[[], Any], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.02)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_first_rank_that_goes_before_the_others_are_ready_leaves_none(tmp_path: Path, number: signal.Signals) -> None:
    runs = tmp_path / "runs"
    run = start_command(["fit", "--config", "configs/digits.yaml", "--run.root", str(runs), *TWO], tmp_path / "said")
    next(line for line in run.lines() if line.startswith("W&B"))
    _until(lambda: _ranks(run.pid))
    (other,) = _ranks(run.pid)
    run.send(number)
    done = run.wait(60)
    _until(lambda: not Path(f"/proc/{other}").exists())
    errors = run.err.read_text().strip()
    if number == signal.SIGKILL:
        assert errors == "error: rank 0 was killed, and the run with it"
    else:
        assert (done.returncode, errors) == (130, "interrupted")
        assert not runs.exists() or not list(runs.iterdir())


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGUSR1, 75)])
def test_a_node_that_waits_for_another_says_so_and_hears_signals(tmp_path: Path, number: int, code: int) -> None:
    with socket.create_server(("", 0)) as server:
        port = str(server.getsockname()[1])
    meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "NODE_RANK": "0"}
    command = ["fit", "--config", "configs/digits.yaml", "--run.root", str(tmp_path / "runs")]
    run = start_command([*command, "--trainer.num_nodes", "2"], tmp_path / "said", **meeting)
    _until(lambda: run.err.read_text().endswith("\n"))
    assert run.err.read_text() == f"waiting at 127.0.0.1:{port} until 2 ranks on 2 nodes are there\n"
    run.send(number)
    done = run.wait(20)
    assert done.returncode == code
    assert f"{signal.Signals(number).name}: nothing has been trained yet" in done.stdout
    assert not (tmp_path / "runs").exists()


def test_a_port_in_use_is_named_once(tmp_path: Path) -> None:
    with socket.create_server(("", 0)) as server:
        port = str(server.getsockname()[1])
        command = ["fit", "--config", "configs/digits.yaml", "--run.root", str(tmp_path), *TWO]
        done = run_command(command, MASTER_PORT=port)
    assert done.returncode == 1
    assert (
        done.stderr.strip() == f"error: MASTER_PORT must be a free port, got {port}, which is in use: set it to another"
    )


def test_an_error_of_all_ranks_is_said_once(tmp_path: Path) -> None:
    command = ["fit", "--config", "configs/digits.yaml", "--run.root", str(tmp_path), *TWO]
    done = run_command([*command, "--data.batch_size", "63"])
    assert done.returncode == 1
    assert done.stderr.strip() == "error: batch_size must be a multiple of the 2 ranks, got 63"


SHARDING = ["--trainer.strategy=fsdp"]
SHARDING += ["--trainer.strategy.class_path=lightning.pytorch.strategies.ModelParallelStrategy"]


@pytest.mark.parametrize("strategy", SHARDING, ids=["fsdp", "fsdp2"])
@pytest.mark.parametrize("config", ["digits", "x3_minus_x", "stack"])
def test_strategies_that_shard_are_refused_before_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys, config: str, strategy: str
) -> None:
    monkeypatch.chdir(REPOSITORY)
    options = ["--run.root", str(tmp_path), "--trainer.devices", "2", strategy]
    assert main(["fit", "--config", f"configs/{config}.yaml", *options]) == 1
    (line,) = capsys.readouterr().err.strip().splitlines()
    named = "fsdp" if "fsdp" in strategy else "ModelParallelStrategy"
    assert line.startswith(f"error: trainer.strategy must be ddp or auto, got {named}: it shards the parameters")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("ranks", "options", "asked"), [(2, {}, None), (3, {}, True), (4, {UNUSED: False}, False)])
def test_more_than_two_ranks_keep_the_order_of_their_sums(ranks: int, options: dict, asked: bool | None) -> None:
    environment = LightningEnvironment()
    environment.set_world_size(ranks)
    strategy = DDPStrategy(parallel_devices=[torch.device("cpu")], cluster_environment=environment, **options)
    StageSwitch().setup(SimpleNamespace(strategy=strategy), None, "fit")  # type: ignore[arg-type]
    assert strategy._ddp_kwargs.get(UNUSED) is asked
