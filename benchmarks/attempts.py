"""Starts and kills processes that work on runs, and compares the results of two runs."""

from __future__ import annotations

import csv
import json
import multiprocessing
import os
import runpy
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from rich.table import Table

START_LIMIT = 120  # seconds within which a process must begin to train


def show(table: Table, cells: Sequence[Any]) -> None:
    """Prints a row as soon as it is known, and adds it to the final table."""
    print(*cells, sep="  ", flush=True)
    table.add_row(*map(str, cells))


def attempt(args: Sequence[str], log: str, folder: str) -> None:
    """Runs `python -m lit_triwave` in this process, with its output in a file."""
    with open(log, "a") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    os.chdir(folder)  # the fork server still has the folder of its start
    torch.set_num_threads(1)
    sys.argv[1:] = args  # Lightning starts further ranks with these
    runpy.run_module("lit_triwave", run_name="__main__", alter_sys=True)


class Attempts:
    """Starts processes that work on runs in one folder, forked from a process that has imported everything.

    Args:
        root: folder of the runs, whose experiment is `e`, and of the output of the processes.
        options: options of every `fit`.
    """

    def __init__(self, root: Path, options: Sequence[str]) -> None:
        self.root = root
        self.options = options
        self.context = multiprocessing.get_context("forkserver")
        self.context.set_forkserver_preload(["lit_triwave.commands.fit.command"])

    def folder(self, run_id: str) -> Path:
        """Returns the folder of a run."""
        return self.root / "e" / run_id

    def log(self, run_id: str) -> Path:
        """Returns the file with the output of a run's processes."""
        return self.root / f"{run_id}.log"

    def command(self, args: Sequence[str], run_id: str) -> Any:
        """Starts a process that runs any command, and prints to the log of a run."""
        self.log(run_id).touch()  # a process may be killed before it opens the file
        process = self.context.Process(target=attempt, args=(list(args), str(self.log(run_id)), os.getcwd()))
        process.start()
        return process

    def start(self, args: Sequence[str], run_id: str) -> Any:
        """Starts a process that begins or resumes a run.

        Args:
            args: arguments of `fit`, besides the run's folder.
            run_id: id of the run.
        """
        place = ["--run.root", str(self.root), "--run.experiment", "e", "--run.id", run_id, "--ckpt_path", "last"]
        return self.command(["fit", *args, *self.options, *place], run_id)

    def finish(self, args: Sequence[str], run_id: str) -> float:
        """Finishes a run; returns the seconds of training and testing.

        Raises:
            RuntimeError: it failed.
        """
        process = self.start(args, run_id)
        self.wait_for_training(process, run_id)
        start = time.monotonic()
        process.join()
        if process.exitcode:
            raise RuntimeError(f"run {run_id} ended with {process.exitcode}: {self.log(run_id)}")
        return time.monotonic() - start

    def wait_for_training(self, process: Any, run_id: str) -> None:
        """Waits until a process has saved its run's config, which it does before it trains, or has ended."""
        config = self.folder(run_id) / "config.yaml"
        before, limit = _stamp(config), time.monotonic() + START_LIMIT
        while process.is_alive() and _stamp(config) == before and time.monotonic() < limit:
            time.sleep(0.005)

    def kill(self, args: Sequence[str], run_id: str, delay: float, writing: bool) -> bool | None:
        """Starts a process, and kills it after `delay` seconds of training, or at the next checkpoint that it writes.

        Returns:
            Whether it was writing a checkpoint; None if it had finished before.

        Raises:
            RuntimeError: it failed.
        """
        process = self.start(args, run_id)
        self.wait_for_training(process, run_id)
        limit = time.monotonic() + delay
        while process.is_alive() and time.monotonic() < limit:
            time.sleep(0.001)
        checkpoints = self.folder(run_id) / "checkpoints"
        while writing and process.is_alive() and not any(checkpoints.glob("*.partial")):
            time.sleep(0.0001)
        if not process.is_alive():
            if process.exitcode:
                raise RuntimeError(f"run {run_id} ended with {process.exitcode}: {self.log(run_id)}")
            return None
        process.kill()
        process.join()
        return any(checkpoints.glob("*.partial"))


def _stamp(path: Path) -> int:
    """Returns when a file was written, in nanoseconds; 0 if it does not exist."""
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return 0


def result(run: Path) -> dict[str, Any]:
    """Returns everything of a run that must be identical, by name."""
    found = {}
    for path in sorted((run / "checkpoints").glob("*.ckpt")):
        checkpoint = torch.load(path, weights_only=True)
        names = ("epoch", "global_step", "state_dict", "optimizer_states", "lr_schedulers", "epoch_history", "loops")
        parts = {name: checkpoint.get(name) for name in names}
        parts["loss of each seed"] = checkpoint["callbacks"].get("SeedHistory")
        parts["logged rows"] = checkpoint["run"]["rows"]
        found |= {f"{path.name}: {name}": part for name, part in parts.items()}
    with (run / "metrics.csv").open() as file:
        found["metrics.csv"] = list(csv.DictReader(file))
    times = {"wall_seconds": None, "fit_seconds": None}
    found["summary.json"] = json.loads((run / "summary.json").read_text()) | times
    return found


def differing(one: Path, other: Path) -> list[str]:
    """Returns the names of the parts that differ between two finished runs."""
    a, b = result(one), result(other)
    return [name for name in a | b if not same(a.get(name), b.get(name))]


def same(a: Any, b: Any) -> bool:
    """Whether two results are equal to the last bit; NaN equals NaN."""
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and a.dtype == b.dtype and torch.equal(a.nan_to_num(7), b.nan_to_num(7))
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    return bool(a == b) or (a != a and b != b)
