"""Runs of the command `fit` on a device: stage switch, resume, export."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from lit_triwave.cli import main
from lit_triwave.errors import TriwaveError
from lit_triwave.modules import FunctionRegressor
from lit_triwave.modules.stages import Polish
from tests.conftest import REPOSITORY, shared_folder
from tests.gpu.devices import CUDA, on_each_device
from tests.small_runs import DIGITS, FUNCTION, small_run

POLISHED = [*FUNCTION, "--model.polish.epochs", "3"]
STACK = ["--config", str(REPOSITORY / "configs/stack.yaml"), "--model.layers", "[2, 2]", "--model.replicas", "2"]
STACK += ["--model.depth", "4", "--data.points", "200", "--data.test_points", "500", "--model.limit.epochs", "6"]
STACK += ["--model.pretrain.epochs", "2", "--model.train.epochs", "2", "--model.polish.epochs", "2"]


@pytest.fixture
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return shared_folder(tmp_path_factory, "device_runs")


def on(device: str) -> list[str]:
    return ["--trainer.accelerator", "gpu" if device == "cuda" else "cpu", "--trainer.devices", "1"]


def content(run: Path) -> dict[str, Any]:
    state: dict[str, Any] = torch.load(run / "checkpoints" / "last.ckpt", map_location="cpu", weights_only=True)
    return state


def summary(run: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run / "summary.json").read_text())
    return found


def assert_alike(one: Path, other: Path, tolerance: float) -> None:
    """Checks that the parameters of two runs differ by at most a share of the largest number of their tensor."""
    here, there = content(one)["state_dict"], content(other)["state_dict"]
    assert here.keys() == there.keys()
    for name, value in here.items():
        if name.startswith("network."):
            largest = float(value.abs().max()) if value.numel() else 0.0
            torch.testing.assert_close(there[name], value, rtol=0, atol=tolerance * largest, msg=name)


CASES = [("function", "cpu"), *(pytest.param(kind, "cuda", marks=CUDA) for kind in ("function", "stack"))]


@pytest.mark.parametrize(("kind", "device"), CASES)  # a stack passes its stages on a CPU in tests/modules
def test_a_run_on_the_device_passes_all_stages_resumes_and_is_exported(runs: Path, kind: str, device: str) -> None:
    args = STACK if kind == "stack" else POLISHED
    whole = small_run(runs, f"{kind} on {device}", *args, *on(device))
    assert summary(whole)["stage"] == "polish"
    stopped = small_run(runs, f"{kind} stopped on {device}", *args, *on(device), "--trainer.max_epochs", "7")
    assert main(["fit", *args, *on(device), "--ckpt_path", str(stopped / "checkpoints" / "last.ckpt")]) == 0
    assert_alike(whole, stopped, 1e-6)
    if device == "cuda":
        assert main(["export", str(stopped), "--overwrite"]) == 0  # which compares the file with the model on the CPU
        on_cpu = small_run(runs, f"{kind} on cpu", *args, *on("cpu"))
        assert summary(whole)["test/mse"] == pytest.approx(summary(on_cpu)["test/mse"], rel=1e-3)


@on_each_device
@pytest.mark.parametrize("release", ["blocks", "dense"])
def test_a_classifier_in_bf16_mixed_and_channels_last_passes_the_switch_and_is_exported(
    runs: Path, device: str, release: str
) -> None:
    args = [*DIGITS, "--trainer.precision", "bf16-mixed", "--model.channels_last", "true", "--model.release", release]
    run = small_run(runs, f"digits {release} on {device}", *args, *on(device))
    found = content(run)
    assert int(found["state_dict"]["stage_number"]) == 1
    assert all(value.dtype == torch.float32 for value in found["state_dict"].values() if value.is_floating_point())
    assert summary(run)["test/accuracy"] > 0.15  # a tenth is chance
    assert main(["export", str(run), "--overwrite"]) == 0


@pytest.mark.parametrize(
    ("device", "precision", "word"), [("mps", "32-true", "accelerator"), ("cuda", "16-mixed", "precision")]
)
def test_what_no_function_can_be_fitted_on_is_refused_by_its_option(device: str, precision: str, word: str) -> None:
    module = FunctionRegressor(polish=Polish(epochs=1))
    strategy = SimpleNamespace(root_device=torch.device(device))
    module._trainer = SimpleNamespace(  # type: ignore[assignment]
        precision=precision, max_epochs=-1, fit_loop=SimpleNamespace(), strategy=strategy
    )
    with pytest.raises(
        TriwaveError, match=f"^trainer.{word} must be .*, got {device if device == 'mps' else precision}"
    ):
        module.setup("fit")
