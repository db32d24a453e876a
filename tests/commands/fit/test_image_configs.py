from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import nn

from benchmarks.loop import main as measure
from lit_triwave.cli import main
from lit_triwave.modules import ImageClassifier
from lit_triwave.modules.stages import Stage
from tests.conftest import REPOSITORY
from tests.faults import signal_at
from tests.finished_runs import assert_ends_alike, state
from tests.image_data import write_cifar10, write_cifar100, write_imagenet
from tests.run_command import in_processes, run_ranks

CPU = ["--trainer.accelerator", "cpu", "--trainer.precision", "32-true", "--trainer.log_every_n_steps", "1"]
NO_TEST = ["--trainer.limit_test_batches", "0"]  # nor the figures that come with it


def cifar10(root: Path) -> list[str]:
    """Writes CIFAR-10's layout and returns the arguments that make a shipped config use it."""
    table = json.dumps(write_cifar10(root))
    return ["--data.root", str(root), "--data.checksums", table, "--data.batch_size", "16", "--data.val_images", "20"]


def cifar100(root: Path) -> list[str]:
    """The same for CIFAR-100."""
    table = json.dumps(write_cifar100(root))
    return ["--data.root", str(root), "--data.checksums", table, "--data.batch_size", "64", "--data.val_images", "20"]


def imagenet(root: Path) -> list[str]:
    """The same for ImageNet's layout; six classes, so that a top-5 accuracy says something."""
    write_imagenet(root, classes=6, train=4)
    return ["--data.root", str(root), "--data.batch_size", "6", "--data.image_size", "16", "--data.workers", "0"]


def small(config: str) -> list[str]:
    """Overrides that make a shipped config's network small."""
    if "cifar" in config:
        return ["--model.channels", "[8, 8]"]
    return ["--model.backbone", "mobilenet_v3_small"]  # has a hidden dense layer to replace, like VGG


def fit(config: str, root: Path, name: str, *args: str, code: int = 0) -> Path:
    settings = yaml.safe_load((REPOSITORY / config).read_text())
    staged = settings["model"]["init_args"]["pretrain"]["epochs"] > 0
    epochs = ["--model.train.epochs", "2"] + (["--model.pretrain.epochs", "1"] if staged else [])
    place = ["--run.root", str(root / "runs"), "--run.experiment", "e"] + (["--run.id", name] if name else [])
    assert main(["fit", "--config", config, *CPU, *small(config), *epochs, *place, *args]) == code
    return root / "runs" / "e" / name


CONFIGS = [f"configs/{twin}{name}.yaml" for name in ("cifar10", "imagenet_vgg16") for twin in ("", "baselines/")]
CONFIGS.append("configs/cifar100.yaml")


