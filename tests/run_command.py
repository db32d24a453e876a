"""`python -m lit_triwave …` in processes that have already imported it, because imports take most of the time."""

from __future__ import annotations

import multiprocessing
import os
import runpy
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import pytest

from lit_triwave.commands.quick_imports import import_lightning
from tests.conftest import REPOSITORY, save_a_pixel

import_lightning()

from lightning.pytorch.utilities import rank_zero_only  # noqa: E402
from matplotlib.figure import Figure  # noqa: E402

in_processes = pytest.mark.xdist_group("processes")
"""Marks a test that uses this module: each worker that does starts a server, whose imports take 4 s."""
_PROCESSES = multiprocessing.get_context("forkserver")
# This module first, which every process imports: it imports Lightning quickly. Then also what a fit imports late.
_IMPORTS = [__name__, "lit_triwave.commands.fit.command", "lit_triwave.figures.run_figures", "matplotlib.pyplot"]
_IMPORTS += ["wandb", "torchdata.stateful_dataloader", "torch._dynamo"]  # DDP imports torch's compiler in each rank
_PROCESSES.set_forkserver_preload(_IMPORTS)


class Running(NamedTuple):
    """A running command.

    Attributes:
        args: of the command.
        process: in which it runs.
        out, err: files that get what it prints.
    """

    args: list[str]
    process: BaseProcess
    out: Path
    err: Path

    def lines(self) -> Iterator[str]:
        """Yields the lines that it prints, one by one, until its end."""
        with self.out.open() as file:
            text = ""
            while True:
                over = self.process.exitcode is not None
                text += file.read()
                *whole, text = text.split("\n")
                yield from whole
                if over:
                    return
                time.sleep(0.02)

    @property
    def pid(self) -> int:
        """Id of the process."""
        assert self.process.pid is not None
        return self.process.pid

    def send(self, number: int) -> None:
        """Sends it a signal."""
        os.kill(self.pid, number)

    def wait(self, seconds: float = 300) -> subprocess.CompletedProcess[str]:
        """Waits for the end, and returns what a shell would see.

        Raises:
            TimeoutExpired: it was killed.
        """
        self.process.join(seconds)
        if self.process.exitcode is None:
            self.process.kill()
            raise subprocess.TimeoutExpired(self.args, seconds)
        return subprocess.CompletedProcess(self.args, self.process.exitcode, self.out.read_text(), self.err.read_text())


def start_command(
    args: Sequence[str], place: Path, folder: Path = REPOSITORY, script: Path | None = None, **variables: str
) -> Running:
    """Starts `python -m lit_triwave`, or a script.

    Args:
        args: of the command.
        place: a folder for what it prints; it is made.
        folder: in which it runs.
        script: to be run in place of `-m lit_triwave`.
        variables: of the environment, beside or instead of this process's own.
    """
    environment = os.environ | variables
    environment.pop("WANDB_SERVICE", None)  # the W&B process of fits in this one
    place.mkdir(parents=True)
    outputs = [place / name for name in ("out", "err")]
    for path in outputs:
        path.touch()
    process = _PROCESSES.Process(target=_run, args=(list(args), folder, script, environment, *outputs))
    process.start()
    return Running(list(args), process, *outputs)


def run_command(
    args: Sequence[str],
    folder: Path = REPOSITORY,
    seconds: float = 500,
    script: Path | None = None,
    **variables: str,
) -> subprocess.CompletedProcess[str]:
    """Runs `python -m lit_triwave`, or a script, as a shell would; see `start_command`.

    Raises:
        TimeoutExpired: it was killed after `seconds`.
    """
    with TemporaryDirectory() as place:
        return start_command(args, Path(place) / "command", folder, script, **variables).wait(seconds)


def run_ranks(args: Sequence[str], ranks: int = 2, seconds: float = 300) -> list[subprocess.CompletedProcess[str]]:
    """Runs like `torchrun --nproc-per-node … -m lit_triwave`: with its variables, but without its start time."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = str(server.getsockname()[1])
    job = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": str(ranks), "LOCAL_WORLD_SIZE": str(ranks)}
    job |= {"TORCHELASTIC_RUN_ID": "test", "GROUP_RANK": "0"}
    with TemporaryDirectory() as place:
        begun = [
            start_command(args, Path(place) / str(rank), **job, RANK=str(rank), LOCAL_RANK=str(rank))
            for rank in range(ranks)
        ]
        return [command.wait(seconds) for command in begun]


def _run(args: list[str], folder: Path, script: Path | None, environment: dict[str, str], *outputs: Path) -> None:
    for descriptor, path in zip((1, 2), outputs, strict=True):
        with path.open("ab") as file:
            os.dup2(file.fileno(), descriptor)
    os.environ.clear()
    os.environ.update(environment)  # the server has that of its own start
    os.chdir(folder)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # tests that run under nohup ignore it
    rank_zero_only.rank = int(environment.get("RANK", "0"))  # Lightning reads it when it is imported
    Figure.savefig = save_a_pixel  # type: ignore[method-assign,assignment]
    sys.argv[1:] = args
    if script is None:
        runpy.run_module("lit_triwave", run_name="__main__", alter_sys=True)
    else:
        runpy.run_path(str(script), run_name="__main__")
