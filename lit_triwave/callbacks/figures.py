"""Draws the figures of a run and sends them to Weights & Biases."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import WandbLogger

from lit_triwave.analysis.regions import TooManyPieces, breakpoints
from lit_triwave.callbacks.loss_history import EpochHistory, SeedHistory, validation_images
from lit_triwave.errors import TriwaveError
from lit_triwave.tracking.run_files import FIGURES

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from lit_triwave.modules.classifier import ImageClassifier
    from lit_triwave.modules.regressor import FunctionRegressor
    from lit_triwave.modules.staged import StageName

_GRID_POINTS = 5001  # of the network's curve
_MAX_CLASSES = 100  # of a confusion matrix that one can still read
_SHOWN_NETS = 16
_MAX_POINTS = 40_401  # of test points that are drawn: a 201 × 201 grid


class RunFigures(Callback, ABC):
    """Writes `figures/*.png` after a test.

    Args:
        folder: folder of the run.
        history: what was recorded in training; empty without training.
    """

    def __init__(self, folder: Path, history: Any) -> None:
        self.folder = folder
        self.history = history

    @abstractmethod
    def draw(self, data: Any, module: Any) -> Iterator[tuple[str, Figure]]:
        """Yields names and figures of a tested module."""

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not trainer.is_global_zero:
            return
        folder = self.folder / FIGURES
        folder.mkdir(parents=True, exist_ok=True)
        paths = {}
        for name, figure in self.draw(trainer.datamodule, pl_module):  # type: ignore[attr-defined]
            paths[name] = folder / f"{name}.png"
            try:
                figure.savefig(paths[name])
            except OSError as error:
                raise TriwaveError(f"figure {paths[name]} cannot be written: {error.strerror}") from error
        for logger in trainer.loggers:
            if isinstance(logger, WandbLogger):
                for name, path in paths.items():
                    logger.log_image(f"figures/{name}", [str(path)])


class RegressionFigures(RunFigures):
    """Figures of a `FunctionRegressor`: the fit, the error, and the loss during training."""

    history: SeedHistory

    @torch.no_grad()
    def draw(self, data: Any, module: FunctionRegressor) -> Iterator[tuple[str, Figure]]:
        for t, name in enumerate(data.target_names):
            # Numbered, because two targets' names may differ only in characters that a file's name cannot have.
            word = re.sub(r"[^\w.-]+", "_", name)
            ending = f"_{t + 1}_{word}" if len(data.target_names) > 1 else ""
            for figure_name, figure in self._draw_target(data, module, t, name):
                yield figure_name + ending, figure

    def _draw_target(
        self, data: Any, module: FunctionRegressor, t: int, target_name: str
    ) -> Iterator[tuple[str, Figure]]:
        from lit_triwave.figures import run_figures as plots

        network, best = module.network, module.best_replicas[t]
        points = data.test_set
        step = -(-len(points) // _MAX_POINTS)
        x, target = points.x[::step], points.y.reshape(len(points), -1)[::step, t]
        prediction = module(x.to(module.device))[:, best].double().cpu()
        title = f"{target_name}: test MSE {float((prediction - target).square().mean()):.2e}"
        names = list(data.domain)
        limit: tuple[int, float] | None = None
        if len(names) == 1:
            order = x[:, 0].argsort()
            x, target, prediction = x[order, 0], target[order], prediction[order]
            plain = module.plain(best).double().cpu()
            lower, upper = data.domain[names[0]]
            grid = torch.linspace(lower, upper, _GRID_POINTS, dtype=torch.float64)
            try:
                kinks = breakpoints(plain, lower, upper, most=module.most_pieces(plain))
                pieces = f"{len(kinks) + 1:,}"
                lowest = None if network.segments is None else data.free_knot_mse(len(kinks) + 1)
                limit = None if lowest is None else (len(kinks) + 1, lowest)
            except TooManyPieces:
                kinks, pieces = grid[:0], f"more than {module.most_pieces(plain):,}"
            curve, marks = ((u, plain(u[:, None])[:, 0]) for u in (grid, kinks))
            yield "fit", plots.fit_figure(x, target, curve, pieces, marks, (names[0], target_name), title)
            yield "error", plots.error_figure(x, prediction - target, kinks, names[0], title)
        elif len(names) == 2:
            yield "surface", plots.surface_figure(x, target, prediction, names, title)
        else:
            yield "agreement", plots.agreement_figure(target, prediction, title)
        if len(self.history.epochs):
            labels: dict[StageName, str] = {
                "pretrain": "construction",
                "train": "release of the weights",
                "polish": "Levenberg–Marquardt",
            }
            epochs, each = self.history.epochs, network.replicas // module.num_targets
            begins = {
                label: float(module.first_epoch(name)) for name, label in labels.items() if module.stages[name].epochs
            }
            switches = {label: epoch for label, epoch in begins.items() if 0 < epoch <= epochs[-1]}
            mse = self.history.mse[:, each * t : each * (t + 1)]
            title = f"{target_name}: training"
            yield "loss", plots.loss_figure(epochs, mse, best - each * t, switches, limit, title)


class ClassificationFigures(RunFigures):
    """Figures of an `ImageClassifier`: accuracy and loss, confusion matrix, and curves of subnetworks."""

    history: EpochHistory

    @torch.no_grad()
    def draw(self, data: Any, module: ImageClassifier) -> Iterator[tuple[str, Figure]]:
        from lit_triwave.figures import run_figures as plots

        title = f"test accuracy {module.results['test/accuracy']:.2%}"
        if self.history.rows:
            begin = module.first_epoch("train")
            switch = begin if 0 < begin < len(self.history.rows) and module.banks else None
            images = f"{validation_images(data)} images"
            yield "learning", plots.learning_figure(self.history.rows, images, switch, title)
        assert module.confusion is not None
        if module.num_classes <= _MAX_CLASSES:
            counts = module.confusion.cpu()
            wrong, seen = int(counts.sum() - counts.diag().sum()), int(counts.sum())
            heading = f"{title}: {wrong} of {seen} images wrong"
            yield "confusion", plots.confusion_figure(counts, list(data.class_names), heading)
        for bank in module.banks[:1]:
            chosen = torch.linspace(0, bank.shape.numel() - 1, min(_SHOWN_NETS, bank.shape.numel())).long()
            grid = torch.linspace(0, 1, 501, device=module.device, dtype=bank.sign.dtype)
            curves = bank(grid[:, None].expand(-1, bank.shape.numel()))[:, chosen.to(module.device)].cpu()
            state = "peaks" if bank.released is None else f"released as {bank.released}"
            yield "subnetworks", plots.subnetworks_figure(grid.cpu().float(), curves.float(), chosen.tolist(), state)
