"""`python -m lit_triwave …` in processes that have its imports already, which are most of a short command's time."""

from __future__ import annotations

import multiprocessing
import os
import runpy
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.conftest import REPOSITORY

PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["lit_triwave.commands.fit.command"])


def run_command(
    args: Sequence[str], folder: Path = REPOSITORY, seconds: float = 500, **variables: str
) -> subprocess.CompletedProcess[str]:
    """Runs `python -m lit_triwave` as a shell would.

    Args:
        args: of the command.
        folder: in which it runs.
        seconds: after which it is killed.
        variables: of the environment, beside or instead of this process's own.

    Raises:
        TimeoutExpired: it was killed.
    """
    environment = os.environ | variables
    environment.pop("WANDB_SERVICE", None)  # the W&B process of fits in this one
    with TemporaryDirectory() as place:
        outputs = [Path(place) / name for name in ("out", "err")]
        process = PROCESSES.Process(target=_run, args=(list(args), folder, environment, *outputs))
        process.start()
        process.join(seconds)
        if process.exitcode is None:
            process.kill()
            raise subprocess.TimeoutExpired(list(args), seconds)
        return subprocess.CompletedProcess(list(args), process.exitcode, *[path.read_text() for path in outputs])


def _run(args: list[str], folder: Path, environment: dict[str, str], *outputs: Path) -> None:
    for descriptor, path in zip((1, 2), outputs, strict=True):
        with path.open("wb") as file:
            os.dup2(file.fileno(), descriptor)
    os.environ.clear()
    os.environ.update(environment)  # the server has that of its own start
    os.chdir(folder)
    sys.argv[1:] = args
    runpy.run_module("lit_triwave", run_name="__main__", alter_sys=True)
