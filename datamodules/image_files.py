"""Finds, checks and decodes image files that lie in one folder for each class."""

from __future__ import annotations

import copy
import hashlib
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from datamodules.batches import Shard, seeded_generator
from datamodules.images import ImageBatch, listed, transformed
from lit_triwave.errors import reason

EXTENSIONS = (
    *(".apng", ".avif", ".bmp", ".dds", ".dib", ".gif", ".icns", ".ico", ".j2k", ".jfif", ".jp2", ".jpe", ".jpeg"),
    *(".jpg", ".mpo", ".pbm", ".pcx", ".pgm", ".png", ".pnm", ".ppm", ".psd", ".qoi", ".sgi", ".tga", ".tif", ".tiff"),
    *(".webp", ".xbm", ".xpm"),
)
"""Ends of the names of image files, in small or capital letters."""
_BESIDE = (".csv", ".db", ".ini", ".json", ".md", ".txt", ".xml", ".yaml", ".yml")
"""Ends of the names of files that are often beside images, such as labels and `Thumbs.db`."""


class ListedFiles:
    """Image files below one folder, without labels.

    Args:
        place: the folder, or one file.

    Attributes:
        folder: the folder.
        paths: paths of all images relative to `folder`, (n,) bytes. It is one array, because worker processes would
            copy a list of a million strings one by one.
        labels: (n,) int64; −1 for an image without a label.

    Raises:
        ValueError: there is no image.
    """

    def __init__(self, place: Path) -> None:
        if place.is_file():
            self.folder, names = place.parent, [place.name]
        elif not place.is_dir():
            raise ValueError(f"{place}: no such folder or file")
        else:
            self.folder, names = place, sorted(_images(place))
        if not names:
            raise ValueError(f"{place} must contain images, such as .jpg or .png, it has none{_others(place)}")
        self._set(names, torch.full((len(names),), -1))

    def _set(self, names: list[str], labels: Tensor) -> None:
        self.paths = np.array([os.fsencode(name) for name in names], dtype=np.bytes_)
        self.labels = labels

    def __len__(self) -> int:
        return len(self.paths)

    def name(self, index: int) -> str:
        """Returns the path of an image's file relative to the folder."""
        return os.fsdecode(self.paths[index])

    def path(self, index: int) -> str:
        """Returns the path of an image's file."""
        return os.path.join(self.folder, self.name(index))


class ClassFolders(ListedFiles):
    """The image files of one split: one folder for each class, labelled in the order of the folders' names.

    Args:
        folder: the split's folder; the images of a class may lie in further folders.
        allow_empty: accept classes without images; their labels stay reserved.

    Attributes:
        classes: names of the class folders.
        others: end of the name ↦ number of files in the class folders that are no images, without those of `_BESIDE`.

    Raises:
        ValueError: the folder has another content; the message says what was found, without the path to it.
    """

    def __init__(self, folder: Path, allow_empty: bool = False) -> None:
        self.folder = folder
        if not folder.is_dir():
            raise ValueError(f"there is no {_name(folder)}/")
        with os.scandir(folder) as entries:
            names = {entry.name: entry.is_dir() for entry in entries if not entry.name.startswith((".", "__MACOSX"))}
        self.classes = sorted(name for name, is_folder in names.items() if is_folder)
        if not self.classes:
            found = f"{len(names)} files ({listed(names, 2)})" if names else "nothing"
            raise ValueError(f"{_name(folder)}/ must have one folder for each class, it contains {found}")
        self.others: Counter[str] = Counter()
        files = [sorted(_images(folder / name, others=self.others)) for name in self.classes]
        empty = [name for name, inside in zip(self.classes, files, strict=True) if not inside]
        if len(empty) == len(self.classes):
            raise ValueError(f"{_name(folder)}/ has {len(empty)} class folders, but no image in them{_others(folder)}")
        if empty and not allow_empty:
            raise ValueError(
                f"{_name(folder)}/ has {len(empty)} of {len(self.classes)} class folders without images "
                f"({listed(empty)}{_others(folder / empty[0])}; data.allow_empty_classes: true accepts them)"
            )
        pairs = zip(self.classes, files, strict=True)
        labels = torch.arange(len(files)).repeat_interleave(torch.tensor([len(inside) for inside in files]))
        self._set([f"{name}/{file}" for name, inside in pairs for file in inside], labels)

    def relabel(self, classes: list[str]) -> None:
        """Labels the images in the order of other class folders, which include all class folders of this split."""
        order = torch.tensor([classes.index(name) for name in self.classes])
        self.classes, self.labels = list(classes), order[self.labels]

    def subset(self, chosen: Tensor) -> ClassFolders:
        """Returns some of the images, by their indices (m,) int64, with the same classes."""
        part = copy.copy(self)
        part.paths, part.labels = self.paths[chosen.numpy()], self.labels[chosen]
        return part

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

    def drawn(self, shares: Sequence[float], seed: int) -> list[ClassFolders]:
        """Draws disjoint splits, each with its share of every class.

        The order of the draw depends on the names of the files. So an image that is added later changes the split of
        few other images.

        Args:
            shares: shares of the splits to draw, in [0, 1), together below 1. If its share is above 0, a split gets at
                least one image of a class, provided that one is left for the rest.
            seed: seed of the draw.

        Returns:
            The splits, and the rest.
        """
        parts: list[list[Tensor]] = [[] for _ in range(len(shares) + 1)]
        for label in range(len(self.classes)):
            members = (self.labels == label).nonzero()[:, 0]
            names = [self.paths[i] for i in members.tolist()]
            keys = [hashlib.blake2b(name, digest_size=8, key=str(seed).encode()).digest() for name in names]
            order = members[torch.tensor(sorted(range(len(keys)), key=keys.__getitem__), dtype=torch.long)]
            begin, left, wanted = 0, len(order), sum(share > 0 for share in shares)
            for part, share in zip(parts, shares, strict=False):
                count = 0
                if share > 0:
                    wanted -= 1
                    spare = left - 1 - wanted if left > 1 + wanted else left - 1  # for the rest and the other splits
                    count = max(0, min(max(1, round(share * len(order))), spare))
                part.append(order[begin : begin + count])
                begin, left = begin + count, left - count
            parts[-1].append(order[begin:])
        return [self.subset(torch.cat(part).sort().values) for part in parts]


