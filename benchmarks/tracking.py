"""What Weights & Biases costs: the digits fit with it, offline, against the same fit without.

    python -m benchmarks.tracking [--turns 8] [--epochs 20]

Whole fits through the front door, in pairs within one process; the order changes from pair to pair, and the first pair
only warms up. A step does the same work in every fit, so of each, with the validation, region count and row of
metrics.csv that may follow it, the fastest of all fits counts: that leaves out what other programs take and keeps what
is logged. The processor's time, W&B's own process with it, is the median over the pairs. What comes before and after
the steps (W&B's start, the figures, its end) is said apart.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import io
import os
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from lightning.pytorch import Callback, Trainer
from rich.console import Console
from rich.table import Table

from lit_triwave.cli import main as lit_triwave


class Times(NamedTuple):
    """Of one fit, in seconds."""

    steps: list[float]  # the clock's of each, up to the next one: with the validation between them, if there is one
    processor: float  # of all steps
    around: float  # the clock's, before the first step and after the last


class Stopwatch(Callback):
    """Times the steps of a fit.

    Attributes:
        last: clock's times of the steps of the last fit in this process, and the processor's of all.
    """

    last: tuple[list[float], float] = ([], 0.0)

    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        self.begun = processor_seconds()
        self.starts: list[float] = []

    def on_train_batch_start(self, trainer: Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        self.starts.append(time.perf_counter())

    def on_train_end(self, trainer: Trainer, pl_module: Any) -> None:
        ends = [*self.starts[1:], time.perf_counter()]
        times = [end - start for start, end in zip(self.starts, ends, strict=True)]
        Stopwatch.last = times, processor_seconds() - self.begun


def processor_seconds() -> float:
    """Of this process and, on Linux, of the living processes that it has started."""
    total, tick = time.process_time(), os.sysconf("SC_CLK_TCK")
    for file in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # gone meanwhile
            fields = file.read_text().rpartition(")")[2].split()
            if int(fields[1]) == os.getpid():
                total += (int(fields[11]) + int(fields[12])) / tick
    return total


def fit(mode: str, epochs: int, root: str) -> Times:
    """Times one fit of the digits with W&B in a mode.

    Raises:
        RuntimeError: it failed.
    """
    watch = importlib.import_module("benchmarks.tracking").Stopwatch  # this file is another module when it is run
    half = epochs // 2
    options = ["--model.pretrain.epochs", str(half), "--model.train.epochs", str(epochs - half)]
    options += ["--run.root", root, "--run.wandb", mode, "--trainer.callbacks+=benchmarks.tracking.Stopwatch"]
    begun, said = time.perf_counter(), io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        code = lit_triwave(["fit", "--config", "configs/digits.yaml", *options])
    whole = time.perf_counter() - begun
    if code:
        raise RuntimeError(f"the fit with W&B {mode} failed: {said.getvalue()[-500:]}")
    steps, processor = watch.last
    return Times(steps, processor, whole - sum(steps))


def main(arguments: Sequence[str] | None = None) -> float:
    """Measures, prints a table, and returns W&B's share of a step on the clock."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=8)
    parser.add_argument("--epochs", type=int, default=20)
    asked = parser.parse_args(arguments)
    torch.set_num_threads(1)
    pairs = []
    with tempfile.TemporaryDirectory() as root:
        for turn in range(asked.turns + 1):
            order = ("offline", "disabled") if turn % 2 else ("disabled", "offline")
            times = {mode: fit(mode, asked.epochs, root) for mode in order}
            pairs += [times] if turn else []
    fastest = {m: sum(map(min, zip(*(p[m].steps for p in pairs), strict=True))) for m in ("offline", "disabled")}
    count = len(pairs[0]["disabled"].steps)
    share = fastest["offline"] / fastest["disabled"] - 1
    table = Table(title=f"digits, {asked.epochs} epochs, {len(pairs)} pairs; W&B offline against disabled")
    for column in ("", "disabled", "more with W&B", "single pairs"):
        table.add_column(column, justify="right" if column else "left")

    def row(name: str, disabled: str, more: str, single: Sequence[float]) -> None:
        table.add_row(name, disabled, more, f"{min(single):+.1%} to {max(single):+.1%}")

    whole = [sum(pair["offline"].steps) / sum(pair["disabled"].steps) - 1 for pair in pairs]
    row("a step, clock", f"{1e3 * fastest['disabled'] / count:.2f} ms", f"{share:+.2%}", whole)
    used = [pair["offline"].processor / pair["disabled"].processor - 1 for pair in pairs]
    step = statistics.median(pair["disabled"].processor for pair in pairs) / count
    row("a step, processor", f"{1e3 * step:.2f} ms", f"{statistics.median(used):+.2%}", used)
    more = statistics.median(pair["offline"].around - pair["disabled"].around for pair in pairs)
    table.add_row("before and after", "", f"{more:+.2f} s", "")
    Console(width=110).print(table)
    return share


if __name__ == "__main__":
    main()
