from __future__ import annotations

import shutil
import subprocess
import sys
import time
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from datamodules import ImageNetDataModule
from datamodules.image_files import read_image, read_with_pillow
from tests.conftest import REPOSITORY
from tests.image_data import write_imagenet


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_imagenet(tmp_path)
    return tmp_path


def module(root: Path, **options: Any) -> ImageNetDataModule:
    return ImageNetDataModule(str(root), **({"batch_size": 6, "image_size": 16, "workers": 0} | options))


def first(folder: Path) -> Path:
    return sorted(folder.glob("*/*.JPEG"))[0]


def test_batches_have_the_models_shape_and_the_classes_their_folders_order(root: Path) -> None:
    data = module(root)
    assert (data.num_classes, data.image_shape) == (3, (3, 16, 16))
    assert data.class_names == ["n00001000", "n00001001", "n00001002"]
    batches = list(data.train_dataloader())
    assert [len(batch.labels) for batch in batches] == [6] * 4
    images, labels = data.on_after_batch_transfer(batches[0], 0)
    assert images.shape == (6, 3, 16, 16) and images.dtype == torch.float32
    assert images.is_contiguous(memory_format=torch.channels_last)
    for image, label in zip(images, labels, strict=True):  # each class has its own red
        red = float(image[0].mean() * data.std[0] + data.mean[0])
        assert red == pytest.approx(85 * int(label), abs=15)
    every = torch.cat([batch.labels for batch in data.val_dataloader()])
    assert every.tolist() == [0] * 4 + [1] * 4 + [2] * 4
    assert torch.equal(every, torch.cat([batch.labels for batch in data.test_dataloader()]))


def test_validation_images_are_resized_and_cropped_as_torchvisions_recipe_does(root: Path) -> None:
    from torchvision.models import VGG16_BN_Weights

    data = module(root, image_size=224)
    (batch,) = data.val_dataloader()
    images, _ = data.on_after_batch_transfer(batch, 0)
    # The transforms that torchvision publishes with its weights, on Pillow's decoding of the same file.
    with Image.open(first(root / "val")) as image:
        expected = VGG16_BN_Weights.IMAGENET1K_V1.transforms()(image)
    assert (images[0] - expected).abs().mean() < 0.02  # one grey level is 0.017; Pillow and tensors round differently


def test_class_names_come_from_the_mapping_file_or_from_torchvision(root: Path) -> None:
    mapping = root / "LOC_synset_mapping.txt"
    mapping.write_text("n00001000 tench, Tinca tinca\nn00001001 goldfish\nn00001002 great white shark\nn2 x\n")
    assert module(root).class_names == ["tench, Tinca tinca", "goldfish", "great white shark"]
    mapping.write_text("n00001000 tench\n")
    with pytest.raises(ValueError, match="LOC_synset_mapping.txt has no line for n00001001, n00001002"):
        module(root)


def test_the_thousand_folders_of_imagenet_have_torchvisions_names(tmp_path: Path) -> None:
    write_imagenet(tmp_path, classes=1, train=1, val=1)
    (one,) = (tmp_path / "train").glob("*/*.JPEG")
    for split in ("train", "val"):
        for number in range(1000):
            folder = tmp_path / split / f"n{1000 + number:08d}"
            folder.mkdir(exist_ok=True)
            (folder / "a.JPEG").hardlink_to(one)
    names = module(tmp_path).class_names
    assert (len(names), names[0], names[-1]) == (1000, "tench", "toilet tissue")


