from __future__ import annotations

import csv
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from datamodules import ImageFolderDataModule
from datamodules.image_files import read_image
from lit_triwave.cli import main
from tests.conftest import REPOSITORY
from tests.image_data import write_folder

CONFIG = str(REPOSITORY / "configs" / "image_folder.yaml")


def module(root: Path, **options: Any) -> ImageFolderDataModule:
    return ImageFolderDataModule(str(root), **{"image_size": 16, "workers": 0} | options)


def names(data: ImageFolderDataModule) -> list[set[str]]:
    return [{files.name(i) for i in range(len(files))} for files in (data.train_files, data.val_set, data.test_set)]


def test_without_splits_each_class_has_its_share_in_three_sets_that_do_not_overlap(tmp_path: Path) -> None:
    write_folder(tmp_path, {"cat": 20, "dog": 9, "eel": 3, "fox": 2, "gnu": 1})
    data = module(tmp_path)
    train, val, test = names(data)
    assert len(train | val | test) == 35 == len(train) + len(val) + len(test)
    counts = [torch.bincount(f.labels, minlength=5).tolist() for f in (data.train_files, data.val_set, data.test_set)]
    assert counts == [[14, 7, 1, 1, 1], [3, 1, 1, 1, 0], [3, 1, 1, 0, 0]]
    assert names(module(tmp_path)) == [train, val, test] != names(module(tmp_path, split_seed=1))
    write_folder(tmp_path, {"dog": 10})  # one more image
    assert len(names(module(tmp_path))[2] ^ test) <= 2
    assert (data.batch_size, module(tmp_path, batch_size=4).batch_size) == (8, 4)


@pytest.mark.parametrize(
    ("folders", "sizes"),
    [
        (("train",), [14, 4, 4]),
        (("train", "val"), [18, 22, 4]),
        (("Train", "Testing"), [18, 4, 22]),
        (("training", "validation", "test"), [22, 22, 22]),
    ],
)
def test_splits_that_have_a_folder_are_used_and_others_drawn(tmp_path: Path, folders: Any, sizes: list[int]) -> None:
    for number, folder in enumerate(folders):
        write_folder(tmp_path / folder, {"cat": 11, "dog/young": 11}, prefix=str(number))
    data = module(tmp_path)
    assert [len(data.train_files), len(data.val_set), len(data.test_set)] == sizes
    assert data.class_names == ["cat", "dog"]  # images may lie deeper
    assert data.val_set is not data.test_set


def save(path: Path, values: Any, mode: str | None = None, **options: Any) -> Path:
    image = Image.fromarray(np.asarray(values))
    (image.convert(mode) if mode else image).save(path, **options)
    return path


def test_two_folders_for_one_split_are_refused_and_unused_folders_named(tmp_path: Path) -> None:
    for folder in ("train", "val", "gnu", "test"):  # test/ has images without class folders
        write_folder(tmp_path / folder, {"cat": 11, "dog": 11} if folder != "test" else {".": 3})
    assert module(tmp_path).remarks == ["not used: gnu/, test/ beside train/"]
    write_folder(tmp_path / "Validation", {"cat": 11, "dog": 11})
    with pytest.raises(ValueError, match="must have one folder for val, it has Validation/ and val/"):
        module(tmp_path)


def test_a_line_says_that_validation_images_are_the_test_images(tmp_path: Path) -> None:
    write_folder(tmp_path, {"cat": 11, "train": 11})  # a class may be called train
    assert module(tmp_path).class_names == ["cat", "train"]
    assert module(tmp_path).remarks == []
    data = module(tmp_path, test_fraction=0)
    assert data.test_set is data.val_set
    assert data.remarks == ["no images are held out for the test: the validation images are also the test images"]


def test_files_of_other_kinds_are_named_where_no_image_is_found(tmp_path: Path, monkeypatch: Any) -> None:
    for name in ("cat/1.heic", "dog/2.HEIC"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_bytes(b"x")
    says = r"/ has 2 class folders, but no image in them, only files that end in .heic; expected"
    with pytest.raises(ValueError, match=tmp_path.name + says):
        module(tmp_path)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=rf"data.root \.: {tmp_path.name}{says}"):
        module(Path("."))
    write_folder(tmp_path / "mixed", {"fox": 3, "gnu": 3})
    shutil.copytree("cat", "mixed/cat")
    with pytest.raises(ValueError, match=r"1 of 3 class folders without images \(cat, only files that end in .heic; "):
        module(tmp_path / "mixed")
    with pytest.raises(ValueError, match="data.root must name a folder, got ''"):
        ImageFolderDataModule("")


