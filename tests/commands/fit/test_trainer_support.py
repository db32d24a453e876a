"""The tables of Trainer options and callbacks are complete, and agree with the documentation and with runs."""

from __future__ import annotations

import inspect
import json
import shutil
import threading
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer, callbacks
from lightning.pytorch.callbacks import Callback, DeviceStatsMonitor
from lightning.pytorch.profilers import SimpleProfiler
from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from lit_triwave.analysis.costs import copied
from lit_triwave.callbacks.progress import _describe
from lit_triwave.cli import main
from lit_triwave.errors import TriwaveError, one_line
from lit_triwave.modules import trainer_support
from lit_triwave.modules.trainer_support import AS_DOCUMENTED, CALLBACKS, OPTIONS, Fit, check_callbacks, own_defaults
from lit_triwave.modules.trainer_values import check_values
from lit_triwave.tracking.wandb_files import records, segments
from tests.conftest import REPOSITORY
from tests.finished_runs import rows
from tests.small_runs import DIGITS, FUNCTION, untimed_summary

ADAM = Fit(("pretrain", "train"), (), 10, shares_batches=True, has_run=True)
"""A fit without second-order stages."""


NEVER_TAKEN = sorted({*CALLBACKS} - {"DeviceStatsMonitor"})  # of which only an argument is refused


def documented(title: str) -> dict[str, list[str]]:
    """Returns the rows of a table of the documentation: name ↦ the other cells."""
    page = (REPOSITORY / "docs" / "reference" / "trainer.md").read_text()
    lines = page.partition(f"## {title}")[2].partition("## ")[0].splitlines()
    rows = [line.strip("| ").split(" | ") for line in lines if line.startswith("| `")]
    return {name.strip("`"): [cell.strip() for cell in cells] for name, *cells in rows}


def test_the_documentation_has_all_options_as_in_the_table() -> None:
    names = {*inspect.signature(Trainer.__init__).parameters} - {"self"}
    assert set(OPTIONS) <= names
    defaults = {name: f"`{json.dumps(value)}`" for name, value in own_defaults().items()}
    rows = {name: [defaults.get(name, ""), OPTIONS[name].here if name in OPTIONS else AS_DOCUMENTED] for name in names}
    assert documented("Options") == rows


def test_the_documentation_has_all_callbacks_and_those_that_are_refused() -> None:
    rows = documented("Callbacks")
    assert set(rows) == set(callbacks.__all__)
    assert {name for name, (here,) in rows.items() if here.startswith("refused")} == {*NEVER_TAKEN}


