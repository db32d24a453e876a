"""ImageNet, and any folder of images with the same layout."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

from datamodules.image_files import ClassFolders
from datamodules.image_folder import (
    MEAN,
    STD,
    AutoAugment,
    ImageFolderDataModule,
    check_classes,
    check_folder,
    check_same_classes,
)
from datamodules.images import listed

_LAYOUT = "train/<class>/*.JPEG and val/<class>/*.JPEG"


class ImageNetDataModule(ImageFolderDataModule):
    """ImageNet-1k (Russakovsky et al. 2015), or other images, in train/<class>/*.JPEG and val/<class>/*.JPEG.

    Training images are cropped at random and mirrored. Images of an evaluation are resized and cropped in the middle,
    as in torchvision's reference recipe. ImageNet's test labels are not public, so `test` and `predict` use val/, as
    published accuracies do. If val/ chose a setting, do not report its accuracy for this setting. For your own images
    with a separate test set, use `ImageFolderDataModule`.

    Args:
        root: folder with train/ and val/.
        batch_size: training images in a global batch, over all ranks together; an incomplete last batch is left out.
        image_size: side in pixels of the images that the model gets.
        resize: shorter side to which an evaluation resizes before it crops, at least `image_size`; null for the usual
            image_size · 256/224.
        auto_augment: "none", or torchvision's "trivial" (TrivialAugmentWide) or "rand" (RandAugment).
        erase: probability of erasing a random rectangle of a training image, in [0, 1].
        fraction: share of the training images of each class to use, in (0, 1].
        per_class: number of training images of each class to use, instead of a share.
        predict_path: folder of images without labels, or one image, for `predict`; null for the images of val/.
        skip_corrupt: true continues when an image can't be read, and reports the number of such images after each
            epoch. In training the next readable image replaces it; in an evaluation it is left out. False stops.
        allow_empty_classes: accept class folders without images.
        workers: processes that load images, for each device; 0 loads in the training process; null for this device's
            share of the CPU cores.
        channels_last: memory layout that convolutions prefer on GPUs.
        eval_batch_size: images in a global batch of an evaluation.
        seed: seed of the subset, the order and the augmentation, at least 0.
        mean: mean of each channel in [0, 1], subtracted.
        std: standard deviation of each channel, divided by.

    Attributes:
        folders: names of the class folders (for ImageNet WordNet ids), in the order of the labels.
        class_names: names from root/LOC_synset_mapping.txt if it exists; torchvision's names for the 1 000 folders of
            ImageNet; otherwise the folders' names.

    Raises:
        ValueError: an argument is out of range, or the folders are not as described.
    """

    def __init__(
        self,
        root: str,
        batch_size: int = 256,
        image_size: int = 224,
        resize: int | None = None,
        auto_augment: AutoAugment = "none",
        erase: float = 0.0,
        fraction: float = 1.0,
        per_class: int | None = None,
        predict_path: str | None = None,
        skip_corrupt: bool = False,
        allow_empty_classes: bool = False,
        workers: int | None = None,
        channels_last: bool = True,
        eval_batch_size: int = 1024,
        seed: int = 0,
        mean: Sequence[float] = MEAN,
        std: Sequence[float] = STD,
    ) -> None:
        super().__init__(
            root,
            batch_size,
            image_size,
            resize=max(image_size, round(image_size * 256 / 224)) if resize is None else resize,
            crop_scale=0.08,  # torchvision's
            flip=True,
            auto_augment=auto_augment,
            erase=erase,
            fraction=fraction,
            per_class=per_class,
            predict_path=predict_path,
            skip_corrupt=skip_corrupt,
            allow_empty_classes=allow_empty_classes,
            workers=workers,
            channels_last=channels_last,
            eval_batch_size=eval_batch_size,
            seed=seed,
            mean=mean,
            std=std,
        )
        self.class_names = _class_names(self.root, self.folders)

    def _splits(
        self, shares: tuple[float, float], seed: int, allow_empty: bool
    ) -> tuple[ClassFolders, ClassFolders, ClassFolders]:
        train, val = _class_folders(self.root, allow_empty)
        check_same_classes(self.root, train, val)
        check_classes(self.root, train)
        self.places["test"] = self.places["val"]
        return train, val, val


def _class_folders(root: Path, allow_empty: bool) -> list[ClassFolders]:
    """Finds the images of train/ and of val/."""
    check_folder(root, _LAYOUT)
    found, faults = [], []
    for split in ("train", "val"):
        try:
            found.append(ClassFolders(root / split, allow_empty))
        except ValueError as error:
            faults.append(str(error))
    if faults:
        raise ValueError(f"data.root {root} has {listed(os.listdir(root))}: {'; '.join(faults)}; expected {_LAYOUT}")
    return found


def _class_names(root: Path, folders: list[str]) -> list[str]:
    """Returns the names of the classes.

    Args:
        root: folder that may have LOC_synset_mapping.txt, whose lines are a folder's name and the names of its class.
        folders: names of the class folders.
    """
    mapping = root / "LOC_synset_mapping.txt"
    if mapping.is_file():
        lines = [line.partition(" ") for line in mapping.read_text(encoding="utf-8").splitlines() if line.strip()]
        names = {folder: name.strip() or folder for folder, _, name in lines}
        unknown = [folder for folder in folders if folder not in names]
        if unknown:
            raise ValueError(f"{mapping} has no line for {listed(unknown)}")
        return [names[folder] for folder in folders]
    if len(folders) == 1000 and all(re.fullmatch(r"n\d{8}", folder) for folder in folders):
        from torchvision.models import VGG16_BN_Weights

        names_in_order: list[str] = VGG16_BN_Weights.DEFAULT.meta["categories"]
        return names_in_order
    return list(folders)
