"""A folder of images with one folder for each class."""

from __future__ import annotations

import hashlib
import os
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch
from torch.utils.data import DataLoader

from datamodules.batches import check_fractions
from datamodules.image_files import ClassFolders, ImageFiles, ListedFiles, has_images
from datamodules.images import ImageBatch, ImageDataModule, listed
from lit_triwave.errors import TriwaveError, check_choice, check_least, has_control_characters

AutoAugment = Literal["none", "trivial", "rand"]
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # torchvision's, of ImageNet's training images
_SPLITS = {"train": ("train", "training"), "val": ("val", "valid", "validation"), "test": ("test", "testing")}
_LAYOUT = "root/<class>/*.jpg, or train/<class>/*.jpg with val/ and test/ beside it"


class ImageFolderDataModule(ImageDataModule):
    """Images in one folder for each class: root/<class>/*, or root/train/<class>/* with or without val/ and test/.

    Splits that have no folder are drawn from the training images, with their share of each class. Classes are labelled
    in the alphabetical order of their folders. Files may have any format and mode that Pillow opens, such as 16-bit
    PNG, palettes, CMYK and transparency; each becomes a colour image of 8 bits.

    Training images are cropped at random; images of an evaluation are resized and cropped in the middle.

    Args:
        root: the folder.
        batch_size: training images in a global batch, over all ranks together; an incomplete last batch is left out.
            Null: a sixteenth of the training images, 8 to 64, so that an epoch of a small folder has several steps.
        image_size: side in pixels of the images that the model gets.
        resize: shorter side to which an evaluation resizes before it crops, at least `image_size`; null for
            `image_size`.
        crop_scale: smallest share of a training image's area that its random crop keeps, in (0, 1]; 1 takes the same
            crop as an evaluation.
        flip: mirror half of the training images.
        auto_augment: "none", or torchvision's "trivial" (TrivialAugmentWide) or "rand" (RandAugment).
        erase: probability of erasing a random rectangle of a training image, in [0, 1].
        val_fraction: share of each class's training images to hold out for validation if there is no val/, in [0, 1);
            0 trains without validation.
        test_fraction: share to hold out for the test if there is no test/ with class folders, in [0, 1); 0 tests on
            the validation images.
        split_seed: seed of the splits.
        fraction: share of the training images of each class to use, in (0, 1].
        per_class: number of training images of each class to use, instead of a share.
        predict_path: folder of images without labels, or one image, for `predict`; null for the test images.
        skip_corrupt: true continues when an image can't be read, and reports the number of such images after each
            epoch. In training the next readable image replaces it; in an evaluation it is left out. False stops.
        allow_empty_classes: accept class folders without images, and classes that have no folder in val/ or test/.
        workers: processes that load images, for each device; 0 loads in the training process; null for this device's
            share of the CPU cores.
        channels_last: memory layout that convolutions prefer on GPUs.
        eval_batch_size: images in a global batch of an evaluation.
        seed: seed of the subset, the order and the augmentation, at least 0.
        mean: mean of each channel in [0, 1], subtracted.
        std: standard deviation of each channel, divided by.

    Attributes:
        folders: names of the class folders, in the order of the labels.
        class_names: the same as `folders`.
        remarks: lines with remarks about the data for the user.

    Raises:
        ValueError: an argument is out of range, or the folders are not as described.
    """

    def __init__(
        self,
        root: str,
        batch_size: int | None = None,
        image_size: int = 64,
        resize: int | None = None,
        crop_scale: float = 0.5,
        flip: bool = False,
        auto_augment: AutoAugment = "none",
        erase: float = 0.0,
        val_fraction: float = 0.15,
        test_fraction: float = 0.15,
        split_seed: int = 0,
        fraction: float = 1.0,
        per_class: int | None = None,
        predict_path: str | None = None,
        skip_corrupt: bool = False,
        allow_empty_classes: bool = False,
        workers: int | None = None,
        channels_last: bool = True,
        eval_batch_size: int = 256,
        seed: int = 0,
        mean: Sequence[float] = MEAN,
        std: Sequence[float] = STD,
    ) -> None:
        super().__init__(
            1 if batch_size is None else batch_size, eval_batch_size, workers, channels_last, seed, mean, std
        )
        check_least(1, image_size=image_size, per_class=per_class)
        if resize is not None and resize < image_size:
            raise ValueError(f"resize must be at least image_size, {image_size}, got {resize}")
        if not 0 < crop_scale <= 1:
            raise ValueError(f"crop_scale must be in (0, 1], got {crop_scale}")
        check_choice(AutoAugment, auto_augment=auto_augment)
        if not 0 <= erase <= 1:
            raise ValueError(f"erase must be in [0, 1], got {erase}")
        check_fractions(val_fraction, test_fraction)
        if not 0 < fraction <= 1:
            raise ValueError(f"fraction must be in (0, 1], got {fraction}")
        if per_class is not None and fraction != 1:
            raise ValueError(f"fraction must be 1 where per_class is given, got {fraction}")
        for name, path in {"root": root, "predict_path": predict_path}.items():
            if path == "":
                raise ValueError(f"data.{name} must name a folder, got ''")
        self.root = Path(root).expanduser()
        self.remarks: list[str] = []
        self.image_size = image_size
        self.resize = image_size if resize is None else resize
        self.crop_scale = crop_scale
        self.flip = flip
        self.auto_augment = auto_augment
        self.erase = erase
        self.skip_corrupt = skip_corrupt
        self.places = {"train": "train/", "val": "val/", "test": "test/"}
        self.train_files, self.val_set, self.test_set = self._splits(
            (val_fraction, test_fraction), split_seed, allow_empty_classes
        )
        self.train_files.keep(per_class, fraction, seed)
        if batch_size is None:
            self.batch_size = min(len(self.train_files), max(8, min(64, len(self.train_files) // 16)))
        self.predict_set: ListedFiles = self.test_set
        self.places["predict"] = self.places["test"] if predict_path is None else predict_path
        if predict_path is not None:
            try:
                self.predict_set = ListedFiles(Path(predict_path).expanduser())
            except ValueError as error:
                raise ValueError(f"data.predict_path {error}") from error
        self.folders = self.train_files.classes
        self.num_classes = len(self.folders)
        self.class_names = list(self.folders)
        self.image_shape = (3, image_size, image_size)
        self._unreadable: list[str] = []
        self._left_out: set[str] = set()

    def _splits(
        self, shares: tuple[float, float], seed: int, allow_empty: bool
    ) -> tuple[ClassFolders, ClassFolders, ClassFolders]:
        """Finds the images for training, validation and test.

        Args:
            shares: shares of the training images for validation and for the test, if these have no folder.
            seed: seed of the draw.
            allow_empty: accept classes without images.
        """
        root = self.root
        check_folder(root, _LAYOUT)
        folders = _split_folders(root)
        try:
            train = ClassFolders(folders.get("train", root), allow_empty)
            given = {kind: ClassFolders(folder, allow_empty) for kind, folder in folders.items() if kind != "train"}
        except ValueError as error:
            raise ValueError(f"data.root {root}: {error}; expected {_LAYOUT}") from error
        for split in given.values():
            check_same_classes(root, train, split, allow_empty)
            split.relabel(train.classes)
        check_classes(root, train)
        kinds = ("val", "test")
        wanted = [0.0 if kind in given else share for kind, share in zip(kinds, shares, strict=True)]
        *drawn, train = train.drawn(wanted, seed)
        self.remarks += _left_out([train, *given.values()])
        for kind, split, share in zip(kinds, drawn, wanted, strict=True):
            if kind not in given:
                self.places[kind] = f"the {'validation' if kind == 'val' else 'test'} images"
                given[kind] = split
            if share and not len(split):
                raise ValueError(
                    f"data.root {root}: no image is left for {kind}: it must have three or more of a class"
                )
            without = [name for label, name in enumerate(train.classes) if not (split.labels == label).any()]
            if share and without:
                self.remarks.append(f"no {kind} image for {listed(without)}: too few images of a class to draw one")
        if "train" not in folders:
            self.places["train"] = "the training images"
        unused = _unused(root, folders)
        if unused:
            self.remarks.append(f"not used: {listed(unused)} beside {folders['train'].name}/")
        if not len(given["test"]):
            given["test"], self.places["test"] = given["val"], self.places["val"]
            self.remarks.append("no images are held out for the test: the validation images are also the test images")
        if not len(given["test"]):
            raise ValueError("test_fraction must be above 0 without test/ and validation images, got 0")
        return train, given["val"], given["test"]

    def training_transform(self) -> Any:
        """Returns random crop, mirror image and the chosen augmentations, for one uint8 image."""
        from torchvision.transforms import v2

        size, scale = self.image_size, (self.crop_scale, 1.0)
        steps: list[Any] = [self.evaluation_transform()]
        if self.crop_scale < 1:
            steps = [v2.RandomResizedCrop(size, scale=scale, antialias=True)]
        if self.flip:
            steps.append(v2.RandomHorizontalFlip())
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

    def val_dataloader(self) -> DataLoader[ImageBatch] | list[Any]:
        """The validation images in order, each on one rank; nothing if there are none."""
        return self._evaluation(self.val_set) if len(self.val_set) else []

    def test_dataloader(self) -> DataLoader[ImageBatch]:
        """The test images in order, each on one rank."""
        return self._evaluation(self.test_set)

    def predict_dataloader(self) -> DataLoader[ImageBatch]:
        """The images of `predict_path`, or the test images, in order."""
        self._left_out.clear()
        return self._evaluation(self.predict_set)

    def _evaluation(self, files: ListedFiles) -> DataLoader[ImageBatch]:
        images = ImageFiles(files, self.evaluation_transform(), self.seed, "omit" if self.skip_corrupt else "raise")
        return self.evaluation_loader(images, len(images), self.worker_count())

    def prediction_columns(self) -> dict[str, list[str]]:
        """Returns the column that identifies the predicted images: `file`, relative to `root` or `predict_path`."""
        files = self.predict_set
        inside = "" if files is not self.test_set else os.path.relpath(files.folder, self.root)
        names = [files.name(i) for i in range(len(files)) if files.path(i) not in self._left_out]
        return {"file": [os.path.normpath(os.path.join(inside, name)) for name in names]}

    @cached_property
    def training_digest(self) -> str:
        """Digest of the names and labels of the training images; their content is not read."""
        files = self.train_files
        return hashlib.sha256(b"\0".join(files.paths.tolist()) + files.labels.numpy().tobytes()).hexdigest()

    def state_dict(self) -> dict[str, Any]:
        """Returns the position in the epoch and the names of the classes."""
        return super().state_dict() | {"classes": self.folders}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores the position.

        Raises:
            TriwaveError: the checkpoint has other classes.
        """
        state = dict(state_dict)
        there = state.pop("classes", self.folders)
        if there != self.folders:
            new, gone = sorted({*self.folders} - {*there}), sorted({*there} - {*self.folders})
            raise TriwaveError(
                f"data.root {self.root} must have the class folders of the checkpoint: "
                f"{listed(gone)} missing, {listed(new)} new"
            )
        super().load_state_dict(state)

    def on_before_batch_transfer(self, batch: ImageBatch, dataloader_idx: int) -> ImageBatch:
        """Counts the images that could not be read, and reports them with the last batch of an epoch."""
        if self.skip_corrupt and self.trainer is not None:
            self._unreadable += batch.unreadable
            self._left_out.update(batch.unreadable)
            if self._in_last_batch():
                self._report()
        return batch

    def _in_last_batch(self) -> bool:
        """Whether this batch is the last of its epoch; Lightning knows before it transfers the batch."""
        trainer = self.trainer
        assert trainer is not None
        if trainer.training:
            return trainer.is_last_batch
        loop: Any = trainer.predict_loop if trainer.predicting else trainer._evaluation_loop
        return bool(loop.batch_progress.is_last_batch)

    def _report(self) -> None:
        """Prints how many images could not be read in the epoch, on all ranks together."""
        trainer = self.trainer
        assert trainer is not None
        names, self._unreadable = self._unreadable, []
        local = torch.tensor(float(len(names)), device=trainer.strategy.root_device)
        count = int(trainer.strategy.reduce(local, reduce_op="sum"))
        if count and trainer.is_global_zero:
            fn = str(trainer.state.fn and trainer.state.fn.value)
            place = self.places["train" if trainer.training else fn if fn in self.places else "val"]
            what = "replaced by others" if trainer.training else "left out"
            where = f"epoch {trainer.current_epoch + 1}: " if trainer.state.fn == "fit" else ""
            some = f", such as {listed(names)}" if names else ""
            print(f"{where}{count} corrupt in {place}, {what}{some}", file=sys.stderr, flush=True)


def check_folder(root: Path, layout: str) -> None:
    """Raises ValueError unless there is a folder."""
    if not root.is_dir():
        fault = "it is a file, not a folder" if root.exists() else "no such folder"
        raise ValueError(f"data.root {root}: {fault}; expected {layout}, in --data.root FOLDER")


def check_same_classes(root: Path, train: ClassFolders, other: ClassFolders, some_missing: bool | None = None) -> None:
    """Raises ValueError unless two splits have the same class folders, or `other` some of them if some may be missing.

    With None no folder may be missing, and the error does not name an option.
    """
    here, there = set(train.classes), set(other.classes)
    differing = [
        f"{len(names)} only in {split.folder.name}/ ({listed(names)})"
        for split, names in ((train, here - there), (other, there - here))
        if names and not (some_missing and split is train)
    ]
    if differing:
        folders = f"{train.folder.name}/ and {other.folder.name}/"
        offered = some_missing is False and not there - here
        advice = "; data.allow_empty_classes: true accepts that" if offered else ""
        raise ValueError(f"{root}: {folders} must have the same class folders: {'; '.join(differing)}{advice}")


def check_classes(root: Path, train: ClassFolders) -> None:
    """Raises ValueError for a single class, and for a name of a class that a terminal would execute."""
    for name in train.classes:
        if has_control_characters(name):
            raise ValueError(f"{root}: class folders must have no control characters, got {name!r}")
    if len(train.classes) < 2:
        raise ValueError(
            f"{root}: {train.folder.name}/ must have two or more class folders, it has one ({listed(train.classes)})"
        )


def _unused(root: Path, folders: Mapping[str, Path]) -> list[str]:
    """Returns the folders with images beside those of the splits."""
    beside = sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))
    return [f"{path.name}/" for path in beside if folders and path not in folders.values() and has_images(path)]


def _left_out(splits: Sequence[ClassFolders]) -> list[str]:
    """Returns a line about the files in the class folders that are not read as images; [] if there are none."""
    others = sum((split.others for split in splits), Counter[str]())
    if not others:
        return []
    ends = listed([end or "without such an end" for end in others])
    return [f"not read: {others.total()} files in the class folders ({ends}): save images as .jpg or .png"]


def _split_folders(root: Path) -> dict[str, Path]:
    """Returns kind of split ↦ folder, for splits that have a folder with class folders; {} without train/."""
    folders: dict[str, Path] = {}
    for path in sorted(root.iterdir()):
        kind = next((kind for kind, names in _SPLITS.items() if path.name.lower() in names), None)
        if kind and path.is_dir() and any(inside.is_dir() for inside in path.iterdir()):
            if kind in folders:
                raise ValueError(
                    f"data.root {root} must have one folder for {kind}, it has {folders[kind].name}/ and {path.name}/"
                )
            folders[kind] = path
    if folders and "train" not in folders and len(folders) == sum(path.is_dir() for path in root.iterdir()):
        raise ValueError(
            f"data.root {root} must have train/ beside {listed(p.name for p in folders.values())}/, it has none"
        )
    return folders if "train" in folders else {}
