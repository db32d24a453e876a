"""The batch scripts on a real SLURM with two nodes (tests/slurm/cluster), started for these tests."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import torch
import yaml

from lit_triwave.cli import main
from lit_triwave.tracking.wandb_files import segments
from tests.conftest import REPOSITORY
from tests.tracked_runs import assert_complete
from tests.wandb_server import ENTITY, PROJECT, WandbServer

INSTALLED = shutil.which("sbatch") is not None and shutil.which("munged") is not None and os.geteuid() == 0
pytestmark = [
    pytest.mark.cluster,
    pytest.mark.skipif(not INSTALLED, reason="needs root, and apt-get install slurm-wlm munge"),
    pytest.mark.xdist_group("slurm"),  # one cluster is enough
]

CONFIG = "configs/functions/x3_minus_x.yaml"
SMALL = ["--model.replicas", "3", "--model.polish.epochs", "0", "--data.points", "203", "--data.batch_size", "67"]
SMALL += ["--trainer.log_every_n_steps", "1", "--trainer.check_val_every_n_epoch", "1000"]
STEPS = 4  # of an epoch
STATES = {"COMPLETED", "CANCELLED", "FAILED", "TIMEOUT", "PREEMPTED", "NODE_FAIL"}
POLL = 0.1  # seconds between two looks at a job or a file


def epochs(pretrain: int, train: int) -> list[str]:
    return ["--model.pretrain.epochs", str(pretrain), "--model.train.epochs", str(train)]


class Cluster:
    """Commands that a user types on the login node.

    Args:
        folder: with the cluster's own files.
    """

    def __init__(self, folder: Path) -> None:
        self.environment = os.environ | {
            "SLURM_CONF": str(folder / "slurm.conf"),
            "LIT_TRIWAVE_VENV": sys.prefix,
            "WANDB_MODE": "disabled",
            "PYTHONUNBUFFERED": "1",
        }
        self.hurried: set[tuple[str, str]] = set()  # (job, number of the restart)

    def call(self, *command: str, code: int = 0, **environment: str) -> str:
        done = subprocess.run(
            command,
            cwd=REPOSITORY,
            env=self.environment | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=120,
        )
        assert done.returncode == code, done.stdout
        return done.stdout

    def submit(self, output: Path, *args: str, **environment: str) -> str:
        """Submits a job; returns its id."""
        return self.call("sbatch", "--parsable", f"--output={output}", *args, **environment).strip()

    def look_up(self, job: str) -> str:
        command = ["scontrol", "--oneliner", "show", "job", job]
        done = subprocess.run(command, env=self.environment, capture_output=True, text=True, timeout=120)
        return done.stdout + done.stderr

    def state(self, job: str) -> dict[str, str]:
        while "Socket timed out" in (text := self.look_up(job)):  # SLURM's answer on a busy machine
            pass
        return dict(re.findall(r"(\w+)=(\S*)", text))

    def look(self, job: str, output: Path, deadline: float) -> dict[str, str]:
        """Returns a job's state; fails after the deadline. Makes a requeued job start soon."""
        state = self.state(job)
        # SLURM lets a requeued job wait for two minutes, until the credentials of its first start are void. Credentials
        # of the same second would be void too.
        waits = state["JobState"] == "PENDING" and state["Reason"] == "BeginTime"
        if waits and (job, state["Restarts"]) not in self.hurried:
            self.hurried.add((job, state["Restarts"]))
            self.call("scontrol", "update", f"JobId={job}", "StartTime=now+2")
        assert time.monotonic() < deadline, f"{state}\n{output.read_text()}"
        time.sleep(POLL)
        return state

    def wait(self, job: str, output: Path, seconds: float = 120) -> dict[str, str]:
        """Waits until a job is over; returns its state."""
        deadline = time.monotonic() + seconds
        while (state := self.look(job, output, deadline))["JobState"] not in STATES:
            pass
        return state

    def wait_for(self, pattern: str, output: Path, job: str, times: int = 1, seconds: float = 120) -> None:
        """Waits until a job's output contains a pattern a number of times."""
        deadline = time.monotonic() + seconds
        while not output.is_file() or len(re.findall(pattern, output.read_text(), re.MULTILINE)) < times:
            state = self.look(job, output, deadline)["JobState"]
            assert state not in STATES, f"{state}\n{output.read_text()}"


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    folder = tmp_path_factory.mktemp("slurm")
    script = str(REPOSITORY / "tests" / "slurm" / "cluster")
    # To a file: its daemons would hold a pipe open for as long as they live.
    with (folder / "up.log").open("w") as log:
        started = subprocess.run([script, "up", str(folder)], stdout=log, stderr=log, timeout=60)
    try:
        assert started.returncode == 0, (folder / "up.log").read_text()
        yield Cluster(folder)
    finally:
        subprocess.run([script, "down", str(folder)], capture_output=True, timeout=60)