def has_images(folder: Path) -> bool:
    """Whether there is an image below a folder."""
    return next(_images(folder), None) is not None


def _name(folder: Path) -> str:
    """Returns the name of a folder, also of `.`."""
    return folder.name or folder.resolve().name


def _others(folder: Path) -> str:
    """Returns the ends of the names of the files below a folder that has no image, as the end of an error."""
    ends = {path.suffix.lower() for path in folder.rglob("*") if path.is_file() and path.suffix}
    return f", only files that end in {listed(sorted(ends))}" if ends else ""


def _images(folder: str | Path, inside: str = "", others: Counter[str] | None = None) -> Iterator[str]:
    """Yields the paths of all images below a folder, relative to it; counts the ends of other files' names."""
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if entry.is_dir():
                yield from _images(entry.path, f"{inside}{entry.name}/", others)
            elif entry.name.lower().endswith(EXTENSIONS):
                yield inside + entry.name
            elif others is not None:
                end = os.path.splitext(entry.name)[1].lower()
                if end not in _BESIDE:
                    others[end] += 1


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

    def __init__(self, files: ListedFiles, transform: Callable[[Tensor], Tensor], seed: int, corrupt: str) -> None:
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
        """Returns the image at an index, or a substitute for a corrupt one, whose path is appended to `unreadable`.

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

    torchvision decodes JPEG files, and Pillow all other files. On photographs of 500 × 375 pixels torchvision takes
    three quarters of Pillow's time. Its decoders are deprecated since 0.29. If a later version has none, Pillow
    decodes all files.

    Raises:
        ValueError: neither can read the file, or it ends too early.
    """
    try:
        from torchvision.io import ImageReadMode, decode_jpeg, read_file
    except ImportError:
        return read_with_pillow(path)
    try:
        image: Tensor = decode_jpeg(read_file(path), mode=ImageReadMode.RGB)
        return image
    except RuntimeError:
        return read_with_pillow(path)


def read_with_pillow(path: str) -> Tensor:
    """Reads an image file of any mode like `read_image`; from an animation it takes the first image.

    Values of 16 bits are divided by 257. Floating values are scaled from [0, 1] or, if one is larger, from [0, 255]. In
    the same way 32-bit integers are scaled from [0, 255] or [0, 65535]. An image with other values is scaled from its
    own range. Transparent parts become white.
    """
    from PIL import Image, UnidentifiedImageError
    from torchvision.transforms.v2.functional import pil_to_tensor

    try:
        with Image.open(path) as opened:
            image: Tensor = pil_to_tensor(_in_colour(opened))
        return image
    except Exception as error:  # Pillow's decoders raise many kinds on damaged files
        why = "it is no image" if isinstance(error, UnidentifiedImageError) else reason(error)
        if isinstance(error, OSError) and error.strerror:  # without the system's number and the path once more
            why = error.strerror
        raise ValueError(f"corrupt image {path} ({why}): restore it, or set data.skip_corrupt: true") from error


def _in_colour(opened: Any) -> Any:
    """Returns an image of Pillow in the mode RGB, 8 bits a channel."""
    from PIL import Image

    if opened.mode.startswith(("I", "F")):
        values = np.nan_to_num(np.asarray(opened, dtype=np.float64))
        tops = {"I": (255, 65535), "F": (1, 255)}.get(opened.mode, (65535,))
        low, high = float(values.min()), float(values.max())
        if low >= 0 and high <= tops[-1]:
            low, high = 0.0, float(next(top for top in tops if high <= top))
        scaled = (values - low) * (255 / ((high - low) or 1))
        return Image.fromarray(scaled.round().astype(np.uint8)).convert("RGB")
    if opened.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in opened.info:
        colours = opened.convert("RGBA")
        white = Image.new("RGBA", colours.size, "white")
        return Image.alpha_composite(white, colours).convert("RGB")
    return opened.convert("RGB")
