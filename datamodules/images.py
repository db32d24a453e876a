"""What all image data share: batches cut once for all ranks, loaders, normalisation."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from datamodules.augmentation import image_seed
from datamodules.regression import check_batches, check_equal_shares, seeded_generator
from datamodules.resumable import ResumableDataModule

MAX_WORKERS = 16  # more rarely load faster, and each is a process


class Shard(NamedTuple):
    """One rank's share of a global batch: the images' numbers, (n,) int64, and the epoch they are augmented for."""

    indices: Tensor
    epoch: int


class ImageBatch(NamedTuple):
    """One rank's share of a global batch, as a data set yields it.

    Attributes:
        images: (n, channels, height, width) uint8, 0 to 255.
        labels: (n,) int64.
        unreadable: Files that another image stands in for, or that are left out.
    """

    images: Tensor
    labels: Tensor
    unreadable: list[str]


class ImageBatches(Sampler[Shard]):
    """Cuts n images into global batches and yields this rank's share of each.

    A function of (seed, epoch) alone, so ranks agree without talking, and a resumed run knows what is left.

    Training: a new permutation each epoch, in full batches; the up to `batch_size` − 1 images that remain come in other
    epochs. Evaluation: all images in order, each on one rank, in batches as equal as possible, so that no rank is left
    without images (DDP synchronises batch norm's statistics in every forward pass: all ranks must take part).

    Args:
        size: Number of images n.
        batch_size: Images in a global batch, over all ranks together.
        training: Permute, and leave out the last batch if it is not full.
        seed: Of the permutations.
        rank: This process, in [0, world_size).
        world_size: Number of processes.

    Attributes:
        epoch: From 0; chooses the permutation of the next `iter`.

    Raises:
        ValueError: The images or a batch cannot be shared among so many ranks.
    """

    def __init__(self, size: int, batch_size: int, training: bool, seed: int, rank: int, world_size: int) -> None:
        self.size = size
        self.batch_size = batch_size
        self.training = training
        self.seed = seed
        self.rank = rank
        self.world_size = world_size
        self.epoch = 0
        if training:
            check_equal_shares(batch_size, world_size)
        if training and batch_size > size:
            raise ValueError(f"batch_size {batch_size}: at most the number of training images, {size}")
        if size < world_size:
            raise ValueError(f"{size} images cannot be shared among {world_size} devices: use fewer devices")

    def set_epoch(self, epoch: int) -> None:
        """Chooses the permutation; Lightning calls this before each epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        if self.training:
            return self.size // self.batch_size
        # Fewer, larger batches where the last one could not give every rank an image.
        return max(1, min(-(-self.size // self.batch_size), self.size // self.world_size))

    def __iter__(self) -> Iterator[Shard]:
        # The order is drawn here, not at the first `next`: Lightning may set another epoch in between.
        if self.training:
            order = torch.randperm(self.size, generator=seeded_generator(self.seed, "epoch", self.epoch))
            batches = order[: len(self) * self.batch_size].tensor_split(len(self))
        else:
            batches = torch.arange(self.size).tensor_split(len(self))
        epoch = self.epoch
        return (Shard(batch[self.rank :: self.world_size], epoch) for batch in batches)


def transformed(transform: Callable[[Tensor], Tensor], image: Tensor, seed: int, epoch: int, index: int) -> Tensor:
    """A random transform of one image as a function of (seed, epoch, index): not of the worker, and after resuming.

    Args:
        transform: From torchvision; draws from PyTorch's global generator, which is left as it was.
        image: (channels, height, width).
        seed: Of the run.
        epoch: From 0.
        index: Of the image.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(image_seed(seed, epoch, index))
        return transform(image)


class ImageDataModule(ResumableDataModule):
    """Images in classes, split in training, validation and test sets.

    Batches reach the model as `(images, labels)`: images (batch, channels, height, width), normalised, floating; labels
    (batch,) int64. Until they are on the device they are uint8, a quarter of the bytes to hand over. The shards of the
    ranks are cut here, so use a Trainer with `use_distributed_sampler=False`.

    Args:
        batch_size: Training images in a global batch, over all ranks together.
        eval_batch_size: Images in a global batch of an evaluation; bounds its memory, changes nothing else.
        workers: Processes that load images, for each device; 0 loads in the training process. None: this device's share
            of the CPU cores, at most 16.
        channels_last: Lay images out pixel by pixel, which convolutions on tensor cores prefer.
        seed: Of everything random, at least 0.
        mean: Of each channel in [0, 1], subtracted.
        std: Of each channel, above 0, divided by.

    Attributes:
        num_classes: Number of classes.
        class_names: In the order of the labels; known after `setup` at the latest.
        image_shape: (channels, height, width).

    Raises:
        ValueError: An argument is out of range.
    """

    batch_size: int
    num_classes: int
    class_names: list[str]
    image_shape: tuple[int, int, int]

    def __init__(
        self,
        batch_size: int,
        eval_batch_size: int,
        workers: int | None,
        channels_last: bool,
        seed: int,
        mean: Sequence[float],
        std: Sequence[float],
    ) -> None:
        super().__init__()
        check_batches(batch_size, seed)
        if eval_batch_size < 1:
            raise ValueError(f"eval_batch_size {eval_batch_size}: at least 1")
        if workers is not None and workers < 0:
            raise ValueError(f"workers {workers}: at least 0, or null for a share of the CPU cores")
        self.batch_size = batch_size
        self.eval_batch_size = eval_batch_size
        self.workers = workers
        self.channels_last = channels_last
        self.seed = seed
        self.mean = torch.tensor(mean) * 255
        self.std = torch.tensor(std) * 255

    @property
    def mean_color(self) -> Tensor:
        """The mean colour, (channels,) uint8."""
        return self.mean.round().to(torch.uint8)

    def training_loader(self, images: Dataset[ImageBatch], size: int, workers: int) -> DataLoader[ImageBatch]:
        """Shuffled global batches, shared among the ranks; goes on where the checkpoint that was loaded left off."""
        sampler = self._batches(size, self.batch_size, training=True)
        return self.resumable_loader(images, sampler, **self._options(workers))

    def evaluation_loader(self, images: Dataset[ImageBatch], size: int, workers: int) -> DataLoader[ImageBatch]:
        """All images in order, each on one rank."""
        sampler = self._batches(size, self.eval_batch_size, training=False)
        return DataLoader(images, batch_size=None, sampler=sampler, **self._options(workers))

    def check_ranks(self, ranks: int) -> None:
        check_equal_shares(self.batch_size, ranks)

    def _batches(self, size: int, batch_size: int, training: bool) -> ImageBatches:
        rank, world_size = (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)
        return ImageBatches(size, batch_size, training, self.seed, rank, world_size)

    def _options(self, workers: int) -> dict[str, Any]:
        pinned = self.trainer is not None and self.trainer.strategy.root_device.type == "cuda" and workers > 0
        # A generator of its own: a loader draws a seed for its workers, which nothing here needs, from the global one.
        generator = seeded_generator(self.seed, "workers")
        return {
            "num_workers": workers,
            "persistent_workers": workers > 0,
            "pin_memory": pinned,
            "generator": generator,
        }

    def worker_count(self) -> int:
        """Processes that load images for this device."""
        if self.workers is not None:
            return self.workers
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        local = self.trainer.num_devices if self.trainer else 1
        return min(MAX_WORKERS, cores // local)

    def on_after_batch_transfer(self, batch: ImageBatch, dataloader_idx: int) -> tuple[Tensor, Tensor]:
        """Normalises the images, on the device."""
        images, labels, _ = batch
        self.mean, self.std = self.mean.to(images.device), self.std.to(images.device)  # copies once
        layout = torch.channels_last if self.channels_last else torch.contiguous_format
        values = images.to(torch.float32, memory_format=layout)
        values = values.sub_(self.mean[:, None, None]).div_(self.std[:, None, None])
        if self.trainer is not None:  # what a true half or double precision asks for; the images were integers before
            values = self.trainer.precision_plugin.convert_input(values)
        return values, labels


def listed(names: Iterable[str], most: int = 5) -> str:
    """The first of some names in order, for an error."""
    ordered = sorted(names)
    more = f" and {len(ordered) - most} more" if len(ordered) > most else ""
    return ", ".join(ordered[:most]) + more or "nothing"
