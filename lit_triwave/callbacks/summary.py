"""`summary.json` and the closing table of a run."""

from __future__ import annotations

import json
import time
from abc import ABC, abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import WandbLogger
from rich.console import Console
from rich.table import Table

from lit_triwave.metrics import dead, spread
from lit_triwave.runs import write_json

if TYPE_CHECKING:
    from lit_triwave.modules.classifier import ImageClassifier
    from lit_triwave.modules.regressor import FunctionRegressor


class RunSummary(Callback, ABC):
    """After `test`: a flat `summary.json` in the run folder, and the table that a run closes with.

    Args:
        folder: the run's folder.
        seed: of the run.
        started: when the run's process started, `time.monotonic()` seconds.
    """

    def __init__(self, folder: Path, seed: int, started: float) -> None:
        self.path = folder / "summary.json"
        self.seed = seed
        self.started = started
        self.earlier_seconds = 0.0
        self.fitted = False

    @property
    def seconds(self) -> float:
        """Wall time of this process and of those that it resumes."""
        return self.earlier_seconds + time.monotonic() - self.started

    def state_dict(self) -> dict[str, Any]:
        return {"seconds": self.seconds}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.earlier_seconds = state_dict["seconds"]

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.fitted = True

    @abstractmethod
    def summarize(self, data: Any, module: Any) -> dict[str, Any]:
        """The flat summary of a tested module."""

    @abstractmethod
    def table(self, summary: dict[str, Any]) -> Table:
        """What a run closes with."""

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not trainer.is_global_zero:
            return
        old = json.loads(self.path.read_text()) if self.path.is_file() else {}
        new = self.summarize(trainer.datamodule, pl_module)  # type: ignore[attr-defined]
        if self.fitted or not old:
            new |= {"wall_seconds": self.seconds, "seed": self.seed}
        summary = old | new
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write_json(self.path, summary)
        for logger in trainer.loggers:
            if isinstance(logger, WandbLogger):
                logger.experiment.summary.update(summary)
        print(self.path.parent, flush=True)
        Console().print(self.table(summary))


class RegressionSummary(RunSummary):
    """The summary of a `FunctionRegressor`."""

    def summarize(self, data: Any, module: FunctionRegressor) -> dict[str, Any]:
        """See `summarize`."""
        return summarize(data, module)

    def table(self, summary: dict[str, Any]) -> Table:
        """See `closing_table`."""
        return closing_table(summary, summary["replicas"])


class ClassificationSummary(RunSummary):
    """The summary of an `ImageClassifier`."""

    def summarize(self, data: Any, module: ImageClassifier) -> dict[str, Any]:
        """Accuracies and calibration error are shares, 0 to 1; the loss is in nats."""
        parameters = sum(parameter.numel() for parameter in module.parameters())
        return {"stage": module.stage, "parameters": parameters, "classes": module.num_classes} | module.results

    def table(self, summary: dict[str, Any]) -> Table:
        """Shares in per cent."""
        table = Table(show_header=False)
        table.add_column()
        table.add_column(justify="right")
        table.add_row("test accuracy", f"{summary['test/accuracy']:.2%}")
        if summary["classes"] > 5:
            table.add_row("test top-5 accuracy", f"{summary['test/top5_accuracy']:.2%}")
        table.add_row("test loss", f"{summary['test/loss']:.4f}")
        table.add_row("calibration error", f"{summary['test/calibration_error']:.2%}")
        table.add_row("parameters", f"{summary['parameters']:,}")
        table.add_row("time", f"{summary['wall_seconds']:.1f} s")
        return table


def summarize(data: Any, module: FunctionRegressor) -> dict[str, Any]:
    """The flat summary of a tested module. MSE and errors are in the units of the targets (squared)."""
    best = int(module.best_replica)
    test = module.test_results
    summary: dict[str, Any] = {"stage": module.stage, "replicas": module.network.replicas, "best_replica": best}
    summary |= {name: float(values[best]) for name, values in test.items()}
    summary |= spread("test/mse", test["test/mse"])
    with torch.no_grad():
        outputs = module(data.train_set.x.to(module.device))
    summary["dead"] = float(dead(outputs).double().mean())
    if module.pretrain_mse.isfinite().any():
        summary |= {"pretrain/mse": module.pretrain_mse[best]} | spread("pretrain/mse", module.pretrain_mse)
        summary["linear_regions/pretrained"] = int(module.pretrain_regions[best])
        summary["linear_regions/pretrained_min"] = int(module.pretrain_regions.min())
    if module.train_mse.isfinite().any():
        summary |= {"train/mse": module.train_mse[best]} | spread("train/mse", module.train_mse)
    summary["linear_regions/final"] = module.linear_regions(best)
    limit = data.free_knot_mse(module.network.segments)
    if limit is not None:
        summary |= {"free_knot/mse": limit, "free_knot/segments": module.network.segments}
    return {name: float(value) if isinstance(value, torch.Tensor) else value for name, value in summary.items()}


def closing_table(summary: dict[str, Any], replicas: int) -> Table:
    """What a run closes with; lowest and mean are over seeds."""
    table = Table()
    many = replicas > 1
    table.add_column("")
    table.add_column("best seed" if many else "", justify="right")
    if many:
        table.add_column("lowest", justify="right")
        table.add_column(f"mean of {replicas} seeds", justify="right")

    def row(label: str, value: str, low: str = "", mean: str = "") -> None:
        table.add_row(label, value, *([low, mean] if many else []))

    def mse(label: str, key: str) -> None:
        if f"{key}_min" in summary:
            value = summary.get(key, summary[f"{key}_min"])
            row(label, f"{value:.2e}", f"{summary[f'{key}_min']:.2e}", f"{summary[f'{key}_mean']:.2e}")

    mse("pretrained MSE", "pretrain/mse")
    mse("final training MSE", "train/mse")
    mse("test MSE", "test/mse")
    row("test maximum error", f"{summary['test/max_error']:.2e}")
    regions = [f"{summary[key]}" for key in ("linear_regions/pretrained", "linear_regions/final") if key in summary]
    row("linear regions" + (", before → after" if len(regions) > 1 else ""), " → ".join(regions))
    if "free_knot/mse" in summary:
        row(f"free-knot limit, {summary['free_knot/segments']} segments", f"{summary['free_knot/mse']:.2e}")
    if summary.get("dead"):
        row("dead networks", f"{summary['dead']:.0%}")
    if "wall_seconds" in summary:
        row("time", f"{summary['wall_seconds']:.1f} s")
    return table