def test_defaults_are_those_of_the_table(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fit", *FUNCTION, "--print_config"]) == 0
    text = capsys.readouterr().out
    for name, value in own_defaults().items():
        assert f"\n  {name}: {json.dumps(value)}\n" in text


REFUSED = {
    "enable_checkpointing": "false",
    "barebones": "true",
    "default_root_dir": "elsewhere",
    "model_registry": "mine",
    "min_epochs": "99",
    "use_distributed_sampler": "true",
    "overfit_batches": "1",
    "plugins": "lightning.pytorch.plugins.io.TorchCheckpointIO",
    "gradient_clip_val": "-1",
    "accumulate_grad_batches": "0",
    "limit_train_batches": "0",
    "check_val_every_n_epoch": "0",
    "accelerator": "tpu",
    "devices": "0",
    "strategy": "dpp",
    "profiler": "advancd",
    "max_time": "1:30",
    "max_epochs": "-5",
    "fast_dev_run": "-1",
    "limit_val_batches": "1.5",
    "val_check_interval": "0",
    "gradient_clip_algorithm": "nrom",
}
"""Options ↦ a value that every run of this project's modules and data refuses."""
NEEDS_FIRST_ORDER = {"accumulate_grad_batches": "2", "gradient_clip_val": "0.5", "limit_train_batches": "0.5"}


def refuse(capsys: pytest.CaptureFixture[str], root: Path, *args: str) -> str:
    assert main(["fit", "--run.root", str(root), *args]) == 1
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1
    assert not list(root.glob("*/*"))
    return lines[0]


@pytest.mark.parametrize("name", REFUSED)
def test_an_option_is_refused_in_one_line(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = refuse(capsys, tmp_path, *FUNCTION, f"--trainer.{name}", REFUSED[name])
    assert line.startswith(f"error: trainer.{name} must ")


def test_values_that_lightning_would_refuse_are_refused_in_our_words() -> None:
    for name, value, says in (
        ("profiler", "advancd", "must be one of simple, advanced, pytorch, xla, got advancd; did you mean 'advanced'?"),
        ("strategy", "dpp", "got dpp; did you mean 'ddp'?"),
        ("strategy", "ddp_spawn", "must be one of auto, ddp, "),
        ("strategy", DDPStrategy(start_method="fork"), "must be ddp with start_method popen"),
        ("gradient_clip_algorithm", "nrom", "must be one of norm, value, got nrom; did you mean 'norm'?"),
        ("limit_test_batches", 2.0, "must be a share between 0.0 and 1.0, or a number of batches, got 2.0"),
        ("limit_test_batches", -1, "got -1"),
        ("max_time", {"hour": 1}, "a mapping such as hours: 2, got {'hour': 1}"),
        ("max_time", {"days": -1}, "got {'days': -1}"),
        ("val_check_interval", "1h", "00:01:30:00 (days, hours, minutes, seconds), got 1h"),
        ("num_nodes", 0, "must be at least 1, got 0"),
    ):
        with pytest.raises(TriwaveError) as refusal:
            check_values({name: value})
        assert str(refusal.value).startswith(f"trainer.{name} must be ")
        assert says in str(refusal.value)
    for devices in (0, -1, [0, 0], [], "0,1", "all", -2):
        with pytest.raises(TriwaveError, match="at least 1, on CPUs, got "):
            check_values({"devices": devices, "accelerator": "cpu"})
    with pytest.raises(TriwaveError, match="where check_val_every_n_epoch is null"):
        check_values({"val_check_interval": 0.5, "check_val_every_n_epoch": None})


def test_values_that_lightning_takes_are_taken() -> None:
    taken: dict[str, tuple[Any, ...]] = {
        "devices": ("auto", 1, "2", 16),
        "accelerator": ("auto", "cpu"),
        "strategy": ("auto", "ddp", "DDP", "ddp_find_unused_parameters_true", SingleDeviceStrategy()),
        "profiler": (None, "simple", "Advanced", SimpleProfiler()),
        "max_time": (None, "00:12:00:00", {"hours": 2}, timedelta(minutes=5)),
        "limit_val_batches": (None, 0, 0.0, 0.5, 1, 1.0, 7),
        "val_check_interval": (None, 0.25, 1.0, 1, 100, "00:00:10:00"),
        "fast_dev_run": (False, True, 0, 3),
        "gradient_clip_algorithm": (None, "norm"),
    }
    for name, values in taken.items():
        for value in values:
            check_values({name: value, "accelerator": "cpu"})
            Trainer(**{name: value, "logger": False, "enable_checkpointing": False, "accelerator": "cpu"})


@pytest.mark.parametrize("name", NEEDS_FIRST_ORDER)
def test_second_order_stages_refuse_an_option(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    polish = ("--model.polish.epochs", "1")
    line = refuse(capsys, tmp_path, *FUNCTION, *polish, f"--trainer.{name}", NEEDS_FIRST_ORDER[name])
    assert line.startswith(f"error: trainer.{name} must be ")
    assert "for stage polish" in line


@pytest.mark.parametrize("name", NEVER_TAKEN)
def test_a_callback_is_refused(name: str) -> None:
    kind: Any = getattr(callbacks, name)
    own = type("Own", (kind,), {"__init__": lambda self: None})
    with pytest.raises(Exception, match="trainer.callbacks must have no Own: "):
        check_callbacks([own()], ADAM)


def test_statistics_of_cpus_are_refused_without_psutil(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trainer_support, "PSUTIL", False)
    check_callbacks([DeviceStatsMonitor(), DeviceStatsMonitor(cpu_stats=False)], ADAM)
    with pytest.raises(TriwaveError, match="must have no DeviceStatsMonitor: cpu_stats needs psutil"):
        check_callbacks([DeviceStatsMonitor(cpu_stats=True)], ADAM)


def test_callbacks_are_refused_by_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    swa = ("--trainer.callbacks", "StochasticWeightAveraging", "--trainer.callbacks.swa_lrs", "0.01")
    assert "no StochasticWeightAveraging: later stages" in refuse(capsys, tmp_path, *DIGITS, *swa)
    finder = ("--trainer.callbacks", "LearningRateFinder")
    assert "tuners are not supported" in refuse(capsys, tmp_path, *FUNCTION, *finder)
    stop = ("--trainer.callbacks", "EarlyStopping", "--trainer.callbacks.monitor", "val/mse_min")
    stop += ("--trainer.callbacks.check_on_train_epoch_end", "true")
    assert "check_on_train_epoch_end of EarlyStopping must be" in refuse(capsys, tmp_path, *FUNCTION, *stop)


def test_a_monitor_that_is_never_logged_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for options, kind, name, known in (
        (FUNCTION, "EarlyStopping", "val/mse", "val/mse_min"),
        (DIGITS, "ModelCheckpoint", "val/acc", "val/accuracy"),
    ):
        line = refuse(capsys, tmp_path, *options, "--trainer.callbacks", kind, "--trainer.callbacks.monitor", name)
        assert line.startswith(f"error: monitor of {kind} must be one of {known}, ")
        assert line.endswith(f"got {name}; did you mean '{known}'?")


class Noted(Callback):
    """Counts the hooks that Lightning calls."""

    def __init__(self) -> None:
        self.epochs = 0

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        self.epochs += 1

    def state_dict(self) -> dict[str, Any]:
        return {"epochs": self.epochs}


HARMLESS = """
trainer:
  detect_anomaly: true
  deterministic: true
  benchmark: false
  inference_mode: false
  num_sanity_val_steps: 2
  reload_dataloaders_every_n_epochs: 2
  enable_autolog_hparams: false
  enable_model_summary: true
  enable_progress_bar: false
  gradient_clip_algorithm: norm
  accelerator: cpu
  devices: 1
  num_nodes: 1
  strategy: auto
  sync_batchnorm: false
  profiler: simple
  min_steps: 2
  limit_val_batches: 1.0
  max_time: {days: 1}
"""
"""Options that do not change the results."""
OWN = """
  callbacks:
    - class_path: LearningRateMonitor
      init_args: {log_momentum: true, log_weight_decay: true}
    - class_path: ModelCheckpoint
      init_args: {save_last: true, save_top_k: 2, monitor: step, mode: max, save_on_train_epoch_end: true}
    - class_path: Timer
    - class_path: ModelSummary
    - class_path: tests.commands.fit.test_trainer_support.Noted
  logger:
    class_path: CSVLogger
    init_args: {save_dir: SAVED}
"""


@pytest.mark.parametrize("base", [FUNCTION, DIGITS], ids=["function", "digits"])
def test_options_and_callbacks_leave_the_results_as_they_are(
    base: list[str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = tmp_path / "options.yaml"
    config.write_text(HARMLESS + OWN.replace("SAVED", str(tmp_path / "mine")))
    short = ("--model.polish.epochs", "2") if base is FUNCTION else ("--trainer.limit_train_batches", "8")
    place = ("--run.root", str(tmp_path), "--run.experiment", "e", "--trainer.log_every_n_steps", "5")
    runs = [tmp_path / "e" / name for name in ("plain", "options")]
    try:
        assert main(["fit", *base, *short, *place, "--run.id", "plain"]) == 0
        assert main(["fit", *base, *short, *place, "--run.id", "options", "--config", str(config)]) == 0
    finally:
        torch.use_deterministic_algorithms(False)
    assert "FIT Profiler Report" in caplog.text
    plain, options = map(untimed_summary, runs)
    assert plain == options
    here, own = ({path.name for path in (run / "checkpoints").iterdir()} for run in runs)
    assert own == here | {"model_checkpoint"}
    kept = {path.name for path in (runs[1] / "checkpoints" / "model_checkpoint").iterdir()}
    assert len(kept) == 3
    last = [torch.load(run / "checkpoints" / "last.ckpt", weights_only=True) for run in runs]
    assert all(torch.equal(value, last[1]["state_dict"][name]) for name, value in last[0]["state_dict"].items())
    assert last[1]["callbacks"]["Noted"]["epochs"] == last[1]["epoch"] + 1
    assert [*tmp_path.glob("mine/**/metrics.csv")]
    header = (runs[1] / "metrics.csv").read_text().splitlines()[0]
    assert "lr-Adam" in header
    assert ("lr-LevenbergMarquardt-momentum" in header) == (base is FUNCTION)


ENDS: dict[str, tuple[tuple[str, ...], str]] = {
    "max_epochs": (("--trainer.max_epochs", "6"), "trainer.max_epochs 6 ended training in stage 'train', epoch 1/5"),
    "max_steps": (("--trainer.max_steps", "11"), "trainer.max_steps 11 ended training in stage 'polish', epoch 1/2"),
    "max_time": (
        ("--trainer.max_time", "{microseconds: 1}"),
        "trainer.max_time ended training in stage 'pretrain', epoch 1/5",
    ),
    "Timer": (
        ("--trainer.callbacks", "Timer", "--trainer.callbacks.duration", "{microseconds: 1}"),
        "Timer ended training in stage 'pretrain', epoch 1/5",
    ),
    "limit_test_batches": (
        ("--trainer.limit_test_batches", "0"),
        "trainer.limit_test_batches 0 leaves out a part of the data",
    ),
    "fast_dev_run": (("--trainer.fast_dev_run", "true"), "trainer.fast_dev_run: trained on a few batches"),
}


@pytest.mark.parametrize("name", ENDS)
def test_a_run_cut_short_is_not_finished(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    args, why = ENDS[name]
    place = ("--run.root", str(tmp_path), "--run.experiment", "e", "--run.id", "a")
    assert main(["fit", *FUNCTION, "--model.polish.epochs", "2", *place, *args]) == 0
    said = capsys.readouterr().out
    assert f"cut short: {why}" in said
    advice = [line for line in said.splitlines() if "less than 99%: " in line]
    assert advice or name in ("limit_test_batches", "fast_dev_run")
    assert all(line.endswith(": the run was cut short") for line in advice)
    record = json.loads((tmp_path / "e" / "a" / "run.json").read_text())
    assert (record["state"], record["cut_short"]) == ("cut short", why)
    assert main(["compare", str(tmp_path)]) == 0
    table = capsys.readouterr().out
    assert "cut short" in table
    assert "★" not in table


def test_limits_that_leave_out_nothing_do_not_cut_a_run_short(tmp_path: Path) -> None:
    place = ("--run.root", str(tmp_path), "--run.experiment", "e", "--run.id", "a")
    limits = ("--trainer.limit_train_batches", "1", "--trainer.limit_test_batches", "99")
    assert main(["fit", *FUNCTION, *place, *limits]) == 0
    assert json.loads((tmp_path / "e" / "a" / "run.json").read_text())["state"] == "finished"


def test_a_network_that_a_profiler_watches_can_be_copied() -> None:
    network = torch.nn.Sequential(torch.nn.Linear(2, 1))
    network[0].register_forward_hook(partial(print, threading.Lock()))
    assert torch.equal(copied(network)[0].weight, network[0].weight)
    assert network[0]._forward_hooks


def test_progress_shows_the_loss_before_lightning_divides_it() -> None:
    trainer: Any = SimpleNamespace(accumulate_grad_batches=3, callback_metrics={})
    assert _describe({"loss": torch.tensor(0.5)}, trainer) == "loss 1.5"


@pytest.mark.parametrize("kind", [MisconfigurationException, ModuleNotFoundError, RuntimeError])
def test_no_class_name_leads_a_message(kind: type[Exception]) -> None:
    assert one_line(kind("No supported gpu backend found!")) == "No supported gpu backend found!"
    assert one_line(KeyError("a")) == "KeyError: 'a'"


@pytest.mark.parametrize("bar", ["RichProgressBar", "TQDMProgressBar"])
def test_a_progress_bar_of_ones_own_replaces_this_projects(bar: str, tmp_path: Path, capfd: Any) -> None:
    place = ("--run.root", str(tmp_path), "--run.experiment", "e", "--run.id", "a")
    place += ("--trainer.precision", "16-mixed", "--trainer.accelerator", "cpu")
    assert main(["fit", *FUNCTION, *place, "--trainer.fast_dev_run", "true", "--trainer.callbacks", bar]) == 0
    said = capfd.readouterr()
    assert said.out.startswith("trainer.precision 16-mixed is bf16-mixed here: CPUs have no 16-mixed\n")
    assert "AMP" not in said.err  # Lightning's words


def test_validations_come_when_the_trainer_is_asked_for_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    args = ("--data.batch_size", "10", "--trainer.check_val_every_n_epoch", "null", "--trainer.val_check_interval", "7")
    place = ("--run.root", str(tmp_path), "--run.experiment", "e", "--run.id", "a")
    place += ("--trainer.callbacks", "ModelCheckpoint", "--trainer.callbacks.every_n_epochs", "1000")
    assert main(["fit", *FUNCTION, *args, *place, "--trainer.log_every_n_steps", "0"]) == 0  # 50 steps, 5 an epoch
    said = capsys.readouterr().out.splitlines()
    assert "trainer.log_every_n_steps 0: only validations are logged, no training steps" in said
    assert "ModelCheckpoint has saved nothing in 10 epochs: its interval is longer" in said
    validated = [int(row["step"]) for row in rows(tmp_path / "e" / "a") if row["val/mse_min"]]
    assert validated == [6, 13, 20, 27, 34, 41, 48]


def test_a_run_cut_inside_an_epoch_resumes_as_if_it_had_not_been(tmp_path: Path) -> None:
    args = ["fit", *FUNCTION, "--data.batch_size", "10", "--run.root", str(tmp_path), "--run.experiment", "e"]
    assert main([*args, "--run.id", "whole"]) == 0
    assert main([*args, "--run.id", "cut", "--trainer.max_steps", "13"]) == 0  # in the third of ten epochs
    assert main([*args, "--run.id", "cut", "--ckpt_path", "last"]) == 0
    whole, cut = (tmp_path / "e" / name for name in ("whole", "cut"))
    assert untimed_summary(whole) == untimed_summary(cut)
    assert (whole / "metrics.csv").read_text() == (cut / "metrics.csv").read_text()
    assert json.loads((cut / "run.json").read_text())["state"] == "finished"


def test_a_resumed_run_takes_steps_of_the_same_kind(
    fit: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    run = fit("a", "--trainer.max_epochs", "3", "--trainer.accumulate_grad_batches", "2")
    assert "167 × 2 accumulated" in capsys.readouterr().out
    with pytest.raises(AssertionError):
        fit("a", "--ckpt_path", str(run / "checkpoints" / "last.ckpt"))
    assert "trainer.accumulate_grad_batches is 2 there and 1 here" in capsys.readouterr().err


def test_early_stopping_ends_the_stages_of_a_classifier(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stop = ("--trainer.callbacks", "EarlyStopping", "--trainer.callbacks.monitor", "val/loss")
    stop += ("--trainer.callbacks.patience", "1", "--trainer.callbacks.min_delta", "100")
    more = ("--model.pretrain.epochs", "5", "--model.train.epochs", "5", "--trainer.limit_val_batches", "1")
    place = ("--run.root", str(tmp_path), "--run.experiment", "e", "--run.id", "a")
    assert main(["fit", *DIGITS, *more, *place, *stop]) == 0
    said = capsys.readouterr().out
    assert "EarlyStopping on val/loss ends stage 'pretrain', epoch 2/5" in said
    assert "EarlyStopping on val/loss ends stage 'train', epoch 2/5" in said
    last = torch.load(tmp_path / "e" / "a" / "checkpoints" / "last.ckpt", weights_only=True)
    assert last["stage_epochs"] == {"pretrain": 2, "train": 2}
    assert json.loads((tmp_path / "e" / "a" / "run.json").read_text())["state"] == "finished"


def test_wandbs_own_variables_count(
    fit: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WANDB_NAME", "named")
    monkeypatch.setenv("WANDB_PROJECT", "their-project")
    monkeypatch.setenv("WANDB_RUN_GROUP", "their-group")
    run = fit("r", "--run.wandb", "offline", "--trainer.max_epochs", "1")
    path = segments(run, (run / "wandb_id").read_text().strip())[0]
    sent = next(record.run for record in records(path) if record.HasField("run"))
    assert (sent.project, sent.display_name, sent.run_group) == ("their-project", "named", "their-group")
    assert json.loads((run / "run.json").read_text())["group"] == "their-group"
    shutil.copytree(run / "wandb", run.parent / "elsewhere" / "wandb")
    assert main(["compare", str(run.parent / "elsewhere" / "wandb")]) == 0
    assert "cut short" in capsys.readouterr().out
    own = ("--trainer.logger", "WandbLogger", "--run.wandb", "offline")
    with pytest.raises(AssertionError):
        fit("twice", *own)
    assert "no WandbLogger beside the run's own" in capsys.readouterr().err
