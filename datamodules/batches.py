"""Global batches, cut once for all ranks and shared among them without repeats."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import Sampler

from lit_triwave.errors import check_least


class Shard(NamedTuple):
    """One rank's share of a global batch.

    Attributes:
        indices: indices of the samples, (n,) int64.
        weight: n · world_size / size of the global batch. DDP averages over ranks, so `weight` times the mean over this
            share becomes the mean over the global batch even if the shares are unequal.
        epoch: epoch for the augmentation of the samples, from 0.
    """

    indices: Tensor
    weight: float
    epoch: int


class ShardedBatches(Sampler[Shard]):
    """Cuts n samples into global batches and yields this rank's share of each.

    Every rank draws the same permutation, which depends only on (seed, epoch), and takes `batch[rank::world_size]`. For
    any number of ranks, the shares of a global batch are disjoint, and together they are the batch. Ranks agree without
    communication, and a resumed run knows the remaining samples of an epoch.

    Args:
        size: number of samples n.
        batch_size: samples in a global batch, over all ranks together; None for all of them.
        shuffle: draw another order in each epoch. It has no effect if `batch_size` is None.
        seed: seed of the orders.
        rank: this process, in [0, world_size).
        world_size: number of processes.
        last: what happens to a last batch that is not full. `"keep"` yields it, `"drop"` leaves its samples to other
            epochs. `"spread"` makes all batches as equal as possible, so that each rank has samples. This is needed
            because DDP synchronises batch norm's statistics in every forward pass, and all ranks must take part.
        allow_empty: with `"keep"`, whether a rank may get nothing from a batch, as in an evaluation.
        repeats: passes through the samples in one epoch, each in another order if they are shuffled.

    Attributes:
        epoch: the epoch of the next `iter`, from 0.

    Raises:
        ValueError: the samples or a batch cannot be shared among this number of ranks.
    """

    def __init__(
        self,
        size: int,
        batch_size: int | None = None,
        shuffle: bool = False,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        *,
        last: Literal["keep", "drop", "spread"] = "keep",
        allow_empty: bool = False,
        repeats: int = 1,
    ) -> None:
        self.batch_size = size if batch_size is None else batch_size
        self.shuffle = shuffle and batch_size is not None
        self.epoch = 0
        self._size, self._seed, self._rank, self._world_size = size, seed, rank, world_size
        self._last, self._repeats = last, repeats
        if last == "drop":
            check_equal_shares(self.batch_size, world_size)
            if self.batch_size > size:
                raise ValueError(f"batch_size must be at most the number of training images, {size}, got {batch_size}")
        elif last == "spread" and size < world_size:
            raise ValueError(f"ranks must be at most the number of images, {size}, got {world_size}: use fewer devices")
        elif last == "keep" and not allow_empty:
            check_shares(size, self.batch_size, world_size)

    def set_epoch(self, epoch: int) -> None:
        """Sets the epoch, which chooses the order of the next `iter`; Lightning calls this before each epoch."""
        self.epoch = epoch

    def _batches(self) -> int:
        """Number of batches in one pass through the samples."""
        if self._last == "drop":
            return self._size // self.batch_size
        full = -(-self._size // self.batch_size)
        return max(1, min(full, self._size // self._world_size)) if self._last == "spread" else full

    def __len__(self) -> int:
        return self._repeats * self._batches()

    def __iter__(self) -> Iterator[Shard]:
        # The epoch is read here, not at the first `next`: Lightning may set another one in between.
        epoch, generator = self.epoch, None
        if self.shuffle:  # one generator for the epoch: each pass continues where the one before stopped
            generator = seeded_generator(self._seed, "epoch", epoch)
        return self._shards(epoch, generator)

    def _shards(self, epoch: int, generator: torch.Generator | None) -> Iterator[Shard]:
        for _ in range(self._repeats):
            order = torch.arange(self._size)
            if generator is not None:
                order = torch.randperm(self._size, generator=generator)
            count = self._batches()
            batches = (
                order.tensor_split(count) if self._last == "spread" else torch.split(order, self.batch_size)[:count]
            )
            for batch in batches:
                indices = batch[self._rank :: self._world_size]
                yield Shard(indices, len(indices) * self._world_size / len(batch), epoch)


def check_batches(batch_size: int | None, seed: int) -> None:
    """Raises ValueError unless batch_size is None or at least 1 and seed is at least 0."""
    if batch_size is not None and batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, or null for all points at once, got {batch_size}")
    check_least(0, seed=seed)


def check_fractions(val_fraction: float, test_fraction: float) -> None:
    """Refuses held-out shares of the samples that leave none for training.

    Raises:
        ValueError: a share or their sum is not in [0, 1).
    """
    for key, fraction in {"val_fraction": val_fraction, "test_fraction": test_fraction}.items():
        if not 0 <= fraction < 1:
            raise ValueError(f"{key} must be in [0, 1), got {fraction}")
    if val_fraction + test_fraction >= 1:
        raise ValueError(
            f"val_fraction and test_fraction must sum to less than 1, got {val_fraction} and {test_fraction}"
        )


def check_shares(size: int, batch_size: int | None, ranks: int) -> None:
    """Raises ValueError unless each batch of `size` points has at least one for each rank."""
    batch_size = size if batch_size is None else batch_size
    smallest = size % batch_size or batch_size
    if smallest < ranks:
        raise ValueError(
            f"batch_size must give each batch at least one point for each of the {ranks} ranks, got {batch_size}, "
            f"which leaves a batch of {smallest} of {size} points: choose another batch_size or fewer devices"
        )


def check_equal_shares(batch_size: int, ranks: int) -> None:
    """Raises ValueError unless a global batch can be cut into equal shares."""
    if batch_size % ranks:
        raise ValueError(f"batch_size must be a multiple of the {ranks} ranks, got {batch_size}")


def seeded_generator(seed: int, *purpose: int | str) -> torch.Generator:
    """Returns a CPU generator seeded by `seed` and its purpose, so that no two purposes share their numbers."""
    # Python seeds from a text by hashing it, the same way in every version and process.
    return torch.Generator().manual_seed(random.Random(f"{seed} {purpose}").getrandbits(63))
