from __future__ import annotations

from itertools import chain
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from datamodules import CIFAR10DataModule, CIFAR100DataModule
from datamodules.augmentation import Augmentation, PixelTable, uniforms
from datamodules.batches import ShardedBatches
from tests.image_data import CLASSES, md5, write_cifar10, write_cifar100

FOLDER = "cifar-10-batches-py"


def ramp(count: int = 6, size: int = 8) -> Tensor:
    """Images whose pixels all differ: value = row · size + column + 1 in channel 0, the image's number in channel 1."""
    grid = (torch.arange(size * size) + 1).view(1, size, size).expand(count, -1, -1)
    number = torch.arange(count)[:, None, None].expand(-1, size, size)
    return torch.stack([grid, number, torch.full_like(grid, 7)], dim=3).to(torch.uint8)


def augmented(augmentation: Augmentation, images: Tensor, indices: Tensor, seed: int = 0, epoch: int = 0) -> Tensor:
    table = PixelTable(images, torch.tensor([200, 201, 202], dtype=torch.uint8))
    return table.look_up(augmentation.pixels_of(table, indices, seed, epoch))


@pytest.mark.parametrize("crop", ["translate", "pad_crop"])
def test_shifted_images_are_windows_of_the_padded_image_and_all_shifts_occur(crop: Any) -> None:
    images = ramp(count=200)
    found = augmented(Augmentation(flip=False, crop=crop, pixels=2), images, torch.arange(200))[:, 0]
    mode = "reflect" if crop == "translate" else "constant"
    padded = torch.nn.functional.pad(images[:1, :, :, 0][None].float(), (2, 2, 2, 2), mode=mode)[0, 0]
    windows = {(y, x): padded[y : y + 8, x : x + 8].to(torch.uint8) for y in range(5) for x in range(5)}
    seen = set()
    for image in found:
        matches = [shift for shift, window in windows.items() if torch.equal(window, image)]
        assert len(matches) == 1
        seen.add(matches[0])
    assert len(seen) == 25


def test_half_of_the_images_are_mirrored_and_each_stays_itself() -> None:
    images = ramp(count=240)
    found = augmented(Augmentation(flip=True, crop="none"), images, torch.arange(240))
    original, mirrored = images[0, :, :, 0], images[0, :, :, 0].flip(1)
    flipped = [torch.equal(image[0], mirrored) for image in found]
    assert all(flips or torch.equal(image[0], original) for flips, image in zip(flipped, found, strict=True))
    assert 90 < sum(flipped) < 150  # 120 ± 4 standard deviations
    assert torch.equal(found[:, 1, 0, 0], torch.arange(240, dtype=torch.uint8))


def test_a_cutout_is_one_square_of_the_mean_colour_wholly_inside() -> None:
    images = ramp(count=100)
    found = augmented(Augmentation(flip=False, crop="none", cutout=3), images, torch.arange(100))
    corners = set()
    for image in found:
        rows, columns = (image[0] == 200).nonzero().unbind(1)
        assert len(rows) == 9
        assert rows.max() - rows.min() == 2 == columns.max() - columns.min()
        assert image[:, rows[0], columns[0]].tolist() == [200, 201, 202]
        corners.add((int(rows.min()), int(columns.min())))
    assert {0, 5} <= {y for y, _ in corners} & {x for _, x in corners}  # up to every border


def test_augmentation_depends_on_seed_epoch_and_image_but_not_on_its_company() -> None:
    images = ramp(count=64, size=16)
    recipe = Augmentation(pixels=4, cutout=5)
    together = augmented(recipe, images, torch.arange(64))
    for rank in range(3):
        assert torch.equal(augmented(recipe, images, torch.arange(64)[rank::3]), together[rank::3])
    assert not torch.equal(augmented(recipe, images, torch.arange(64), epoch=1), together)
    assert not torch.equal(augmented(recipe, images, torch.arange(64), seed=1), together)


