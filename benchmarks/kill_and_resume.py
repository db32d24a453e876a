"""Kills runs with SIGKILL at random times, resumes them to the end, and compares them with uninterrupted runs.

    python -m benchmarks.kill_and_resume [--times 30] [--seed 0]

A short `fit` is killed one to three times, at a random time or while it writes a checkpoint, which it does ten times
a second. Each attempt is the command `fit --ckpt_path last --run.id ID`; the last attempt is not killed. These parts
must be identical to the last bit: parameters, buffers, optimizers, schedules and history in each checkpoint,
metrics.csv, and summary.json except its times. If anything differs, the exit code is 1.
"""

from __future__ import annotations

import argparse
import os
import random
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from benchmarks.attempts import Attempts, differing, show

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
WRITING = 0.5  # share of kills that wait for a checkpoint to be written


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
        attempts, seconds = Attempts(Path(folder), ALWAYS), {}
        for number in range(asked.times):
            case, run_id = list(CASES)[number % len(CASES)], f"killed-{number}-0"
            whole = f"whole-{number % len(CASES)}"
            if case not in seconds:
                seconds[case] = attempts.finish(CASES[case], whole)
            wrote: list[bool] = []
            epochs: list[Any] = []
            kills = chance.randint(1, 3)
            while len(wrote) < kills:
                was = attempts.kill(CASES[case], run_id, chance.random() * seconds[case], chance.random() < WRITING)
                if was is None:  # it had finished before
                    if wrote:
                        break
                    run_id += "0"  # and has to be killed at least once
                    continue
                wrote.append(was)
                last = attempts.folder(run_id) / "checkpoints" / "last.ckpt"
                epochs.append(torch.load(last, weights_only=True)["epoch"] if last.is_file() else "none")
            attempts.finish(CASES[case], run_id)
            differs = differing(attempts.folder(whole), attempts.folder(run_id))
            failures += bool(differs)
            cells = [number + 1, case, len(wrote), sum(wrote), ", ".join(map(str, epochs)), ", ".join(differs) or "-"]
            show(table, cells)
    Console().print(table)
    print(f"{asked.times - failures} of {asked.times} bit-identical to the uninterrupted run")
    return int(failures > 0)


if __name__ == "__main__":
    sys.exit(main())
