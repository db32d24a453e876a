"""A rank that does not answer is named, and the run ends after a second signal or a time limit."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from lightning.fabric.utilities import distributed as fabric_distributed
from torch.autograd import graph
from torch.distributed import distributed_c10d
from torch.nn import parallel

from lit_triwave.distributed import heartbeats, watch
from lit_triwave.distributed.heartbeats import RANKS_FOLDER, Heartbeats
from lit_triwave.distributed.interruption import Interruption
from lit_triwave.distributed.launcher import LAUNCHER_VARIABLE


@pytest.fixture
def stopped() -> Iterator[subprocess.Popen[bytes]]:
    """A process in the role of rank 1, stopped by SIGSTOP."""
    with subprocess.Popen(["sleep", "60"]) as process:
        process.send_signal(signal.SIGSTOP)
        yield process
        process.kill()


def watching(folder: Path, child: Any, most: float, signals: list[signal.Signals], said: list[Any]) -> watch._Watch:
    """The watch of rank 0 of two ranks during training; it receives one of the signals at each check."""
    loop = SimpleNamespace(epoch_loop=SimpleNamespace(batch_progress=SimpleNamespace(total=SimpleNamespace(ready=7))))
    launcher = SimpleNamespace(procs=[child])
    trainer: Any = SimpleNamespace(
        default_root_dir=str(folder), global_rank=0, local_rank=0, world_size=2, fit_loop=loop
    )
    trainer.strategy = SimpleNamespace(launcher=launcher)
    interruption = Interruption()
    interruption.begun = True

    def abandon(number: signal.Signals) -> int:
        said.append(number)
        return 130

    found = watch._Watch(trainer, interruption, abandon, most, lambda: [signals.pop(0)] if signals else [])
    silence(folder, 1)
    return found


def silence(folder: Path, rank: int) -> None:
    """Makes the last sign of life of a rank a minute old."""
    Heartbeats(folder, rank, 2).beat(0)
    os.utime(folder / RANKS_FOLDER / str(rank), (time.time() - 60,) * 2)


@pytest.fixture
def silent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run's folder, while a rank waits for another."""
    monkeypatch.setattr(heartbeats, "_waiting_place", lambda: "all_reduce")

    def leave(code: int) -> None:
        raise SystemExit(code)

    monkeypatch.setattr(os, "_exit", leave)
    return tmp_path


@pytest.mark.parametrize("second", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_a_second_signal_ends_a_stopped_rank_and_names_it(
    silent: Path, stopped: subprocess.Popen[bytes], second: str, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch, "_LEAVE_SECONDS", 0.2)
    monkeypatch.setattr(watch, "SAME_SECONDS", 0.0)
    said: list[Any] = []
    signals = [signal.SIGINT, signal.Signals[second]]
    with pytest.raises(SystemExit) as left:
        watching(silent, stopped, 600, signals, said).run()
    assert (left.value.code, said) == (130, [signal.SIGINT])
    assert stopped.wait(10) == -signal.SIGKILL
    assert "error: rank 1 has not answered for 60 s" in capsys.readouterr().err


def test_a_second_signal_also_ends_a_stopped_first_rank(
    silent: Path, stopped: subprocess.Popen[bytes], capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("_LEAVE_SECONDS", "_TURN_SECONDS"):
        monkeypatch.setattr(watch, name, 0.1)
    monkeypatch.setenv(LAUNCHER_VARIABLE, str(stopped.pid))
    monkeypatch.setenv("LOCAL_RANK", "1")
    second = watching(silent, None, 600, [signal.SIGINT, signal.SIGINT], [])
    second.trainer.local_rank, second.trainer.strategy.launcher.procs = 1, []
    second.heartbeats = Heartbeats(silent, 1, 2)
    silence(silent, 0)
    with pytest.raises(SystemExit) as left:
        second.run()
    assert left.value.code == 130 and stopped.wait(10) == -signal.SIGKILL
    assert "error: rank 0 has not answered for 60 s" in capsys.readouterr().err


@pytest.mark.parametrize("count", [1, 2])
def test_after_a_second_signal_other_ranks_than_the_first_leave_without_the_end_of_python(
    silent: Path, stopped: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    monkeypatch.setenv(LAUNCHER_VARIABLE, str(stopped.pid))
    monkeypatch.setenv("LOCAL_RANK", "1")
    arriving = [[signal.SIGINT] * count]
    monkeypatch.setattr(watch, "_signals", lambda: nullcontext(lambda: arriving.pop() if arriving else []))
    trainer = watching(silent, stopped, 600, [], []).trainer
    with (
        pytest.raises(SystemExit if count == 2 else KeyboardInterrupt) as left,
        watch.ranks_end_together(trainer, Interruption(), lambda number: 0, 600),
    ):
        time.sleep(5 * watch.WATCH_SECONDS)
        raise KeyboardInterrupt
    assert count == 1 or left.value.code == 130


def test_a_rank_that_lets_the_others_wait_for_too_long_ends_the_run(
    silent: Path, stopped: subprocess.Popen[bytes], capsys: Any
) -> None:
    with pytest.raises(SystemExit) as left:
        watching(silent, stopped, 1.2, [], []).run()
    assert left.value.code == 1 and stopped.wait(10) == -signal.SIGKILL
    assert "has not answered" in (error := capsys.readouterr().err) and "rank 1" in error and "rank 0" not in error


@pytest.mark.parametrize("module", [distributed_c10d, graph, parallel.distributed, fabric_distributed])
def test_a_rank_is_known_to_wait_inside_of_torch(module: Any) -> None:
    found: list[Any] = []
    looks = threading.Timer(0.05, lambda: found.append(heartbeats._waiting_place()))
    assert heartbeats._waiting_place() is None
    looks.start()
    exec(compile("while not found: sleep(0.01)", module.__file__, "exec"), {"found": found, "sleep": time.sleep})
    assert found[0] is not None


def test_a_rank_that_does_something_else_meanwhile_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heartbeats, "_waiting_place", lambda: "all_reduce")
    clock = itertools.count(100.0)  # a second later whenever it is looked at
    monkeypatch.setattr(heartbeats, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    silence(tmp_path, 1)  # of a process that was killed
    first = Heartbeats(tmp_path, 0, 2)

    def waited() -> float:
        first.beat(3)
        first.beat(3)
        return first.waited

    assert waited() == 2
    assert (first.silent(), first.absent()) == ("", "rank 1 is not there after 3 s")
    (tmp_path / RANKS_FOLDER / "1").write_text("works")
    assert waited() > 1
    assert first.silent() == "rank 1 has not come for 7 s to where the others wait"
    first.beat(4)  # a step further
    assert first.waited == 1
    for rank in (1, 0):
        Heartbeats(tmp_path, rank, 2).remove()
    assert not (tmp_path / RANKS_FOLDER).exists()
