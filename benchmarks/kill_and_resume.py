"""Kills runs with SIGKILL at random moments, resumes them to the end, and compares them with undisturbed runs.

    python -m benchmarks.kill_and_resume [--times 30] [--seed 0]

A short `fit` is killed one to three times, at a random moment or while it writes a checkpoint, which it does ten times
a second. Each attempt is the command `fit --ckpt_path last --run.id ID`; the last one may finish. These must be
identical to the last bit: parameters, buffers, optimizers, schedules and history in each checkpoint, metrics.csv, and
summary.json except its times. Exits with 1 if anything differs.
"""

from __future__ import annotations

import argparse
import csv
import json
import multiprocessing
import os
import random
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from lit_triwave.cli import main as command

FUNCTION = ["--config", "configs/functions/x3_minus_x.yaml", "--model.replicas", "3", "--model.depth", "3"]
DIGITS = ["--config", "configs/digits.yaml", "--model.channels", "[4,8]", "--model.num_nets", "8", "--model.depth", "2"]
DIGITS += ["--model.pretrain.epochs", "3", "--model.train.epochs", "3", "--model.dropout", "0.2", "--data.shift", "1"]
CASES = {
    "function, 5 batches an epoch": [
        *FUNCTION,
        *["--model.pretrain.epochs", "50", "--model.train.epochs", "50", "--model.polish.epochs", "0"],
        *["--data.batch_size", "100"],
    ],
    "function, three stages": [
        *FUNCTION,
        *["--model.pretrain.epochs", "150", "--model.train.epochs", "150", "--model.polish.epochs", "60"],
    ],
    "stack, four stages": [
        *["--config", "configs/stack.yaml", "--model.layers", "[2, 2]", "--model.replicas", "2"],
        *["--data.points", "500", "--model.limit.epochs", "60", "--model.pretrain.epochs", "30"],
        *["--model.train.epochs", "30", "--model.polish.epochs", "30"],
    ],
    "digits, released as blocks": [*DIGITS, "--model.release", "blocks"],
    "digits, released as dense": [*DIGITS, "--model.release", "dense", "--model.mixup", "0.2"],
}
ALWAYS = ["--run.checkpoint_seconds", "0.1", "--run.checkpoint_every", "7", "--run.wandb", "disabled"]
START_LIMIT = 120  # seconds within which a process must begin to train
WRITING = 0.5  # share of kills that wait for a checkpoint to be written


def attempt(args: Sequence[str], log: str, folder: str) -> None:
    """Runs `fit` in this process, with its output in a file."""
    with open(log, "a") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    os.chdir(folder)  # the server that forks has that of its own start
    torch.set_num_threads(1)
    sys.exit(command(args))


class Attempts:
    """Starts processes that work on runs in one folder, forked from one that has everything imported."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.context = multiprocessing.get_context("forkserver")
        self.context.set_forkserver_preload(["lit_triwave.commands.fit.command"])

    def start(self, case: str, run_id: str) -> Any:
        """Starts a process that begins or resumes a run."""
        args = ["fit", *CASES[case], *ALWAYS, "--run.root", str(self.root), "--run.experiment", "e"]
        args += ["--run.id", run_id, "--ckpt_path", "last"]
        process = self.context.Process(target=attempt, args=(args, str(self.root / f"{run_id}.log"), os.getcwd()))
        process.start()
        return process

    def finish(self, case: str, run_id: str) -> float:
        """Finishes a run; returns the seconds of training and testing.

        Raises:
            RuntimeError: it failed.
        """
        process = self.start(case, run_id)
        self.wait_for_training(process, run_id)
        start = time.monotonic()
        process.join()
        if process.exitcode:
            raise RuntimeError(f"run {run_id} ended with {process.exitcode}: {self.root / run_id}.log")
        return time.monotonic() - start

    def wait_for_training(self, process: Any, run_id: str) -> None:
        """Waits until a process has saved its run's config, after which it trains, or has ended."""
        config = self.root / "e" / run_id / "config.yaml"
        before, limit = stamp(config), time.monotonic() + START_LIMIT
        while process.is_alive() and stamp(config) == before and time.monotonic() < limit:
            time.sleep(0.005)

    def kill(self, case: str, run_id: str, delay: float, writing: bool) -> bool | None:
        """Starts a process and kills it `delay` seconds into its training, or at the next checkpoint that it writes.

        Returns:
            Whether it was writing a checkpoint; None if it had finished before.
        """
        process = self.start(case, run_id)
        self.wait_for_training(process, run_id)
        limit = time.monotonic() + delay
        while process.is_alive() and time.monotonic() < limit:
            time.sleep(0.001)
        checkpoints = self.root / "e" / run_id / "checkpoints"
        while writing and process.is_alive() and not any(checkpoints.glob("*.partial")):
            time.sleep(0.0001)
        if not process.is_alive():
            return None
        process.kill()
        process.join()
        return any(checkpoints.glob("*.partial"))


def stamp(path: Path) -> int:
    """Returns when a file was written, in nanoseconds; 0 if it does not exist."""
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return 0


def result(run: Path) -> dict[str, Any]:
    """Returns everything that must be identical, by name."""
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


def same(a: Any, b: Any) -> bool:
    """Whether two results are equal to the last bit; NaN equals NaN."""
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and a.dtype == b.dtype and torch.equal(a.nan_to_num(7), b.nan_to_num(7))
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    return bool(a == b)


def main(args: Sequence[str] | None = None) -> int:
    """Prints the table; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--times", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args(args)
    os.environ["OMP_NUM_THREADS"] = "1"
    chance, table = random.Random(asked.seed), Table("", "case", "kills", "while writing", "after epochs", "differs")
    failures = 0
    with tempfile.TemporaryDirectory() as folder:
        attempts, whole, seconds = Attempts(Path(folder)), {}, {}
        for number in range(asked.times):
            case, run_id = list(CASES)[number % len(CASES)], f"killed-{number}-0"
            if case not in whole:
                seconds[case] = attempts.finish(case, f"whole-{number}")
                whole[case] = result(Path(folder) / "e" / f"whole-{number}")
            wrote: list[bool] = []
            epochs: list[Any] = []
            kills = chance.randint(1, 3)
            while len(wrote) < kills:
                was = attempts.kill(case, run_id, chance.random() * seconds[case], chance.random() < WRITING)
                if was is None:  # it had finished before
                    if wrote:
                        break
                    run_id += "0"  # and has to be killed at least once
                    continue
                wrote.append(was)
                last = Path(folder) / "e" / run_id / "checkpoints" / "last.ckpt"
                epochs.append(torch.load(last, weights_only=True)["epoch"] if last.is_file() else "none")
            attempts.finish(case, run_id)
            mine = result(Path(folder) / "e" / run_id)
            differing = [name for name in mine | whole[case] if not same(mine.get(name), whole[case].get(name))]
            failures += bool(differing)
            cells = [number + 1, case, len(wrote), sum(wrote), ", ".join(map(str, epochs)), ", ".join(differing) or "-"]
            print(*cells, sep="  ", flush=True)
            table.add_row(*map(str, cells))
    Console().print(table)
    print(f"{asked.times - failures} of {asked.times} bit-identical to the run left alone")
    return int(failures > 0)


if __name__ == "__main__":
    sys.exit(main())
