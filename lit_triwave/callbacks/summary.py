"""Writes `summary.json` and prints the closing table of a run."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import RichProgressBar
from rich.console import Console
from rich.table import Table

from lit_triwave.analysis.costs import count_parameters, multiply_adds
from lit_triwave.callbacks.diagnostics import ClassificationDiagnostics
from lit_triwave.callbacks.loss_history import validation_images
from lit_triwave.files import read_json, write_json
from lit_triwave.tracking.metric_goals import shown, title
from lit_triwave.tracking.run_files import SCHEMA, SUMMARY_JSON
from lit_triwave.tracking.wandb_rows import wandb_loggers

if TYPE_CHECKING:
    from lit_triwave.modules.classifier import ImageClassifier


class RunSummary(Callback, ABC):
    """Writes a flat `summary.json` after a test and prints the closing table; `validate` prints the table only.

    Args:
        folder: folder of the run.
        seed: seed of the run.
        started: when the process started, `time.monotonic()` in seconds.
    """

    def __init__(self, folder: Path, seed: int, started: float) -> None:
        self.path = folder / SUMMARY_JSON
        self.seed = seed
        self.started = started
        self.earlier = self.earlier_fit = 0.0
        self.fit_began: float | None = None
        self.fit_ended: float | None = None

    @property
    def fitted(self) -> bool:
        """Whether this process trained the module that it tests."""
        return self.fit_began is not None

    @property
    def seconds(self) -> float:
        """Wall time of the training processes: this one, if it trained, and earlier ones of the same run."""
        return self.earlier + (time.monotonic() - self.started if self.fitted else 0.0)

    @property
    def fit_seconds(self) -> float:
        """Part of `seconds` for steps and for the validations between them."""
        if self.fit_began is None:
            return self.earlier_fit
        return self.earlier_fit + (self.fit_ended or time.monotonic()) - self.fit_began

    def state_dict(self) -> dict[str, Any]:
        return {"seconds": self.seconds, "fit_seconds": self.fit_seconds}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.earlier = state_dict["seconds"]
        self.earlier_fit = state_dict.get("fit_seconds", self.earlier)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.fit_began = time.monotonic()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.fit_ended = time.monotonic()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self.fit_ended = self.fit_ended or time.monotonic()

    @abstractmethod
    def summarize(self, data: Any, module: Any) -> dict[str, Any]:
        """Returns the flat summary of a tested module."""

    @abstractmethod
    def table(self, summary: dict[str, Any], data: Any, module: Any) -> Table:
        """Returns the closing table of a module, without the time."""

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.state.fn == "validate" and trainer.is_global_zero:
            _end_bar(trainer, pl_module)
            results = {name: float(value) for name, value in trainer.callback_metrics.items()}
            Console().print(self.table(results, trainer.datamodule, pl_module))  # type: ignore[attr-defined]

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not trainer.is_global_zero:
            return
        old = read_json(self.path)
        new = {"schema": SCHEMA} | self.summarize(trainer.datamodule, pl_module)  # type: ignore[attr-defined]
        if self.fitted or not old:
            new |= {"wall_seconds": self.seconds, "fit_seconds": self.fit_seconds, "seed": self.seed}
        # A result that this test does not have must not stay from an earlier one.
        kept = {name: value for name, value in old.items() if name in new or not name.startswith("test/")}
        summary = kept | new
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write_json(self.path, summary)
        for logger in wandb_loggers(trainer):
            logger.log_summary(summary)
        _end_bar(trainer, pl_module)
        print(self.path.parent, flush=True)
        table = self.table(summary, trainer.datamodule, pl_module)  # type: ignore[attr-defined]
        table.add_row("time" if self.fitted else "time of the fit", shown("wall_seconds", summary["wall_seconds"]))
        if "fit_seconds" in summary:
            table.add_row(title("fit_seconds"), shown("fit_seconds", summary["fit_seconds"]))
        Console().print(table)
        for line in self.remarks(summary, trainer.datamodule, pl_module):  # type: ignore[attr-defined]
            print(line, flush=True)

    def remarks(self, summary: dict[str, Any], data: Any, module: Any) -> list[str]:
        """Lines to print below the table."""
        return []


def _two_columns() -> Table:
    table = Table(show_header=False)
    table.add_column()
    table.add_column(justify="right")
    return table


def _end_bar(trainer: Trainer, module: LightningModule) -> None:
    """Ends Lightning's bar before the table, below which its last line would stand otherwise."""
    bar = trainer.progress_bar_callback
    if isinstance(bar, RichProgressBar):
        bar.teardown(trainer, module, "test")


