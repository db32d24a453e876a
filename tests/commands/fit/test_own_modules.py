"""A LightningModule, a data module and a Trainer of the user."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import LightningDataModule, LightningModule, Trainer, callbacks
from lightning.pytorch.callbacks import EarlyStopping
from lightning.pytorch.loggers import CSVLogger
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lit_triwave import FunctionRegressor, Limit, Polish, Stage
from lit_triwave.cli import main
from lit_triwave.commands.compare.read.run_folders import read_run_folder
from lit_triwave.errors import TrainingDiverged

# The data lie in memory.
pytestmark = pytest.mark.filterwarnings("ignore:.*does not have many workers")
X = torch.linspace(-1, 1, 64)[:, None]
Y = X.square()


class Net(LightningModule):
    """A module without stages."""

    def __init__(self, hidden: int = 4) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.layers = nn.Sequential(nn.Linear(1, hidden), nn.Tanh(), nn.Linear(hidden, 1))

    def _loss(self, name: str, batch: tuple[Tensor, Tensor]) -> Tensor:
        loss = (self.layers(batch[0]) - batch[1]).square().mean()
        self.log(name, loss)
        return loss

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        return self._loss("train/loss", batch)

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        self._loss("val/loss", batch)

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        self._loss("test/loss", batch)

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)  # type: ignore[no-any-return]

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters(), 0.01)


class Untested(LightningModule):
    """The smallest module for Lightning: no arguments, no validation, no test."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(1, 1)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        return (self.layer(batch[0]) - batch[1]).square().mean()

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), 0.01)


class Rising(Net):
    """Its score is best in the last epoch."""

    monitor, mode = "val/score", "max"

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        self.log("val/score", float(self.current_epoch))


class Mistaken(Net):
    """Its metric is never logged, and its checkpoints contain a NumPy array."""

    monitor = "val_loss"

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["scale"] = {"mean": np.ones(3)}


class Undirected(Rising):
    """Neither the name nor `mode` says whether higher scores are better."""

    mode = "bilinear"


class Awkward(Net):
    """Arguments that have another meaning in a module with stages, and an implicit Optional."""

    task = "classification"

    def __init__(self, num_classes: int = 3, train: bool = True, hidden: int = None) -> None:  # type: ignore  # noqa: RUF013
        LightningModule.__init__(self)
        self.layers = nn.Sequential(nn.Linear(1, num_classes), nn.Linear(num_classes, 1))


class TrainOnly(LightningDataModule):
    """(x, y) batches for training only."""

    def train_dataloader(self) -> Any:
        return DataLoader(TensorDataset(X, Y), batch_size=16)


class Data(TrainOnly):
    """(x, y) batches, without the attributes of this project's data."""

    def val_dataloader(self) -> Any:
        return self.train_dataloader()

    def test_dataloader(self) -> Any:
        return self.train_dataloader()

    def predict_dataloader(self) -> Any:
        return DataLoader(X, batch_size=16)


class Named(Data):
    """Data with two classes."""

    class_names = ("even", "odd")
    num_classes = 2


def own(root: Path, kind: type, *args: str, data: type = Data) -> list[str]:
    place = ["--run.root", str(root), "--run.experiment", "own", "--run.id", "a", "--trainer.accelerator", "cpu"]
    return ["--model", f"{__name__}.{kind.__name__}", "--data", f"{__name__}.{data.__name__}", *place, *args]


