from __future__ import annotations

import csv
import itertools
import json
import shlex
import signal
from pathlib import Path

import pytest
import torch
from lightning.pytorch import Trainer
from matplotlib.figure import Figure
from PIL import Image
from torch.nn.functional import pad
from torch.utils.data import DataLoader, TensorDataset

from datamodules.augmentation import Distortion
from datamodules.digits import DigitsDataModule
from lit_triwave import ImageClassifier
from lit_triwave.cli import main
from lit_triwave.errors import TriwaveError
from lit_triwave.modules.stages import Stage
from tests.conftest import REPOSITORY, save_a_pixel
from tests.faults import signal_at
from tests.finished_runs import assert_ends_alike, state

SMALL = ["--model.channels", "[4,8]", "--model.num_nets", "8", "--model.depth", "2"]
PARSED = {
    "--model.num_net",
    "--model.release",
    "--model.train.schedule",
    "--trainer.precision",
}  # refused by the parser
SHORT = ["--model.pretrain.epochs", "2", "--model.train.epochs", "2", "--run.checkpoint_every", "1"]


@pytest.fixture
def digits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Runs a command on the digits and returns the run's folder."""
    monkeypatch.chdir(REPOSITORY)

    def run(name: str, *args: str, command: str = "fit", code: int = 0, config: str = "configs/digits.yaml") -> Path:
        place = ["--run.root", str(tmp_path)] + (["--run.id", name] if name else [])
        dense = "baselines" in config
        assert main([command, "--config", config, *([] if dense else SMALL + SHORT), *place, *args]) == code
        return tmp_path / (Path(config).stem + "_dense" * dense) / name

    return run


