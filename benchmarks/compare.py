"""Speed and memory of `compare` over many run folders, and the time until Chromium shows the page's table and charts.

    python -m benchmarks.compare [--runs 1000] [--steps 2000] [--keep FOLDER]

The run folders are in a temporary folder. They have the files of `fit` except checkpoints and figures, with invented
curves and four seeds of each config. Each command is a separate process. Its time is wall time with all imports; its
memory is the peak resident size. Chromium's times are marks of the page, measured from the start of the navigation.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from tests.chromium import MISSING, seconds_to

GRID = {
    "model.pretrain.epochs": (100, 500),
    "model.initialization": ("constructed", "kaiming", "raai", "rai"),
    "model.train.lr": (1e-3, 3e-3, 1e-2, 3e-2),
    "model.release": ("blocks", "dense"),
    "model.depth": (2, 3, 4, 5, 6, 7, 8),
}
SEEDS = 4
REPLICAS = 10


def generate(root: Path, runs: int, steps: int) -> None:
    """Writes run folders into `root`/sweep/ whose fields differ as in a sweep, four seeds of each.

    Args:
        root: folder of all experiments.
        runs: number of runs.
        steps: rows of each metrics.csv; every tenth is a validation.
    """
    settings = list(product(*GRID.values()))
    for number in range(runs):
        values = settings[number // SEEDS % len(settings)]
        write_run(root / "sweep" / f"run-{number:04d}", dict(zip(GRID, values, strict=True)), number % SEEDS, steps)


def write_run(folder: Path, fields: dict[str, Any], seed: int, steps: int, replicas: int = REPLICAS) -> None:
    """Writes one run of an invented function. Deeper networks are better, and a constructed start begins lower."""
    random = np.random.default_rng([seed, *repr(sorted(fields.items())).encode()])
    depth = fields.get("model.depth", 5)
    config = {
        "seed_everything": seed,
        "model.class_path": "lit_triwave.modules.FunctionRegressor",
        "model.depth": depth,
    }
    config |= {
        "model.replicas": replicas,
        "data.expression": "x**3 - x",
        "data.points": 500,
        "data.seed": seed,
    } | fields
    start = 0.3 if fields.get("model.initialization", "constructed") == "constructed" else 3.0
    end = 10 ** -(1.5 + 0.7 * depth + random.normal(0, 0.1)) * start * (1 + 30 * fields.get("model.train.lr", 0.01))
    seeds = end * np.exp(random.normal(0, 0.6, replicas))
    dense = fields.get("model.release") == "dense"
    summary = {
        "schema": 2,
        "stage": "train",
        "replicas": replicas,
        "test/mse": seeds.min(),
        "test/mse_min": seeds.min(),
        "test/mse_mean": seeds.mean(),
        "test/mse_std": seeds.std(ddof=1) if replicas > 1 else None,
        "test/max_error": 3 * seeds.min() ** 0.5,
        "parameters": (20 * depth - 7) * (2 if dense else 1),
        "fit_seconds": 4 + depth * random.uniform(1.5, 2.0) * (1.4 if dense else 1),
        "seed": seed,
    }
    identity = {"experiment": folder.parent.name, "id": folder.name, "group": folder.parent.name, "job_type": "fit"}
    record = {"schema": 2, **identity, "state": "finished", "tags": ["constructed", f"depth {depth}"], "config": config}
    folder.mkdir(parents=True)
    (folder / "run.json").write_text(json.dumps(record))
    (folder / "summary.json").write_text(json.dumps(summary))
    (folder / "metrics.csv").write_text(_metrics(random, start, seeds.mean(), steps))


def _metrics(random: np.random.Generator, start: float, end: float, steps: int) -> str:
    share = np.arange(steps) / max(1, steps - 1)
    curve = start * (end / start) ** (share**0.6) * np.exp(random.normal(0, 0.15, steps))
    lines = ["dead_units,epoch,linear_regions/count,stage,step," + ",".join(
        f"{part}/mse_{which}" for part in ("train", "val") for which in ("mean", "median", "min")
    )]  # fmt: skip
    for step, value in enumerate(curve.tolist()):
        values = f"{value},{value * 0.8},{value * 0.3}"
        if step % 10:
            lines.append(f",{step},,{int(step > steps / 2)},{step},{values},,,")
        else:
            lines.append(f"0.125,{step},32,{int(step > steps / 2)},{step},,,,{values}")
    return "\n".join(lines) + "\n"


def measured(*args: str) -> tuple[float, float, float]:
    """Returns wall time, processor time (both in seconds) and peak memory in MiB of one command."""
    begun = time.perf_counter()
    process = os.posix_spawn(sys.executable, [sys.executable, "-m", "lit_triwave", *args], os.environ)
    _, status, usage = os.wait4(process, 0)
    if status:
        raise SystemExit(f"{' '.join(args)}: exit code {os.waitstatus_to_exitcode(status)}")
    return time.perf_counter() - begun, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=1000)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--keep", type=Path, help="folder for runs and pages, to be looked at afterwards")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        root = asked.keep or Path(temporary)
        if not (root / "runs").exists():
            generate(root / "runs", asked.runs, asked.steps)
        table = Table(title=f"compare, {asked.runs} runs of {asked.steps} logged steps")
        for column in ("", "seconds", "processor, s", "MiB at most"):
            table.add_column(column, justify="right" if column else "left")
        page, rows = root / "page.html", root / "every_run.html"
        commands = {
            "table": ["--out", str(root / "table.txt")],
            "json": ["--out", str(root / "runs.json")],
            "page": ["--out", str(page)],
            "page, a row for each run": ["--group-by", "name", "--out", str(rows)],
            "table and figures": ["--out", str(root / "table.txt"), "--figures", str(root / "figures")],
        }
        for name, args in commands.items():
            seconds, processor, memory = measured("compare", str(root / "runs"), *args)
            table.add_row(name, f"{seconds:.1f}", f"{processor:.1f}", f"{memory:.0f}")
        for name, file in {"": page, ", a row for each run": rows}.items():
            size = f"{file.stat().st_size / 1e6:.1f} MB{name}"
            for mark, seconds in ({} if MISSING else seconds_to(file)).items():
                table.add_row(f"{mark} in Chromium, {size}", f"{seconds:.2f}", "", "")
        if MISSING:
            table.caption = MISSING
    Console().print(table)


if __name__ == "__main__":
    main()
