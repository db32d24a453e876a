from __future__ import annotations

import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from lightning.pytorch import Trainer
from lightning.pytorch.utilities import CombinedLoader

from lit_triwave.cli import main
from lit_triwave.commands.fit.session import FitSession
from lit_triwave.distributed.interruption import Interruption
from lit_triwave.distributed.signals import SIGNALS
from lit_triwave.errors import Interrupted, TriwaveError
from lit_triwave.figures import run_figures
from lit_triwave.tracking.lock import LOCK_FILE, locked
from tests.conftest import REPOSITORY
from tests.faults import ManySignals, signal_at
from tests.finished_runs import assert_ends_alike, state
from tests.run_command import in_processes, run_ranks, start_command


def contents(run: Path) -> dict[Path, bytes]:
    """Returns the content of all files in a run's folder."""
    return {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}


ARGS = ["--model.replicas", "3", "--model.pretrain.epochs", "400", "--model.train.epochs", "400"]
ARGS += ["--model.polish.epochs", "0"]
FIT = ["fit", "--config", "configs/functions/x3_minus_x.yaml", *ARGS]


POLISHED = ["--data.batch_size", "null", "--model.polish.epochs", "6"]


@pytest.mark.parametrize(("stage", "epoch"), [("pretrain", 2), ("train", 7), ("polish", 13)])
def test_after_ctrl_c_a_run_is_complete_and_resumes_bit_identical(fit, trained, capsys, stage: str, epoch: int) -> None:
    whole = trained("whole", *POLISHED)
    capsys.readouterr()
    run = fit("r", *POLISHED, *signal_at(epoch, 0, "SIGINT"), code=130)
    output, errors = capsys.readouterr()
    assert "Ctrl-C: stopping after this step" in errors and "Traceback" not in errors
    assert f"interrupted in stage '{stage}'" in output
    assert json.loads((run / "summary.json").read_text())["stage"] == stage
    assert (run / "figures" / "fit.png").is_file()
    # The command that it prints ends where an uninterrupted run does.
    command = shlex.split(re.search(r"python -m lit_triwave fit .*", output)[0])  # type: ignore[index]
    without_the_signal(run / "config.yaml")
    assert main(command[3:]) == 0
    assert_ends_alike(whole, run)


def test_a_stopped_run_is_exported_and_tested_with_its_best_seed(fit, capsys) -> None:
    args = ["--model.replicas", "6", "--seed_everything", "1", "--trainer.check_val_every_n_epoch", "50"]
    run = fit("r", *args, *signal_at(4, 1, "SIGINT"), code=130)
    summary = json.loads((run / "summary.json").read_text())
    saved = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    assert summary["best_replica"] != saved["best_replica"]  # of the last validation, for the resumed run
    capsys.readouterr()
    assert main(["export", str(run), "--format", "torch"]) == 0
    assert f"seed {summary['best_replica']} of 6, the best one" in capsys.readouterr().out
    without_the_signal(run / "config.yaml")
    path = run / "checkpoints" / "last.ckpt"
    assert main(["test", "--config", str(run / "config.yaml"), "--ckpt_path", str(path)]) == 0
    tested = json.loads((run / "summary.json").read_text())
    assert all(tested[key] == summary[key] for key in ("best_replica", "test/mse"))


def without_the_signal(config: Path) -> None:
    """Removes the callback that sends a signal from a saved config."""
    content = yaml.safe_load(config.read_text())
    content["trainer"]["callbacks"] = None
    config.write_text(yaml.safe_dump(content))


@in_processes
def test_ctrl_c_at_a_terminal_stops_a_run_in_good_order(tmp_path: Path) -> None:
    process = start_command([*FIT, "--run.root", str(tmp_path), "--run.id", "r"], tmp_path / "said")
    next(line for line in process.lines() if line.startswith("train "))
    process.send(signal.SIGINT)
    done = process.wait()
    assert done.returncode == 130
    assert "Traceback" not in done.stderr and "stopping after this step" in done.stderr
    assert "interrupted in stage 'train'" in done.stdout
    run = tmp_path / "x3_minus_x" / "r"
    assert json.loads((run / "summary.json").read_text())["stage"] == "train"
    assert 399 < torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["epoch"] < 799


# SLURM's, the same passed on by W&B's agent, and the signals of a closed terminal.
@pytest.mark.parametrize("names", [["SIGTERM"], ["SIGTERM", "SIGTERM"], ["SIGHUP", "SIGTERM", "SIGHUP"]], ids=len)
def test_after_sigterm_or_sighup_there_is_a_checkpoint_and_no_long_test(fit, trained, capsys, names: list[str]) -> None:
    whole = trained("whole")
    run = fit("r", *(word for name in names for word in signal_at(3, 1, name)), code=130)
    assert not (run / "summary.json").exists()
    assert "interrupted in stage 'pretrain', epoch 4/5, step 11; resume with:" in capsys.readouterr().out
    fit("", "--ckpt_path", str(run / "checkpoints" / "last.ckpt"))
    assert_ends_alike(whole, run)


