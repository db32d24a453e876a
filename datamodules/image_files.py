"""Finds, checks and decodes image files that lie in one folder for each class."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from datamodules.batches import Shard, seeded_generator
from datamodules.images import ImageBatch, listed, transformed
from lit_triwave.errors import reason

_EXTENSIONS = (".jpeg", ".jpg", ".png")


class ClassFolders:
    """The image files of one split: one folder for each class, labelled in the order of the folders' names.

    Args:
        folder: the split's folder.
        allow_empty: accept classes without images; their labels stay reserved.

    Attributes:
        classes: names of the class folders.
        paths: paths of all images relative to `folder`, sorted by class and name, (n,) bytes. One array, since worker
            processes would copy a list of a million strings piece by piece.
        labels: (n,) int64.

    Raises:
        ValueError: the folder does not hold that; the message says what was found, without the path to it.
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
            raise ValueError(f"{folder.name}/ must have one folder for each class, it holds {found}")
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
            return sorted(
                e.name for e in entries if e.name.lower().endswith(_EXTENSIONS) and not e.name.startswith(".")
            )

    def __len__(self) -> int:
        return len(self.paths)

    def path(self, index: int) -> str:
        """Returns the path of an image's file."""
        return os.path.join(self.folder, os.fsdecode(self.paths[index]))

    def keep(self, per_class: int | None, fraction: float, seed: int) -> None:
        """Keeps a random subset of each class; a smaller subset is part of every larger one.

        Args:
            per_class: number of images of each class; None keeps a share.
            fraction: share of each class, in (0, 1], rounded up to whole images.
            seed: seed of the choice.
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
        files: the files to read.
        transform: maps an image (channels, height, width) uint8 to one of the batch's size; may draw from PyTorch's
            generator.
        seed: seed of the transform.
        corrupt: what happens to an image that can't be read. `"raise"` is an error; `"replace"` takes the next readable
            image in order, which is mostly of the same class; `"omit"` makes the batch smaller.
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
            raise ValueError(f"none of the {len(unreadable)} images of a batch can be read, such as {unreadable[0]}")
        return ImageBatch(torch.stack(images), torch.tensor(labels), unreadable)

    def _readable(self, index: int, unreadable: list[str]) -> tuple[int, Tensor | None]:
        """Returns the image at an index, or what stands in for a corrupt one, whose path is appended to `unreadable`.

        A corrupt image that was tried as a substitute is not appended: it has its own turn in the epoch.
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
    """Reads an image file as (3, height, width) uint8; a grey image gets three equal channels.

    torchvision decodes, and Pillow tries what torchvision can't, such as other formats under a JPEG's name. On
    photographs of 500 × 375 pixels torchvision takes three quarters of Pillow's time. Its decoders are deprecated since
    0.29; where a later version has none, Pillow decodes everything.

    Raises:
        ValueError: neither can read the file, or it ends too early.
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
    """Reads an image file like `read_image`, without torchvision's decoders."""
    from PIL import Image
    from torchvision.transforms.v2.functional import pil_to_tensor

    try:
        with Image.open(path) as opened:
            image: Tensor = pil_to_tensor(opened.convert("RGB"))
        return image
    except (OSError, ValueError, SyntaxError) as error:  # Pillow's decoders raise all three
        raise ValueError(
            f"corrupt image {path} ({reason(error)}): restore it, or set data.skip_corrupt: true"
        ) from error