def test_files_that_are_left_out_and_classes_without_an_image_in_a_split_are_named(tmp_path: Path) -> None:
    write_folder(tmp_path, {"cat": 11, "dog": 11, "fox": 2, "gnu": 1})
    for name in ("cat/1.HEIC", "cat/2.jxl", "dog/old/3.heic", "dog/scan", "dog/Thumbs.db", "dog/labels.csv"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    assert module(tmp_path).remarks == [
        "not read: 4 files in the class folders (.heic, .jxl, without such an end): save images as .jpg or .png",
        "no val image for gnu: too few images of a class to draw one",
        "no test image for fox, gnu: too few images of a class to draw one",
    ]


@pytest.mark.parametrize("kind", ["ico", "pcx", "dib", "sgi", "jpe", "apng"])
def test_files_of_any_usual_kind_are_images(tmp_path: Path, kind: str) -> None:
    write_folder(tmp_path, {"cat": 3, "dog": 3})
    for file in [*tmp_path.glob("*/*.png")]:
        Image.open(file).convert("RGB").save(file.with_suffix(f".{kind}"), format="PNG" if kind == "apng" else None)
        file.unlink()
    assert read_image(str(next(tmp_path.glob(f"*/*.{kind}")))).shape[0] == 3
    assert len(module(tmp_path).train_files) == 2


def test_a_folder_may_be_called_like_an_image_and_a_link_to_nothing_is_named(tmp_path: Path) -> None:
    write_folder(tmp_path, {"cat/more.png": 3, "dog": 3})
    files = module(tmp_path).train_files
    assert {files.name(i).rpartition("/")[0] for i in range(len(files))} == {"cat/more.png", "dog"}
    (tmp_path / "dog" / "link.png").symlink_to("nowhere")
    with pytest.raises(ValueError, match=r"link.png \(No such file or directory\): restore it"):
        read_image(str(tmp_path / "dog" / "link.png"))


def test_any_mode_of_pillow_becomes_the_same_picture(tmp_path: Path) -> None:
    ramp = np.tile(np.linspace(0, 255, 32), (8, 1))
    grey = ramp.astype(np.uint8)
    files = [
        save(tmp_path / "16.png", (ramp * 257).astype(np.uint16)),
        save(tmp_path / "16.tif", (ramp * 257).astype(np.uint16)),
        save(tmp_path / "32.tif", ramp.astype(np.int32)),
        save(tmp_path / "unit.tif", (ramp / 255).astype(np.float32)),
        save(tmp_path / "far.tif", (1e6 * ramp - 1e7).astype(np.float32)),
        *(save(tmp_path / f"{mode}.png", grey, mode) for mode in ("L", "P", "LA", "RGB", "RGBA")),
        save(tmp_path / "cmyk.tif", grey, "CMYK"),
        save(tmp_path / "ycbcr.jpg", grey, "YCbCr", quality=100),
        save(tmp_path / "a.gif", grey),
        save(tmp_path / "a.webp", grey, "RGB", lossless=True),
    ]
    for file in files:
        image = read_image(str(file))
        assert (image.dtype, image.shape) == (torch.uint8, (3, 8, 32)), file
        assert (image.float() - torch.as_tensor(ramp)).abs().max() < 3.1, file
    save(tmp_path / "bits.png", grey > 127, "1")
    assert read_image(str(tmp_path / "bits.png")).unique().tolist() == [0, 255]
    clear = np.zeros((4, 4, 4), dtype=np.uint8)
    assert read_image(str(save(tmp_path / "clear.png", clear))).unique().tolist() == [255]


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda root: shutil.rmtree(root), "no such folder"),
        (lambda root: (shutil.rmtree(root), root.write_text("")), "it is a file, not a folder"),
        (lambda root: [shutil.rmtree(path) for path in root.iterdir()], "it contains nothing"),
        (lambda root: (root / "ant").mkdir(), r"1 of 3 class folders without images \(ant; "),
        (lambda root: shutil.rmtree(root / "cat"), r"must have two or more class folders, it has one \(dog\)"),
        (lambda root: [path.unlink() for path in root.glob("*/*.png")], "2 class folders, but no image in them"),
        (lambda root: (shutil.move(root / "cat" / "0.png", root), [shutil.rmtree(root / n) for n in ("cat", "dog")]),
         r"must have one folder for each class, it contains 1 files \(0.png\)"),
        (lambda root: (root.rename(root.with_name("t")), root.mkdir(), root.with_name("t").rename(root / "train"),
                       write_folder(root / "val", {"cat": 1, "dog": 1, "emu": 1})),
         r"train/ and val/ must have the same class folders: 1 only in val/ \(emu\)$"),
        (lambda root: (root.rename(root.with_name("t")), root.mkdir(), root.with_name("t").rename(root / "train"),
                       write_folder(root / "test", {"cat": 1})),
         r"1 only in train/ \(dog\); data.allow_empty_classes: true accepts that"),
        (lambda root: (root.rename(root.with_name("t")), root.mkdir(), root.with_name("t").rename(root / "val")),
         "must have train/ beside val/, it has none"),
    ],
)  # fmt: skip
def test_a_folder_that_does_not_fit_gets_one_line_and_leaves_no_run(
    tmp_path: Path, damage: Any, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "r"
    write_folder(root, {"cat": 4, "dog": 4})
    damage(root)
    assert main(["fit", "--config", CONFIG, "--data.root", str(root), "--run.root", str(tmp_path / "runs")]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert str(root) in line and re.search(says, line), line
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"val_fraction": 1.0}, r"val_fraction must be in \[0, 1\), got 1.0"),
        ({"val_fraction": 0.5, "test_fraction": 0.5}, "must sum to less than 1"),
        ({"val_fraction": 0, "test_fraction": 0}, "test_fraction must be above 0 .*, got 0"),
        ({"crop_scale": 0}, r"crop_scale must be in \(0, 1\], got 0"),
        ({"predict_path": "absent"}, "data.predict_path absent: no such folder or file"),
    ],
)
def test_an_argument_out_of_its_range_is_named(tmp_path: Path, options: dict[str, Any], says: str) -> None:
    write_folder(tmp_path, {"cat": 4, "dog": 4})
    with pytest.raises(ValueError, match=says):
        module(tmp_path, **options)