def test_a_signal_between_training_and_test_is_noted(fit, trained, monkeypatch, capsys) -> None:
    whole = trained("whole")
    report = FitSession.report_cut

    def report_late(session: FitSession, trainer: Trainer) -> None:
        report(session, trainer)
        signal.raise_signal(signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(FitSession, "report_cut", report_late)
        run = fit("r", code=130)
    assert json.loads((run / "run.json").read_text())["state"] == "stopped"
    assert re.search(r"interrupted in .*, step \d+; resume with:", said := capsys.readouterr().out), said
    fit("", "--ckpt_path", str(run / "checkpoints" / "last.ckpt"))
    assert_ends_alike(whole, run)


@pytest.mark.parametrize("trained", [False, True])
def test_a_signal_while_an_object_is_destroyed_is_not_lost(monkeypatch, capsys, trained: bool) -> None:
    class Destroyed:
        def __del__(self) -> None:
            signal.raise_signal(signal.SIGTERM)

    before = {number: signal.getsignal(number) for number in SIGNALS}
    interruption = Interruption()
    interruption.trained = trained
    monkeypatch.setattr(sys, "unraisablehook", sys.unraisablehook)  # put back at the end
    try:
        interruption.install()
        with pytest.raises(Interrupted if trained else KeyboardInterrupt):
            Destroyed()
            time.sleep(60)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    assert interruption.requested == signal.SIGTERM
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 130), (signal.SIGUSR1, 75)])
def test_a_signal_that_compiled_code_turns_into_another_error_ends_the_figures(
    fit, monkeypatch, capsys, number: signal.Signals, code: int
) -> None:
    def drawn(*_: Any) -> None:  # as matplotlib does
        with suppress(Interrupted):
            signal.raise_signal(number)
        raise ValueError("Invalid bounding box")

    monkeypatch.setattr(run_figures, "fit_figure", drawn)
    run = fit("r", code=code)
    assert json.loads((run / "run.json").read_text())["state"] == "stopped"
    said = capsys.readouterr()
    assert "bounding box" not in said.err and "resume with" in said.out


def test_a_run_under_nohup_outlives_its_terminal(fit, trained, monkeypatch) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        run = fit("r", *signal_at(3, 1, "SIGHUP"))
    finally:
        signal.signal(signal.SIGHUP, before)
    assert_ends_alike(trained("whole"), run)


def test_a_run_that_hears_ctrl_c_sixty_times_is_stopped_and_resumes(fit, trained) -> None:
    whole = trained("whole")
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # of the last ones, after the run's end
    try:
        run = fit("r", "--trainer.callbacks+=tests.faults.ManySignals", code=130)
        ManySignals.sender.join()
    finally:
        signal.signal(signal.SIGINT, before)
    assert json.loads((run / "run.json").read_text())["state"] == "stopped"
    fit("", "--ckpt_path", str(run / "checkpoints" / "last.ckpt"))
    assert_ends_alike(whole, run)


@pytest.mark.parametrize("stream", ["/dev/full", "pipe"])
def test_a_run_whose_output_cannot_be_written_trains_on_without_it(fit, trained, monkeypatch, stream: str) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with open(writing, "w") if stream == "pipe" else open(stream, "w") as file:
        monkeypatch.setattr(sys, "stdout", file)
        monkeypatch.setattr(sys, "stderr", file)
        run = fit("r")
        monkeypatch.undo()
    assert_ends_alike(trained("whole"), run)


def test_a_disk_that_is_full_before_the_start_leaves_nothing(fit, monkeypatch, capsys) -> None:
    def full(*args: object) -> None:
        raise OSError(28, "No space left on device")

    for name in ("os.pwrite", "pathlib.Path.write_bytes"):
        with monkeypatch.context() as context:
            context.setattr(name, full)
            run = fit("r", code=1)
        assert "cannot be written: No space left on device" in capsys.readouterr().err
        assert not run.parent.exists()


def test_a_resumed_run_makes_the_test_that_was_cut_off(fit, trained) -> None:
    whole = trained("whole")
    run = fit("r", "--trainer.callbacks+=tests.faults.SignalInTest", code=75)
    assert not (run / "summary.json").exists()
    fit("", "--ckpt_path", str(run / "checkpoints" / "last.ckpt"))
    assert_ends_alike(whole, run)


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_before_the_first_step_a_signal_ends_a_run_at_once_and_leaves_nothing(fit, trained, capsys, name: str) -> None:
    callback = ["--trainer.callbacks+=tests.faults.SignalBeforeTraining", f"--trainer.callbacks.name={name}"]
    run = fit("r", *callback, code=130)
    assert not run.parent.exists()
    assert "interrupted" in capsys.readouterr().err
    run = trained("r")
    before = contents(run)
    fit("", *callback, "--ckpt_path", str(run / "checkpoints" / "last.ckpt"), code=130)
    assert contents(run) == before


