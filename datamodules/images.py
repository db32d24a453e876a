"""Common parts of all image data: loaders, workers, normalisation."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Iterable, Sequence
from threading import Thread
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from datamodules.augmentation import image_seed
from datamodules.batches import check_batches, check_equal_shares, seeded_generator
from datamodules.resumable import ResumableDataModule
from lit_triwave.errors import check_least, some

_MAX_WORKERS = 16  # more workers are rarely faster, and each is a process


class ImageBatch(NamedTuple):
    """One rank's share of a global batch, as a data set yields it.

    Attributes:
        images: (n, channels, height, width) uint8, 0 to 255.
        labels: (n,) int64.
        unreadable: paths of files that could not be read: another image stands in, or they are left out.
    """

    images: Tensor
    labels: Tensor
    unreadable: list[str]


def transformed(transform: Callable[[Tensor], Tensor], image: Tensor, seed: int, epoch: int, index: int) -> Tensor:
    """Applies a random transform to one image. It depends only on (seed, epoch, index).

    The result does not depend on the worker or on a resume.

    Args:
        transform: a transform of torchvision. It draws from PyTorch's global generator, which is then restored.
        image: (channels, height, width).
        seed: seed of the run.
        epoch: number of the epoch, from 0.
        index: number of the image.

    Returns:
        The transformed image.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(image_seed(seed, epoch, index))
        return transform(image)


class ImageDataModule(ResumableDataModule):
    """Images in classes, split in training, validation and test sets.

    Batches reach the model as `(images, labels)`: images (batch, channels, height, width), normalised, floating; labels
    (batch,) int64. Images are uint8 until they are on the device, which is a quarter of the bytes to transfer. The data
    module itself shares the batches among ranks, so use a Trainer with `use_distributed_sampler=False`.

    Args:
        batch_size: training images in a global batch, over all ranks together.
        eval_batch_size: images in a global batch of an evaluation; bounds its memory, changes nothing else.
        workers: processes that load images, for each device; 0 loads in the training process. None: this device's share
            of the CPU cores, at most 16.
        channels_last: store images pixel by pixel, which convolutions on tensor cores prefer.
        seed: seed of everything random, at least 0.
        mean: mean of each channel in [0, 1], subtracted.
        std: standard deviation of each channel, above 0, divided by.

    Attributes:
        num_classes: number of classes.
        class_names: names in the order of the labels; known after `setup` at the latest.
        image_shape: (channels, height, width).

    Raises:
        ValueError: an argument is out of range.
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
        check_least(1, eval_batch_size=eval_batch_size)
        if workers is not None and workers < 0:
            raise ValueError(f"workers must be at least 0, or null for a share of the CPU cores, got {workers}")
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
        """Returns shuffled full batches, shared among the ranks; continues where the loaded checkpoint left off."""
        sampler = self.sharded(size, self.batch_size, shuffle=True, last="drop")
        return self.resumable_loader(images, sampler, **self._options(workers))

    def evaluation_loader(self, images: Dataset[ImageBatch], size: int, workers: int) -> DataLoader[ImageBatch]:
        """Returns all images in order, each on one rank."""
        sampler = self.sharded(size, self.eval_batch_size, last="spread")
        return DataLoader(images, batch_size=None, sampler=sampler, **self._options(workers))

    def check_ranks(self, ranks: int) -> None:
        check_equal_shares(self.batch_size, ranks)

    def _options(self, workers: int) -> dict[str, Any]:
        pinned = self.trainer is not None and self.trainer.strategy.root_device.type == "cuda" and workers > 0
        return {
            "num_workers": workers,
            "persistent_workers": workers > 0,
            "pin_memory": pinned,
            # A separate generator, because a loader would draw a seed for its workers from the global one.
            "generator": seeded_generator(self.seed, "workers"),
            "worker_init_fn": end_with_trainer,
        }

    def worker_count(self) -> int:
        """Returns the number of processes that load images for this device."""
        if self.workers is not None:
            return self.workers
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        local = self.trainer.num_devices if self.trainer else 1
        return min(_MAX_WORKERS, cores // local)

    def on_after_batch_transfer(self, batch: ImageBatch, dataloader_idx: int) -> tuple[Tensor, Tensor]:
        """Normalises the images, on the device."""
        images, labels, _ = batch
        self.mean, self.std = self.mean.to(images.device), self.std.to(images.device)  # copies once
        layout = torch.channels_last if self.channels_last else torch.contiguous_format
        values = images.to(torch.float32, memory_format=layout)
        values = values.sub_(self.mean[:, None, None]).div_(self.std[:, None, None])
        if self.trainer is not None:  # converts to half or double precision; before, the images were integers
            values = self.trainer.precision_plugin.convert_input(values)
        return values, labels


def listed(names: Iterable[str], most: int = 5) -> str:
    """Returns the first few names in alphabetical order and how many more there are, for an error."""
    return some(sorted(names), most) or "nothing"


def end_with_trainer(worker: int) -> None:
    """Makes a worker process end when the training process is gone, also if it was killed.

    PyTorch's own watch asks for the parent, which under the start method `forkserver` is the fork server. That lives
    as long as its workers do.

    Args:
        worker: number of the worker, as a loader passes it.
    """
    Thread(target=_end_after, args=(multiprocessing.parent_process(),), daemon=True).start()


def _end_after(trainer: Any) -> None:
    trainer.join()
    os._exit(1)
