"""Regression data in memory: points of a real function of one or more inputs."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from datamodules.batches import Shard, check_batches, check_shares, seeded_generator
from datamodules.resumable import ResumableDataModule
from lit_triwave.errors import check_least

_EVALUATION_BATCH = 65_536  # points; limits the memory of an evaluation and has no other effect
_CURVATURE_POINTS = 100_000  # more points do not change the sign of a fitted curvature


class Batch(NamedTuple):
    """One rank's share of a global batch.

    Attributes:
        x: inputs, (batch, in_features) float64.
        y: targets, (batch,) float64, or (batch, F) for F functions of the same inputs.
        weight: the share's weight in the loss, see `Shard`, 0-d float64.
    """

    x: Tensor
    y: Tensor
    weight: Tensor


class Points(Dataset[Batch]):
    """Inputs and targets of one split, indexed by a whole `Shard` at once.

    Args:
        x: inputs of shape (n, in_features), n at least 1; kept as float64.
        y: targets of shape (n,), or (n, F) for F functions; kept as float64.

    Raises:
        ValueError: the shapes do not fit.
    """

    def __init__(self, x: Tensor, y: Tensor) -> None:
        if x.ndim != 2 or y.ndim not in (1, 2) or y.shape[:1] != x.shape[:1] or len(y) == 0:
            raise ValueError(
                "points must have x of shape (n, in_features) and y of shape (n,) or (n, F), n at least 1, got "
                f"{(*x.shape,)} and {(*y.shape,)}"
            )
        self.x = x.double()
        self.y = y.double()

    def __len__(self) -> int:
        return len(self.y)

    def __getitem__(self, shard: Shard) -> Batch:
        weight = torch.tensor(shard.weight, dtype=torch.float64)
        return Batch(self.x[shard.indices], self.y[shard.indices], weight)


class RegressionDataModule(ResumableDataModule):
    """Training, validation, test and prediction points of a real function of one or more inputs.

    The data module itself shares the batches among ranks, so use a Trainer with `use_distributed_sampler=False`.

    Args:
        domain: name of each input ↦ its lower and upper bound, in the order of the columns of x.
        train: training points.
        val: validation points.
        test: test points.
        predict: points to predict at, whose targets may be nan; the test points if None.
        batch_size: training points in a global batch, over all ranks together; None for all of them.
        seed: seed of the order of the training points, at least 0.
        repeats: passes through the training points in one epoch, at least 1. For few points Lightning's bookkeeping of
            an epoch takes longer than a step.

    Attributes:
        target_name: name of the target in figures; of several, all of them.

    Raises:
        ValueError: a bound, the batch size or the seed is out of range, or a value is not finite.
    """

    target_name = "target"

    def __init__(
        self,
        domain: dict[str, tuple[float, float]],
        train: Points,
        val: Points,
        test: Points,
        predict: Points | None = None,
        batch_size: int | None = None,
        seed: int = 0,
        repeats: int = 1,
    ) -> None:
        super().__init__()
        check_batches(batch_size, seed)
        check_least(1, repeats=repeats)
        self.repeats = repeats
        check_domain(domain)
        self.domain: dict[str, tuple[float, float]] = {n: (float(lo), float(hi)) for n, (lo, hi) in domain.items()}
        self.train_set = train
        self.val_set = val
        self.test_set = test
        self.predict_set = test if predict is None else predict
        self.batch_size = batch_size
        self.seed = seed
        for split in ("train", "val", "test", "predict"):
            self._check_points(split, getattr(self, f"{split}_set"))

    @property
    def training_points(self) -> int:
        """Number of training points."""
        return len(self.train_set)

    @cached_property
    def target_range(self) -> tuple[float, float] | list[tuple[float, float]]:
        """The lowest and the highest training target, for the scale of outputs; (c, c + 1) if all targets are c.

        For F functions a list of F such pairs.
        """
        y = self.train_set.y
        ends = torch.stack([y.amin(0), y.amax(0)], -1).reshape(-1, 2).tolist()
        pairs = [(lower, upper) if lower < upper else (lower, lower + 1.0) for lower, upper in ends]
        return pairs[0] if y.ndim == 1 else pairs

    @property
    def target_names(self) -> list[str]:
        """Name of each target."""
        y = self.train_set.y
        return [self.target_name] if y.ndim == 1 else [f"{self.target_name} {t + 1}" for t in range(y.shape[1])]

    @cached_property
    def curvature(self) -> list[Any]:
        """`"convex"` or `"concave"` for each input; for F functions a list of F such lists.

        It is the sign of c_j in a least-squares fit y ~ a + Σ b_j x_j + c_j x_j², with inputs scaled to [0, 1].
        Functions without curvature are convex.
        """
        x, y = self.train_set.x, self.train_set.y
        if len(y) > _CURVATURE_POINTS:
            chosen = torch.randint(len(y), (_CURVATURE_POINTS,), generator=seeded_generator(self.seed, "curvature"))
            x, y = x[chosen], y[chosen]
        lower, upper = torch.tensor(list(self.domain.values()), dtype=torch.float64).unbind(-1)
        u = (x - lower) / (upper - lower)
        features = torch.cat([torch.ones_like(u[:, :1]), u, u.square()], dim=1)
        # gelsd: with two points on an axis, u and u² are the same column, and the default driver fails.
        targets = y[:, None] if y.ndim == 1 else y
        fit = torch.linalg.lstsq(features, targets, driver="gelsd").solution[-len(self.domain) :]  # (inputs, F)
        convex = (fit >= -1e-9 * targets.abs().amax(0)).T.tolist()
        kinds = [["convex" if positive else "concave" for positive in signs] for signs in convex]
        return kinds[0] if y.ndim == 1 else kinds

    def free_knot_mse(self, segments: int) -> float | None:
        """Returns the error that `segments` linear pieces can reach; here None, for not known."""
        return None

    def train_dataloader(self) -> DataLoader[Batch]:
        """Shuffled global batches of `batch_size`, or one batch of everything, shared among the ranks."""
        sampler = self.sharded(len(self.train_set), self.batch_size, shuffle=True, repeats=self.repeats)
        return self.resumable_loader(self.train_set, sampler)

    def val_dataloader(self) -> DataLoader[Batch]:
        """The validation points in order, each on one rank."""
        return self._evaluation(self.val_set)

    def test_dataloader(self) -> DataLoader[Batch]:
        """The test points in order, each on one rank."""
        return self._evaluation(self.test_set)

    def predict_dataloader(self) -> DataLoader[Batch]:
        """The points to predict at, in order, each on one rank."""
        return self._evaluation(self.predict_set)

    def prediction_columns(self) -> dict[str, list[Any]]:
        """Returns the columns beside the predictions: the inputs and, if known, the target."""
        points = self.predict_set
        columns = {name: points.x[:, j].tolist() for j, name in enumerate(self.domain)}
        if bool(points.y.isnan().all()):
            return columns
        if points.y.ndim == 1:
            return columns | {"target": points.y.tolist()}
        return columns | dict(zip(self.target_names, points.y.T.tolist(), strict=True))

    def check_ranks(self, ranks: int) -> None:
        check_shares(len(self.train_set), self.batch_size, ranks)

    def _evaluation(self, points: Points) -> DataLoader[Batch]:
        sampler = self.sharded(len(points), _EVALUATION_BATCH, allow_empty=True)
        # batch_size=None: the sampler yields whole shards, each indexes the points once, and nothing is collated.
        return DataLoader(points, batch_size=None, sampler=sampler)

    def _check_points(self, split: str, points: Points) -> None:
        if points.x.shape[1] != len(self.domain):
            inputs = f"{len(self.domain)} input{'s' * (len(self.domain) > 1)}"
            raise ValueError(f"{split} points must have the {inputs} of domain, got {points.x.shape[1]}")
        columns = {f"input {name}": points.x[:, j] for j, name in enumerate(self.domain)}
        if split != "predict":
            columns["target"] = points.y if points.y.ndim == 1 else points.y.sum(1)  # not finite where one is not
        for name, column in columns.items():
            row = first_true(~column.isfinite())
            if row is not None:
                raise ValueError(
                    f"{name} of the {split} points must be finite, got {column[row]:g} at row {row} (from 0)"
                )


def side_by_side(parts: Sequence[RegressionDataModule], repeats: int = 1) -> RegressionDataModule:
    """Joins F functions of the same inputs to one problem with targets of shape (n, F).

    Args:
        parts: one for each function; domain, order of the points and batch size are taken from the first.
        repeats: see `RegressionDataModule`.

    Returns:
        The joint problem.

    Raises:
        ValueError: the inputs of the parts differ.
    """
    first = parts[0]

    def stacked(split: str) -> Points:
        points = [getattr(part, f"{split}_set") for part in parts]
        if not all(torch.equal(points[0].x, other.x) for other in points):
            raise ValueError(f"the {split} inputs of the functions differ")
        return Points(points[0].x, torch.stack([one.y for one in points], 1))

    sets = {split: stacked(split) for split in ("train", "val", "test")}
    return RegressionDataModule(first.domain, **sets, batch_size=first.batch_size, seed=first.seed, repeats=repeats)


def check_domain(domain: dict[str, tuple[float, float]]) -> None:
    """Raises ValueError unless there is an input and every (lower, upper) is finite with lower < upper."""
    if not domain:
        raise ValueError("domain must have the bounds of each input, such as {x: [0, 1]}, got {}")
    for name, bounds in domain.items():
        if len(bounds) != 2:
            raise ValueError(f"domain of {name} must be two numbers, lower and upper, got {list(bounds)}")
        lower, upper = float(bounds[0]), float(bounds[1])
        if not abs(upper - lower) < float("inf"):  # also false for nan
            raise ValueError(f"domain of {name} must have finite bounds and a finite length, got {lower} and {upper}")
        if lower >= upper:
            raise ValueError(f"domain of {name} must have lower < upper, got {lower} and {upper}")


def first_true(mask: Tensor) -> int | None:
    """Returns the index of the first True in a mask of shape (n,), or None."""
    return int(mask.int().argmax()) if bool(mask.any()) else None
