"""Stops or kills one of several ranks in each stage, and checks that the run ends in time and resumes bit-identical.

    python -m benchmarks.stuck_ranks [--ranks 2 4] [--faults SIGSTOP SIGKILL] [--seed 0]

A run of a stack goes through the stages limit, pretrain, train and polish. In each stage a rank gets SIGSTOP or
SIGKILL in the middle of a step. In half of the cases all processes then get Ctrl-C twice, as from a terminal. In the
other half the other ranks must notice the fault after `run.rank_seconds`. All processes must end in time, and the rank
must be named. The run is resumed after each fault and must end bit-identical to an uninterrupted run. Otherwise the
exit code is 1.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from itertools import product
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, Trainer
from rich.console import Console
from rich.table import Table

from benchmarks.attempts import differing, show

STAGES = ("limit", "pretrain", "train", "polish")
EPOCHS = 6  # epochs of each stage
CONFIG = ["--config", "configs/stack.yaml", "--model.layers", "[2, 2]", "--model.replicas", "2", "--data.points", "60"]
CONFIG += [f"--model.{stage}.epochs={EPOCHS}" for stage in STAGES] + ["--model.limit.halving=0"]
CONFIG += ["--run.checkpoint_every=1", "--run.wandb=disabled", "--trainer.enable_progress_bar=false"]
RANK_SECONDS = 30.0  # ranks wait this long for a silent rank, and at the start for a rank that imports
ALONE_SECONDS = RANK_SECONDS + 15  # limit without a signal; if the first rank is silent, the next reports 5 s later
SIGNAL_SECONDS = 10.0  # limit after the second signal
START_SECONDS = 300.0


class FaultAt(Callback):
    """Stops or kills this process in the middle of a step.

    Args:
        epoch: epoch of the step, from 0.
        rank: rank that gets the signal.
        name: name of the signal.
        mark: file that is written right before.
    """

    def __init__(self, epoch: int, rank: int, name: str, mark: str) -> None:
        self.place, self.number, self.mark = (epoch, rank), signal.Signals[name], Path(mark)

    def on_train_batch_start(self, trainer: Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if (trainer.current_epoch, trainer.global_rank) == self.place and batch_idx == 0:
            self.mark.touch()
            os.kill(os.getpid(), self.number)


def start(root: Path, run_id: str, ranks: int, *more: str) -> subprocess.Popen[str]:
    """Starts a run as a separate process group."""
    place = [f"--run.root={root}", "--run.experiment=e", f"--run.id={run_id}", "--ckpt_path=last"]
    args = ["fit", *CONFIG, *place, f"--trainer.devices={ranks}", f"--run.rank_seconds={RANK_SECONDS}", *more]
    command = [sys.executable, "-m", "lit_triwave", *args]
    with (root / f"{run_id}.log").open("a") as log:
        return subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True, text=True)


def group(process: subprocess.Popen[str]) -> list[int]:
    """Returns the processes of a group that have not ended."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            number, _, rest = entry.read_text().partition(" (")
            state, _, of_group = rest.rpartition(") ")[2].split()[:3]
            found += [int(number)] if int(of_group) == process.pid and state != "Z" else []
    return found


def seconds_to_end(process: subprocess.Popen[str], limit: float) -> float:
    """Waits until all processes of a group have ended; kills them after the limit. Returns the seconds."""
    begun = time.monotonic()
    while time.monotonic() - begun < limit:
        process.poll()
        if not group(process):
            return time.monotonic() - begun
        time.sleep(0.05)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    return limit


def fault(root: Path, run_id: str, ranks: int, stage: str, rank: int, name: str, signals: bool) -> tuple[float, str]:
    """Starts or resumes a run in which a rank has a fault in a stage.

    Returns:
        The seconds from the fault, or from the second signal, to the end of all processes; what is wrong, or "".
    """
    mark, log = root / "mark", root / f"{run_id}.log"
    mark.unlink(missing_ok=True)
    said = log.stat().st_size if log.exists() else 0
    prefix, epoch = "--trainer.callbacks", STAGES.index(stage) * EPOCHS + EPOCHS // 2
    values = {"epoch": epoch, "rank": rank, "name": name, "mark": mark}
    callback = [f"{prefix}+=benchmarks.stuck_ranks.FaultAt"]
    process = start(root, run_id, ranks, *callback, *(f"{prefix}.{key}={value}" for key, value in values.items()))
    limit = time.monotonic() + START_SECONDS
    while not mark.exists() and process.poll() is None and time.monotonic() < limit:
        time.sleep(0.02)
    if not mark.exists():
        seconds_to_end(process, 0)
        return 0.0, "it never came to the step"
    if signals:
        for pause in (0.0, 1.5):
            time.sleep(pause)
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGINT)
    most = SIGNAL_SECONDS if signals else ALONE_SECONDS
    seconds = seconds_to_end(process, 6 * most)
    text = log.read_bytes()[said:].decode()
    wrong = [f"it took {seconds:.1f} s"] if seconds > most else []
    wrong += [] if f"rank {rank} " in text else [f"rank {rank} is not named"]
    wrong += ["it has a traceback"] if "Traceback" in text else []
    return seconds, "; ".join(wrong)


def main(args: Sequence[str] | None = None) -> int:
    """Prints the table; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ranks", type=int, nargs="+", default=[2, 4])
    parser.add_argument("--faults", nargs="+", default=["SIGSTOP", "SIGKILL"])
    parser.add_argument("--stages", nargs="+", default=[*STAGES])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, help="folder of the runs and their output")
    asked = parser.parse_args(args)
    os.environ["OMP_NUM_THREADS"] = "1"
    chance, failures, cells = random.Random(asked.seed), 0, 0
    table = Table("ranks", "rank gets", "Ctrl-C", "stage", "rank", "ended after, s", "wrong")
    with tempfile.TemporaryDirectory() as folder:
        root = asked.keep or Path(folder)
        root.mkdir(parents=True, exist_ok=True)
        for ranks in asked.ranks:
            alone = f"alone-{ranks}"
            if start(root, alone, ranks).wait():
                raise SystemExit(f"the run that was left alone failed: {(root / f'{alone}.log').read_text()}")
            for name, signals in product(asked.faults, (False, True)):
                run_id = f"{ranks}-{name}-{signals}"
                for stage in asked.stages:
                    rank = chance.randrange(ranks)
                    seconds, wrong = fault(root, run_id, ranks, stage, rank, name, signals)
                    cells, failures = cells + 1, failures + bool(wrong)
                    row = [ranks, name, "twice" if signals else "none", stage, rank, f"{seconds:.1f}", wrong or "-"]
                    show(table, row)
                code = start(root, run_id, ranks).wait()
                differs = [f"it ended with {code}"] if code else differing(root / "e" / alone, root / "e" / run_id)
                failures += bool(differs)
                row = [ranks, name, "twice" if signals else "none", "resumed", "", "", ", ".join(differs) or "-"]
                show(table, row)
    Console().print(table)
    print(f"{cells} faults, {failures} failures")
    return int(failures > 0)


if __name__ == "__main__":
    sys.exit(main())
