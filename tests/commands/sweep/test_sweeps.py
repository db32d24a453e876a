from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from lit_triwave.cli import main
from lit_triwave.commands.sweep.definition import read_sweep
from lit_triwave.commands.sweep.parameters import parameters
from lit_triwave.commands.sweep.plan import run_ids
from lit_triwave.commands.sweep.process import Stop
from lit_triwave.tracking.lock import locked
from lit_triwave.tracking.run import SWEEP_VARIABLE
from tests.conftest import REPOSITORY
from tests.faults import signal_at
from tests.finished_runs import assert_ends_alike, rows
from tests.image_data import write_cifar10
from tests.run_command import in_processes, run_command, start_command

SWEEPS = sorted((REPOSITORY / "configs" / "sweeps").glob("*.yaml"))
COMMAND = ["${env}", "${interpreter}", "-m", "lit_triwave", "fit", "--config=configs/baselines/x3.yaml", "${args}"]
SMALL = ["--model.replicas", "2", "--model.train.epochs", "4", "--data.batch_size", "100"]


@pytest.fixture(autouse=True)
def in_repository(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(REPOSITORY)


def write(folder: Path, swept: Any, name: str = "s.yaml", **keys: Any) -> str:
    """A sweep file over dense networks on x³."""
    path = folder / name
    path.write_text(yaml.safe_dump({"command": COMMAND, "method": "grid", "parameters": swept} | keys, sort_keys=False))
    return str(path)


def cut_down(name: str, folder: Path) -> list[str]:
    """Overrides that make a shipped sweep's runs small."""
    # Dense heads have no pretraining that could be cut down.
    heads = [
        "--trainer.limit_train_batches",
        "2",
        "--trainer.check_val_every_n_epoch",
        "5",
        "--model.train.epochs",
        "5",
    ]
    if name.startswith("cifar10"):
        table = json.dumps(write_cifar10(folder / "data"))
        data = ["--data.root", str(folder / "data"), "--data.checksums", table, "--data.batch_size", "16"]
        small = ["--data.val_images", "20", "--model.channels", "[4, 4]", "--model.num_nets", "4"]
        return [*data, *small, "--trainer.accelerator", "cpu", "--trainer.precision", "32-true", *heads]
    if name.startswith("digits"):
        return ["--model.channels", "[4, 4]", *heads]
    return [
        "--model.replicas",
        "2",
        "--model.train.epochs",
        "3",
        *(["--model.pretrain.epochs", "3"] if "constructed" in name else []),
    ]


def ends(command: list[str], code: int = 0) -> str:
    """Runs a command, checks its exit code, and returns its output."""
    done = run_command(command)
    assert done.returncode == code, done.stderr
    return done.stdout


@pytest.fixture
def sweep_here(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Any]:
    """Runs `sweep` with its runs in this process; returns what it prints, as `out` and `err`."""
    monkeypatch.setattr(Stop, "fit", lambda self, arguments: main(["fit", *arguments]))
    monkeypatch.setenv(SWEEP_VARIABLE, "1")

    def run(command: list[str], code: int = 0) -> Any:
        capsys.readouterr()
        assert main(command) == code
        return capsys.readouterr()

    return run


@pytest.mark.parametrize("path", SWEEPS, ids=lambda path: path.stem)
def test_every_shipped_sweep_runs_and_leaves_ordinary_run_folders(path: Path, tmp_path: Path, sweep_here: Any) -> None:
    small = [*cut_down(path.stem, tmp_path), "--run.root", str(tmp_path / "runs")]
    shown = sweep_here(["sweep", str(path.relative_to(REPOSITORY)), "--count", "2", *small]).out
    folder = tmp_path / "runs" / path.stem
    sweep = read_sweep(path)
    points = list(sweep.values(2))
    for number, (name, values) in enumerate(zip(run_ids(points), points, strict=True), start=1):
        summary = json.loads((folder / name / "summary.json").read_text())
        last = [row[sweep.metric] for row in rows(folder / name) if row.get(sweep.metric or "")][-1:]
        value = summary.get(sweep.metric) or float(last[0])
        assert f"run {number}/2  {name}  {sweep.metric} {value:.4g}" in shown
        settings = yaml.safe_load((folder / name / "config.yaml").read_text())
        file = values.get("config") or next(w.removeprefix("--config=") for w in sweep.before if "--config=" in w)
        twin = yaml.safe_load((REPOSITORY / file).read_text())
        for key in ("head", "initialization", "wiring"):
            if key in twin["model"]["init_args"] and f"model.{key}" not in values:
                assert settings["model"]["init_args"][key] == twin["model"]["init_args"][key]
        for key, value in values.items():
            first, *rest = key.split(".")
            found = settings[first] if first != "config" else value
            found = found["init_args"] if rest else found
            for part in rest:
                found = found[part]
            assert found == value
        assert (folder / name / "metrics.csv").is_file() and (folder / name / "checkpoints" / "last.ckpt").is_file()
    word = {"minimize": "lowest", "maximize": "highest"}[sweep.goal]
    assert f"{word} {sweep.metric}: " in shown
    assert shown.splitlines()[-1] == f"2 of 2 runs are finished; python -m lit_triwave compare {folder}"


@pytest.mark.lowest
def test_a_run_that_fails_is_named_and_the_others_are_made_and_kept(tmp_path: Path, sweep_here: Any) -> None:
    path = write(tmp_path, {"model.depth": {"values": [2, -3, 3]}})
    command = ["sweep", path, *SMALL, "--run.root", str(tmp_path)]
    shown = sweep_here(command, code=1)
    assert "run 2/3  depth=-3  failed, exit code 1" in shown.out
    assert "failed: depth=-3 (exit code 1)\n" in shown.out and "2 of 3 runs are finished" in shown.out
    assert "depth" in shown.err and len(shown.err.splitlines()) == 1
    assert sorted(run.name for run in (tmp_path / "s").iterdir()) == ["depth=2", "depth=3"]
    before = {run.name: (run / "summary.json").stat().st_mtime_ns for run in (tmp_path / "s").iterdir()}
    path = write(tmp_path, {"model.depth": {"values": [2, 3, 4]}})
    shown = sweep_here(command).out
    assert "3 runs, model.depth; 2 are finished already" in shown
    assert shown.count("finished already\n") == 3 and "run 3/3  depth=4" in shown
    assert before == {name: (tmp_path / "s" / name / "summary.json").stat().st_mtime_ns for name in before}


def test_what_the_parser_lets_through_is_refused_before_the_first_run_too(tmp_path: Path, capsys: Any) -> None:
    bad = write(tmp_path, {"model.replicas": {"values": [2, None]}})
    named = ["--run.experiment", "my heads"]
    good = write(tmp_path, {"model.depth": {"values": [2]}}, name="good.yaml")
    null = "model.replicas must be a whole number, got null"
    for path, options, says in ((bad, [], null), (good, named, "got 'my heads'")):
        assert main(["sweep", path, "--run.root", str(tmp_path), *options, "--list", str(tmp_path / "l")]) == 1
        assert says in capsys.readouterr().err
    assert not (tmp_path / "l").exists()


def test_a_run_in_use_is_left_to_its_process_and_an_unknown_metric_is_said(tmp_path: Path, sweep_here: Any) -> None:
    path = write(tmp_path, {"model.depth": {"values": [2, 3]}}, metric={"name": "test/msee", "goal": "minimize"})
    (tmp_path / "s" / "depth=2").mkdir(parents=True)
    with locked(tmp_path / "s" / "depth=2"):
        shown = sweep_here(["sweep", path, *SMALL, "--run.root", str(tmp_path)]).out
    assert f"run 1/2  depth=2  skipped: process {os.getpid()} is working on it\n" in shown
    assert "no run has the sweep's metric test/msee; did you mean 'test/mse'?" in shown
    assert "1 of 2 runs are finished" in shown and "failed" not in shown


@in_processes
def test_a_stopped_or_killed_run_goes_on_and_is_the_run_that_fit_makes(tmp_path: Path) -> None:
    path = write(tmp_path, {"model.depth": {"values": [2, 3]}})
    command = ["sweep", path, *SMALL, "--run.root", str(tmp_path), "--run.checkpoint_every", "1"]
    shown = ends([*command, *signal_at(1, 3)], code=75)
    assert "stopped by SIGUSR1, 2 of 2 runs are left; resume with:\n" in shown
    assert shown.count("resume with") == 1 and "saved, to be started again in stage 'train', epoch 2/4" in shown
    again = shlex.split(shown.splitlines()[-1])
    assert again[:3] == ["python", "-m", "lit_triwave"] and again[3 : 3 + len(command)] == command
    shown = ends([*command, *signal_at(2, 1, "SIGKILL")], code=1)  # one resumes from epoch 1, the other starts
    assert "run 1/2  depth=2  resumes" in shown
    assert "failed: depth=2 (killed by SIGKILL)" in shown and "failed: depth=3 (killed by SIGKILL)" in shown
    ends(command)
    fit = ["fit", "--config", "configs/baselines/x3.yaml", "--model.depth", "3", *SMALL, "--run.root", str(tmp_path)]
    assert main([*fit, "--run.experiment", "whole", "--run.id", "r", "--run.checkpoint_every", "1"]) == 0
    assert_ends_alike(tmp_path / "whole" / "r", tmp_path / "s" / "depth=3")


@in_processes
def test_ctrl_c_to_the_sweep_alone_stops_its_run_in_good_order(tmp_path: Path) -> None:
    path = write(tmp_path, {"model.depth": {"values": [2, 3]}})
    options = ["--run.root", str(tmp_path), *SMALL[:2], "--model.train.epochs", "3000"]
    process = start_command(["sweep", path, *options], tmp_path / "said")
    next(line for line in process.lines() if line.startswith("train "))
    process.send(signal.SIGINT)
    done = process.wait()
    assert done.returncode == 130
    assert done.stderr.splitlines() == ["Ctrl-C: stopping after this step; once more stops at once"]
    assert "interrupted in stage 'train'" in done.stdout and "stopped by SIGINT" in done.stdout
    assert "python -m lit_triwave sweep" in done.stdout.splitlines()[-1]
    assert (tmp_path / "s" / "depth=2" / "checkpoints" / "last.ckpt").is_file()
    assert not (tmp_path / "s" / "depth=3").exists()


def test_a_list_is_what_an_array_of_jobs_takes(tmp_path: Path, capsys: Any) -> None:
    swept = {"model.depth": {"values": [2, 3]}, "data.expression": {"values": ["x**3", "sin(3 * x) + 1"]}}
    path, file = write(tmp_path, swept), tmp_path / "jobs.txt"
    command = ["sweep", path, *SMALL, "--run.root", str(tmp_path)]
    assert main([*command, "--list", str(file)]) == 0
    assert f"{file}: 4 of 4 runs; submit them with: slurm/array.sbatch {file}" in capsys.readouterr().out
    lines = file.read_text().splitlines()
    assert len(lines) == 4 and not (tmp_path / "s").exists()
    # As slurm/array.sbatch reads a line, and slurm/job.sh gives it to `fit`.
    words = subprocess.run(["xargs", "printf", r"%s\0"], input=lines[1], capture_output=True, text=True, check=True)
    config, *rest = words.stdout.split("\0")[:-1]
    assert config == "configs/baselines/x3.yaml"
    job = ["--run.id", "slurm-1_2", "--trainer.num_nodes", "1", "--trainer.devices", "1", "--run.experiment", "jobs"]
    assert main(["fit", "--config", config, *job, *rest]) == 0
    (run,) = (tmp_path / "s").iterdir()
    settings = yaml.safe_load((run / "config.yaml").read_text())
    assert settings["data"]["init_args"]["expression"] == "sin(3 * x) + 1"
    assert main([*command, "--list", str(file)]) == 0
    assert file.read_text().splitlines() == [lines[0], *lines[2:]]


def test_the_list_of_a_finished_sweep_says_that_its_runs_are_finished(tmp_path: Path, sweep_here: Any) -> None:
    path, file = write(tmp_path, {"model.depth": {"values": [2]}}, metric={"name": "test/mse"}), tmp_path / "jobs.txt"
    command = ["sweep", path, *SMALL, "--run.root", str(tmp_path)]
    sweep_here(command)
    shown = sweep_here([*command, "--list", str(file)]).out
    assert "run 1/1  depth=2  test/mse " in shown and "  finished\n" in shown
    assert f"all 1 runs are finished: {file} is not written" in shown and not file.exists()


def test_runs_of_another_config_are_not_taken_for_those_of_the_sweep(tmp_path: Path, sweep_here: Any) -> None:
    path = write(tmp_path, {"model.depth": {"values": [2]}})
    command = ["sweep", path, *SMALL, "--run.root", str(tmp_path)]
    sweep_here(command)
    error = sweep_here([*command, "--model.width", "7"], code=1).err
    assert (
        "depth=2 was made from another config: model.width is 4 there and 7 here; --run.experiment NAME starts" in error
    )
    sweep_here([*command, "--trainer.log_every_n_steps", "1", "--run.wandb", "disabled"])


BAD = [
    (
        {"parameters": {"model.depht": {"values": [3]}}},
        "Option 'model.depht' is not accepted; did you mean 'model.depth'",
    ),
    ({"parameters": {"model.depth": {"values": [3, "x"]}}}, "depth must be a whole number or null, got x"),
    (
        {"parameters": {"model.depth": {"values": []}}},
        "parameter model.depth: values must be a list with at least one value, got []",
    ),
    ({"parameters": {"model.depth": {"vlaues": [3]}}}, "unknown key 'vlaues'; did you mean 'values'?"),
    (
        {"parameters": {"model.depth": 3}},
        "parameter model.depth must be {value: …}, {values: […]} or {min: …, max: …}, got 3",
    ),
    ({"parameters": {}}, "`parameters` must have names with values, got {}"),
    ({"parameters": {"model.depth": {"min": 3, "max": 4.5}}}, "min and max must both be whole numbers, or both have"),
    (
        {"parameters": {"model.train.lr": {"min": 0.1, "max": 0.2}}},
        "a grid must have a list of values, got uniform",
    ),
    (
        {"parameters": {"model.train.lr": {"distribution": "unifrom"}}},
        "distribution 'unifrom'; did you mean 'uniform'?",
    ),
    ({"parameters": {"model.depth": {"values": [3, 3]}}}, "values must differ between runs, got depth=3 twice"),
    ({"parameters": {"model.depth": {"min": 3, "max": 2}}}, "min must not be above max, got 3 and 2"),
    ({"method": "bayes"}, "`method` must be grid or random, got bayes, which needs W&B's server"),
    ({"method": "gird"}, "`method` must be grid or random, got 'gird'; did you mean 'grid'?"),
    ({"method": "random"}, "method: random needs a number of runs; give --count N, or set run_cap"),
    ({"metric": {"name": "test/mse", "goal": "min"}}, "{name: test/mse, goal: minimize}"),
    ({"run_cap": 0}, "`run_cap` must be a whole number, at least 1, got 0"),
    ({"metrics": {}}, "unknown key 'metrics'; did you mean 'metric'?"),
    ({"command": ["python", "train.py", "${args}"]}, "`command` must run lit_triwave fit"),
    ({"command": [*COMMAND[:-1], "${args_json}"]}, "`command` must have ${args} once, got ${args_json}"),
]


@pytest.mark.parametrize(("keys", "says"), BAD)
def test_a_wrong_sweep_file_is_one_line_before_any_training(keys: Any, says: str, tmp_path: Path, capsys: Any) -> None:
    path = write(tmp_path, {"model.depth": {"values": [3]}}, **keys)
    assert main(["sweep", path, "--run.root", str(tmp_path / "runs")]) == 1
    output, errors = capsys.readouterr()
    (line,) = errors.splitlines()
    assert line.startswith("error: ") and says in line
    assert output == "" and not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("args", "says", "code"),
    [
        (["absent.yaml"], "error: absent.yaml: no such file", 1),
        (["configs/x3_minus_x.yaml"], "is no sweep file: method and parameters are expected", 1),
        (["configs/trainer/multi_node.yaml"], "is no sweep file: method and parameters are expected", 1),
        (["README.md"], "README.md is no", 1),
        (
            ["configs/sweeps/x3_dense.yaml", "--model.depth", "3"],
            "--model.depth is swept by configs/sweeps/x3_dense.yaml",
            1,
        ),
        (
            ["configs/sweeps/x3_dense.yaml", "--run.id", "r"],
            "--run.id cannot be given: each run of a sweep has its own",
            1,
        ),
        (["configs/sweeps/x3_dense.yaml", "--count", "0"], "--count must be at least 1, got 0", 2),
        (["--count", "3", "--model.width", "2"], "FILE must come first", 2),
    ],
)
def test_a_wrong_command_line_is_one_line(args: list[str], says: str, code: int, capsys: Any) -> None:
    assert main(["sweep", *args]) == code
    (line,) = capsys.readouterr().err.splitlines()
    assert says in line


