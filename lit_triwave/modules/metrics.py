"""Sets of metrics for regression, one value for each replica, and for classification."""

from __future__ import annotations

import torch
from torch import Tensor
from torchmetrics import MeanAbsoluteError, MeanSquaredError, Metric, MetricCollection


class MaxAbsoluteError(Metric):
    """Largest |prediction − target| of each output.

    Args:
        num_outputs: number of outputs R; predictions and targets are (batch, R), the result is (R,).
    """

    is_differentiable = False
    higher_is_better = False
    full_state_update = False
    largest: Tensor

    def __init__(self, num_outputs: int = 1) -> None:
        super().__init__()
        self.add_state("largest", torch.zeros(num_outputs), dist_reduce_fx="max")

    def update(self, preds: Tensor, target: Tensor) -> None:
        if len(preds):
            self.largest = torch.maximum(self.largest, (preds - target).abs().amax(0).to(self.largest))

    def compute(self) -> Tensor:
        return self.largest


class _PerReplica(MetricCollection):
    """Keeps the results of one replica 1-d, which torchmetrics would make 0-d."""

    def compute(self) -> dict[str, Tensor]:
        return {name: value.reshape(-1) for name, value in super().compute().items()}


def regression_metrics(replicas: int, prefix: str) -> MetricCollection:
    """Returns MSE, MAE and maximum error of each replica, in float64 (torchmetrics keeps float32 by default)."""
    metrics = _PerReplica(
        {
            "mse": MeanSquaredError(num_outputs=replicas),
            "mae": MeanAbsoluteError(num_outputs=replicas),
            "max_error": MaxAbsoluteError(num_outputs=replicas),
        },
        prefix=prefix,
        compute_groups=False,
    )
    return metrics.set_dtype(torch.float64)


def spread(name: str, values: Tensor, targets: int = 1) -> dict[str, Tensor]:
    """Returns `name_min`, `name_mean` and `name_median` over seeds, all 0-d, for values of shape (replicas,).

    Several targets have equally many seeds side by side. For these, each value is the mean over targets.
    """
    each = values.view(targets, -1)
    found = {"min": each.amin(1), "mean": each.mean(1), "median": each.quantile(0.5, dim=1)}
    return {f"{name}_{statistic}": value.mean() for statistic, value in found.items()}


def over_targets(name: str, values: Tensor) -> Tensor:
    """Returns a metric of all targets together, 0-d: the mean over targets, or for maximum errors the largest."""
    return values.max() if name.endswith("max_error") else values.mean()


def dead(outputs: Tensor) -> Tensor:
    """Returns (replicas,) bool: whether a network's outputs (batch, replicas) are the same for all inputs."""
    rounding = 4 * torch.finfo(torch.float64).eps  # rounding of a large offset
    constant: Tensor = outputs.amax(0) - outputs.amin(0) <= rounding * outputs.abs().amax(0)
    return constant


def classification_metrics(num_classes: int, prefix: str) -> MetricCollection:
    """Returns top-1 accuracy, top-5 accuracy for more than five classes, and the expected calibration error.

    The calibration error compares the confidence of the predicted class with the share of correct predictions. It is
    the mean difference over 15 bins of confidence, weighted by the number of images in a bin.
    """
    from torchmetrics.classification import MulticlassAccuracy, MulticlassCalibrationError

    metrics: dict[str, Metric | MetricCollection] = {"accuracy": MulticlassAccuracy(num_classes, average="micro")}
    if num_classes > 5:
        metrics["top5_accuracy"] = MulticlassAccuracy(num_classes, top_k=5, average="micro")
    metrics["calibration_error"] = MulticlassCalibrationError(num_classes, n_bins=15)
    return MetricCollection(metrics, prefix=prefix, compute_groups=False)
