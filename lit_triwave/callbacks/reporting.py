"""Chooses the callbacks that write a run's summary, figures and predictions."""

from __future__ import annotations

from pathlib import Path

from lightning.pytorch import Callback

from lit_triwave.callbacks.diagnostics import ClassificationDiagnostics, RegressionDiagnostics
from lit_triwave.callbacks.figures import ClassificationFigures, RegressionFigures
from lit_triwave.callbacks.loss_history import EpochHistory, SeedHistory
from lit_triwave.callbacks.predictions import ClassCSV, PredictionCSV
from lit_triwave.callbacks.regression_summary import RegressionSummary
from lit_triwave.callbacks.summary import ClassificationSummary, LoggedSummary
from lit_triwave.tracking.run_files import PREDICTIONS_CSV


def reporting(task: str | None, folder: Path, seed: int, started: float, predicts: bool) -> list[Callback]:
    """Returns the callbacks that report on a model.

    Args:
        task: the model's `task`. Reports of a task need the attributes of its data. None gives only a summary of the
            logged values.
        folder: folder for the results.
        seed: seed of the run.
        started: when the process started, `time.monotonic()` in seconds.
        predicts: whether to write `predictions.csv`.
    """
    file = folder / PREDICTIONS_CSV
    if task == "regression":
        seeds = SeedHistory()
        reports = [RegressionDiagnostics(), RegressionSummary(folder, seed, started), RegressionFigures(folder, seeds)]
        return [seeds, *reports, *([PredictionCSV(file)] if predicts else [])]
    if task == "classification":
        epochs, diagnostics = EpochHistory(), ClassificationDiagnostics()
        summary = ClassificationSummary(folder, seed, started, diagnostics)
        reports = [diagnostics, summary, ClassificationFigures(folder, epochs)]
        return [epochs, *reports, *([ClassCSV(file)] if predicts else [])]
    return [LoggedSummary(folder, seed, started)]
