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
from datamodules.batches import Shard, check_batches, check_equal_shares, seeded_generator
from datamodules.resumable import ResumableDataModule

Images = tuple[Tensor, Tensor]


class DigitImages(Dataset[Images]):
    """Images of one split, indexed by a whole `Shard` at once.

    Args:
        images: shape (n, 1, 8, 8), normalised.
        labels: shape (n,), int64.
        distortion: random distortion, another one in each epoch; None for unchanged images. It depends on seed, epoch
            and image, not on ranks or batches.
        seed: seed of the distortions.
    """

    def __init__(self, images: Tensor, labels: Tensor, distortion: Distortion | None = None, seed: int = 0) -> None:
        self.images, self.labels, self.distortion, self.seed = images, labels, distortion, seed
        self.paper = float(images.min())

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, shard: Shard) -> Images:
        images, labels = self.images[shard.indices], self.labels[shard.indices]
        if self.distortion:
            draws = uniforms(self.seed, shard.epoch, shard.indices, 5).to(images.device)
            images = self.distortion(images, draws, self.paper)
        return images, labels


class DigitsDataModule(ResumableDataModule):
    """scikit-learn's digits in memory: 360 of the 1 797 images are held out for the test, equally many of each class.

    With `validation: 0` all other images are training images, and the accuracy after each epoch is measured on the test
    images. To choose settings, hold out validation images instead.

    Args:
        batch_size: training images in a global batch, over all ranks; an incomplete last batch is left out.
        rotation: largest random rotation of a training image, in degrees, see `Distortion`.
        scaling: largest relative change of an image's size.
        shear: largest shear.
        shift: largest shift, in pixels.
        validation: training images held out for validation, 0 to 1 000, equally many of each class.
        test_images: images held out for the test, 10 to 1 000.
        seed: seed of the distortions and the order, at least 0.
        split_seed: seed of the splits.

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
                raise ValueError(f"{name} must be from {low} to {high}, got {value}")
        self.batch_size = batch_size
        self.distortion = Distortion(rotation, scaling, shear, shift)
        self.validation = validation
        self.test_images = test_images
        self.seed = seed
        self.split_seed = split_seed

    def setup(self, stage: str) -> None:
        if hasattr(self, "train_set"):
            return
        images, labels = _load_digits()
        order = _stratified(labels, seeded_generator(self.split_seed, "split"))
        test, rest = order[: self.test_images], order[self.test_images :]
        val, train = rest[: self.validation], rest[self.validation :]
        if len(train) < self.batch_size:
            raise ValueError(
                f"batch_size must be at most the number of training images, {len(train)}, got {self.batch_size}"
            )
        if self.trainer is not None:
            device = self.trainer.strategy.root_device
            images, labels = images.to(device), labels.to(device)
        images = (images - images[train].mean()) / images[train].std()
        self.train_set = DigitImages(images[train], labels[train], self.distortion, self.seed)
        self.test_set = DigitImages(images[test], labels[test])
        self.val_set = DigitImages(images[val], labels[val]) if self.validation else self.test_set

    def train_dataloader(self) -> DataLoader[Images]:
        """Shuffled batches, shared among the ranks."""
        sampler = self.sharded(len(self.train_set), self.batch_size, shuffle=True, last="drop")
        return self.resumable_loader(self.train_set, sampler)

    def val_dataloader(self) -> DataLoader[Images]:
        """The validation images, or the test images if there are none."""
        return self._evaluation(self.val_set)

    def test_dataloader(self) -> DataLoader[Images]:
        """The held-out images."""
        return self._evaluation(self.test_set)

    def predict_dataloader(self) -> DataLoader[Images]:
        """The held-out images."""
        return self._evaluation(self.test_set)

    def check_ranks(self, ranks: int) -> None:
        check_equal_shares(self.batch_size, ranks)

    def _evaluation(self, images: DigitImages) -> DataLoader[Images]:
        return DataLoader(images, batch_size=None, sampler=self.sharded(len(images), None, allow_empty=True))


def _load_digits() -> Images:
    """Returns the 1 797 images, (1797, 1, 8, 8) with values 0 to 1, and their labels, (1797,) int64."""
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


def _stratified(labels: Tensor, source: torch.Generator) -> Tensor:
    """Returns a random order of all samples, (n,) int64, in which each part has its share of each class."""
    place = torch.empty(len(labels), dtype=torch.float64)
    for label in range(int(labels.max()) + 1):
        members = (labels == label).nonzero()[:, 0]
        members = members[torch.randperm(len(members), generator=source)]
        # Spread evenly over [0, 1), with a random start.
        start = torch.rand(1, generator=source, dtype=torch.float64)
        place[members] = (torch.arange(len(members), dtype=torch.float64) + start) / len(members)
    return place.argsort()
