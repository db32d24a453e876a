"""Damaged, forged and foreign checkpoints are refused in one line that says what is wrong with them."""

from __future__ import annotations

import random
import re
import resource
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any
from zipfile import ZIP_DEFLATED, ZipFile

import pytest
import torch

from benchmarks.flipped_bits import flipped
from lit_triwave.checkpoints.load import load_checkpoint
from lit_triwave.cli import main
from tests.checkpoints.test_earlier_versions import SAVED
from tests.commands.inspect.test_inspect import FUNCTIONS
from tests.conftest import REPOSITORY, shared_folder
from tests.small_runs import DIGITS, FUNCTION, small_run


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a run that its number of epochs stopped inside the last stage."""
    monkeypatch.chdir(REPOSITORY)
    return Path(shutil.copytree(SAVED, tmp_path / "x3_minus_x" / "r"))


def last(run: Path) -> Path:
    return run / "checkpoints" / "last.ckpt"


def resume(run: Path) -> int:
    longer = ["--model.polish.epochs", "2", "--run.wandb", "disabled"]
    return main(["fit", "--config", str(run / "config.yaml"), "--ckpt_path", str(last(run)), *longer])


def line(capsys: pytest.CaptureFixture[str]) -> str:
    """The one line on standard error since the last call."""
    (text,) = capsys.readouterr().err.splitlines()
    return text


def test_each_flipped_bit_that_changes_the_content_is_refused(run: Path, tmp_path_factory: Any) -> None:
    shared = shared_folder(tmp_path_factory, "inspect")
    stack = small_run(shared, "stack", *FUNCTION, "--model.recruit", "false", *FUNCTIONS["stack"])
    digits = small_run(shared, "digits", *DIGITS)
    for source in (last(run), *(other / "checkpoints" / "pretrained.ckpt" for other in (stack, digits)), last(digits)):
        copy = Path(shutil.copy(source, run / "copy.ckpt"))
        changed, refused = flipped(copy, 40, random.Random(0))
        assert changed == refused > 10, source
        assert copy.read_bytes() == source.read_bytes()


def test_where_the_last_checkpoint_is_damaged_a_whole_one_is_offered_by_a_command(run: Path, capsys) -> None:
    content = bytearray(last(run).read_bytes())
    content[content.index(b"archive/data/3") + 80] ^= 1
    last(run).write_bytes(content)
    last(run).with_name("best.ckpt").write_bytes(content)
    assert resume(run) == 1
    said = line(capsys)
    assert f"checkpoint {last(run)} cannot be read (it is damaged: the checksum of archive/data/" in said
    command = re.search(r"pretrained.ckpt beside it is whole, resume from it with: python -m lit_triwave (.*)", said)
    assert command is not None
    assert main([*command[1].split(), "--run.wandb", "disabled"]) == 0
    load_checkpoint(last(run))


def hyper(**values: Any) -> dict[str, Any]:
    """Hyperparameters, some of them changed."""
    return load_checkpoint(SAVED / "checkpoints" / "last.ckpt")["hyper_parameters"] | values


def weights(change: Callable[[torch.Tensor], Any]) -> dict[str, Any]:
    """A state dict in which one tensor of weights is replaced."""
    state = load_checkpoint(SAVED / "checkpoints" / "last.ckpt")["state_dict"]
    return {"state_dict": state | {"network.bank.input_weight": change(state["network.bank.input_weight"])}}


def shared(levels: int) -> list[Any]:
    """A list with 9^`levels` values that needs hardly any memory."""
    value: list[Any] = [0]
    for _ in range(levels):
        value = [value] * 9
    return value


FORGED = {
    "integers": (weights(lambda value: value.long()), "network.bank.input_weight of the checkpoint must be floating"),
    "complex": (
        weights(lambda value: value.to(torch.complex128)),
        "input_weight of the checkpoint must be floating-point numbers, got",
    ),
    "expanded": (weights(lambda _: torch.zeros(1).expand(10**9)), "must have all of its 1000000000 values in the file"),
    "no tensor": (weights(lambda _: "w"), "state_dict.network.bank.input_weight must be a tensor, got 'w'"),
    "epoch": ({"epoch": -3}, "epoch must be at least 0, got -3"),
    "loops": ({"loops": {"fit_loop": {"a": {"total": {"ready": -1}}}}}, "loops.fit_loop must have state_dict, "),
    "loops' kind": ({"loops": {"fit_loop": None}}, "loops.fit_loop must be a mapping, got nothing"),
    "no run": ({"run": None}, "run must be a mapping, got nothing"),
    "rows": ({"run": {"rows": [3]}}, "run.rows must be steps and metrics, got 3"),
    "bomb": ({"hyper_parameters": {"depth": shared(12)}}, "its content is not what a run saves"),
    "hyperparameters' kind": ({"hyper_parameters": []}, "hyper_parameters must be a mapping, got []"),
}
RESUMED = {
    "no optimizer": ({"optimizer_states": []}, "optimizer_states of the checkpoint must have the state of each"),
    "other optimizer": ({"optimizer_states": [{"state": {}, "param_groups": [{"betas": 1}]}]}, "optimizer_states of"),
    "no groups": ({"optimizer_states": [{}]}, "its content is not what a run saves: it has no 'param_groups'"),
    "schedules": ({"lr_schedulers": [{}]}, "lr_schedulers.0 must have a last_epoch, got {}"),
    "another class": (
        {"hyper_parameters": {"_class_path": "lit_triwave.modules.ImageClassifier"}},
        "must be of a Func",
    ),
    "no hyperparameters": ({"hyper_parameters": {}}, "must be of a FunctionRegressor, got hyperparameters of nothing"),
    "other names": ({"hyper_parameters": {"a": 1}}, "must be of a FunctionRegressor, got hyperparameters 'a'"),
    "a tensor": ({"hyper_parameters": hyper(domain=torch.ones(2))}, "is of other data: domain"),
}


@pytest.mark.parametrize("case", [*FORGED, *RESUMED])
def test_a_forged_checkpoint_is_refused_by_what_is_wrong(case: str, run: Path, capsys) -> None:
    change, says = (FORGED | RESUMED)[case]
    source = last(run).with_name("pretrained.ckpt") if case == "schedules" else last(run)
    torch.save(load_checkpoint(source) | change, last(run))
    before = {path.name for path in run.iterdir()}
    for command in (["inspect", str(run)], None) if case in FORGED else (None,):
        assert (resume(run) if command is None else main(command)) == 1
        said = line(capsys)
        assert says in said and f"checkpoint {last(run)} " in said, said
        assert not re.search(r"NoneType|object has no|Error\b", said)
    assert {path.name for path in run.iterdir()} == before


def test_a_file_that_unfolds_to_gigabytes_is_refused_unread(run: Path, capsys) -> None:
    with ZipFile(last(run)) as file:
        parts = {name: file.read(name) for name in file.namelist()}
    with ZipFile(last(run), "w", ZIP_DEFLATED) as file:
        for name, content in parts.items():
            file.writestr(name, content)
        file.writestr("archive/data/bomb", bytes(50_000_000))
    assert last(run).stat().st_size < 200_000
    assert resume(run) == 1
    assert "its parts are compressed, which no run does)" in line(capsys)


def test_a_model_far_larger_than_the_weights_is_not_built(run: Path, capsys) -> None:
    torch.save(load_checkpoint(last(run)) | {"hyper_parameters": hyper(replicas=1 << 24)}, last(run))
    limits = resource.getrlimit(resource.RLIMIT_DATA)
    assert main(["inspect", str(run)]) == 1
    assert "it asks for more memory than its weights need" in line(capsys)
    assert resource.getrlimit(resource.RLIMIT_DATA) == limits


@pytest.mark.parametrize("command", ["validate", "test", "predict"])
def test_weights_that_are_not_finite_are_not_evaluated(command: str, run: Path, capsys) -> None:
    torch.save(load_checkpoint(last(run)) | weights(lambda value: value / 0), last(run))
    assert main([command, "--config", str(run / "config.yaml"), "--ckpt_path", str(last(run))]) == 1
    assert "must be finite, got NaN or infinity in network.bank.input_weight" in line(capsys)
    assert not (run / "predictions.csv").exists()


def test_another_number_of_threads_than_the_checkpoints_is_said(run: Path, capsys) -> None:
    assert resume(run) == 0
    assert "last bits" not in capsys.readouterr().out  # an earlier version did not record them
    content = load_checkpoint(last(run))
    said = {"threads": 1, "default dtype": "torch.float32", "precision": "64-true"}
    assert content["run"]["arithmetic"] == said
    content["run"]["arithmetic"]["threads"] = 7
    torch.save(content, last(run))
    assert resume(run) == 0
    said = capsys.readouterr().out
    assert "last bits will differ from those of an uninterrupted run: threads 7 before, 1 now\n" in said