@pytest.mark.lowest
@pytest.mark.draws
def test_the_digits_are_learned_in_four_epochs_and_leave_a_whole_run_folder(digits, monkeypatch, capsys) -> None:
    run = digits("r", "--model.channels", "[8,16]", "--model.num_nets", "16")
    summary = json.loads((run / "summary.json").read_text())
    assert summary["test/accuracy"] > 0.85
    assert summary["test/accuracy"] <= summary["test/top5_accuracy"] <= 1
    assert 0 < summary["test/calibration_error"] < 1
    assert 0 < summary["test/loss"] < 1
    assert summary["seed"] == 0
    assert summary["wall_seconds"] > 0
    assert summary["stage"] == "train"
    assert "test accuracy" in capsys.readouterr().out
    assert (run / "checkpoints" / "pretrained.ckpt").is_file()
    with (run / "metrics.csv").open() as file:
        assert sum(bool(row["val/accuracy"]) for row in csv.DictReader(file)) == 4
    for figure in ("learning", "confusion", "subnetworks"):
        with Image.open(run / "figures" / f"{figure}.png") as image:
            assert len(image.convert("L").resize((64, 64)).getcolors(256) or []) > 5  # not a blank page
    monkeypatch.setattr(Figure, "savefig", save_a_pixel)
    again = ["--model.channels", "[8,16]", "--model.num_nets", "16"]
    peaks, weights = 3 + 3, 2 * 4 + (16 + 4) + (4 + 1)  # of a subnetwork of depth 2, with s_0, α and β
    assert summary["parameters"] - summary["pretrain/parameters"] == 16 * (weights - peaks)
    capsys.readouterr()
    digits("", *again, command="test")
    shown = capsys.readouterr().out
    assert f"{summary['pretrain/parameters']:,} → {summary['parameters']:,}" in shown
    assert "time of the fit" in shown
    digits("", *again, command="validate")
    shown = capsys.readouterr().out
    assert "on the test images" in shown  # no others were set aside
    assert f"validation accuracy          │  {summary['test/accuracy']:.2%}" in shown
    assert "val/accuracy" not in shown
    digits("", *again, command="predict")
    assert json.loads((run / "summary.json").read_text()) == summary
    with (run / "predictions.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 360
    right = sum(row["label"] == row["prediction"] for row in rows) / 360
    assert right == pytest.approx(summary["test/accuracy"])
    (run / "summary.json").unlink()
    digits("r", *again, "--ckpt_path", "last")  # with nothing left to train
    resumed = json.loads((run / "summary.json").read_text())
    assert resumed["pretrain/parameters"] == summary["pretrain/parameters"]


@pytest.mark.parametrize("kind", ["blocks", "dense"])
def test_a_classifier_resumed_in_any_stage_ends_bit_identical(digits, kind: str) -> None:
    options = ["--model.release", kind, "--model.dropout", "0.2", "--data.rotation", "20", "--model.mixup", "0.2"]
    options += ["--trainer.limit_train_batches", "6", "--trainer.log_every_n_steps", "2"]
    whole = digits("whole", *options)
    run, resumed, most = whole.with_name("stopped"), ["--run.id", "stopped"], "--trainer.max_epochs"
    if kind == "blocks":
        # In pretraining just after a logged step, at its first epoch's end, at the last step before the switch, in
        # training, and after the first epoch of training.
        stops = [signal_at(0, 3), [most, "1"], signal_at(1, 5), signal_at(2, 4), [most, "3"]]
    else:
        stops = [signal_at(1, 3), [most, "2"]]  # in pretraining, and at its last epoch
    no_test = ["--trainer.limit_test_batches", "0"]  # nor the figures that come with it
    for stop in stops:
        digits("", *options, *resumed, *no_test, *stop, code=0 if most in stop else 75)
        resumed = ["--ckpt_path", str(run / "checkpoints" / "last.ckpt")]
    digits("", *options, *resumed)
    assert_ends_alike(whole, run)


def test_a_dense_head_and_every_mixture_of_images_run(digits) -> None:
    short = ["--model.channels", "[4,8]", "--model.train.epochs", "1"]
    run = digits("r", *short, "--model.mixup", "0.2", "--model.cutmix", "1", config="configs/baselines/digits.yaml")
    assert not (run / "figures" / "subnetworks.png").exists()
    assert json.loads((run / "summary.json").read_text())["test/accuracy"] > 0.2


def test_a_second_interruption_stops_at_once_and_still_says_how_to_go_on(digits, monkeypatch, capsys) -> None:
    step, steps = ImageClassifier.training_step, itertools.count()

    def interrupted(self, batch, batch_idx):
        if next(steps) == 30:  # in the second epoch
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)
        return step(self, batch, batch_idx)

    monkeypatch.setattr(ImageClassifier, "training_step", interrupted)
    run = digits("r", code=130)
    command = capsys.readouterr().out.strip().splitlines()[-1]
    assert command.startswith("python -m lit_triwave fit --config ")
    assert main(shlex.split(command)[3:]) == 0
    assert json.loads((run / "summary.json").read_text())["stage"] == "train"


# --- the module ---


def classifier(**options) -> ImageClassifier:
    torch.manual_seed(0)
    return ImageClassifier(**{"channels": [4], "num_nets": 4, "num_classes": 10, "image_shape": (1, 8, 8)} | options)


def test_weight_decay_is_for_weights_alone() -> None:
    model = classifier(depth=2)
    for released in (False, True):
        if released:
            model.enter_stage("train")
        decayed, kept = model.parameter_groups()
        names = {id(parameter): name for name, parameter in model.named_parameters()}
        decayed, kept = ({names[id(p)] for p in group["params"]} for group in (decayed, kept))
        assert decayed | kept == set(names.values())
        assert not decayed & kept
        assert all(name.endswith("weight") and "norm" not in name for name in decayed)
        assert "network.backbone.1.weight" in kept  # a batch norm's
        assert "network.head.layers.projection.weight" in decayed
        bank = {name for name in decayed if ".bank." in name}
        assert {name.rpartition(".")[2] for name in bank} == (
            {"input_weight", "hidden_weight", "output_weight"} if released else set()
        )
    assert model.parameter_groups()[1]["weight_decay"] == 0


