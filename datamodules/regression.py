"""Regression data that lives in memory: batches are cut from whole tensors and shared among ranks without repeats."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from datamodules.resumable import ResumableDataModule

EVALUATION_BATCH = 65_536  # points; bounds the memory of an evaluation, changes nothing else
CURVATURE_POINTS = 100_000  # more do not change the sign of a fitted curvature


class Shard(NamedTuple):
    """The part of one global batch that belongs to one rank: its indices, (n,) int64, and its weight in the loss."""

    indices: Tensor
    weight: float


class Batch(NamedTuple):
    """One rank's share of a global batch.

    Attributes:
        x: Inputs of shape (batch, in_features), float64.
        y: Targets of shape (batch,), float64, or (batch, F) of F functions of the same inputs.
        weight: 0-d float64, batch * world_size / size of the global batch. DDP averages over ranks, so `weight` times
            the mean over this batch becomes the mean over the global batch even where shards are unequal.
    """

    x: Tensor
    y: Tensor
    weight: Tensor


class Points(Dataset[Batch]):
    """Inputs and targets of one split, indexed by a whole `Shard` at once.

    Args:
        x: Inputs of shape (n, in_features), n at least 1; kept as float64.
        y: Targets of shape (n,), or (n, F) of F functions; kept as float64.

    Raises:
        ValueError: The shapes do not fit.
    """

    def __init__(self, x: Tensor, y: Tensor) -> None:
        if x.ndim != 2 or y.ndim not in (1, 2) or y.shape[:1] != x.shape[:1] or len(y) == 0:
            raise ValueError(
                f"points need x of shape (n, in_features) and y of (n,) or (n, F), got {(*x.shape,)}, {(*y.shape,)}"
            )
        self.x = x.double()
        self.y = y.double()

    def __len__(self) -> int:
        return len(self.y)

    def __getitem__(self, shard: Shard) -> Batch:
        weight = torch.tensor(shard.weight, dtype=torch.float64)
        return Batch(self.x[shard.indices], self.y[shard.indices], weight)


class ShardedBatches(Sampler[Shard]):
    """Cuts n points into global batches and yields this rank's share of each.

    Every rank draws the same permutation, a function of (seed, epoch) alone, and takes `batch[rank::world_size]`, so
    the shards of a global batch are disjoint and together are that batch, whatever the number of ranks.

    Args:
        size: Number of points n.
        batch_size: Points in a global batch; None for all. The last batch may be smaller.
        shuffle: Whether to permute the points anew each epoch; without effect when one batch holds all by request.
        seed: Seed of the permutations.
        rank: This process, in [0, world_size).
        world_size: Number of processes.
        allow_empty: Whether a rank may get nothing from a batch, as in an evaluation.
        repeats: Times that an epoch goes through the points, each time in another order if they are shuffled.

    Raises:
        ValueError: A global batch has fewer points than there are ranks and `allow_empty` is False.
    """

    def __init__(
        self,
        size: int,
        batch_size: int | None = None,
        shuffle: bool = False,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        allow_empty: bool = False,
        repeats: int = 1,
    ) -> None:
        self.size = size
        self.repeats = repeats
        self.batch_size = size if batch_size is None else batch_size
        self.shuffle = shuffle and batch_size is not None
        self.seed = seed
        self.rank = rank
        self.world_size = world_size
        self.epoch = 0
        if not allow_empty:
            check_shares(size, self.batch_size, world_size)

    def set_epoch(self, epoch: int) -> None:
        """Chooses the permutation; Lightning calls this before each epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.repeats * -(-self.size // self.batch_size)

    def __iter__(self) -> Iterator[Shard]:
        # One generator for the epoch: each pass draws on where the one before stopped.
        generator = seeded_generator(self.seed, "epoch", self.epoch) if self.shuffle else None
        for _ in range(self.repeats):
            order = torch.arange(self.size) if generator is None else torch.randperm(self.size, generator=generator)
            for start in range(0, self.size, self.batch_size):
                batch = order[start : start + self.batch_size]
                indices = batch[self.rank :: self.world_size]
                yield Shard(indices, len(indices) * self.world_size / len(batch))


class RegressionDataModule(ResumableDataModule):
    """Training, validation, test and prediction points of a real function of one or more inputs.

    The shards of the ranks are cut here, so use a Trainer with `use_distributed_sampler=False`.

    Args:
        domain: Name of each input, in the order of the columns of x, with its lower and upper bound.
        train: Training points.
        val: Validation points.
        test: Test points.
        predict: Points to predict at, whose targets may be nan; the test points when None.
        batch_size: Training points in a global batch, over all ranks together; None for all of them.
        seed: Seed of the order of the training points, at least 0.
        repeats: Times that an epoch goes through the training points, at least 1. For few points Lightning's
            bookkeeping of an epoch takes longer than a step.

    Attributes:
        target_name: What the target is called in figures.

    Raises:
        ValueError: A bound, the batch size or the seed is out of range, or a value is not finite.
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
        if repeats < 1:
            raise ValueError(f"repeats must be at least 1, got {repeats}")
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

    @cached_property
    def target_range(self) -> tuple[float, float]:
        """Least and greatest training target, to scale outputs with; (c, c + 1) if all of them are c."""
        lower, upper = (float(bound) for bound in self.train_set.y.aminmax())
        return (lower, upper) if lower < upper else (lower, lower + 1.0)

    @cached_property
    def curvature(self) -> list[Any]:
        """For each input "convex" or "concave": the sign of c_j in a least-squares fit y ~ a + sum b_j x_j + c_j x_j².

        Inputs are scaled to [0, 1] for the fit. A function without curvature counts as convex. Of F functions a list of
        such lists.
        """
        x, y = self.train_set.x, self.train_set.y
        if len(y) > CURVATURE_POINTS:
            chosen = torch.randint(len(y), (CURVATURE_POINTS,), generator=seeded_generator(self.seed, "curvature"))
            x, y = x[chosen], y[chosen]
        lower, upper = torch.tensor(list(self.domain.values()), dtype=torch.float64).unbind(-1)
        u = (x - lower) / (upper - lower)
        features = torch.cat([torch.ones_like(u[:, :1]), u, u.square()], dim=1)
        # gelsd: two points an axis make u and u² the same column, which the default driver does not survive.
        targets = y[:, None] if y.ndim == 1 else y
        fit = torch.linalg.lstsq(features, targets, driver="gelsd").solution[-len(self.domain) :]  # (inputs, F)
        convex = (fit >= -1e-9 * targets.abs().amax(0)).T.tolist()
        kinds = [["convex" if is_convex else "concave" for is_convex in of_one] for of_one in convex]
        return kinds[0] if y.ndim == 1 else kinds

    def free_knot_mse(self, segments: int) -> float | None:
        """The error a piecewise linear function of so many segments can reach, where that is known; here it is not."""
        return None

    def train_dataloader(self) -> DataLoader[Batch]:
        """Shuffled global batches of `batch_size`, or one batch of everything, shared among the ranks."""
        return self._loader(self.train_set, self.batch_size, training=True)

    def val_dataloader(self) -> DataLoader[Batch]:
        """The validation points in order, each on one rank."""
        return self._loader(self.val_set, EVALUATION_BATCH)

    def test_dataloader(self) -> DataLoader[Batch]:
        """The test points in order, each on one rank."""
        return self._loader(self.test_set, EVALUATION_BATCH)

    def predict_dataloader(self) -> DataLoader[Batch]:
        """The points to predict at, in order, each on one rank."""
        return self._loader(self.predict_set, EVALUATION_BATCH)

    def check_ranks(self, ranks: int) -> None:
        check_shares(len(self.train_set), self.batch_size, ranks)

    def _loader(self, points: Points, batch_size: int | None, training: bool = False) -> DataLoader[Batch]:
        rank, world_size = (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)
        repeats = self.repeats if training else 1
        sampler = ShardedBatches(len(points), batch_size, training, self.seed, rank, world_size, not training, repeats)
        if training:
            return self.resumable_loader(points, sampler)
        # batch_size=None: what the sampler yields, a whole shard, indexes the points once; nothing is collated.
        return DataLoader(points, batch_size=None, sampler=sampler)

    def _check_points(self, split: str, points: Points) -> None:
        if points.x.shape[1] != len(self.domain):
            raise ValueError(f"the {split} points have {points.x.shape[1]} inputs, the domain has {len(self.domain)}")
        columns = {f"input {name}": points.x[:, j] for j, name in enumerate(self.domain)}
        if split != "predict":
            columns["target"] = points.y if points.y.ndim == 1 else points.y.sum(1)  # not finite where one is not
        for name, column in columns.items():
            row = first_true(~column.isfinite())
            if row is not None:
                raise ValueError(f"non-finite {name} {column[row]:g} at row {row} (from 0) of the {split} points")


def side_by_side(parts: Sequence[RegressionDataModule], repeats: int = 1) -> RegressionDataModule:
    """F functions of the same inputs as one problem with targets of shape (n, F).

    Args:
        parts: One for each function; domain, order of the points and batch size are those of the first.
        repeats: See `RegressionDataModule`.

    Raises:
        ValueError: The inputs of the parts differ.
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
        raise ValueError("domain is empty: give each input its bounds, e.g. {x: [0, 1]}")
    for name, bounds in domain.items():
        if len(bounds) != 2:
            raise ValueError(f"domain of {name}: give two numbers, lower and upper, got {list(bounds)}")
        lower, upper = float(bounds[0]), float(bounds[1])
        if not abs(upper - lower) < float("inf"):  # also false for nan
            raise ValueError(f"domain of {name}: bounds must be finite, got {lower} and {upper}")
        if lower >= upper:
            raise ValueError(f"domain of {name}: lower {lower} must be below upper {upper}")


def check_batches(batch_size: int | None, seed: int) -> None:
    """Raises ValueError unless batch_size is None or at least 1 and seed is at least 0."""
    if batch_size is not None and batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, or null for all points at once, got {batch_size}")
    if seed < 0:
        raise ValueError(f"seed must be at least 0, got {seed}")


def check_shares(size: int, batch_size: int | None, ranks: int) -> None:
    """Raises ValueError unless every batch of so many points, in batches or all in one, has one for each rank."""
    batch_size = size if batch_size is None else batch_size
    smallest = size % batch_size or batch_size
    if smallest < ranks:
        raise ValueError(
            f"batch_size {batch_size} leaves a batch of {smallest} of {size} training points, fewer than the "
            f"{ranks} ranks: choose another batch_size or fewer devices"
        )


def check_equal_shares(batch_size: int, ranks: int) -> None:
    """Raises ValueError unless a global batch can be cut into equal parts."""
    if batch_size % ranks:
        raise ValueError(f"batch_size {batch_size}: a multiple of the {ranks} ranks")


def first_true(mask: Tensor) -> int | None:
    """Index of the first True of a mask of shape (n,), or None."""
    return int(mask.int().argmax()) if bool(mask.any()) else None


def seeded_generator(seed: int, *purpose: int | str) -> torch.Generator:
    """A CPU generator that depends on the seed and on what it is for, so that no two purposes share their numbers."""
    # Python seeds from a text by hashing it, the same way in every version and process.
    return torch.Generator().manual_seed(random.Random(f"{seed} {purpose}").getrandbits(63))