def test_early_terminate_is_left_out_with_a_word(tmp_path: Path, capsys: Any) -> None:
    path = write(tmp_path, {"model.depth": {"values": [2]}}, early_terminate={"type": "hyperband"})
    assert main(["sweep", path, "--list", str(tmp_path / "l.txt")]) == 0
    assert capsys.readouterr().out.startswith("early_terminate is ignored")


def test_parameters_have_wandbs_defaults_and_nested_ones_dotted_names() -> None:
    found = {p.name: p for p in parameters({
        "a": {"value": 3},
        "b": {"values": ["x", "y"]},
        "c": {"min": 1, "max": 4},
        "d": {"min": 0.0, "max": 1.0},
        "e": {"mu": 2},
        "f": {"parameters": {"g": {"distribution": "q_uniform", "min": 0.0, "max": 1.0, "q": 0.25}}},
    })}  # fmt: skip
    kinds = {name: parameter.distribution for name, parameter in found.items()}
    assert kinds == {
        "a": "constant", "b": "categorical", "c": "int_uniform", "d": "uniform", "e": "normal", "f.g": "q_uniform",
    }  # fmt: skip
    grids = [found[name].grid() for name in ("a", "b", "c", "f.g")]
    assert grids == [[3], ["x", "y"], [1, 2, 3, 4], [0, 0.25, 0.5, 0.75, 1]]