def test_own_module_is_trained_tested_and_resumed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "own" / "a"
    assert main(["fit", *own(tmp_path, Net, "--trainer.max_epochs", "2", "--model.hidden", "3")]) == 0
    summary = json.loads((run / "summary.json").read_text())
    said = capsys.readouterr().out
    assert said.rindex("4/4") < said.index(f"\n{run}\n") < said.index("│ test loss")  # the bar, then the table
    assert summary["parameters"] == 10
    assert "val/loss" in (run / "metrics.csv").read_text().splitlines()[0]
    assert json.loads((run / "run.json").read_text())["state"] == "finished"
    again = own(tmp_path, Net, "--trainer.max_epochs", "4", "--model.hidden", "3", "--ckpt_path", "last")
    assert main(["fit", *again]) == 0
    assert json.loads((run / "summary.json").read_text())["test/loss"] < summary["test/loss"]
    assert torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["epoch"] == 3
    assert main(["test", *own(tmp_path, Net, "--model.hidden", "3")]) == 0
    assert "epoch 2, step 8" in capsys.readouterr().out
    assert main(["predict", *own(tmp_path, Net, "--model.hidden", "3")]) == 0
    assert "predictions.csv is not written" in capsys.readouterr().out
    assert main(["test", *own(tmp_path, Net, "--ckpt_path", "best")]) == 1
    assert "for a model with a `monitor`" in capsys.readouterr().err


class Scheduled(Net):
    """A module with a schedule."""

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.Adam(self.parameters(), 0.01)
        return {"optimizer": optimizer, "lr_scheduler": torch.optim.lr_scheduler.StepLR(optimizer, 1)}


@pytest.mark.parametrize(
    ("field", "value", "says"),
    [
        ("optimizer_states", [], "optimizer_states and lr_schedulers must be 1 and 1, got 0 and 1"),
        ("lr_schedulers", [], "optimizer_states and lr_schedulers must be 1 and 1, got 1 and 0"),
        ("lr_schedulers", [{}], "lr_schedulers.0 must have a last_epoch, got {}"),
        ("state", {}, "optimizer_states of the checkpoint must have the state of each optimizer, got none"),
    ],
)
def test_own_module_never_resumes_with_a_new_optimizer_or_schedule(
    field: str, value: Any, says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["fit", *own(tmp_path, Scheduled, "--trainer.max_epochs", "1")]) == 0
    path = tmp_path / "own" / "a" / "checkpoints" / "last.ckpt"
    content = torch.load(path, weights_only=True)
    (content if field != "state" else content["optimizer_states"][0])[field] = value
    torch.save(content, path)
    assert main(["fit", *own(tmp_path, Scheduled, "--trainer.max_epochs", "2", "--ckpt_path", "last")]) == 1
    assert says in capsys.readouterr().err


def test_own_module_with_weights_that_are_not_finite_is_not_tested(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["fit", *own(tmp_path, Net, "--trainer.max_epochs", "1")]) == 0
    path = tmp_path / "own" / "a" / "checkpoints" / "last.ckpt"
    content = torch.load(path, weights_only=True)
    content["state_dict"]["layers.0.weight"][0] = torch.nan
    torch.save(content, path)
    for command in ("test", "predict"):
        assert main([command, *own(tmp_path, Net)]) == 1
        assert "weights of the checkpoint must be finite, got NaN or infinity in layers.0.weight" in (
            capsys.readouterr().err
        )


def test_own_module_needs_neither_arguments_nor_a_test(tmp_path: Path) -> None:
    for epochs, more in (("1", []), ("2", ["--ckpt_path", "last"])):
        assert main(["fit", *own(tmp_path, Untested, "--trainer.max_epochs", epochs, *more, data=TrainOnly)]) == 0
    assert torch.load(tmp_path / "own" / "a" / "checkpoints" / "last.ckpt", weights_only=True)["epoch"] == 1
    assert read_run_folder(tmp_path / "own" / "a").state == "finished"


class Lost(Net):
    """Its loss is not a number, and its weights stay finite."""

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        self.log("train/loss", math.nan)
        return 0 * self.layers(batch[0]).sum()