def test_the_hash_draws_uniform_independent_numbers() -> None:
    draws = torch.cat([uniforms(3, epoch, torch.arange(20_000), 5) for epoch in (0, 1)], dim=1)
    assert float(draws.min()) >= 0 and float(draws.max()) < 1
    counts = torch.stack([torch.histc(column, 20, 0, 1) for column in draws.T])
    assert ((counts - 1000).abs() < 160).all()  # 5 standard deviations
    assert (torch.corrcoef(draws.T) - torch.eye(10)).abs().max() < 0.035
    assert abs(float(torch.corrcoef(torch.stack([draws[:-1, 0], draws[1:, 0]]))[0, 1])) < 0.035  # neighbours


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_ranks_share_each_batch_without_repeats_and_evaluation_takes_every_image_once(world_size: int) -> None:
    def shards(training: bool, epoch: int = 0) -> list[list[list[int]]]:
        ranks = []
        for rank in range(world_size):
            last = "drop" if training else "spread"
            sampler = ShardedBatches(46, 8, training, seed=1, rank=rank, world_size=world_size, last=last)
            sampler.set_epoch(epoch)
            ranks.append([shard.indices.tolist() for shard in sampler])
            assert len(ranks[-1]) == len(sampler)
        return ranks

    one = ShardedBatches(46, 8, True, seed=1, last="drop")
    expected = [sorted(shard.indices.tolist()) for shard in one]
    assert len(expected) == 5
    train = shards(training=True)
    assert [sorted(chain(*parts)) for parts in zip(*train, strict=True)] == expected
    assert {len(part) for rank in train for part in rank} == {8 // world_size}
    assert shards(training=True, epoch=1) != train
    evaluated = shards(training=False)
    assert sorted(chain(*(part for rank in evaluated for part in rank))) == list(range(46))
    assert all(part for rank in evaluated for part in rank)  # none is left without images


@pytest.mark.parametrize("on_device", [True, False])
def test_batches_are_normalised_and_the_splits_are_those_promised(tmp_path: Path, on_device: bool) -> None:
    checksums = write_cifar10(tmp_path)
    data = CIFAR10DataModule(
        str(tmp_path), batch_size=16, val_images=30, on_device=on_device, workers=0, cutout=4, checksums=checksums
    )
    data.setup("fit")
    assert (data.num_classes, data.image_shape, data.class_names) == (10, (3, 32, 32), CLASSES)
    batches = list(data.train_dataloader())
    assert len(batches) == 4  # 70 images, the incomplete batch is left out
    images, labels = data.on_after_batch_transfer(batches[0], 0)
    assert images.shape == (16, 3, 32, 32) and images.dtype == torch.float32
    assert images.is_contiguous(memory_format=torch.channels_last)
    assert labels.dtype == torch.int64
    values = images * data.std[:, None, None] + data.mean[:, None, None]
    for image, label in zip(values, labels, strict=True):  # the class is the grey level; black and cutout aside
        grey = image[:, 10:22, 10:22].median()
        assert 23 * int(label) - 1 <= grey <= 23 * int(label) + 24
    counts = {
        name: sum(len(batch.labels) for batch in loader)
        for name, loader in (("val", data.val_dataloader()), ("test", data.test_dataloader()))
    }
    assert counts == {"val": 30, "test": 30}
    both = torch.cat([data.train_set.labels, data.val_set.labels])
    assert both.bincount(minlength=10).tolist() == [10] * 10  # held out of the training images, no image twice


def test_worker_processes_augment_as_the_loading_process_does(tmp_path: Path) -> None:
    checksums = write_cifar10(tmp_path)
    seen = []
    for workers in (0, 2):
        data = CIFAR10DataModule(
            str(tmp_path), batch_size=16, val_images=0, on_device=False, workers=workers, checksums=checksums
        )
        data.setup("fit")
        loader = data.train_dataloader()
        seen.append(torch.cat([batch.images for batch in loader]))
        assert data.val_dataloader() == []
    assert torch.equal(*seen)
    assert len(seen[0].unique()) > 100


def test_folders_that_are_not_whole_are_described(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no CIFAR-10 in .*: there is no such folder; expected cifar-10-batches-py/ "):
        CIFAR10DataModule(str(tmp_path / "absent"))
    (tmp_path / "cifar-10-python.tar.gz").write_bytes(b"")
    with pytest.raises(ValueError, match="has cifar-10-python.tar.gz, but not cifar-10-batches-py/: extract it"):
        CIFAR10DataModule(str(tmp_path))
    checksums = write_cifar10(tmp_path)
    with pytest.raises(ValueError, match="data_batch_1, .*damaged .*another MD5"):
        CIFAR10DataModule(str(tmp_path))  # the official table
    with pytest.raises(ValueError, match="is the folder of the batches itself"):
        CIFAR10DataModule(str(tmp_path / FOLDER), checksums=checksums)
    (tmp_path / FOLDER / "data_batch_3").unlink()
    with pytest.raises(ValueError, match="is incomplete: data_batch_3 missing, it contains batches.meta, data_batch_1"):
        CIFAR10DataModule(str(tmp_path), checksums=checksums)


def test_cifar_100_is_read_from_its_own_layout(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no CIFAR-100 in .*; expected cifar-100-python/ with train, test and meta; "):
        CIFAR100DataModule(str(tmp_path))
    checksums = write_cifar100(tmp_path)
    data = CIFAR100DataModule(str(tmp_path), batch_size=16, val_images=50, checksums=checksums)
    data.setup("fit")
    assert (data.num_classes, data.class_names[:2], len(data.test_set)) == (100, ["class_0", "class_1"], 100)
    labels = torch.cat([data.train_set.labels, data.val_set.labels])
    assert labels.bincount(minlength=100).tolist() == [2] * 100
    (batch,) = data.test_dataloader()
    assert torch.equal(batch.images[:, 0, 0, 0], 2 * batch.labels)
    (tmp_path / "cifar-100-python" / "meta").unlink()
    with pytest.raises(ValueError, match="is incomplete: meta missing, it contains test, train"):
        CIFAR100DataModule(str(tmp_path), checksums=checksums)


def test_damaged_files_are_named(tmp_path: Path) -> None:
    checksums = write_cifar10(tmp_path)
    path = tmp_path / FOLDER / "data_batch_2"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match="data_batch_2 damaged"):
        CIFAR10DataModule(str(tmp_path), checksums=checksums)
    data = CIFAR10DataModule(str(tmp_path), checksums=checksums | {"data_batch_2": md5(path)})
    with pytest.raises(ValueError, match="cannot be read as CIFAR-10's batches: pickle data was truncated"):
        data.setup("fit")


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"val_images": 100}, "val_images must be less than the 100 training images, got 100"),
        ({"val_images": 90}, "batch_size must be at most the number of training images, 10, got 512"),
        ({"crop": "middle"}, "crop must be one of none, translate, pad_crop, got 'middle'"),
        ({"pixels": 32}, "pixels must be less than the side"),
        ({"cutout": 33}, "cutout must be at most the side of the images, 32, got 33"),
        ({"batch_size": 0}, "batch_size must be at least 1"),
        ({"workers": -1}, "workers must be at least 0, .* got -1"),
        ({"checksums": {}}, "checksums must have the MD5 of data_batch_1, "),
        ({"download": True}, "download must be false where checksums are given"),
    ],
)
def test_arguments_out_of_range_are_named(tmp_path: Path, options: dict[str, Any], says: str) -> None:
    arguments: dict[str, Any] = {"checksums": write_cifar10(tmp_path)} | options
    with pytest.raises(ValueError, match=says):
        data = CIFAR10DataModule(str(tmp_path), **arguments)
        data.setup("fit")
        data.train_dataloader()


def test_a_download_without_network_is_one_clear_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from torchvision.datasets import CIFAR10

    monkeypatch.setattr(CIFAR10, "url", "http://localhost:9/cifar-10-python.tar.gz")  # the discard port
    data = CIFAR10DataModule(str(tmp_path), download=True)
    with pytest.raises(ValueError, match=r"CIFAR-10 could not be downloaded to .*: get http://.* elsewhere"):
        data.prepare_data()