@pytest.mark.parametrize(
    ("entry", "low", "median", "high"),
    [
        ({"distribution": "int_uniform", "min": 2, "max": 6}, 2, 4, 6),
        ({"distribution": "uniform", "min": 2, "max": 6}, 2, 4, 6),
        ({"distribution": "q_uniform", "min": 2, "max": 6, "q": 0.5}, 2, 4, 6),
        ({"distribution": "log_uniform_values", "min": 0.01, "max": 1}, 0.01, 0.1, 1),
        ({"distribution": "inv_log_uniform_values", "min": 0.01, "max": 1}, 0.01, 0.1, 1),
        ({"distribution": "log_uniform", "min": -2, "max": 2}, np.exp(-2), 1, np.exp(2)),
        ({"distribution": "inv_log_uniform", "min": 0, "max": 2}, np.exp(-2), np.exp(-1), 1),
        ({"distribution": "normal", "mu": 5, "sigma": 2}, -np.inf, 5, np.inf),
        ({"distribution": "q_normal", "mu": 5, "sigma": 2, "q": 0.5}, -np.inf, 5, np.inf),
        ({"distribution": "log_normal", "mu": 1}, 0, np.e, np.inf),
        ({"distribution": "beta", "a": 2, "b": 2}, 0, 0.5, 1),
        ({"values": [1, 2, 3], "probabilities": [0.1, 0.8, 0.1]}, 1, 2, 3),
    ],
)
def test_draws_follow_their_distribution(entry: dict[str, Any], low: float, median: float, high: float) -> None:
    (parameter,) = parameters({"x": entry})
    generator = np.random.default_rng(0)
    draws = np.array([parameter.draw(generator) for _ in range(2000)])
    assert low <= draws.min() and draws.max() <= high
    assert np.median(draws) == pytest.approx(median, rel=0.12)
    if "q" in entry:
        np.testing.assert_allclose(draws / entry["q"], np.round(draws / entry["q"]))
    if "sigma" in entry:
        assert draws.std() == pytest.approx(entry["sigma"], rel=0.1)


