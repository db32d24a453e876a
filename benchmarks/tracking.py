"""Measures the cost of Weights & Biases: fits of the digits with W&B offline, and without it.

    python -m benchmarks.tracking [--turns 8] [--epochs 20] [options of fit]

It runs the command `fit` in pairs within one process. The order changes from pair to pair, and the first pair only
warms up. The cost is measured in two ways, over all steps with validations, region counts and rows of metrics.csv:

- by what W&B uses: wall time in the logging calls, and processor time of all other threads and of W&B's process.
  The sum is an upper bound, because on a second core the last two do not delay the training.
- by the difference between the two fits. A step does the same work in every fit, so its fastest time over all fits is
  used. On a machine with other programs this is much less exact.

Time before and after the steps (W&B's start, the figures, its end) is reported separately. All numbers except the
differences are medians over the pairs.
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
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from lightning.pytorch import Callback, Trainer
from rich.console import Console
from rich.table import Table

from lit_triwave.cli import main as lit_triwave
from lit_triwave.tracking.wandb_rows import WandbRows


class Times(NamedTuple):
    """Times of one fit, in seconds."""

    steps: list[float]  # wall time from each step to the next, with a validation between them
    calls: float  # wall time of all steps in W&B's logger
    threads: float  # processor time of all steps in other threads
    process: float  # processor time of all steps in child processes
    around: float = 0.0  # wall time before the first step and after the last


class Stopwatch(Callback):
    """Times the steps of a fit.

    Attributes:
        last: times of the last fit in this process, without `around`.
        calls: seconds in W&B's logger so far.
    """

    last: Times
    calls = 0.0

    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        self.begun = self.used()
        self.starts: list[float] = []

    def on_train_batch_start(self, trainer: Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        self.starts.append(time.perf_counter())

    def on_train_end(self, trainer: Trainer, pl_module: Any) -> None:
        ends = [*self.starts[1:], time.perf_counter()]
        steps = [end - start for start, end in zip(self.starts, ends, strict=True)]
        Stopwatch.last = Times(steps, *(now - then for now, then in zip(self.used(), self.begun, strict=True)))

    def used(self) -> tuple[float, float, float]:
        """Returns the seconds so far in W&B's logger, in other threads, and in child processes."""
        return Stopwatch.calls, time.process_time() - time.thread_time(), children_seconds()


def children_seconds() -> float:
    """Returns processor seconds of living child processes; 0 on systems without /proc."""
    total, tick = 0.0, os.sysconf("SC_CLK_TCK")
    for file in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # the process has ended
            fields = file.read_text().rpartition(")")[2].split()
            if int(fields[1]) == os.getpid():
                total += (int(fields[11]) + int(fields[12])) / tick
    return total


@contextlib.contextmanager
def timed_calls(watch: Any) -> Iterator[None]:
    """Adds up the time in W&B's logger."""
    log = WandbRows.log_metrics

    def timed(self: WandbRows, *args: Any, **options: Any) -> None:
        start = time.perf_counter()
        log(self, *args, **options)
        watch.calls += time.perf_counter() - start

    WandbRows.log_metrics = timed  # type: ignore[method-assign]
    try:
        yield
    finally:
        WandbRows.log_metrics = log  # type: ignore[method-assign]


def fit(mode: str, epochs: int, root: str, more: Sequence[str] = ()) -> Times:
    """Times one fit of the digits with W&B in a mode.

    Raises:
        RuntimeError: it failed.
    """
    watch = importlib.import_module("benchmarks.tracking").Stopwatch  # this file is another module when it is run
    half = epochs // 2
    options = ["--model.pretrain.epochs", str(half), "--model.train.epochs", str(epochs - half)]
    options += ["--run.root", root, "--run.wandb", mode, "--trainer.callbacks+=benchmarks.tracking.Stopwatch"]
    begun, said = time.perf_counter(), io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said), timed_calls(watch):
        code = lit_triwave(["fit", "--config", "configs/digits.yaml", *options, *more])
    whole = time.perf_counter() - begun
    if code or "its process is gone" in said.getvalue():
        raise RuntimeError(f"the fit with W&B {mode} failed: {said.getvalue()[-500:]}")
    last: Times = watch.last
    return last._replace(around=whole - sum(last.steps))


def main(arguments: Sequence[str] | None = None) -> float:
    """Measures, prints a table, and returns W&B's share of the steps by what it uses."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=8)
    parser.add_argument("--epochs", type=int, default=20)
    asked, more = parser.parse_known_args(arguments)
    torch.set_num_threads(1)
    pairs = []
    with tempfile.TemporaryDirectory() as root:
        for turn in range(asked.turns + 1):
            order = ("offline", "disabled") if turn % 2 else ("disabled", "offline")
            times = {mode: fit(mode, asked.epochs, root, more) for mode in order}
            pairs += [(times["disabled"], times["offline"])] if turn else []
    table = Table(title=f"digits, {asked.epochs} epochs, {len(pairs)} pairs; W&B offline against disabled")
    for column in ("of all steps", "W&B takes", "single pairs"):
        table.add_column(column, justify="left" if column == "of all steps" else "right")

    def row(name: str, found: Sequence[float], value: float | None = None) -> float:
        shown = statistics.median(found) if value is None else value
        table.add_row(name, f"{shown:.2%}", f"{min(found):.1%} to {max(found):.1%}")
        return shown

    shares = {
        name: [(getattr(on, name) - getattr(off, name)) / sum(off.steps) for off, on in pairs]
        for name in ("calls", "threads", "process")
    }
    row("its calls, clock", shares["calls"])
    row("its threads, processor", shares["threads"])
    row("its process, processor", shares["process"])
    together = row("together", [sum(parts) for parts in zip(*shares.values(), strict=True)])
    table.add_section()
    off, on = (sum(map(min, zip(*(pair[which].steps for pair in pairs), strict=True))) for which in (0, 1))
    row("difference, clock", [sum(on.steps) / sum(off.steps) - 1 for off, on in pairs], on / off - 1)
    Console(width=110).print(table)
    step = statistics.median(sum(off.steps) / len(off.steps) for off, _ in pairs)
    more = statistics.median(on.around - off.around for off, on in pairs)
    print(f"a step takes {1e3 * step:.2f} ms; before and after the steps W&B takes {more:.2f} s")
    return together


if __name__ == "__main__":
    main()
