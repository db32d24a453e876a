"""Folders of image files, one for each class: found, checked, decoded."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from datamodules.images import ImageBatch, Shard, listed, transformed
from datamodules.regression import seeded_generator

EXTENSIONS = (".jpeg", ".jpg", ".png")


class ClassFolders:
    """The image files of one split: one folder for each class, labelled in the order of the folders' names.

    Args:
        folder: Of the split.
        allow_empty: Accept classes without images; their labels stay reserved.

    Attributes:
        classes: The folders' names.
        paths: Of all images relative to `folder`, sorted by class and name, (n,) bytes; one array, since worker
            processes would copy a list of a million strings piece by piece.
        labels: (n,) int64.

    Raises:
        ValueError: The folder does not hold that; the message says what was found, without the path to it.
    """

    def __init__(self, folder: Path, allow_empty: bool = False) -> None:
        self.folder = folder
        if not folder.is_dir():
            raise ValueError(f"there is no {folder.name}/")
        with os.scandir(folder) as entries:
            names = {entry.name: entry.is_dir() for entry in entries if not entry.name.startswith(".")}
        self.classes = sorted(name for name, is_folder in names.items() if is_folder)
        if not self.classes:
            found = f"{len(names)} files ({listed(names, 2)})" if names else "nothing"
            raise ValueError(f"{folder.name}/ holds {found} where a folder for each class should be")
        files = [self._images(name) for name in self.classes]
        empty = [name for name, inside in zip(self.classes, files, strict=True) if not inside]
        if len(empty) == len(self.classes):
            raise ValueError(f"{folder.name}/ has {len(empty)} class folders, but no image in them")
        if empty and not allow_empty:
            raise ValueError(
                f"{folder.name}/ has {len(empty)} of {len(self.classes)} class folders without images "
                f"({listed(empty)}; data.allow_empty_classes: true accepts them)"
            )
        pairs = zip(self.classes, files, strict=True)
        self.paths = np.array([os.fsencode(f"{name}/{file}") for name, inside in pairs for file in inside])
        self.labels = torch.arange(len(files)).repeat_interleave(torch.tensor([len(inside) for inside in files]))

    def _images(self, name: str) -> list[str]:
        with os.scandir(self.folder / name) as entries:
            return sorted(e.name for e in entries if e.name.lower().endswith(EXTENSIONS) and not e.name.startswith("."))

    def __len__(self) -> int:
        return len(self.paths)

    def path(self, index: int) -> str:
        """The file of an image."""
        return os.path.join(self.folder, os.fsdecode(self.paths[index]))

    def keep(self, per_class: int | None, fraction: float, seed: int) -> None:
        """Keeps a part of each class, chosen at random; a smaller part is a part of a larger one.

        Args:
            per_class: Images of each class, if given.
            fraction: Else their share, rounded up.
            seed: Of the choice.
        """
        if per_class is None and fraction == 1:
            return
        kept = []
        for label in range(len(self.classes)):
            members = (self.labels == label).nonzero()[:, 0]
            count = per_class if per_class is not None else -int(-len(members) * fraction // 1)
            order = torch.randperm(len(members), generator=seeded_generator(seed, "subset", self.classes[label]))
            kept.append(members[order[:count]].sort().values)
        chosen = torch.cat(kept)
        self.paths, self.labels = self.paths[chosen.numpy()], self.labels[chosen]


class ImageFiles(Dataset[ImageBatch]):
    """Decoded and transformed images of one split, indexed by a whole `Shard` at once.

    Args:
        files: What to read.
        transform: (channels, height, width) uint8 ↦ the same in the size of a batch; may draw from PyTorch's generator.
        seed: Of the transform.
        corrupt: What happens to an image that can't be read: "raise"; "replace", by the next one in order that can be
            (mostly of the same class); "omit", which makes the batch smaller.
    """

    def __init__(self, files: ClassFolders, transform: Callable[[Tensor], Tensor], seed: int, corrupt: str) -> None:
        self.files = files
        self.transform = transform
        self.seed = seed
        self.corrupt = corrupt

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, shard: Shard) -> ImageBatch:
        images: list[Tensor] = []
        labels: list[int] = []
        unreadable: list[str] = []
        for wanted in shard.indices.tolist():
            index, image = self._readable(wanted, unreadable)
            if image is not None:
                images.append(transformed(self.transform, image, self.seed, shard.epoch, wanted))
                labels.append(int(self.files.labels[index]))
        if not images:
            raise ValueError(f"no image of a batch of {len(unreadable)} can be read, among them {unreadable[0]}")
        return ImageBatch(torch.stack(images), torch.tensor(labels), unreadable)

    def _readable(self, index: int, unreadable: list[str]) -> tuple[int, Tensor | None]:
        """The image at an index, or what the rule for corrupt ones puts in its place; notes the file if it did so.

        A corrupt one that was tried in its place is not noted: it has a turn of its own in the epoch.
        """
        wanted = index
        for _ in range(len(self)):
            path = self.files.path(index)
            try:
                return index, read_image(path)
            except ValueError:
                if self.corrupt == "raise":
                    raise
                if index == wanted:
                    unreadable.append(path)
            if self.corrupt == "omit":
                return index, None
            index = (index + 1) % len(self)
        raise ValueError(f"none of the {len(self)} images in {self.files.folder} can be read")


def read_image(path: str) -> Tensor:
    """An image file as (3, height, width) uint8, grey ones in three equal channels.

    torchvision decodes; what it can't (rare formats, also under a JPEG's name), Pillow may. On photographs of 500 × 375
    pixels torchvision takes three quarters of Pillow's time. Its decoders are deprecated since 0.29; where a later
    version has none, Pillow does everything.

    Raises:
        ValueError: Neither can read the file, or it ends too early.
    """
    try:
        from torchvision.io import ImageReadMode, decode_image, read_file
    except ImportError:
        return read_with_pillow(path)
    try:
        image: Tensor = decode_image(read_file(path), mode=ImageReadMode.RGB)
        return image
    except RuntimeError:
        return read_with_pillow(path)


def read_with_pillow(path: str) -> Tensor:
    """`read_image` without torchvision's decoders."""
    from PIL import Image
    from torchvision.transforms.v2.functional import pil_to_tensor

    try:
        with Image.open(path) as opened:
            image: Tensor = pil_to_tensor(opened.convert("RGB"))
        return image
    except (OSError, ValueError, SyntaxError) as error:  # Pillow's decoders raise all three
        reason = " ".join(str(error).split())
        raise ValueError(f"corrupt image {path} ({reason}): restore it, or set data.skip_corrupt: true") from error