def test_what_own_module_does_not_say_itself_is_said_at_its_end(tmp_path: Path, capsys) -> None:
    epochs = ["--trainer.max_epochs", "9"]
    stop = ["--trainer.callbacks", "EarlyStopping", "--trainer.callbacks.monitor", "val/loss"]
    assert main(["fit", *own(tmp_path, Lost, *epochs, *stop)]) == 0
    said = capsys.readouterr().out
    assert "EarlyStopping ended training in epoch 4/9\n" in said
    assert "train/loss is nan in the last epoch\n" in said
    assert main(["fit", *own(tmp_path / "whole", Net, *epochs)]) == 0
    assert "in the last epoch" not in (whole := capsys.readouterr().out)
    assert "ended training" not in whole


def test_own_module_that_a_bound_ends_before_its_epochs_is_cut_short(tmp_path: Path) -> None:
    for epochs, state in (("2", "cut short"), ("1", "finished"), ("-1", "finished")):
        place = tmp_path / epochs
        bounds = ["--trainer.max_epochs", epochs, "--trainer.max_steps", "4"]  # an epoch has 4
        assert main(["fit", *own(place, Untested, *bounds, data=TrainOnly)]) == 0
        assert json.loads((place / "own" / "a" / "run.json").read_text())["state"] == state


def test_a_config_without_data_is_told_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.yaml").write_text(f"model: {{class_path: {__name__}.Net}}")
    assert main(["fit", "--config", str(tmp_path / "a.yaml")]) == 2
    assert "error: data must name a class, got nothing" in capsys.readouterr().err


