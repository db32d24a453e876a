"""Small image data in the real layouts: CIFAR-10's pickled batches, ImageNet's folders of JPEGs."""

from __future__ import annotations

import hashlib
import pickle
from pathlib import Path

import numpy as np
from PIL import Image

CLASSES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]


def write_cifar10(root: Path, per_batch: int = 20, test: int = 30) -> dict[str, str]:
    """Writes cifar-10-batches-py/ with learnable classes (each has its own grey level) and returns its MD5 table."""
    folder = root / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    generator = np.random.default_rng(0)
    sizes = {f"data_batch_{i}": per_batch for i in range(1, 6)} | {"test_batch": test}
    contents: dict[str, dict[str, object]] = {}
    for name, size in sizes.items():
        labels = [i % 10 for i in range(size)]
        noise = generator.integers(0, 24, (size, 3072))
        data = (np.array(labels)[:, None] * 23 + noise).astype(np.uint8)
        contents[name] = {
            "batch_label": name,
            "labels": labels,
            "data": data,
            "filenames": [f"{i}.png" for i in labels],
        }
    contents["batches.meta"] = {"label_names": CLASSES, "num_cases_per_batch": per_batch, "num_vis": 3072}
    for name, content in contents.items():
        (folder / name).write_bytes(pickle.dumps(content, protocol=2))
    return {name: md5(folder / name) for name in contents}


def write_cifar100(root: Path, train: int = 200, test: int = 100) -> dict[str, str]:
    """Writes cifar-100-python/ with two images of each class or more, and returns its MD5 table."""
    folder = root / "cifar-100-python"
    folder.mkdir(parents=True)
    for name, size in {"train": train, "test": test}.items():
        fine = [i % 100 for i in range(size)]
        data = np.repeat(np.array(fine, dtype=np.uint8)[:, None] * 2, 3072, axis=1)
        content = {"data": data, "fine_labels": fine, "coarse_labels": [i // 5 for i in fine], "filenames": [""] * size}
        (folder / name).write_bytes(pickle.dumps(content, protocol=2))
    names = [f"class_{number}" for number in range(100)]
    meta = {"fine_label_names": names, "coarse_label_names": [f"group_{number}" for number in range(20)]}
    (folder / "meta").write_bytes(pickle.dumps(meta, protocol=2))
    return {name: md5(folder / name) for name in ("train", "test", "meta")}


def md5(path: Path) -> str:
    return hashlib.md5(path.read_bytes()).hexdigest()


def write_imagenet(
    root: Path, classes: int = 3, train: int = 8, val: int = 4, size: tuple[int, int] = (40, 32)
) -> list[str]:
    """Writes train/<wnid>/*.JPEG and val/<wnid>/*.JPEG, each class of its own colour, and returns the wnids."""
    generator = np.random.default_rng(0)
    names = [f"n{1000 + label:08d}" for label in range(classes)]
    for split, count in (("train", train), ("val", val)):
        for label, name in enumerate(names):
            folder = root / split / name
            folder.mkdir(parents=True)
            for number in range(count):
                color = np.array([255 * label / classes, 128, 255 - 255 * label / classes])
                pixels = color + generator.integers(-30, 31, (size[1], size[0], 3))
                image = Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
                image.save(folder / f"{name}_{number}.JPEG", quality=90)
    return names


def write_folder(root: Path, counts: dict[str, int], prefix: str = "") -> None:
    """Writes <class>/<prefix><number>.png of 20 × 18 pixels; a class named like a colour has that colour."""
    colours = {"red": (220, 30, 30), "green": (30, 200, 30), "blue": (30, 30, 220)}
    for name, count in counts.items():
        folder = root / name
        folder.mkdir(parents=True, exist_ok=True)
        colour = colours.get(name.rpartition("/")[2], (128, 128, 128))
        for number in range(count):
            shade = tuple(value + 3 * number % 20 for value in colour)
            Image.new("RGB", (20, 18), shade).save(folder / f"{prefix}{number}.png")
