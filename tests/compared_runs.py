"""Run folders in the documented layout, written by hand, for the tests of `compare`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lit_triwave.cli import main

LONG = "sqrt(x**2 + y**2)**3 + exp(-(x - 0.5)**2 / 0.01)"
"""An expression that is too long for a table."""

CONFIG = {
    "model.depth": 5,
    "model.release": "blocks",
    "model.train.lr": 0.001,
    "data.points": 500,
    "seed_everything": 0,
}


def write_run(
    folder: Path,
    config: dict[str, Any] | None = None,
    summary: dict[str, Any] | None = None,
    state: str = "finished",
    metrics: str = "",
    schema: int = 2,
) -> Path:
    """Writes a run folder in the documented layout: run.json and, if given, summary.json and metrics.csv."""
    folder.mkdir(parents=True)
    record = {"schema": schema, "experiment": folder.parent.name, "id": folder.name, "state": state}
    record |= {"tags": ["constructed", "x**3 - x"], "config": CONFIG | (config or {})}
    (folder / "run.json").write_text(json.dumps(record))
    if summary is not None:
        (folder / "summary.json").write_text(json.dumps({"schema": schema} | summary))
    if metrics:
        (folder / "metrics.csv").write_text(metrics)
    return folder


def replicas(values: list[float]) -> dict[str, Any]:
    """The summary of a run of several seeds with these errors."""
    summary = {"replicas": len(values), "test/mse": min(values), "test/mse_min": min(values)}
    return summary | {"test/mse_mean": float(np.mean(values)), "test/mse_std": float(np.std(values, ddof=1))}


def compared(capsys: pytest.CaptureFixture[str], *args: object) -> dict[str, Any]:
    """The content of `--format json`."""
    capsys.readouterr()
    assert main(["compare", *map(str, args), "--format", "json"]) == 0
    content: dict[str, Any] = json.loads(capsys.readouterr().out)
    return content


def refused(capsys: pytest.CaptureFixture[str], *args: object) -> str:
    """The one-line error of a refused command line."""
    capsys.readouterr()
    assert main(["compare", *map(str, args)]) in (1, 2)
    said = capsys.readouterr()
    assert not said.out
    (line,) = said.err.splitlines()
    return line


def write_sweep(root: Path) -> Path:
    """Two depths by two releases, three seeds each: depth 6 with blocks is the best."""
    errors = {(5, "blocks"): 4e-6, (5, "dense"): 3e-6, (6, "blocks"): 1e-6, (6, "dense"): 2e-6}
    for (depth, release), error in errors.items():
        for seed in range(3):
            config = {"model.depth": depth, "model.release": release, "seed_everything": seed, "data.seed": seed}
            curve = "".join(
                f"{step},{error * (1 + 100 / (1 + step)) * (1 + 0.1 * seed)}\n" for step in range(0, 500, 5)
            )
            summary = {"test/mse": error * (1 + 0.01 * seed), "parameters": 20 * depth, "fit_seconds": 3.0 + seed}
            folder = root / "sweep" / f"{depth}-{release}-{seed}"
            write_run(folder, config, summary, metrics="step,train/mse_mean\n" + curve)
    return root


def write_diverged(root: Path) -> None:
    """Three runs, one of which diverged."""
    for depth, error in {3: 1e-2, 4: 1e-4, 5: 1e90}.items():
        curve = "step,train/mse_mean\n" + "".join(f"{step},{error * 2}\n" for step in range(9))
        summary = {"test/mse": error, "parameters": depth, "fit_seconds": 1.0}
        write_run(root / "x3" / str(depth), {"model.depth": depth}, summary, metrics=curve)


def write_two_functions(root: Path) -> None:
    """Two runs for x³, the one of depth 5 is better, and one run for sin, with the lowest error of all."""
    for expression, depth, error in (("x**3", 4, 1e-4), ("x**3", 5, 1e-5), ("sin(x)", 4, 1e-7)):
        config = {"data.expression": expression, "model.depth": depth}
        write_run(root / expression[:1] / str(depth), config, {"test/mse": error})