def test_own_arguments_mean_what_their_module_says(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fit", *own(tmp_path, Awkward, "--trainer.max_epochs", "1", data=Named)]) == 0
    assert json.loads((tmp_path / "own" / "a" / "summary.json").read_text())["parameters"] == 7  # 2 classes
    assert main(["fit", *own(tmp_path / "other", Awkward, "--model.num_classes", "5", data=Named)]) == 1
    assert "model.num_classes must be 2, which data.num_classes says, got 5" in capsys.readouterr().err
    assert (
        main(["fit", *own(tmp_path / "other", Awkward, "--model.num_classes", "5", "--trainer.max_epochs", "1")]) == 0
    )


def test_own_mode_chooses_the_best_checkpoint(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fit", *own(tmp_path, Rising, "--trainer.max_epochs", "2")]) == 0
    assert torch.load(tmp_path / "own" / "a" / "checkpoints" / "best.ckpt", weights_only=True)["epoch"] == 1
    assert main(["fit", *own(tmp_path / "other", Undirected, "--trainer.max_epochs", "2")]) == 1
    assert 'Undirected.mode must be "min" or "max", got \'bilinear\'' in capsys.readouterr().err
    assert not (tmp_path / "other").exists()


def test_what_a_module_does_wrong_is_said_during_its_first_epoch(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["fit", *own(tmp_path, Mistaken, "--trainer.max_epochs", "2")]) == 1
    said = capsys.readouterr()
    assert "no best.ckpt: Mistaken.monitor must be a metric that it logs" in said.out
    assert "(train/loss, val/loss), got val_loss" in said.out
    assert "error: scale.mean of the checkpoint must be tensors, numbers, texts" in said.err
    assert not list(tmp_path.rglob("*.ckpt"))


def test_a_run_with_spike_detection_resumes(tmp_path: Path) -> None:
    spikes = ("--trainer.callbacks", "SpikeDetection", "--trainer.callbacks.atol", "1000")
    assert main(["fit", *own(tmp_path, Rising, "--trainer.max_epochs", "2", *spikes)]) == 0
    assert main(["fit", *own(tmp_path, Rising, "--trainer.max_epochs", "3", *spikes, "--ckpt_path", "last")]) == 0
    last = torch.load(tmp_path / "own" / "a" / "checkpoints" / "last.ckpt", weights_only=True)
    assert last["epoch"] == 2
    (state,) = (value for name, value in last["callbacks"].items() if name.startswith("SpikeDetection"))
    assert state["last_val"] > 0


@pytest.mark.parametrize("kind", ["EarlyStopping", "ModelCheckpoint"])
def test_own_module_whose_callback_watches_nothing_leaves_no_run(
    kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    watched = ("--trainer.callbacks", kind, "--trainer.callbacks.monitor", "val/los")
    assert main(["fit", *own(tmp_path / "runs", Rising, "--trainer.max_epochs", "2", *watched)]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "val/los" in line and "val/score" in line
    assert not (tmp_path / "runs").exists()


def test_a_run_is_not_resumed_with_fewer_epochs_than_it_has_trained(tmp_path: Path, capsys) -> None:
    assert main(["fit", *own(tmp_path, Net, "--trainer.max_epochs", "3")]) == 0
    capsys.readouterr()
    assert main(["fit", *own(tmp_path, Net, "--trainer.max_epochs", "1", "--ckpt_path", "last")]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: trainer.max_epochs must be at least 3, as many epochs as checkpoint ")
    assert line.endswith("last.ckpt has trained, got 1")


def test_the_metrics_of_a_fit_are_those_that_are_logged() -> None:
    for module in (regressor(), regressor(target_range=[(0, 1), (0, 2)])):
        y = Y if module.num_targets == 1 else torch.cat([Y, 2 * Y], 1)
        logged = fitted(module, y, log_every_n_steps=1).callback_metrics
        assert {*logged} == {*module.fit_metrics}


def test_function_is_fitted_to_own_data(tmp_path: Path) -> None:
    stages = ["--model.pretrain.epochs", "1", "--model.train.epochs", "1", "--model.domain", "{x: [-1, 1]}"]
    assert main(["fit", *own(tmp_path, FunctionRegressor, *stages)]) == 0
    assert "test/mse_min" in json.loads((tmp_path / "own" / "a" / "summary.json").read_text())


def fitted(module: FunctionRegressor, y: Tensor = Y, x: Tensor = X, **options: Any) -> Trainer:
    """Fits (x, y) batches with a Trainer in Python, without the command line."""
    trainer = Trainer(
        accelerator="cpu",
        max_epochs=options.pop("max_epochs", -1),
        logger=options.pop("logger", False),
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **options,
    )
    trainer.fit(module, *(DataLoader(TensorDataset(x, y), batch_size=64) for _ in range(2)))
    return trainer


def regressor(replicas: int = 2, **options: Any) -> FunctionRegressor:
    torch.manual_seed(0)
    stages: dict[str, Any] = {"pretrain": Stage(epochs=3, lr=0.1), "train": Stage(epochs=2)} | options
    return FunctionRegressor(depth=3, replicas=replicas, domain=[[-1, 1]], **stages)


@pytest.mark.lowest
def test_a_trainer_of_ones_own_takes_x_and_y_of_any_form() -> None:
    found = []
    for inputs, targets in ((X, Y), (X, Y[:, 0]), (X[:, 0], Y[:, 0])):
        module = regressor(polish=Polish(epochs=2))
        assert fitted(module, targets, inputs).current_epoch == 7
        found.append(module.train_mse)
    assert found[0].isfinite().all()
    assert all(torch.equal(mse, found[0]) for mse in found)


def test_training_points_outside_the_domain_are_reported(capsys) -> None:
    fitted(regressor())
    assert "outside" not in capsys.readouterr().out
    fitted(regressor(), x=3 * X)
    said = [line for line in capsys.readouterr().out.splitlines() if "outside" in line]
    reported = "42 of the first 64 training points are outside the domain, x in [-1, 1]"
    assert said == [f"{reported}: the network takes them to its nearest end"]


def test_a_stack_does_not_name_a_number_of_points_that_it_does_not_know(capsys) -> None:
    fitted(regressor(1, wiring="stack", limit=Limit(epochs=1)))
    assert "None" not in capsys.readouterr().out


def test_a_batch_that_is_no_pair_of_tensors_is_refused_by_its_kind() -> None:
    module = regressor()
    for batch, kind in (({"x": X, "y": Y}, "dict"), ((X, "y"), "Tensor and str"), ([], "nothing")):
        with pytest.raises(TypeError, match=rf"a batch must be \(x, y\) or .* of tensors, got {kind}$"):
            module.predict_step(batch, 0)
    with pytest.raises(ValueError, match=r"shape \(batch, 1\), one column for each variable of domain, got \(64, 2\)"):
        fitted(module, x=torch.cat([X, X], 1))


def test_values_that_are_not_finite_in_the_first_batch_are_not_blamed_on_the_learning_rate() -> None:
    with pytest.raises(TrainingDiverged, match=r"step 0, for 2 of 2 seeds: the first batch may have values that are"):
        fitted(regressor(), x=X * torch.nan)


def test_a_trainer_that_cuts_the_stages_short_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    fitted(regressor(), max_epochs=2)
    assert "trainer.max_epochs 2 ends training after 2 of 5 epochs, in stage 'pretrain'" in capsys.readouterr().out
    fitted(regressor(), max_epochs=100)
    assert capsys.readouterr().out == ""


def test_early_stopping_ends_the_stage(capsys: pytest.CaptureFixture[str]) -> None:
    module = regressor(pretrain=Stage(epochs=9), train=Stage(epochs=9), polish=Polish(epochs=9))
    trainer = fitted(module, callbacks=[EarlyStopping("val/mse_min", min_delta=100, patience=2)])
    assert module.stage_epochs == {"limit": 0, "pretrain": 3, "train": 3, "polish": 3}
    assert trainer.current_epoch == 9
    assert trainer.global_step == 9  # through automatic and manual optimization
    assert module.pretrain_mse.isfinite().all()
    assert "ends stage 'train', epoch 3/9" in capsys.readouterr().out


def test_early_stopping_waits_for_min_epochs() -> None:
    module = regressor(pretrain=Stage(epochs=9), train=Stage(epochs=9))
    fitted(module, min_epochs=6, callbacks=[EarlyStopping("val/mse_min", min_delta=100, patience=2)])
    assert module.stage_epochs["pretrain"] == 6


def test_clipping_keeps_replicas_independent() -> None:
    def weights(scale: float, clip: float | None) -> Tensor:
        stages = {name: Stage(epochs=3, lr=0.1, optimizer="SGD") for name in ("pretrain", "train")}
        module = regressor(**stages)
        with torch.no_grad():
            for parameter in module.network.parameters():
                parameter[1] *= scale
        fitted(module, gradient_clip_val=clip)
        return torch.cat([parameter[0].flatten() for parameter in module.network.parameters()])

    assert torch.equal(weights(1.0, 1e-3), weights(1.5, 1e-3))
    assert not torch.equal(weights(1.0, 1e-3), weights(1.0, None))


@pytest.mark.filterwarnings("ignore:When using the `ThroughputMonitor`")  # no FLOPs of a step are known
def test_callbacks_that_python_alone_can_make_work_through_all_stages(tmp_path: Path) -> None:
    ended: list[str] = []
    own = [
        callbacks.LambdaCallback(on_train_epoch_end=lambda trainer, module: ended.append(module.stage)),
        callbacks.SpikeDetection(exclude_batches_path=tmp_path / "skip.json"),
        callbacks.DeviceStatsMonitor(cpu_stats=False),
        callbacks.ThroughputMonitor(batch_size_fn=len, window_size=2),
        callbacks.Timer(duration={"days": 1}),
    ]
    kinds: dict[str, Any] = {"pretrain": Stage(epochs=2, optimizer="LevenbergMarquardt"), "polish": Polish(epochs=2)}
    plain, module = regressor(**kinds), regressor(**kinds)
    fitted(plain)
    fitted(module, callbacks=own, logger=CSVLogger(tmp_path), log_every_n_steps=1)
    assert ended == ["pretrain"] * 2 + ["train"] * 2 + ["polish"] * 2
    assert torch.equal(plain.train_mse, module.train_mse)
    assert "train/device/batches_per_sec" in next(tmp_path.glob("**/metrics.csv")).read_text()