@pytest.mark.parametrize("workers", [0, 2])
def test_every_epoch_has_its_own_crops_whatever_loads_them(root: Path, workers: int) -> None:
    def epochs(workers: int) -> list[torch.Tensor]:
        loader = module(root, workers=workers, auto_augment="trivial", erase=0.5).train_dataloader()
        collected = []
        for epoch in (0, 1):
            loader.sampler.set_epoch(epoch)
            collected.append(torch.cat([batch.images for batch in loader]))
        return collected

    before = torch.get_rng_state()
    one, other = epochs(0), epochs(workers)
    assert torch.equal(torch.get_rng_state(), before)  # the model's own draws do not depend on who loads
    assert torch.equal(one[0], other[0]) and torch.equal(one[1], other[1])
    assert not torch.equal(one[0], one[1])


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("stop", [1, 3])
def test_a_loader_resumed_inside_an_epoch_goes_on_with_the_same_images(root: Path, workers: int, stop: int) -> None:
    loader = module(root, workers=workers).train_dataloader()
    loader.sampler.set_epoch(2)
    whole, state = [], {}
    for number, batch in enumerate(loader, 1):
        whole.append(batch)
        if number == stop:
            state = loader.state_dict()
    other = module(root, workers=workers)
    other.load_state_dict({"epoch": 2, "loader": state, "batch_size": 6, "workers": workers, "seed": 0})
    rest = list(other.train_dataloader())
    assert len(rest) == 4 - stop
    for expected, found in zip(whole[stop:], rest, strict=True):
        assert torch.equal(expected.images, found.images) and torch.equal(expected.labels, found.labels)
    assert len(list(other.train_dataloader())) == 4  # only the epoch that was begun is shorter
    other.load_state_dict({"epoch": 2, "loader": state, "batch_size": 4, "workers": workers, "seed": 0})
    with pytest.raises(ValueError, match="inside an epoch of other batches: batch_size 4 there and 6 here"):
        other.train_dataloader()


def test_a_subset_has_its_share_of_every_class_and_lies_within_larger_ones(root: Path) -> None:
    def chosen(**options: Any) -> set[bytes]:
        data = module(root, batch_size=1, **options)
        assert len(data.val_set) == 12
        return set(data.train_files.paths.tolist())

    quarter, half, three, other = (
        chosen(fraction=0.25),
        chosen(fraction=0.5),
        chosen(per_class=3),
        chosen(per_class=3, seed=5),
    )
    assert (len(quarter), len(half), len(three), len(chosen(per_class=99))) == (6, 12, 9, 24)
    assert quarter < three < half
    assert three != other
    for names in (quarter, half, three):
        assert {name.split(b"/")[0] for name in names} == {b"n00001000", b"n00001001", b"n00001002"}


def test_grey_cmyk_and_misnamed_files_are_read_in_colour(root: Path) -> None:
    path = first(root / "train")
    with Image.open(path) as image:
        image.load()
    expected = read_image(str(path)).float()
    image.convert("L").save(path, "JPEG")
    grey = read_image(str(path))
    assert grey.shape == (3, 32, 40) and torch.equal(grey[0], grey[1]) and torch.equal(grey[0], grey[2])
    for options in ({"format": "PNG"}, {"format": "GIF"}, {"format": "BMP"}, {"format": "WEBP"}):
        image.save(path, **options)
        assert (read_image(str(path)).float() - expected).abs().mean() < 20, options
    image.convert("CMYK").save(path, "JPEG")
    assert (read_image(str(path)).float() - expected).abs().mean() < 20
    image.save(path, "JPEG", quality=90)
    assert (read_with_pillow(str(path)).float() - read_image(str(path)).float()).abs().max() <= 1


