"""scikit-learn's digits: 1 797 real images of 8 × 8 pixels that come with the package."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from datamodules.augmentation import Distortion, uniforms
from datamodules.regression import Shard, ShardedBatches, check_batches, check_equal_shares, seeded_generator
from datamodules.resumable import ResumableDataModule

Images = tuple[Tensor, Tensor]


class DigitImages(Dataset[Images]):
    """Images of one split, indexed by a whole `Shard` at once.

    Args:
        images: shape (n, 1, 8, 8), normalised.
        labels: shape (n,), int64.
        distortion: of each image, anew in each epoch; None for images as they are.
        seed: of the distortions.

    Attributes:
        epoch: from 0; an image's distortion is a function of it, the seed and the image, not of ranks or batches.
    """

    def __init__(self, images: Tensor, labels: Tensor, distortion: Distortion | None = None, seed: int = 0) -> None:
        self.images, self.labels, self.distortion, self.seed = images, labels, distortion, seed
        self.paper = float(images.min())
        self.epoch = 0

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, shard: Shard) -> Images:
        images, labels = self.images[shard.indices], self.labels[shard.indices]
        if self.distortion:
            draws = uniforms(self.seed, self.epoch, shard.indices, 5).to(images.device)
            images = self.distortion(images, draws, self.paper)
        return images, labels


class WholeBatches(ShardedBatches):
    """`ShardedBatches` that leaves out the incomplete last batch, so that every step has the same shape."""

    def __len__(self) -> int:
        return self.size // self.batch_size

    def __iter__(self) -> Any:
        for shard, _ in zip(super().__iter__(), range(len(self)), strict=False):
            yield shard


class DigitsDataModule(ResumableDataModule):
    """scikit-learn's digits in memory: 360 of the 1 797 images are held out for the test, equally many of each class.

    Without validation images (`validation: 0`) all others are trained on, and the accuracy after each epoch is that of
    the held-out images: a figure to look at, by which nothing is chosen. To choose settings, set some aside.

    Args:
        batch_size: training images in a global batch, over all ranks; the images that do not fill one sit an epoch out.
        rotation, scaling, shear, shift: training images are distorted at random by up to so much, anew in each epoch:
            turned by so many degrees, made larger or smaller by such a share, sheared, moved by so many pixels. See
            `Distortion`.
        validation: training images set aside for validation, 0 to 1 000, equally many of each class.
        test_images: images held out, 10 to 1 000.
        seed: of the distortions and the order, at least 0.
        split_seed: of the splits.

    Attributes:
        num_classes: 10.
        class_names: "0" to "9".
        image_shape: (1, 8, 8).

    Raises:
        ValueError: an argument is out of range.
    """

    batch_size: int
    num_classes = 10
    image_shape = (1, 8, 8)
    class_names = tuple("0123456789")

    def __init__(
        self,
        batch_size: int = 64,
        rotation: float = 0.0,
        scaling: float = 0.0,
        shear: float = 0.0,
        shift: float = 0.0,
        validation: int = 0,
        test_images: int = 360,
        seed: int = 0,
        split_seed: int = 0,
    ) -> None:
        super().__init__()
        check_batches(batch_size, seed)
        limits = {"validation": (validation, 0, 1000), "test_images": (test_images, 10, 1000)}
        for name, (value, low, high) in limits.items():
            if not low <= value <= high:
                raise ValueError(f"{name} {value}: from {low} to {high}")
        self.batch_size = batch_size
        self.distortion = Distortion(rotation, scaling, shear, shift)
        self.validation = validation
        self.test_images = test_images
        self.seed = seed
        self.split_seed = split_seed

    def setup(self, stage: str) -> None:
        if hasattr(self, "train_set"):
            return
        images, labels = load_digits()
        order = stratified(labels, seeded_generator(self.split_seed, "split"))
        test, rest = order[: self.test_images], order[self.test_images :]
        val, train = rest[: self.validation], rest[self.validation :]
        if len(train) < self.batch_size:
            raise ValueError(f"batch_size {self.batch_size}: at most the {len(train)} training images")
        if self.trainer is not None:
            device = self.trainer.strategy.root_device
            images, labels = images.to(device), labels.to(device)
        images = (images - images[train].mean()) / images[train].std()
        self.train_set = DigitImages(images[train], labels[train], self.distortion, self.seed)
        self.test_set = DigitImages(images[test], labels[test])
        self.val_set = DigitImages(images[val], labels[val]) if self.validation else self.test_set

    def train_dataloader(self) -> DataLoader[Images]:
        """Shuffled batches, shared among the ranks."""
        return self._loader(self.train_set, training=True)

    def val_dataloader(self) -> DataLoader[Images]:
        """The validation images, or the test images where none were set aside."""
        return self._loader(self.val_set)

    def test_dataloader(self) -> DataLoader[Images]:
        """The held-out images."""
        return self._loader(self.test_set)

    def predict_dataloader(self) -> DataLoader[Images]:
        """The held-out images."""
        return self._loader(self.test_set)

    def check_ranks(self, ranks: int) -> None:
        check_equal_shares(self.batch_size, ranks)

    def _loader(self, images: DigitImages, training: bool = False) -> DataLoader[Images]:
        rank, ranks = (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)
        if training:
            self.check_ranks(ranks)
        kind = WholeBatches if training else ShardedBatches
        size = self.batch_size if training else None
        sampler = kind(len(images), size, training, self.seed, rank, ranks, not training)
        if training:
            return self.resumable_loader(images, EpochSampler(sampler, images))
        return DataLoader(images, batch_size=None, sampler=sampler)


class EpochSampler:
    """Tells the data set the epoch that Lightning tells the sampler."""

    def __init__(self, sampler: ShardedBatches, images: DigitImages) -> None:
        self.sampler, self.images = sampler, images

    @property
    def epoch(self) -> int:
        """The epoch of the next `iter`."""
        return self.sampler.epoch

    def set_epoch(self, epoch: int) -> None:
        """Called by Lightning before each epoch."""
        self.sampler.set_epoch(epoch)
        self.images.epoch = epoch

    def __len__(self) -> int:
        return len(self.sampler)

    def __iter__(self) -> Any:
        return iter(self.sampler)


def load_digits() -> Images:
    """The 1 797 images, (1797, 1, 8, 8) with values 0 to 1, and their labels, (1797,) int64."""
    package = find_spec("sklearn")
    folder = Path(package.submodule_search_locations[0]) if package and package.submodule_search_locations else None
    file = folder / "datasets" / "data" / "digits.csv.gz" if folder else None
    if file is not None and file.is_file():  # reading it takes 20 ms; importing scikit-learn to read it, 2 s
        rows = torch.as_tensor(np.loadtxt(file, delimiter=",", dtype=np.float32))
        return rows[:, :-1].reshape(-1, 1, 8, 8) / 16, rows[:, -1].long()
    from sklearn import datasets

    bunch: Any = datasets.load_digits()
    images = torch.as_tensor(bunch.images, dtype=torch.float32)[:, None] / 16
    return images, torch.as_tensor(bunch.target, dtype=torch.long)


def stratified(labels: Tensor, source: torch.Generator) -> Tensor:
    """A random order of all samples in which every stretch has its share of each class, (n,) int64."""
    place = torch.empty(len(labels), dtype=torch.float64)
    for label in range(int(labels.max()) + 1):
        members = (labels == label).nonzero()[:, 0]
        members = members[torch.randperm(len(members), generator=source)]
        # Spread evenly over [0, 1), with a random start.
        start = torch.rand(1, generator=source, dtype=torch.float64)
        place[members] = (torch.arange(len(members), dtype=torch.float64) + start) / len(members)
    return place.argsort()