class ClassificationSummary(RunSummary):
    """Summary of an `ImageClassifier`.

    Args:
        folder, seed, started: see `RunSummary`.
        diagnostics: counts the dead units.
    """

    def __init__(self, folder: Path, seed: int, started: float, diagnostics: ClassificationDiagnostics) -> None:
        super().__init__(folder, seed, started)
        self.diagnostics = diagnostics
        self.pretrained_parameters: int | None = None

    def on_train_epoch_end(self, trainer: Trainer, pl_module: ImageClassifier) -> None:  # type: ignore[override]
        if pl_module.stage == "pretrain":
            self.pretrained_parameters = count_parameters(pl_module)

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {"pretrained_parameters": self.pretrained_parameters}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        self.pretrained_parameters = state_dict.get("pretrained_parameters")

    def summarize(self, data: Any, module: ImageClassifier) -> dict[str, Any]:
        """Returns the summary; accuracies and calibration error are shares, 0 to 1, and the loss is in nats."""
        summary: dict[str, Any] = {"stage": module.stage, "parameters": count_parameters(module)}
        summary |= {"multiply_adds": multiply_adds(module), "classes": module.num_classes}
        if self.diagnostics.dead_units is not None:
            summary["dead_units"] = self.diagnostics.dead_units
        if self.pretrained_parameters is not None:
            summary["pretrain/parameters"] = self.pretrained_parameters
        return summary | module.results

    def table(self, summary: dict[str, Any], data: Any, module: ImageClassifier) -> Table:
        """Returns the table, with shares in per cent."""
        table = _two_columns()
        key = "test" if "test/accuracy" in summary else "val"
        table.title = None if key == "test" else f"on the {validation_images(data)} images"
        for name in ("accuracy", *["top5_accuracy"] * (module.num_classes > 5), "loss", "calibration_error"):
            table.add_row(title(f"{key}/{name}"), shown(f"{key}/{name}", summary[f"{key}/{name}"]))
        before, now = summary.get("pretrain/parameters"), count_parameters(module)
        released = any(bank.released for bank in module.banks)
        label = "parameters, as peaks → as weights" if before and released else "parameters"
        table.add_row(label, f"{before:,} → {now:,}" if before and released else f"{now:,}")
        return table


class LoggedSummary(RunSummary):
    """Summary of a module of the user: the last values that it logged, in its test if it has one."""

    def summarize(self, data: Any, module: LightningModule) -> dict[str, Any]:
        found: dict[str, Any] = {"parameters": count_parameters(module)}
        chosen = {name: getattr(module, name, None) for name in ("monitor", "mode")}  # for `compare`
        found |= {name: value for name, value in chosen.items() if isinstance(value, str)}
        found |= module.trainer.callback_metrics
        return {name: float(value) if isinstance(value, torch.Tensor) else value for name, value in found.items()}

    def table(self, summary: dict[str, Any], data: Any, module: LightningModule) -> Table:
        table = _two_columns()
        known = {"schema", "wall_seconds", "fit_seconds", "seed", "stage", "monitor", "mode"}
        titles = Counter(title(name) for name in summary)
        for name, value in summary.items():
            if name not in known:
                own = title(name)
                table.add_row(own if titles[own] == 1 else name, shown(name, value))
        return table