@pytest.mark.parametrize("damage", ["half", "text", "empty"])
def test_a_corrupt_image_is_named_or_by_request_replaced_and_counted(root: Path, damage: str) -> None:
    path = first(root / "train")
    content = path.read_bytes()
    path.write_bytes({"half": content[: len(content) // 2], "text": b"<html>404</html>", "empty": b""}[damage])
    with pytest.raises(ValueError, match=f"corrupt image {path} .*: restore it, or set data.skip_corrupt: true"):
        list(module(root).train_dataloader())
    batches = list(module(root, skip_corrupt=True).train_dataloader())
    assert [len(batch.labels) for batch in batches] == [6] * 4
    assert list(chain(*(batch.unreadable for batch in batches))) == [str(path)]
    labels = torch.cat([batch.labels for batch in batches])
    assert labels.bincount().tolist() == [8, 8, 8]  # the next image of the same class stood in

    others = sorted(path.parent.iterdir())[1:3]
    for other in others:  # side by side: the first two have to pass over the next
        shutil.copy(path, other)
    batches = list(module(root, skip_corrupt=True).train_dataloader())
    assert sorted(chain(*(batch.unreadable for batch in batches))) == [str(file) for file in (path, *others)]

    shutil.copy(path, first(root / "val"))
    (batch,) = module(root, skip_corrupt=True).val_dataloader()
    assert batch.labels.bincount().tolist() == [3, 4, 4]  # left out, so that it does not count in the accuracy
    assert batch.unreadable == [str(first(root / "val"))]


def test_without_a_readable_image_even_skipping_ends_with_an_error(root: Path) -> None:
    for path in root.glob("*/*/*.JPEG"):
        path.write_bytes(b"nothing")
    data = module(root, skip_corrupt=True)
    with pytest.raises(ValueError, match="none of the 24 images in .*train can be read"):
        list(data.train_dataloader())
    with pytest.raises(ValueError, match="none of the 12 images of a batch can be read, such as .*val"):
        list(data.val_dataloader())


def test_folders_that_are_not_whole_are_described(root: Path) -> None:
    layout = "expected train/<class>/.*JPEG and val/<class>/.*JPEG"
    with pytest.raises(ValueError, match=f"data.root .*absent: no such folder; {layout}"):
        module(root / "absent")
    with pytest.raises(ValueError, match=f"n00001002: there is no train/; there is no val/; {layout}"):
        module(root / "train")
    write_imagenet(root / "one", classes=1)
    with pytest.raises(ValueError, match=r"train/ must have two or more class folders, it has one \(n00001000\)"):
        module(root / "one")
    (root / "train" / "n00001001").rename(root / "spare")
    with pytest.raises(ValueError, match=r"must have the same class folders: 1 only in val/ \(n00001001\)"):
        module(root)
    (root / "train" / "n00001001").mkdir()
    with pytest.raises(ValueError, match=r"train/ has 1 of 3 class folders without images \(n00001001; "):
        module(root)
    data = module(root, allow_empty_classes=True)
    assert (data.num_classes, len(data.train_files)) == (3, 16)
    assert set(data.train_files.labels.tolist()) == {0, 2}
    (root / "val").rename(root / "valid")
    with pytest.raises(ValueError, match=r"has .*valid: train/ has 1 of 3 class .*; there is no val/"):
        module(root)
    (root / "valid").rename(root / "val")
    for path in sorted((root / "val").glob("*/*.JPEG")):
        path.rename(root / "val" / path.name)
    for folder in (root / "val").iterdir():
        if folder.is_dir():
            folder.rmdir()
    with pytest.raises(ValueError, match=r"val/ must have one folder for each class, it contains 12 files \("):
        module(root, allow_empty_classes=True)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"batch_size": 25}, "batch_size must be at most the number of training images, 24, got 25"),
        ({"image_size": 0}, "image_size must be at least 1, got 0"),
        ({"resize": 8}, "resize must be at least image_size, 16, got 8"),
        ({"erase": 1.5}, r"erase must be in \[0, 1\], got 1.5"),
        ({"fraction": 0.0}, r"fraction must be in \(0, 1\], got 0.0"),
        ({"per_class": 0}, "per_class must be at least 1, got 0"),
        ({"per_class": 2, "fraction": 0.5}, "fraction must be 1 where per_class is given, got 0.5"),
        ({"auto_augment": "auto"}, "auto_augment must be one of none, trivial, rand, got 'auto'"),
        ({"eval_batch_size": 0}, "eval_batch_size must be at least 1, got 0"),
    ],
)
def test_arguments_out_of_range_are_named(root: Path, options: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        module(root, **options).train_dataloader()


TRAINER = """
import multiprocessing, os, sys, time
from pathlib import Path

def work(file):
    from datamodules.images import end_with_trainer
    end_with_trainer(0)
    Path(file).write_text(str(os.getpid()))
    time.sleep(60)

if __name__ == "__main__":
    multiprocessing.get_context("forkserver").Process(target=work, args=sys.argv[1:]).start()
    time.sleep(60)
"""


def test_a_worker_ends_with_a_killed_trainer_under_a_fork_server(tmp_path: Path) -> None:
    script, file = tmp_path / "trainer.py", tmp_path / "worker"
    script.write_text(TRAINER)
    with subprocess.Popen([sys.executable, str(script), str(file)], cwd=REPOSITORY) as trainer:
        while trainer.poll() is None and not (file.is_file() and file.read_text()):
            time.sleep(0.02)
        trainer.kill()
    deadline = time.monotonic() + 15
    status = Path(f"/proc/{file.read_text()}/stat")
    while status.is_file() and " Z " not in status.read_text():
        assert time.monotonic() < deadline
        time.sleep(0.02)