def test_more_random_runs_leave_the_first_ones_as_they_are(tmp_path: Path) -> None:
    swept = {"model.train.lr": {"distribution": "log_uniform_values", "min": 0.001, "max": 0.1}}
    sweep = read_sweep(Path(write(tmp_path, swept, method="random", run_cap=8)))
    few, many = run_ids(list(sweep.values(3))), run_ids(list(sweep.values(100)))
    assert many[:3] == few and len(set(many)) == len(many) == 8


def test_ids_are_readable_plain_and_never_alike() -> None:
    runs = [{"config": f"configs/{twin}digits.yaml", "model.train.lr": 0.1} for twin in ("", "baselines/")]
    assert run_ids(runs) == ["config=digits-lr=0.1", "config=baselines_digits-lr=0.1"]
    both = {"model.train.lr": 0.1, "model.pretrain.lr": 0.01}
    assert run_ids([both]) == ["model.train.lr=0.1-model.pretrain.lr=0.01"]
    assert run_ids([{"model.channels": [8, 16], "data.root": "/a b"}]) == ["channels=8_16-root=a_b"]
    alike = run_ids([{"e": "x*2"}, {"e": "x/2"}, {"e": "x" * 200}])
    assert len(set(alike)) == 3 and all(len(name) <= 80 for name in alike)


@in_processes
def test_a_sweep_from_a_process_whose_threads_have_computed_does_not_hang(tmp_path: Path) -> None:
    code = (
        "import torch, sys\n"
        "from lit_triwave.cli import main\n"
        "if __name__ == '__main__':\n"
        "    torch.set_num_threads(2)\n"
        "    torch.ones(1 << 22).exp()\n"  # large enough to be shared between threads
        f"    sys.exit(main(['sweep', 'configs/sweeps/x3_dense.yaml', '--count', '1', '--model.train.epochs', '2',\n"
        f"        '--model.replicas', '2', '--data.test_points', '100', '--run.root', {str(tmp_path)!r}]))\n"
    )
    script = tmp_path / "notebook.py"
    script.write_text(code)
    done = run_command([], seconds=120, script=script, OMP_NUM_THREADS="2")
    assert done.returncode == 0, done.stderr
    assert "1 of 1 runs are finished" in done.stdout