def test_one_schedule_spans_the_run_and_what_stays_keeps_its_optimizers_state(digits) -> None:
    options = ["--trainer.log_every_n_steps", "1", "--trainer.limit_test_batches", "0"]
    before = torch.load(
        digits("a", *options, "--trainer.max_epochs", "2") / "checkpoints" / "last.ckpt", weights_only=True
    )
    after = torch.load(
        digits("b", *options, "--trainer.max_epochs", "3") / "checkpoints" / "last.ckpt", weights_only=True
    )
    steps = 1437 // 64
    # Adam's own count of steps: of a convolution in both stages, of released weights in the second alone.
    counts = {int(value["step"]) for value in before["optimizer_states"][0]["state"].values()}
    assert counts == {2 * steps}
    counts = {int(value["step"]) for value in after["optimizer_states"][0]["state"].values()}
    assert counts == {3 * steps, steps}
    # Half-way through four epochs the cosine is at a half.
    assert before["optimizer_states"][0]["param_groups"][0]["lr"] == pytest.approx(0.01 / 2, rel=0.02)
    assert after["optimizer_states"][0]["param_groups"][0]["lr"] == pytest.approx(0.01 * 0.1464, rel=0.05)


def test_a_compiled_classifier_trains_through_the_switch_as_an_eager_one(digits, monkeypatch) -> None:
    compiled = torch.nn.Module.compile
    # The graphs that inductor would get, all of them whole, without waiting for the C++ compiler.
    monkeypatch.setattr(torch.nn.Module, "compile", lambda self: compiled(self, backend="aot_eager", fullgraph=True))
    monkeypatch.setattr("lit_triwave.construction.block_kernels._compiled", lambda function: function)
    few = ["--trainer.limit_train_batches", "1", "--model.pretrain.epochs", "1", "--model.train.epochs", "1"]
    few += ["--trainer.limit_test_batches", "0"]
    a, b = digits("a", *few), digits("b", *few, "--model.compile", "true")
    one, two = (state(run)["state_dict"] for run in (a, b))
    assert one.keys() == two.keys()
    for key in one:
        torch.testing.assert_close(one[key], two[key], rtol=1e-3, atol=1e-4, msg=key)


def test_a_loss_that_is_not_finite_is_named_and_the_last_good_checkpoint_kept(digits, capsys) -> None:
    huge = ["--model.train.lr", "1e30", "--model.train.optimizer", "SGD", "--model.train.options", "{}"]
    run = digits("r", *huge, "--trainer.precision", "bf16-mixed", code=1)
    line = capsys.readouterr().err.strip().splitlines()[-1]
    for part in ("stage 'train', epoch 1/2, step 4", "learning rate", "bf16-mixed", "lower train.lr", "last.ckpt"):
        assert part in line
    kept = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
    assert kept["epoch"] == 1
    assert all(value.isfinite().all() for value in kept["state_dict"].values())


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["--model.depth", "0"], "depth must be at least 1, got 0"),
        (["--model.head", "dense"], "pretrain.epochs must be 0 for head 'dense', which has no peaks to pretrain"),
        (
            ["--model.train.optimizer", "LBFGS", "--model.train.options", "{}"],
            "train.optimizer must take several groups of parameters, got LBFGS",
        ),
        (["--model.head", "replaced"], "head must be block_diagonal or dense for backbone 'cnn'"),
        (
            ["--model.backbone", "vgg16bn"],
            "got 'vgg16bn'; did you mean 'vgg16_bn', 'vgg16' or 'vgg19_bn'?",
        ),
        (
            ["--model.release", "block"],
            "error: release must be one of blocks, dense, got 'block'; did you mean",
        ),
        (
            ["--model.train.schedule", "cosin"],
            "schedule must be one of constant, cosine, step, got 'cosin'; did",
        ),
        (["--trainer.precision", "bf16-mix"], "error: trainer.precision must be one of "),
        (["--model.backbone", "vgg16_bn"], "backbone must be cnn or none for images of 1 channel, got 'vgg16_bn'"),
        (["--model.channels", "[4,4,4,4]"], "channels must have 1 to 3 entries for images of 8 × 8"),
        (["--model.label_smoothing", "1.5"], "label_smoothing must be in [0, 1), got 1.5"),
        (["--model.num_net", "3"], "did you mean 'model.num_nets'?"),
        (["--data.shift", "5"], "shift must be from 0 to 4, got 5.0"),
        (["--data.rotation", "200"], "rotation must be from 0 to 180, got 200.0"),
        (["--data.batch_size", "5000"], "batch_size must be at most the number of training images, 1437, got 5000"),
        (["--model.weights", "absent.pt"], "weights must be null for backbone 'cnn', got absent.pt"),
    ],
)
def test_a_bad_value_gets_one_line_that_names_it(digits, args: list[str], says: str, capsys) -> None:
    digits("r", *args, code=2 if args[0] in PARSED else 1)
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert line.startswith("error: ")
    assert says in line


