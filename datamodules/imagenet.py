"""ImageNet, and any folder of images laid out like it."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch.utils.data import DataLoader

from datamodules.image_files import ClassFolders, ImageFiles
from datamodules.images import ImageBatch, ImageDataModule, listed

AutoAugment = Literal["none", "trivial", "rand"]
_LAYOUT = "train/<class>/*.JPEG and val/<class>/*.JPEG"
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # torchvision's, of ImageNet's training images


class ImageNetDataModule(ImageDataModule):
    """ImageNet-1k (Russakovsky et al. 2015), or other images, in train/<class>/*.JPEG and val/<class>/*.JPEG.

    Training images are cropped at random and mirrored. Those of an evaluation are resized and cropped in the middle, as
    in torchvision's reference recipe. ImageNet's test labels are not public: `test` and `predict` use val/, as
    published accuracies do. Report nothing on val/ that was chosen by it.

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
        skip_corrupt: true continues when an image can't be read, and reports the number of such images after each
            epoch. In training the next readable image stands in, in an evaluation it is left out. False stops.
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
        class_names: names from root/LOC_synset_mapping.txt where it exists, torchvision's for the 1 000 folders of
            ImageNet, otherwise the folders' names.

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
        skip_corrupt: bool = False,
        allow_empty_classes: bool = False,
        workers: int | None = None,
        channels_last: bool = True,
        eval_batch_size: int = 1024,
        seed: int = 0,
        mean: Sequence[float] = _MEAN,
        std: Sequence[float] = _STD,
    ) -> None:
        super().__init__(batch_size, eval_batch_size, workers, channels_last, seed, mean, std)
        if image_size < 1:
            raise ValueError(f"image_size must be at least 1, got {image_size}")
        if resize is not None and resize < image_size:
            raise ValueError(f"resize must be at least image_size, {image_size}, got {resize}")
        if auto_augment not in get_args(AutoAugment):
            raise ValueError(f"auto_augment must be one of {', '.join(get_args(AutoAugment))}, got {auto_augment!r}")
        if not 0 <= erase <= 1:
            raise ValueError(f"erase must be in [0, 1], got {erase}")
        if not 0 < fraction <= 1:
            raise ValueError(f"fraction must be in (0, 1], got {fraction}")
        if per_class is not None and fraction != 1:
            raise ValueError(f"fraction must be 1 where per_class is given, got {fraction}")
        if per_class is not None and per_class < 1:
            raise ValueError(f"per_class must be at least 1, got {per_class}")
        self.root = Path(root).expanduser()
        self.image_size = image_size
        self.resize = round(image_size * 256 / 224) if resize is None else resize
        self.auto_augment = auto_augment
        self.erase = erase
        self.skip_corrupt = skip_corrupt
        self.train_files, self.val_files = _class_folders(self.root, allow_empty_classes)
        self.val_set = self.test_set = self.val_files
        self._check_classes()
        self.train_files.keep(per_class, fraction, seed)
        self.folders = self.train_files.classes
        self.num_classes = len(self.folders)
        self.class_names = _class_names(self.root, self.folders)
        self.image_shape = (3, image_size, image_size)
        self._unreadable: list[str] = []

    def _check_classes(self) -> None:
        train, val = set(self.train_files.classes), set(self.val_files.classes)
        if train != val:
            differing = [
                f"{len(names)} only in {split}/ ({listed(names)})"
                for split, names in (("train", train - val), ("val", val - train))
                if names
            ]
            raise ValueError(f"{self.root}: train/ and val/ must have the same class folders: {'; '.join(differing)}")
        if len(train) < 2:
            raise ValueError(f"{self.root}: train/ must have two or more class folders, it has one ({listed(train)})")

    def training_transform(self) -> Any:
        """Returns random crop, mirror image and the chosen augmentations, for one uint8 image."""
        from torchvision.transforms import v2

        steps: list[Any] = [v2.RandomResizedCrop(self.image_size, antialias=True), v2.RandomHorizontalFlip()]
        if self.auto_augment != "none":
            steps.append(v2.TrivialAugmentWide() if self.auto_augment == "trivial" else v2.RandAugment())
        if self.erase:
            steps.append(v2.RandomErasing(p=self.erase, value=self.mean_color.tolist()))
        return v2.Compose(steps)

    def evaluation_transform(self) -> Any:
        """Returns resize and centre crop, for one uint8 image."""
        from torchvision.transforms import v2

        return v2.Compose([v2.Resize(self.resize, antialias=True), v2.CenterCrop(self.image_size)])

    def train_dataloader(self) -> DataLoader[ImageBatch]:
        """Shuffled, augmented global batches, shared among the ranks."""
        corrupt = "replace" if self.skip_corrupt else "raise"
        images = ImageFiles(self.train_files, self.training_transform(), self.seed, corrupt)
        return self.training_loader(images, len(images), self.worker_count())

    def val_dataloader(self) -> DataLoader[ImageBatch]:
        """The images of val/ in order, each on one rank."""
        corrupt = "omit" if self.skip_corrupt else "raise"
        images = ImageFiles(self.val_files, self.evaluation_transform(), self.seed, corrupt)
        return self.evaluation_loader(images, len(images), self.worker_count())

    def test_dataloader(self) -> DataLoader[ImageBatch]:
        """The images of val/: the test labels are not public."""
        return self.val_dataloader()

    def predict_dataloader(self) -> DataLoader[ImageBatch]:
        """The images of val/ in order."""
        return self.val_dataloader()

    def on_before_batch_transfer(self, batch: ImageBatch, dataloader_idx: int) -> ImageBatch:
        """Counts the images that could not be read, and reports them with the last batch of an epoch."""
        if self.skip_corrupt and self.trainer is not None:
            self._unreadable += batch.unreadable
            if self._in_last_batch():
                self._report()
        return batch

    def _in_last_batch(self) -> bool:
        """Whether this batch is the last of its epoch; Lightning knows before it transfers the batch."""
        trainer = self.trainer
        assert trainer is not None
        if trainer.training:
            return trainer.is_last_batch
        loops: dict[str, Any] = {
            "fit": trainer.fit_loop.epoch_loop.val_loop,
            "validate": trainer.validate_loop,
            "test": trainer.test_loop,
            "predict": trainer.predict_loop,
        }
        return bool(loops[str(trainer.state.fn and trainer.state.fn.value)].batch_progress.is_last_batch)

    def _report(self) -> None:
        """Prints how many images could not be read in the epoch, on all ranks together."""
        trainer = self.trainer
        assert trainer is not None
        names, self._unreadable = self._unreadable, []
        local = torch.tensor(float(len(names)), device=trainer.strategy.root_device)
        count = int(trainer.strategy.reduce(local, reduce_op="sum"))
        if count and trainer.is_global_zero:
            split, what = ("train", "replaced by others") if trainer.training else ("val", "left out")
            where = f"epoch {trainer.current_epoch + 1}: " if trainer.state.fn == "fit" else ""
            some = f", such as {listed(names)}" if names else ""
            print(f"{where}{count} corrupt in {split}/, {what}{some}", file=sys.stderr, flush=True)


def _class_folders(root: Path, allow_empty: bool) -> list[ClassFolders]:
    """Finds the images of train/ and of val/.

    Raises:
        ValueError: a folder is not as expected; the message says what was found.
    """
    if not root.is_dir():
        raise ValueError(f"data.root {root}: no such folder; expected {_LAYOUT}, in --data.root FOLDER")
    found, faults = [], []
    for split in ("train", "val"):
        try:
            found.append(ClassFolders(root / split, allow_empty))
        except ValueError as error:
            faults.append(str(error))
    if faults:
        raise ValueError(f"data.root {root} holds {listed(os.listdir(root))}: {'; '.join(faults)}; expected {_LAYOUT}")
    return found


def _class_names(root: Path, folders: list[str]) -> list[str]:
    """Returns the names of the classes.

    Args:
        root: folder that may hold LOC_synset_mapping.txt, whose lines are a folder's name and the names of its class.
        folders: names of the class folders.

    Raises:
        ValueError: the file lacks one of the folders.
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
