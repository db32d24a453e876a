"""CIFAR-10 from its folder of pickled batches, held on the training device."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from datamodules.augmentation import Augmentation, Crop, PixelTable
from datamodules.batches import Shard, seeded_generator
from datamodules.images import ImageBatch, ImageDataModule, listed, transformed
from lit_triwave.errors import check_least, reason

_LAYOUT = "cifar-10-batches-py/ with data_batch_1 to data_batch_5, test_batch and batches.meta"
_CLASSES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
_MEAN, _STD = ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616))  # measured on the training images


class DeviceImages(Dataset[ImageBatch]):
    """Images of one split on one device, indexed by a whole `Shard` at once.

    Args:
        images: (n, height, width, channels) uint8.
        labels: (n,) int64, on the same device.
        mean: mean colour, (channels,) uint8.
        augmentation: random augmentation; None for images as they are.
        seed: seed of the augmentation.
    """

    def __init__(
        self, images: Tensor, labels: Tensor, mean: Tensor, augmentation: Augmentation | None = None, seed: int = 0
    ) -> None:
        self.table = PixelTable(images, mean.to(images.device))
        self.labels = labels
        self.augmentation = augmentation
        self.seed = seed

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, shard: Shard) -> ImageBatch:
        indices = shard.indices.to(self.labels.device, non_blocking=True)
        if self.augmentation is None:
            images = self.table.take(indices)
        else:
            images = self.table.look_up(self.augmentation.pixels_of(self.table, indices, self.seed, shard.epoch))
        return ImageBatch(images, self.labels[indices], [])


class WorkerImages(Dataset[ImageBatch]):
    """Training images in main memory, augmented one by one with torchvision's transforms by worker processes.

    Args:
        images: (n, height, width, channels) uint8.
        labels: (n,) int64.
        mean: mean colour, (channels,) uint8.
        augmentation: the same augmentation as on the device, from other random numbers.
        seed: seed of the augmentation.
    """

    def __init__(self, images: Tensor, labels: Tensor, mean: Tensor, augmentation: Augmentation, seed: int) -> None:
        from torchvision.transforms import v2

        self.images = images.permute(0, 3, 1, 2)
        self.labels = labels
        self.seed = seed
        size = images.shape[1:3]
        steps: list[Any] = [v2.RandomHorizontalFlip()] if augmentation.flip else []
        if augmentation.crop != "none":
            padding = "reflect" if augmentation.crop == "translate" else "constant"
            steps.append(v2.RandomCrop(size, padding=augmentation.pixels, padding_mode=padding))
        if augmentation.cutout:
            share = augmentation.cutout**2 / (size[0] * size[1])
            square = {"scale": (share, share), "ratio": (1.0, 1.0)}
            steps.append(v2.RandomErasing(p=1.0, value=mean.tolist(), **square))
        self.transform = v2.Compose(steps or [v2.Identity()])

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, shard: Shard) -> ImageBatch:
        numbers = shard.indices.tolist()
        images = [transformed(self.transform, self.images[i], self.seed, shard.epoch, i) for i in numbers]
        return ImageBatch(torch.stack(images), self.labels[shard.indices], [])


class CIFAR10DataModule(ImageDataModule):
    """CIFAR-10 (Krizhevsky 2009): 60 000 photographs of 32 × 32 pixels in ten classes.

    The whole set is on the training device as bytes (154 MB) and is augmented there, one batch at a time. For such
    small images, worker processes would be slower. With `on_device: false` workers augment with torchvision's
    transforms.

    The test set is the official one. It chooses nothing: validation images are held out of the training set.

    Args:
        root: folder that contains, or will contain, cifar-10-batches-py/.
        download: download the data set into `root` if it is not there.
        batch_size: training images in a global batch, over all ranks together; an incomplete last batch is left out.
        flip: mirror half of the training images.
        crop: shift training images by up to `pixels`. "translate" continues them by their mirror image, "pad_crop" by
            black; "none" does not shift.
        pixels: largest shift, 0 to 31.
        cutout: side of a square of the mean colour put over each training image, 0 to 32; 0 for none.
        val_images: training images held out for validation; 0 trains on all of them without validation.
        on_device: keep and augment the images on the training device.
        workers: processes that augment if `on_device` is false; null for a share of the CPU cores.
        channels_last: memory layout that convolutions prefer on GPUs.
        eval_batch_size: images in a global batch of an evaluation.
        seed: seed of the held-out images, the order and the augmentation, at least 0.
        mean: mean of each channel in [0, 1], subtracted.
        std: standard deviation of each channel, divided by.
        checksums: MD5 of each of the seven files, for other images in the same layout; null for the official ones.
            Files are unpickled: give checksums only of files that you made or trust.

    Raises:
        ValueError: an argument is out of range, or the folder is incomplete; the message says what was found.
    """

    num_classes = 10
    image_shape = (3, 32, 32)
    class_names = _CLASSES
    title: ClassVar = "CIFAR-10"
    layout: ClassVar = _LAYOUT

    @classmethod
    def source(cls) -> Any:
        """Returns torchvision's data set, which knows the files and their MD5."""
        from torchvision.datasets import CIFAR10

        return CIFAR10

    def __init__(
        self,
        root: str,
        download: bool = False,
        batch_size: int = 512,
        flip: bool = True,
        crop: Crop = "pad_crop",
        pixels: int = 4,
        cutout: int = 0,
        val_images: int = 5000,
        on_device: bool = True,
        workers: int | None = None,
        channels_last: bool = True,
        eval_batch_size: int = 2000,
        seed: int = 0,
        mean: Sequence[float] = _MEAN,
        std: Sequence[float] = _STD,
        checksums: dict[str, str] | None = None,
    ) -> None:
        super().__init__(batch_size, eval_batch_size, workers, channels_last, seed, mean, std)
        self.augmentation = Augmentation(flip, crop, pixels, cutout)
        self.augmentation.check(*self.image_shape[1:])
        check_least(0, val_images=val_images)
        self.root = Path(root).expanduser()
        self.download = download
        self.val_images = val_images
        self.on_device = on_device
        source = self.source()
        official = dict([*source.train_list, *source.test_list, (source.meta["filename"], source.meta["md5"])])
        self.files = official if checksums is None else checksums
        missing = [name for name in official if name not in self.files]
        if missing:
            raise ValueError(f"checksums must have the MD5 of {', '.join(missing)}")
        if download and checksums is not None:
            raise ValueError("download must be false where checksums are given: it fetches the official files")
        if not download:
            self._check_folder()

    def prepare_data(self) -> None:
        """Downloads the data set if asked to; one process does, the others wait."""
        if not self.download or not self._faults():
            return
        source = self.source()
        try:
            source(self.root, download=True)
        except (OSError, RuntimeError) as error:  # no network, no space, a file that arrives damaged
            raise ValueError(
                f"{self.title} could not be downloaded to {self.root} ({error}): get {source.url} elsewhere and "
                "extract it there"
            ) from error

    def setup(self, stage: str) -> None:
        if hasattr(self, "test_set"):
            return
        if self.download:  # otherwise checked at construction
            self._check_folder()
        images, labels = self._read(train=True)
        if self.val_images >= len(labels):
            raise ValueError(f"val_images must be less than the {len(labels)} training images, got {self.val_images}")
        order = torch.randperm(len(labels), generator=seeded_generator(self.seed, "split"))
        val, train = order[: self.val_images].sort().values, order[self.val_images :].sort().values
        device = self.trainer.strategy.root_device if self.trainer and self.on_device else torch.device("cpu")
        color, augmentation = self.mean_color, self.augmentation
        kind = DeviceImages if self.on_device else WorkerImages
        self.train_set = kind(images[train].to(device), labels[train].to(device), color, augmentation, self.seed)
        self.val_set = DeviceImages(images[val].to(device), labels[val].to(device), color)
        images, labels = self._read(train=False)
        self.test_set = DeviceImages(images.to(device), labels.to(device), color)

    def _read(self, train: bool) -> tuple[Tensor, Tensor]:
        """Reads one official split: images (n, 32, 32, 3) uint8 and labels (n,) int64."""
        source, table = self.source(), self.files
        attributes = {
            "train_list": [[name, table[name]] for name, _ in source.train_list],
            "test_list": [[name, table[name]] for name, _ in source.test_list],
            "meta": {**source.meta, "md5": table[source.meta["filename"]]},
        }
        folder = self.root / source.base_folder
        try:
            stored = type("WithChecksums", (source,), attributes)(self.root, train=train)
            images, labels = torch.from_numpy(stored.data), torch.tensor(stored.targets, dtype=torch.int64)
            names = list(stored.classes)
        except Exception as error:  # files with checksums of the user may contain anything
            raise ValueError(f"{folder} cannot be read as {self.title}'s batches: {reason(error)}") from error
        if len(names) != self.num_classes or int(labels.max()) >= self.num_classes or int(labels.min()) < 0:
            raise ValueError(
                f"{folder} has {len(names)} class names and labels {int(labels.min())} to "
                f"{int(labels.max())}: {self.title} has {self.num_classes} classes"
            )
        self.class_names = names
        return images.contiguous(), labels

    def train_dataloader(self) -> DataLoader[ImageBatch]:
        """Shuffled, augmented global batches, shared among the ranks."""
        return self.training_loader(self.train_set, len(self.train_set), 0 if self.on_device else self.worker_count())

    def val_dataloader(self) -> DataLoader[ImageBatch] | list[Any]:
        """The held-out training images, each on one rank; nothing if there are none."""
        return self.evaluation_loader(self.val_set, self.val_images, 0) if self.val_images else []

    def test_dataloader(self) -> DataLoader[ImageBatch]:
        """The official test images in order, each on one rank."""
        return self.evaluation_loader(self.test_set, len(self.test_set), 0)

    def predict_dataloader(self) -> DataLoader[ImageBatch]:
        """The official test images in order."""
        return self.test_dataloader()

    def _faults(self) -> str:
        """Describes what is wrong with the folder and what it should contain; empty if nothing is wrong."""
        from torchvision.datasets.utils import check_integrity

        root, source = self.root, self.source()
        inside = source.base_folder
        folder = root / inside
        if not folder.is_dir():
            if (root / source.train_list[0][0]).is_file():
                return f"{root} is the folder of the batches itself: give the folder that {root.name}/ lies in"
            begin = source.filename.partition(".")[0]  # cifar-10-python of cifar-10-python.tar.gz
            archives = [name for name in sorted(os.listdir(root)) if name.startswith(begin)] if root.is_dir() else []
            if archives:
                return f"{root} has {archives[0]}, but not {inside}/: extract it there (tar xzf {archives[0]})"
            found = f"it contains {listed(os.listdir(root))}" if root.is_dir() else "there is no such folder"
            return f"no {self.title} in {root}: {found}; expected {self.layout}; data.download: true fetches it"
        missing = [name for name in self.files if not (folder / name).is_file()]
        if missing:
            found = listed(os.listdir(folder))
            return f"{folder} is incomplete: {', '.join(missing)} missing, it contains {found}; expected {self.layout}"
        damaged = [name for name, md5 in self.files.items() if not check_integrity(folder / name, md5)]
        if damaged:
            return f"{folder}: {', '.join(damaged)} damaged (another MD5 than expected): extract the archive again"
        return ""

    def _check_folder(self) -> None:
        """Raises ValueError unless the folder is complete."""
        fault = self._faults()
        if fault:
            raise ValueError(fault)