def test_labels_without_a_class_are_refused(digits, monkeypatch, capsys) -> None:
    monkeypatch.setattr(DigitsDataModule, "num_classes", 8)
    digits("r", code=1)
    assert "labels must be from 0 to 7, as the model has 8 classes, got 0 to 9" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("images", "labels", "says"),
    [
        (torch.rand(8, 3, 8, 8), torch.rand(8), r"labels must have shape \(8,\) and int64, got \(8,\) and float32"),
        (torch.rand(8, 3, 8, 8), torch.ones(8, 4, dtype=torch.long), r"got \(8, 4\) and int64"),
        (torch.rand(8, 3, 8, 8), torch.ones(8, dtype=torch.int32), "and int32"),
        (torch.rand(8, 3, 8, 8) > 0, torch.ones(8, dtype=torch.long), "height, width. and float32, got .* and bool"),
        (torch.rand(8, 3, 8, 8).double(), torch.ones(8, dtype=torch.long), "and float32, got .* and float64"),
        (torch.rand(8, 1, 8, 8), torch.ones(8, dtype=torch.long), r"must have shape \(batch, 3, height, width\)"),
    ],
)
def test_a_batch_of_ones_own_that_does_not_fit_is_refused_by_its_shape_and_type(images, labels, says: str) -> None:
    with pytest.raises(TriwaveError, match=says):
        fitted(images, labels)


def test_a_batch_that_is_no_pair_of_images_and_labels_is_refused() -> None:
    images = torch.rand(8, 3, 8, 8)
    with pytest.raises(TypeError, match="a batch must be .images, labels., two tensors, got Tensor, Tensor, Tensor"):
        fitted(images, images, images)


def test_a_trainer_of_ones_own_predicts_images_without_labels() -> None:
    images, labels = torch.rand(8, 3, 8, 8), torch.randint(4, (8,))
    trainer = fitted(images, labels)
    for batches in (DataLoader(TensorDataset(images), batch_size=4), DataLoader(images, batch_size=4)):
        found = trainer.predict(trainer.lightning_module, batches)
        assert torch.cat([part["label"] for part in found]).tolist() == [-1] * 8


def fitted(*tensors: torch.Tensor) -> Trainer:
    """Fits batches of tensors with a Trainer in Python, without the command line."""
    stage = Stage(epochs=1, lr=0.01, optimizer="AdamW")
    module = ImageClassifier(
        channels=[4], num_nets=4, depth=3, num_classes=4, image_shape=(3, 8, 8), pretrain=stage, train=stage
    )
    quiet = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    trainer = Trainer(accelerator="cpu", max_epochs=-1, **quiet)
    trainer.fit(module, *[DataLoader(TensorDataset(*tensors), batch_size=8)] * 2)
    return trainer


def test_torchvision_models_get_any_head_and_local_weights(tmp_path: Path) -> None:
    from torchvision.models import alexnet, squeezenet1_0

    shape = {"image_shape": (3, 64, 64), "num_classes": 5, "backbone": "alexnet", "num_nets": 4}
    none = Stage(epochs=0)
    torch.save(alexnet(num_classes=7).state_dict(), tmp_path / "seven.pt")
    images = torch.rand(2, 3, 64, 64)
    for head in ("block_diagonal", "replaced"):
        model = classifier(**shape, head=head)
        assert [bank.shape for bank in model.banks] == [torch.Size([4])]
        assert model(images).shape == (2, 5)
    assert not classifier(**shape, head="original", pretrain=none).banks
    tuned = classifier(**shape, weights=str(tmp_path / "seven.pt"))  # its classifier goes, so its classes do not matter
    first = torch.load(tmp_path / "seven.pt", weights_only=True)["features.0.weight"]
    assert torch.equal(tuned.network.backbone.features[0].weight, first)
    with pytest.raises(
        ValueError, match=r"classifier.6.* is \(7, ?.* in the file and \(5, ?.* in the model of 5 classes"
    ):
        classifier(**shape, head="original", pretrain=none, weights=str(tmp_path / "seven.pt"))
    torch.save(squeezenet1_0().state_dict(), tmp_path / "other.pt")
    with pytest.raises(ValueError, match="weights must be those of alexnet, got"):
        classifier(**shape, weights=str(tmp_path / "other.pt"))
    with pytest.raises(ValueError, match="no hidden dense layers"):
        classifier(**shape | {"backbone": "resnet18"}, head="replaced")
    assert classifier(**shape | {"backbone": "resnet18"})(images).shape == (2, 5)


