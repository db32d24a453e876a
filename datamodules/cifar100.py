"""CIFAR-100, whose files have the layout of CIFAR-10."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from datamodules.augmentation import Crop
from datamodules.cifar10 import CIFAR10DataModule

_NUMBERS = [str(number) for number in range(100)]
_MEAN, _STD = (0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)  # of the training images


class CIFAR100DataModule(CIFAR10DataModule):
    """CIFAR-100 (Krizhevsky 2009): 60 000 photographs of 32 × 32 pixels in a hundred classes.

    The rest is the same as for `CIFAR10DataModule`.

    Args:
        root: folder that contains, or will contain, cifar-100-python/.
        download: download the data set into `root` if it is not there.
        batch_size: see `CIFAR10DataModule`, as for all arguments below.
        flip: mirror half of the training images.
        crop: shift training images by up to `pixels`: "translate", "pad_crop" or "none".
        pixels: largest shift, 0 to 31.
        cutout: side of a square of the mean colour put over each training image, 0 to 32; 0 for none.
        val_images: training images held out for validation; 0 trains without validation.
        on_device: keep and augment the images on the training device.
        workers: processes that augment if `on_device` is false.
        channels_last: memory layout that convolutions prefer on GPUs.
        eval_batch_size: images in a global batch of an evaluation.
        seed: seed of the held-out images, the order and the augmentation, at least 0.
        mean: mean of each channel in [0, 1], subtracted.
        std: standard deviation of each channel, divided by.
        checksums: MD5 of train, test and meta, for other images in the same layout; null for the official ones.

    Raises:
        ValueError: an argument is out of range, or the folder is incomplete; the message says what was found.
    """

    num_classes = 100
    class_names = _NUMBERS  # until the file meta is read
    title: ClassVar = "CIFAR-100"
    layout: ClassVar = "cifar-100-python/ with train, test and meta"

    @classmethod
    def source(cls) -> Any:
        from torchvision.datasets import CIFAR100

        return CIFAR100

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
        super().__init__(
            root,
            download,
            batch_size,
            flip,
            crop,
            pixels,
            cutout,
            val_images,
            on_device,
            workers,
            channels_last,
            eval_batch_size,
            seed,
            mean,
            std,
            checksums,
        )