def test_ctrl_c_while_loader_workers_start_is_ctrl_c(fit, monkeypatch, capsys) -> None:
    def starting(loader: CombinedLoader) -> None:
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(CombinedLoader, "__iter__", starting)
    run = fit("new", code=130)
    assert not run.exists()
    fit("untrained", "--model.pretrain.epochs", "0", "--model.train.epochs", "0", code=130)
    assert capsys.readouterr().err.splitlines()[-1] == "interrupted"


@in_processes
def test_a_run_in_use_is_refused_and_a_killed_one_resumes_at_once(tmp_path: Path, capsys) -> None:
    again = [*FIT, "--run.root", str(tmp_path), "--run.id", "r", "--model.pretrain.epochs", "20"]
    saved = tmp_path / "x3_minus_x" / "r" / "checkpoints" / "last.ckpt"
    command = start_command([*again, "--model.train.epochs", "1000000"], tmp_path / "said")
    while command.process.exitcode is None and not saved.is_file():  # which the end of the pretraining brings
        time.sleep(0.01)
    command.send(signal.SIGSTOP)  # it is there, and does not end by itself
    for resumed in ([], ["--ckpt_path", "last"]):
        capsys.readouterr()
        assert main([*again, *resumed]) == 1
        assert f"x3_minus_x/r is in use by process {command.pid}: wait for its end" in capsys.readouterr().err
    assert main(["test", *again[1:], "--run.id", "r"]) == 0  # reads what there is
    command.process.kill()
    command.process.join()
    run = tmp_path / "x3_minus_x" / "r"
    assert main([*again, "--ckpt_path", "last", "--trainer.max_steps", "1"]) == 0
    assert not (run / LOCK_FILE).exists()


FORK = """
import os, signal, sys, time
from contextlib import suppress
from pathlib import Path
from typing import Any
from lit_triwave.tracking.lock import locked
with locked(Path(sys.argv[1])):
    if os.fork() == 0:
        print("forked", flush=True)
        time.sleep(30)
    time.sleep(30)
"""


def test_a_worker_that_outlives_its_process_keeps_no_lock(tmp_path: Path) -> None:
    command = [sys.executable, "-c", FORK, str(tmp_path)]
    with subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, start_new_session=True) as process:
        assert process.stdout is not None and process.stdout.readline() == b"forked\n"
        with pytest.raises(TriwaveError, match="in use"), locked(tmp_path, patience=0):
            pass
        process.kill()
        process.wait()
        with locked(tmp_path, patience=0):
            os.killpg(process.pid, 0)  # the worker is there still
        os.killpg(process.pid, signal.SIGKILL)


@in_processes
def test_a_signal_to_one_of_two_ranks_stops_both_at_the_same_step(tmp_path: Path) -> None:
    options = ["--model.pretrain.epochs", "4", "--model.train.epochs", "4", "--run.root", str(tmp_path)]
    options += ["--data.batch_size", "100", "--trainer.devices", "2", "--trainer.strategy", "ddp"]

    def ends(*args: str) -> list[int]:
        return [done.returncode for done in run_ranks([*FIT, *options, *args])]

    assert ends("--run.id", "whole") == [0, 0]
    assert ends("--run.id", "r", *signal_at(2, 1, rank=1)) == [75, 0]  # the first rank's tells the caller
    run = tmp_path / "x3_minus_x" / "r"
    assert state(run)["global_step"] == 2 * 5 + 2
    assert ends("--ckpt_path", str(run / "checkpoints" / "last.ckpt")) == [0, 0]
    assert_ends_alike(run.with_name("whole"), run)


@in_processes
@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_a_signal_ends_a_test_whose_ranks_wait_for_each_other(name: str, trained, tmp_path: Path) -> None:
    run = trained("r")
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = str(server.getsockname()[1])
    job = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    job |= {"TORCHELASTIC_RUN_ID": "test", "GROUP_RANK": "0", "RANK": "0", "LOCAL_RANK": "0"}  # rank 1 never comes
    words = ["test", "--config", str(run / "config.yaml"), "--ckpt_path", str(run / "checkpoints" / "last.ckpt")]
    command = start_command([*words, "--trainer.devices", "2", "--trainer.strategy", "ddp"], tmp_path / "said", **job)
    while "waiting at 127.0.0.1" not in command.err.read_text() and command.process.exitcode is None:
        time.sleep(0.05)
    command.send(signal.Signals[name])
    done = command.wait(20)
    assert done.returncode == 130
    assert done.stderr.splitlines()[-1] == "interrupted"
