"""Which callbacks report of which kind of model, and which of its checkpoints is the best."""

from __future__ import annotations

from pathlib import Path

from lightning.pytorch import Callback, LightningModule

from lit_triwave.callbacks.diagnostics import ClassificationCourse, RegressionCourse
from lit_triwave.callbacks.figures import ClassificationFigures, RegressionFigures
from lit_triwave.callbacks.loss_history import EpochHistory, SeedHistory
from lit_triwave.callbacks.predictions import ClassCSV, PredictionCSV
from lit_triwave.callbacks.summary import ClassificationSummary, RegressionSummary
from lit_triwave.modules.classifier import ImageClassifier
from lit_triwave.modules.regressor import FunctionRegressor


def reporting(model: LightningModule, folder: Path, seed: int, started: float, predicts: bool) -> list[Callback]:
    """What writes summary, figures and predictions of a model's kind into a run's folder; nothing for one of the
    user's own.

    Args:
        model: of the run.
        folder: of the run.
        seed: of the run.
        started: when the run's process started, `time.monotonic()` seconds.
        predicts: whether to write predictions.csv.
    """
    if isinstance(model, FunctionRegressor):
        history = SeedHistory()
        summary = RegressionSummary(folder, seed, started)
        written: list[Callback] = [PredictionCSV(folder / "predictions.csv")] if predicts else []
        return [history, RegressionCourse(), summary, RegressionFigures(folder, history), *written]
    if isinstance(model, ImageClassifier):
        epochs, course = EpochHistory(), ClassificationCourse()
        rows: list[Callback] = [ClassCSV(folder / "predictions.csv")] if predicts else []
        return [
            epochs,
            course,
            ClassificationSummary(folder, seed, started, course),
            ClassificationFigures(folder, epochs),
            *rows,
        ]
    return []