# --- the data ---


def test_the_digits_are_split_evenly_and_without_overlap() -> None:
    data = DigitsDataModule(validation=200)
    data.setup("fit")
    sets = [data.train_set, data.val_set, data.test_set]
    assert [len(part) for part in sets] == [1237, 200, 360]
    for part in sets:
        counts = part.labels.bincount()
        assert counts.min() > 0.085 * len(part)
        assert counts.max() < 0.115 * len(part)
    pixels = torch.cat([part.images.flatten(1) for part in sets])
    assert len(pixels.unique(dim=0)) == 1797
    assert float(data.train_set.images.mean()) == pytest.approx(0, abs=1e-5)
    assert float(data.train_set.images.std()) == pytest.approx(1, abs=1e-5)


def test_training_images_are_distorted_anew_in_each_epoch() -> None:
    data = DigitsDataModule(rotation=10, shift=0.5)
    data.setup("fit")
    loader = data.train_dataloader()
    seen = []
    for epoch in (0, 1, 0):
        loader.sampler.set_epoch(epoch)
        seen.append([images for images, _ in loader])
    assert [len(batch) for batch in seen[0]] == [64] * (1437 // 64)
    assert all(torch.equal(a, b) for a, b in zip(seen[0], seen[2], strict=True))
    assert not torch.equal(seen[0][0], seen[1][0])
    assert seen[0][0].shape == (64, 1, 8, 8)
    assert torch.equal(next(iter(data.test_dataloader()))[0], data.test_set.images)


def sheared(image: torch.Tensor) -> torch.Tensor:
    """Each row of a 5 × 5 image takes from as many pixels further right as it lies below the middle."""
    rows = pad(image, (2, 2), value=7.0)
    return torch.stack([rows[0, 0, i, i : i + 5] for i in range(5)])[None, None]


@pytest.mark.parametrize(
    ("distortion", "draws", "expected"),
    [
        (Distortion(30, 0.5, 0.5, 2), [0.5] * 5, lambda image: image),
        (Distortion(rotation=90), [1, 0, 0, 0, 0], lambda image: image.rot90(1, (2, 3))),
        (Distortion(shear=1), [0, 0, 1, 0, 0], sheared),
        (Distortion(shift=2), [0, 0, 0, 1, 0.5], lambda image: pad(image[..., 2:], (0, 2), value=7.0)),
        (Distortion(shift=1), [0, 0, 0, 0.5, 1], lambda image: pad(image[:, :, 1:], (0, 0, 0, 1), value=7.0)),
    ],
)
def test_a_distortion_turns_shears_and_moves_images_and_leaves_paper_outside(distortion, draws, expected) -> None:
    image = torch.rand(1, 1, 5, 5, generator=torch.Generator().manual_seed(0))
    result = distortion(image, torch.tensor([draws], dtype=torch.float64), 7.0)
    torch.testing.assert_close(result, expected(image), atol=1e-5, rtol=0)


def test_a_distortion_makes_images_larger_and_smaller() -> None:
    image = torch.zeros(1, 1, 9, 9)
    image[..., 3:6, 3:6] = 1
    ends = (torch.tensor([[0, draw, 0, 0, 0]], dtype=torch.float64) for draw in (0, 0.5, 1))
    smaller, same, larger = (float(Distortion(scaling=0.5)(image, draws).sum()) for draws in ends)
    assert smaller < 0.7 * same
    assert larger > 1.4 * same