@pytest.fixture(autouse=True)
def in_repository(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(REPOSITORY)


@pytest.mark.parametrize("config", CONFIGS)
def test_every_shipped_image_config_runs_and_leaves_a_whole_run_folder(config: str, tmp_path: Path) -> None:
    layout = cifar100 if "cifar100" in config else cifar10 if "cifar10" in config else imagenet
    data = layout(tmp_path / "data")
    run = fit(config, tmp_path, "r", *data)
    constructed = "baselines" not in config
    assert (run / "checkpoints" / "last.ckpt").is_file()
    assert (run / "checkpoints" / "pretrained.ckpt").is_file() == constructed
    with (run / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    accuracies = [float(row["val/accuracy"]) for row in rows if row["val/accuracy"]]
    assert len(accuracies) == 2 + constructed
    assert all(0 <= value <= 1 for value in accuracies)
    summary = json.loads((run / "summary.json").read_text())
    assert 0 <= summary["test/accuracy"] <= summary["test/top5_accuracy"] <= 1
    assert summary["seed"] == 0


def test_the_shipped_vgg_config_is_the_papers_network() -> None:
    settings = yaml.safe_load((REPOSITORY / "configs/imagenet_vgg16.yaml").read_text())["model"]["init_args"]
    stages = {name: Stage(**settings.pop(name)) for name in ("pretrain", "train")}
    assert stages["pretrain"].epochs + stages["train"].epochs == 90
    with torch.device("meta"):  # 123 million parameters, none of which is needed
        model = ImageClassifier(**settings, **stages, num_classes=1000, image_shape=(3, 224, 224))
    (bank,) = model.banks
    assert (bank.shape, bank.depth) == ((1024,), 5)  # 1024 blocks of 4 in the 4096-wide layer
    dense = {module.out_features for module in model.modules() if isinstance(module, nn.Linear)}
    assert dense == {1024, 1000}  # the projection and the classes: no 4096-wide dense layer is left


@pytest.mark.parametrize(
    ("config", "overlay"),
    [("configs/imagenet_vgg16.yaml", "multi_node"), ("configs/baselines/imagenet_vgg16.yaml", "one_node_8gpu")],
)
def test_a_trainer_overlay_changes_what_it_names_and_nothing_else(config: str, overlay: str, capsys: Any) -> None:
    def printed(*configs: str) -> dict[str, Any]:
        args = [arg for path in configs for arg in ("--config", path)]
        assert main(["fit", *args, "--print_config"]) == 0
        settings: dict[str, Any] = yaml.safe_load(capsys.readouterr().out)
        return settings

    alone, both = printed(config), printed(config, f"configs/trainer/{overlay}.yaml")
    expected = yaml.safe_load((REPOSITORY / "configs" / "trainer" / f"{overlay}.yaml").read_text())
    assert overlaid(alone, expected) == both
    assert (both["trainer"]["devices"], both["trainer"]["precision"]) == (8, "bf16-mixed")
    assert both["trainer"]["num_nodes"] == {"one_node_8gpu": 1, "multi_node": 4}[overlay]


def overlaid(base: Any, over: Any) -> Any:
    if not isinstance(base, dict) or not isinstance(over, dict):
        return over
    return base | {key: overlaid(base.get(key), value) for key, value in over.items()}


@pytest.mark.parametrize("workers", ["0", "2"])
def test_a_run_resumed_inside_an_epoch_ends_bit_identical(tmp_path: Path, workers: str) -> None:
    config = "configs/imagenet_vgg16.yaml"
    options = ["--model.backbone", "cnn", "--model.channels", "[4, 4]", "--model.head", "block_diagonal"]
    options += ["--model.num_nets", "8", "--model.dropout", "0.3", "--model.mixup", "0.2", "--model.cutmix", "1"]
    options += [*imagenet(tmp_path / "data"), "--data.workers", workers]
    whole = fit(config, tmp_path, "whole", *options)
    run, resumed = whole.with_name("stopped"), ["--run.id", "stopped"]
    # Four batches an epoch: at the last step of the pretraining (the switch comes next), in training.
    for epoch, batch in ((0, 3), (1, 1)) if workers == "0" else ((1, 2),):
        fit(config, tmp_path, "", *options, *resumed, *signal_at(epoch, batch), code=75)
        resumed = ["--ckpt_path", str(run / "checkpoints" / "last.ckpt")]
    fit(config, tmp_path, "", *options, *resumed)
    assert_ends_alike(whole, run)


def test_cifar10_goes_on_inside_an_epoch(tmp_path: Path) -> None:
    config, options = "configs/cifar10.yaml", cifar10(tmp_path / "data")
    whole = fit(config, tmp_path, "whole", *options)
    resumed = fit(config, tmp_path, "r", *options, *signal_at(1, 2), code=75)
    fit(config, tmp_path, "", *options, "--ckpt_path", str(resumed / "checkpoints" / "last.ckpt"))
    assert_ends_alike(whole, resumed)


def test_a_position_in_an_epoch_of_other_batches_is_refused(tmp_path: Path, capsys: Any) -> None:
    config = "configs/imagenet_vgg16.yaml"
    options = ["--model.backbone", "cnn", "--model.channels", "[4]", "--model.head", "block_diagonal"]
    options += ["--model.num_nets", "4", *imagenet(tmp_path / "data"), *NO_TEST]
    run = fit(config, tmp_path, "r", *options, *signal_at(1, 1), code=75)
    checkpoint = ["--ckpt_path", str(run / "checkpoints" / "last.ckpt")]
    fit(config, tmp_path, "", *options, *checkpoint, "--data.workers", "1", code=1)
    assert "error: the checkpoint was taken inside an epoch of other batches: workers 0 there and 1 here" in (
        capsys.readouterr().err
    )


def test_a_corrupt_image_ends_a_run_by_name_or_is_counted_each_epoch(tmp_path: Path, capsys: Any) -> None:
    config = "configs/baselines/imagenet_vgg16.yaml"
    options = [*imagenet(tmp_path / "data"), "--data.workers", "2", *NO_TEST]  # errors come from worker processes
    options += ["--model.backbone", "none", "--model.head", "dense", "--model.width", "8"]
    bad = sorted((tmp_path / "data" / "train").glob("*/*.JPEG"))[3]
    bad.write_bytes(b"<html>404</html>")
    fit(config, tmp_path, "stops", *options, code=1)
    assert f"error: corrupt image {bad} (it is no image)" in capsys.readouterr().err
    fit(config, tmp_path, "resumes", *options, "--data.skip_corrupt", "true")
    reports = [line for line in capsys.readouterr().err.splitlines() if "corrupt" in line]
    assert reports == [f"epoch {e}: 1 corrupt in train/, replaced by others, such as {bad}" for e in (1, 2)]


def test_a_corrupt_image_that_is_found_after_the_first_steps_leaves_no_run(tmp_path: Path, capsys: Any) -> None:
    config = "configs/baselines/imagenet_vgg16.yaml"
    options = [*imagenet(tmp_path / "data"), "--data.workers", "0", "--trainer.max_epochs", "1"]
    options += ["--model.backbone", "none", "--model.head", "dense", "--model.width", "8"]
    bad = sorted((tmp_path / "data" / "val").glob("*/*.JPEG"))[0]
    bad.write_bytes(b"<html>404</html>")
    fit(config, tmp_path, "stops", *options, code=1)
    assert f"error: corrupt image {bad} (it is no image)" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("config", "says"),
    [("configs/cifar10.yaml", "no CIFAR-10 in "), ("configs/imagenet_vgg16.yaml", "data.root ")],
)
def test_a_missing_folder_is_one_line_and_leaves_no_run(config: str, says: str, tmp_path: Path, capsys: Any) -> None:
    fit(config, tmp_path, "r", "--data.root", str(tmp_path / "absent"), code=1)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {says}{tmp_path}") and "expected" in line
    assert not (tmp_path / "runs").exists()


def test_a_download_that_fails_is_refused_before_a_run_begins(tmp_path: Path, capsys: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr("torchvision.datasets.CIFAR10.url", "http://localhost:9/cifar.tar.gz")  # the discard port
    fit("configs/cifar10.yaml", tmp_path, "r", "--data.root", str(tmp_path / "data"), "--data.download", "true", code=1)
    output, errors = capsys.readouterr()
    assert "run " not in output
    assert errors.splitlines()[-1].startswith(f"error: CIFAR-10 could not be downloaded to {tmp_path / 'data'} (")
    assert not (tmp_path / "runs").exists()


@in_processes
def test_two_ddp_processes_train_on_images_as_one(tmp_path: Path, capsys: Any) -> None:
    config = "configs/baselines/imagenet_vgg16.yaml"
    # Without batch norm, whose statistics are a rank's own on CPUs; evaluated in batches of an odd number.
    options = [*imagenet(tmp_path / "data"), "--data.eval_batch_size", "7", "--data.skip_corrupt", "true"]
    options += ["--model.backbone", "none", "--model.head", "dense", "--model.width", "8", "--model.train.epochs", "2"]
    options += ["--run.root", str(tmp_path / "runs"), "--run.experiment", "e"]
    bad = [sorted((tmp_path / "data" / split).glob("*/*.JPEG"))[5] for split in ("train", "val")]
    for path in bad:
        path.write_bytes(b"")
    assert main(["fit", "--config", config, *CPU, *options, "--run.id", "one"]) == 0
    alone = capsys.readouterr().err
    two_ranks = ["--run.id", "two", "--trainer.devices", "2", "--trainer.strategy", "ddp"]
    ranks = run_ranks(["fit", "--config", config, *CPU, *options, *two_ranks])
    for done in ranks:
        assert done.returncode == 0, done.stderr
        assert "Warning" not in done.stderr
    for text in (alone, ranks[0].stderr):  # the corrupt image that one of the ranks met is in the count
        counts = [line.split(",")[0] for line in text.splitlines() if "corrupt" in line]
        epochs = [f"epoch {e}: 1 corrupt in {split}/" for e in (1, 2) for split in ("train", "val")]
        assert counts == [*epochs, "1 corrupt in val/"]
    one, two = (tmp_path / "runs" / "e" / run for run in ("one", "two"))
    weights = [state(run)["state_dict"] for run in (one, two)]
    for key, value in weights[0].items():
        torch.testing.assert_close(weights[1][key], value, rtol=1e-4, atol=1e-6)
    last = []
    for run in (one, two):  # the metrics over all images, each counted once
        with (run / "metrics.csv").open() as file:
            last.append([row for row in csv.DictReader(file) if row["val/accuracy"]][-1])
    for key in ("val/accuracy", "val/top5_accuracy", "val/loss"):
        assert float(last[0][key]) == pytest.approx(float(last[1][key]), rel=1e-4), key


def test_the_loop_benchmark_measures_both_loops(capsys: Any) -> None:
    measure(["--backbone", "none", "--head", "dense", "--images", "16", "--batch", "8", "--size", "8", "--turns", "1"])
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "median" in line]
    lightning, plain, ratio, _ = [float(cell) for cell in line.strip("│ ").split("│")[1:]]
    assert ratio == pytest.approx(lightning / plain, rel=0.05)