def test_classes_with_too_few_images_to_split_are_refused(tmp_path: Path) -> None:
    write_folder(tmp_path, {"cat": 1, "dog": 1})
    with pytest.raises(ValueError, match="no image is left for val: it must have three or more of a class"):
        module(tmp_path)


def test_a_class_folder_that_a_terminal_would_execute_is_refused(tmp_path: Path) -> None:
    write_folder(tmp_path, {"blue": 4, "\x1b[31mred": 4})
    with pytest.raises(ValueError, match=r"class folders must have no control characters, got '\\x1b\[31mred'"):
        module(tmp_path)


def test_a_folder_is_fitted_and_files_are_predicted_by_name_with_and_without_labels(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root, new, runs = tmp_path / "photos", tmp_path / "new", tmp_path / "runs"
    write_folder(root, {"blue": 10, "green": 10, "red": 10})
    options = ["--config", CONFIG, "--data.root", str(root), "--data.image_size", "16", "--data.workers", "0"]
    options += [
        "--run.root",
        str(runs),
        "--run.id",
        "r",
        "--trainer.accelerator",
        "cpu",
        "--trainer.limit_test_batches",
    ]
    small = ["--model.channels", "[8]", "--model.num_nets", "8", "--model.pretrain.epochs", "6"]
    options += ["1", *small, "--model.train.epochs", "8"]
    assert main(["fit", *options]) == 0
    shown = capsys.readouterr().out
    assert re.search(r"train +epoch 8/8  loss \S+  val accuracy 100.0%", shown) and "top-5" not in shown
    run = runs / "image_folder" / "r"
    assert "top5" not in (run / "summary.json").read_text()

    last = ["--ckpt_path", str(run / "checkpoints" / "last.ckpt")]
    assert main(["predict", *options, *last]) == 0
    (path,) = runs.rglob("predictions.csv")
    rows = list(csv.DictReader(path.read_text().splitlines()))
    assert {row["file"] for row in rows} == names(module(root))[2]
    assert all(row["label"] == row["prediction"] == row["file"].split("/")[0] for row in rows)

    write_folder(new, {"red": 2, "deep/blue": 1})
    (new / "broken.png").write_bytes(b"nothing")
    assert main(["predict", *options, *last, "--data.predict_path", str(new), "--data.skip_corrupt", "true"]) == 0
    rows = list(csv.DictReader(path.read_text().splitlines()))
    assert [(row["file"], row["prediction"]) for row in rows] == [
        ("deep/blue/0.png", "blue"),
        ("red/0.png", "red"),
        ("red/1.png", "red"),
    ]
    assert "label" not in rows[0]
    assert f"1 corrupt in {new}, left out, such as" in capsys.readouterr().err

    write_folder(root, {"red": 14})  # more files, so other images are for training
    assert main(["predict", *options, *last]) == 0
    assert "the training samples are not those of the checkpoint" in capsys.readouterr().err
    (root / "red").rename(root / "crimson")
    assert main(["predict", *options, *last]) == 1
    assert "must have the class folders of the checkpoint: red missing, crimson new" in capsys.readouterr().err