def steps(run: Path) -> list[int]:
    """Returns the steps whose training metrics were logged, in the order of the file."""
    with (run / "metrics.csv").open() as file:
        return [int(row["step"]) for row in csv.DictReader(file) if row["train/mse_min"]]


def test_the_scripts_are_sound_shell() -> None:
    if shutil.which("shellcheck") is None:
        pytest.skip("needs apt-get install shellcheck")
    scripts = ["slurm/job.sh", "slurm/fit.sbatch", "slurm/array.sbatch", "tests/slurm/cluster", ".ci/run"]
    done = subprocess.run(["shellcheck", "-x", *scripts], cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_two_nodes_train_as_one_process_does(cluster: Cluster, tmp_path: Path) -> None:
    output = tmp_path / "out"
    args = ["slurm/fit.sbatch", CONFIG, *SMALL, *epochs(5, 5), "--run.root", str(tmp_path)]
    job = cluster.submit(output, "--nodes=2", *args)
    assert cluster.wait(job, output)["JobState"] == "COMPLETED", output.read_text()
    alone = ["fit", "--config", CONFIG, *SMALL, *epochs(5, 5), "--run.root", str(tmp_path), "--run.id", "one"]
    # In an allocation, but not started by srun: SLURM's variables must not make it wait for other processes.
    cluster.call("salloc", "--ntasks=2", sys.executable, "-m", "lit_triwave", *alone)
    one, two = (
        torch.load(tmp_path / "x3_minus_x" / name / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
        for name in ("one", f"slurm-{job}")
    )
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, rtol=1e-6, atol=1e-9, equal_nan=True)
    said = output.read_text()
    assert f"run           {tmp_path}/x3_minus_x/slurm-{job}, " in said
    assert "nodes         2 (n[1-2])\nranks         2, 1 on each node\n" in said
    assert "Warning" not in said


def test_a_job_that_is_requeued_twice_is_one_run(cluster: Cluster, tmp_path: Path) -> None:
    output = tmp_path / "out"
    args = ["slurm/fit.sbatch", CONFIG, *SMALL, *epochs(150, 150), "--run.root", str(tmp_path)]
    job = cluster.submit(output, "--nodes=2", *args, WANDB_MODE="offline")
    for start in range(2):
        cluster.wait_for(r"^W&B  ", output, job, times=start + 1)
        cluster.wait_for(r"^\w+ +epoch \d+/150", output, job, times=start + 1)
        cluster.call("scancel", "--signal=USR1", job)  # as --signal=USR1@120 does before the time limit
        cluster.wait_for(r"^requeued after", output, job, times=start + 1)
    state = cluster.wait(job, output)
    said = output.read_text()
    assert (state["JobState"], state["Restarts"]) == ("COMPLETED", "2"), said
    run = tmp_path / "x3_minus_x" / f"slurm-{job}"
    assert [path.name for path in run.parent.iterdir()] == [run.name]
    assert steps(run) == list(range(300 * STEPS))
    resumed = [int(step) for step in re.findall(r"^resumed from .*, step (\d+)$", said, re.MULTILINE)]
    assert len(resumed) == 2 and 0 < resumed[0] < resumed[1] < 300 * STEPS
    assert len(list((run / "wandb").glob("offline-run-*"))) == 3
    assert len(segments(run, (run / "wandb_id").read_text().strip())) == 3  # all of one run id
    assert_complete(run)
    assert json.loads((run / "summary.json").read_text())["stage"] == "train"


def test_a_pre_empted_job_gives_way_and_resumes(cluster: Cluster, tmp_path: Path) -> None:
    output = tmp_path / "out"
    args = ["slurm/fit.sbatch", CONFIG, *SMALL, *epochs(5, 100), "--run.root", str(tmp_path)]
    options = ["--nodes=2", "--ntasks-per-node=1", "--cpus-per-task=2"]
    job = cluster.submit(output, *options, *args, WANDB_MODE="offline")  # SLURM's signal reaches W&B's process, too
    cluster.wait_for(r"^train ", output, job)
    urgent = cluster.submit(tmp_path / "urgent", "--nodes=2", "--cpus-per-task=2", "--partition=urgent", "--wrap=true")
    cluster.wait(urgent, tmp_path / "urgent", seconds=60)
    state = cluster.wait(job, output)
    assert (state["JobState"], state["Restarts"]) == ("COMPLETED", "1"), output.read_text()
    assert "Traceback" not in output.read_text()
    assert steps(tmp_path / "x3_minus_x" / f"slurm-{job}") == list(range(105 * STEPS))
    assert_complete(tmp_path / "x3_minus_x" / f"slurm-{job}")


def test_scancel_saves_and_ends(cluster: Cluster, tmp_path: Path) -> None:
    output = tmp_path / "out"
    args = ["slurm/fit.sbatch", CONFIG, *SMALL, *epochs(5, 5000), "--run.root", str(tmp_path)]
    job = cluster.submit(output, "--nodes=2", *args, WANDB_MODE="offline")
    cluster.wait_for(r"^pretrain ", output, job)
    cluster.call("scancel", job)
    state = cluster.wait(job, output, seconds=30)
    assert (state["JobState"], state["Restarts"]) == ("CANCELLED", "0")
    assert cluster.call("squeue", "--noheader", f"--jobs={job}") == ""  # nor does it wait for another start
    run = tmp_path / "x3_minus_x" / f"slurm-{job}"
    saved = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
    assert 0 < saved["global_step"] < 5005 * STEPS
    assert steps(run) == list(range(saved["global_step"]))
    assert "Traceback" not in output.read_text()
    # As slurm/README.md says, the checkpoint resumes that run.
    again, few = tmp_path / "again", ["--trainer.max_epochs", str(saved["epoch"] + 3)]
    job = cluster.submit(again, "--nodes=2", *args, *few, "--ckpt_path", str(run / "checkpoints" / "last.ckpt"))
    assert cluster.wait(job, again)["JobState"] == "COMPLETED", again.read_text()
    assert [path.name for path in run.parent.iterdir()] == [run.name]
    assert steps(run) == list(range(STEPS * (saved["epoch"] + 3)))


def test_a_killed_rank_ends_the_job_and_is_named(cluster: Cluster, tmp_path: Path) -> None:
    output = tmp_path / "out"
    args = ["slurm/fit.sbatch", CONFIG, *SMALL, *epochs(5, 5000), "--run.root", str(tmp_path)]
    job = cluster.submit(output, "--nodes=2", *args)
    cluster.wait_for(r"^pretrain ", output, job)
    os.kill(process_of(job, rank=1), signal.SIGKILL)
    state = cluster.wait(job, output, seconds=60)
    assert state["JobState"] == "FAILED"
    assert state["ExitCode"] != "0:0"
    assert re.search(r"n2: task 1: Killed", output.read_text())


def process_of(job: str, rank: int) -> int:
    """Returns the process id of a rank; all nodes are this machine."""
    wanted = {f"SLURM_JOB_ID={job}", f"SLURM_PROCID={rank}", "SLURM_STEP_ID=0"}
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # gone in the meantime
            variables = (folder / "environ").read_bytes().decode(errors="replace").split("\0")
            if wanted <= set(variables) and b"lit_triwave" in (folder / "cmdline").read_bytes():
                return int(folder.name)
    raise AssertionError(f"no rank {rank} of job {job}")


def test_an_array_is_one_experiment(cluster: Cluster, tmp_path: Path) -> None:
    names = ["x3", "sin"]
    few = "--model.replicas 2 --model.pretrain.epochs 2 --model.train.epochs 2 --model.polish.epochs 0"
    lines = [f"configs/functions/{name}.yaml {few} --run.root '{tmp_path}'" for name in names]
    listed = tmp_path / "both of them.txt"  # becomes the experiment's name
    listed.write_text("\n".join([*lines, "configs/functions/absent.yaml"]))
    assert "no such config: configs/functions/absent.yaml" in cluster.call("slurm/array.sbatch", str(listed), code=2)
    listed.write_text("\n".join(["# two functions", "", *lines]) + "\n")
    submitted = cluster.call("slurm/array.sbatch", str(listed), f"--output={tmp_path}/%a.out")
    job = submitted.split()[-1]
    for task in range(1, len(names) + 1):
        output = tmp_path / f"{task}.out"
        assert cluster.wait(f"{job}_{task}", output)["JobState"] == "COMPLETED", output.read_text()
    runs = sorted((tmp_path / "both_of_them").iterdir())
    assert [run.name for run in runs] == [f"slurm-{job}_{task}" for task in range(1, len(names) + 1)]
    table = tmp_path / "both_of_them" / "comparison.csv"
    assert main(["compare", str(tmp_path / "both_of_them"), "--out", str(table)]) == 0
    with table.open() as file:
        rows = list(csv.DictReader(file))
    rows.sort(key=lambda row: row["name"])  # the best come first
    assert [row["name"] for row in rows] == [f"both_of_them/{run.name}" for run in runs]
    assert [row["data.expression"] for row in rows] == ["x**3", "sin(x)"]
    for row, run in zip(rows, runs, strict=True):
        assert float(row["test/mse"]) == json.loads((run / "summary.json").read_text())["test/mse"]


def test_agents_of_a_wandb_sweep_are_jobs_of_an_array(cluster: Cluster, tmp_path: Path) -> None:
    sweep = yaml.safe_load((REPOSITORY / "configs/sweeps/x3_constructed.yaml").read_text())
    sweep["command"] += ["--model.replicas=2", "--run.checkpoint_every=1", f"--run.root={tmp_path}"]
    sweep["command"] += ["--model.pretrain.epochs=3"]
    epochs = [2, 3, 200_000]  # the last one is to be cancelled
    sweep["parameters"] = {"model.train.epochs": {"values": epochs}}
    (tmp_path / "sweep.yaml").write_text(yaml.safe_dump(sweep))
    with WandbServer() as server:
        places = {name: str(tmp_path / "home") for name in ("HOME", "WANDB_CACHE_DIR", "WANDB_CONFIG_DIR", "WANDB_DIR")}
        environment = server.environment | places
        Path(places["HOME"]).mkdir()
        binary = Path(sys.executable).parent / "wandb"
        said = cluster.call(str(binary), "sweep", "--project", PROJECT, str(tmp_path / "sweep.yaml"), **environment)
        address = f"{ENTITY}/{PROJECT}/sweep1"
        assert f"wandb agent {address}" in said
        many = cluster.call("slurm/array.sbatch", f"wandb:{address}", code=2, **environment)
        assert many == f"error: wandb:{address}: how many agents? --array=1-4 makes four\n"
        options = ["--array=1-2", f"--output={tmp_path}/%a.out"]
        job = cluster.call("slurm/array.sbatch", f"wandb:{address}", *options, **environment).split()[-1]
        runs = tmp_path / "x3_constructed"
        deadline = time.monotonic() + 120
        while not (runs.is_dir() and sorted(map(state_of, runs.iterdir())) == ["finished", "finished", "running"]):
            assert time.monotonic() < deadline, [path.read_text() for path in tmp_path.glob("*.out")]
            time.sleep(POLL)
        (long,) = (run for run in runs.iterdir() if state_of(run) == "running")
        while not (long / "checkpoints" / "last.ckpt").is_file():
            assert time.monotonic() < deadline, [path.read_text() for path in tmp_path.glob("*.out")]
            time.sleep(POLL)
        cluster.call("scancel", job)
        for task in (1, 2):
            output = tmp_path / f"{task}.out"
            assert cluster.wait(f"{job}_{task}", output)["JobState"] in ("COMPLETED", "CANCELLED"), output.read_text()
        while state_of(long) == "running":
            assert time.monotonic() < deadline, [path.read_text() for path in tmp_path.glob("*.out")]
            time.sleep(POLL)
        assert state_of(long) == "stopped"
        saved = torch.load(long / "checkpoints" / "last.ckpt", weights_only=True)
        assert saved["epoch"] > 0
        assert sorted(command["args"]["model.train.epochs"]["value"] for command in server.sent) == epochs
        assert {(run / "wandb_id").read_text().strip() for run in runs.iterdir()} == server.runs.keys()
        assert server.unknown == []


def state_of(run: Path) -> str:
    """Returns the state in a run's `run.json`, "" if there is none yet."""
    path = run / "run.json"
    return str(json.loads(path.read_text())["state"]) if path.is_file() else ""


def test_an_error_of_all_ranks_is_reported_once(cluster: Cluster, tmp_path: Path) -> None:
    two, one = ["--nodes=2"], ["--nodes=1", "--ntasks=1"]
    cases = [
        (two, ["--trainer.num_nodes=3"], "trainer.num_nodes must be 2, as srun --nodes, got 3"),
        (two, ["--model.replicas=many"], "replicas must be a whole number, got many"),
        (one, ["--trainer.devices", "2"], "trainer.devices must be 1, the tasks on each node of srun, got 2"),
    ]
    root = tmp_path / "runs"
    for number, (options, wrong, says) in enumerate(cases):
        output = tmp_path / str(number)
        args = [CONFIG, *SMALL, "--run.root", str(root), *wrong]
        job = cluster.submit(output, *options, "slurm/fit.sbatch", *args)
        assert cluster.wait(job, output)["JobState"] == "FAILED"
        (error,) = re.findall("^error: .*", output.read_text(), re.MULTILINE)
        assert says in error
    assert not root.exists() or not any(root.iterdir())


def test_one_process_for_each_gpu_and_data_on_the_nodes_own_disk(cluster: Cluster, tmp_path: Path) -> None:
    table = tmp_path / "table.csv"
    table.write_text("x,y\n" + "".join(f"{i / 40},{(i / 40) ** 2}\n" for i in range(41)))
    config = tmp_path / "table.yaml"
    config.write_text(
        "trainer: {accelerator: cpu, precision: 64-true}\n"
        "model: {class_path: lit_triwave.modules.FunctionRegressor}\n"
        f"data: {{class_path: datamodules.TableDataModule, init_args: {{path: {table}, inputs: [x], target: y}}}}\n"
    )
    (tmp_path / "scratch").mkdir()
    output = tmp_path / "out"
    args = [str(config), *epochs(2, 2), "--run.root", str(tmp_path), "--data.path", str(table)]
    job = cluster.submit(
        output,
        *["--gpus-per-node=2", "--ntasks-per-node=2", "slurm/fit.sbatch", *args],
        LIT_TRIWAVE_DATA=str(table),
        TMPDIR=str(tmp_path / "scratch"),
    )
    assert cluster.wait(job, output)["JobState"] == "COMPLETED", output.read_text()
    assert "ranks         2, 2 on each node\n" in output.read_text()
    used = (tmp_path / "table" / f"slurm-{job}" / "config.yaml").read_text()
    assert f"path: {tmp_path}/scratch/lit_triwave-{job}/table.csv" in used
    assert not list((tmp_path / "scratch").glob("lit_triwave-*"))
