"""Stacks on the command line: fit, resume, two ranks, inspect, export, bad input."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from lit_triwave.analysis.costs import final_parameters
from lit_triwave.callbacks.regression_summary import RegressionSummary
from lit_triwave.checkpoints.rebuild import load_module
from lit_triwave.cli import main
from lit_triwave.errors import TriwaveError
from lit_triwave.modules import FunctionRegressor
from lit_triwave.modules.limit import LimitStage
from lit_triwave.modules.stages import Limit, Polish, Stage
from lit_triwave.nn.stack import StackNetwork
from lit_triwave.nn.stack_layers import PREFERRED_LAYERS
from tests.conftest import REPOSITORY, shared_folder
from tests.finished_runs import assert_ends_alike, state
from tests.small_runs import small_run

CONFIG = str(REPOSITORY / "configs/stack.yaml")
SMALL = ["--config", CONFIG, "--model.layers", "[2, 2]", "--model.replicas", "2", "--data.points", "200"]
SMALL += ["--data.test_points", "500", "--model.limit.epochs", "20", "--model.limit.halving", "10"]
SMALL += ["--run.checkpoint_every", "1"]
LATER = ["--model.depth", "4", "--model.limit.epochs", "6", "--model.pretrain.epochs", "3", "--model.train.epochs", "3"]
LATER += ["--model.polish.epochs", "2", "--trainer.check_val_every_n_epoch", "1"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return shared_folder(tmp_path_factory, "stack_runs")


@pytest.fixture(scope="module")
def product(runs: Path) -> Path:
    """The run folder of a small stack for x·y that ends with its build."""
    return small_run(runs, "product", *SMALL)


def test_a_product_is_exact_and_the_summary_says_so(product: Path) -> None:
    summary = json.loads((product / "summary.json").read_text())
    assert summary["test/mse"] < 1e-15
    assert summary["test/r2"] > 1 - 1e-13
    assert summary["limit/mse"] < 1e-24
    assert summary["stage"] == "limit"  # the last one with epochs, as `inspect` shows it
    assert summary["depth"] == load_module(product).module.network.depth
    assert summary["parameters"] == 23  # 2·(2 + 1) + 2·(4 + 1) + 6 + 1


@pytest.mark.parametrize(("last", "says"), [(0.4, True), (0.6, False), (1e-13, False)])
def test_a_limit_that_still_falls_at_its_end_says_so(last: float, says: bool, capsys) -> None:
    stage = LimitStage(StackNetwork(layers=[2], domain={"x": (0.0, 1.0)}, replicas=1), Limit(epochs=10), 3, 1, {})
    stage.late_mse = 1.0
    stage.build(torch.tensor([last]), [0])
    assert ("the limit was still falling, from 1.0e+00" in capsys.readouterr().out) is says


@pytest.mark.parametrize(("test", "says"), [(2e-6, True), (5e-7, False)])
def test_a_part_that_lies_between_the_points_is_noted(test: float, says: bool) -> None:
    data = SimpleNamespace(noise=0.0, target_name="f", test_set=SimpleNamespace(y=torch.tensor([-1.0, 1.0])))
    summary = {"layers": "2", "test/r2": 0.999, "test/mse": test, "train/mse": 1e-8, "train/mse_min": 1e-8}
    summary["test/max_error"] = 0.3  # 15 % of the range
    said = RegressionSummary.remarks(SimpleNamespace(chosen="", unfinished=""), summary, data, None)  # type: ignore[arg-type]
    assert said == (["the test error is 200 times the training error: try more points"] if says else [])


def test_a_jump_is_noted() -> None:
    data = SimpleNamespace(noise=0.0, target_name="sign(x)", test_set=SimpleNamespace(y=torch.tensor([-1.0, 1.0])))
    summary = {"layers": "2", "test/r2": 0.997, "test/mse": 3e-3, "train/mse": 3e-3, "train/mse_min": 3e-3}
    summary["test/max_error"] = 1.04
    said = RegressionSummary.remarks(SimpleNamespace(chosen="", unfinished=""), summary, data, None)  # type: ignore[arg-type]
    assert said == ["the largest test error is 52% of the target range, perhaps at a jump"]


def test_few_exact_points_get_as_many_layers_as_they_determine(capsys) -> None:
    for noise, layers in (("0", "[2, 2]"), ("0.01", "[1]")):
        args = ["--data.expression", "exp(-x)", "--data.domain", "{x: [0, 5]}", "--data.points", "30"]
        args += ["--data.noise", noise, "--model.limit.epochs", "1", "--model.replicas", "1"]
        assert main(["fit", "--config", CONFIG, *args, "--trainer.fast_dev_run", "true"]) == 0
        assert f"layers {layers}, chosen for 1 input and 30 training points" in capsys.readouterr().out


def test_a_stack_stopped_in_each_stage_ends_bit_identical(runs: Path) -> None:
    whole = small_run(runs, "whole", *SMALL, *LATER)
    last = runs / "stopped" / "a" / "checkpoints" / "last.ckpt"
    resumed = ["--run.root", str(runs), "--run.experiment", "stopped", "--run.id", "a"]
    for stop in (3, 6, 11):
        assert main(["fit", *SMALL, *LATER, *resumed, "--trainer.max_epochs", str(stop)]) == 0
        assert state(last.parents[1])["epoch"] == stop - 1
        if stop == 3:  # in the limit: the test is of the network that `inspect` and `export` build of the checkpoint
            saved = load_module(last)
            x = saved.data().test_set
            error = (saved.module(x.x)[:, saved.module.best_replica] - x.y).square().mean()
            summary = json.loads((last.parents[1] / "summary.json").read_text())
            assert summary["test/mse"] == pytest.approx(float(error), rel=1e-9)
            assert summary["depth"] == saved.module.network.depth == 4
        resumed = ["--ckpt_path", str(last)]
    assert main(["fit", *SMALL, *LATER, *resumed]) == 0
    assert_ends_alike(whole, last.parents[1])


def test_a_run_keeps_the_layers_that_an_earlier_version_chose(runs: Path, monkeypatch, capsys) -> None:
    chosen = [*SMALL, "--model.layers", "null", "--model.limit.epochs", "6"]
    place = ["--run.root", str(runs), "--run.experiment", "chosen", "--run.id", "a"]
    with monkeypatch.context() as earlier:
        earlier.setitem(PREFERRED_LAYERS, 2, (3, 1))
        whole = small_run(runs, "whole_of_chosen", *chosen)
        assert main(["fit", *chosen, *place, "--trainer.max_epochs", "3"]) == 0
    last = runs / "chosen" / "a" / "checkpoints" / "last.ckpt"
    assert main(["fit", *chosen, "--ckpt_path", str(last)]) == 0
    assert "layers [3], chosen" in capsys.readouterr().out
    assert_ends_alike(whole, last.parents[1])


def test_all_stages_are_logged_with_their_own_numbers(runs: Path) -> None:
    whole = small_run(runs, "whole", *SMALL, *LATER)
    content = torch.load(whole / "checkpoints" / "last.ckpt", weights_only=True)
    assert int(content["state_dict"]["stage_number"]) == 2
    summary = json.loads((whole / "summary.json").read_text())
    assert len({summary[f"{stage}/mse"] for stage in ("limit", "pretrain", "train")}) == 3
    assert summary["depth"] == 4
    begun = FunctionRegressor(
        wiring="stack",
        layers=[2, 2],
        depth=4,
        replicas=2,
        domain={"x": (-1, 1), "y": (-1, 1)},
        pretrain=Stage(3),
        train=Stage(3),
        polish=Polish(2),
    )
    assert begun.stage == "limit"
    assert final_parameters(begun) == summary["parameters"]  # W&B is told so at the start


@pytest.mark.parametrize("command", [["inspect"], ["export", "--format", "torch"], ["export", "--format", "program"]])
def test_commands_take_a_stack(product: Path, tmp_path: Path, command: list[str], capsys) -> None:
    name = {"torch": "m.pt", "program": "m.pt2"}.get(command[-1], "figures")
    out = ["--out", str(tmp_path / name)]
    assert main([command[0], str(product), *command[1:], *out]) == 0
    if command == ["inspect"]:
        assert list((tmp_path / "figures").glob("*.png"))


def test_test_and_predict_take_a_stack(product: Path) -> None:
    before = json.loads((product / "summary.json").read_text())["test/mse"]
    for command in ("test", "predict"):
        assert (
            main(
                [
                    command,
                    "--config",
                    str(product / "config.yaml"),
                    "--ckpt_path",
                    str(product / "checkpoints/last.ckpt"),
                ]
            )
            == 0
        )
    assert json.loads((product / "summary.json").read_text())["test/mse"] == pytest.approx(before, rel=1e-6, abs=1e-24)
    assert (product / "predictions.csv").is_file()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--model.layers", "[2, 0]"], "layers must be numbers from 1 to 4096"),
        (["--model.layers", "[60, 60]"], "layers must have at most one parameter for each of the 200 training points"),
        (
            ["--model.limit.max_points", "5"],
            "for each of the 5 points of limit.max_points, got [2, 2] with 23: take fewer",
        ),
        (
            ["--model.layers", "null", "--data.points", "5"],
            "for each of the 5 training points, got [1] with 7: take more points",
        ),
        (["--model.depth", "40"], "depth of a stack must be 1 to 26"),
        (["--data.domain", "{x: [1, 1], y: [0, 1]}"], "domain of x must have lower < upper, got 1.0 and 1.0"),
        (["--data.expression", "x/y"], "must be bounded on the whole domain, but it grows without bound near"),
        (["--data.expression", "log(x+1) + y"], "must be finite on the whole domain"),
        (["--model.wiring", "difference", "--model.layers", "null"], "only a stack has a limit"),
        (["--model.limit.epochs", "0"], "limit.epochs must be at least 1"),
        (["--model.members", "0"], "members must be at least 1, got 0"),
        (
            [
                "--model.wiring",
                "difference",
                "--model.limit.epochs",
                "0",
                "--model.layers",
                "null",
                "--model.members",
                "2",
            ],
            "only a stack has members",
        ),
    ],
    ids=lambda value: value[-1] if isinstance(value, list) else "",
)
def test_bad_input_is_one_line(tmp_path: Path, options: list[str], message: str, capsys) -> None:
    assert main(["fit", *SMALL, "--run.root", str(tmp_path), *options]) == 1
    error = capsys.readouterr().err.strip()
    assert message in error and error.count("\n") == 0 and error.startswith("error: ")
    assert not list(tmp_path.rglob("*.ckpt"))


def test_a_constant_is_fitted_without_a_word_about_its_variance(tmp_path: Path, capsys) -> None:
    options = ["--data.expression", "2", "--model.limit.epochs", "2"]
    assert main(["fit", *SMALL, "--run.root", str(tmp_path), *options]) == 0
    captured = capsys.readouterr()
    assert "warning" not in (captured.out + captured.err).lower()
    (summary,) = tmp_path.rglob("summary.json")
    assert json.loads(summary.read_text())["test/mse"] == 0 and "test/r2" not in json.loads(summary.read_text())


def test_a_fit_that_explains_too_little_says_what_to_try(tmp_path: Path, capsys) -> None:
    options = ["--model.layers", "[1]", "--data.expression", "sin(9*x)*cos(7*y)", "--model.limit.epochs", "2"]
    assert main(["fit", *SMALL, "--run.root", str(tmp_path), *options]) == 0
    assert "of the variance" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (
            ["--model.pretrain.epochs", "3", "--model.pretrain.optimizer", "Adam"],
            "stage pretrain raised the error from",
        ),
        (["--model.train.epochs", "3", "--model.train.lr", "0.1"], "stage train raised the error from"),
        (["--model.depth", "1"], "depth 1 is too small, set model.depth to null"),
    ],
)
def test_what_made_an_exact_limit_worse_is_said(tmp_path: Path, options: list[str], says: str, capsys) -> None:
    assert main(["fit", *SMALL, "--run.root", str(tmp_path), *options]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert says in said and "more layers" not in said


@pytest.mark.parametrize("halving", [0, 1])
def test_seeds_that_stopped_early_are_in_no_mean(tmp_path: Path, halving: int, capsys) -> None:
    options = ["--model.limit.epochs", "2", "--model.limit.halving", str(halving)]
    assert main(["fit", *SMALL, "--run.root", str(tmp_path), *options]) == 0
    said = capsys.readouterr().out
    assert ("mean of 2 seeds" in said) == (not halving)
    assert ("(best of 2 seeds)" in said) == ("lowest of 2 seeds" in said) == bool(halving)


def test_layers_are_chosen_for_one_input(tmp_path: Path, capsys) -> None:
    options = ["--model.layers", "null", "--data.expression", "x**2", "--data.domain", "{x: [0, 1]}"]
    assert main(["fit", *SMALL, "--run.root", str(tmp_path), *options, "--model.limit.epochs", "2"]) == 0
    assert "chosen for 1 input and 200 training points" in capsys.readouterr().out


def test_a_checkpoint_without_the_error_of_the_built_network_is_loaded(product: Path, tmp_path: Path) -> None:
    content = torch.load(product / "checkpoints" / "last.ckpt", weights_only=True)
    assert content["state_dict"].pop("built_mse").isfinite().all()
    torch.save(content, tmp_path / "earlier.ckpt")
    assert load_module(tmp_path / "earlier.ckpt").module.built_mse.isnan().all()


def test_a_saved_run_of_few_points_opens_and_resumes_and_a_new_one_is_refused(product: Path, tmp_path: Path) -> None:
    content = torch.load(product / "checkpoints" / "last.ckpt", weights_only=True)
    content["run"]["model"]["limit"]["max_points"] = 5  # fewer than the 23 parameters
    torch.save(content, tmp_path / "old.ckpt")
    module = load_module(tmp_path / "old.ckpt").module
    module.check_start()
    new = FunctionRegressor(**module.hparams, limit=module.stages["limit"])
    with pytest.raises(TriwaveError, match=r"for each of the 5 points of limit.max_points, got .* with 23"):
        new.check_start()


def test_inspect_has_one_line_for_each_layer_as_it_was_built(product: Path, tmp_path: Path, capsys) -> None:
    assert main(["inspect", str(product), "--out", str(tmp_path)]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "layer 2: all peaks a_i = 1/2, each scale s_i a quarter of the last, as built" in said
    assert "0.500" not in said
    assert "23 of each seed of its limit, from which" in said


def test_inspect_shows_the_peaks_that_a_stage_has_moved(runs: Path, tmp_path: Path, capsys) -> None:
    moved = small_run(runs, "moved", *SMALL, "--model.pretrain.epochs", "9", "--model.pretrain.optimizer", "Adam")
    assert main(["inspect", str(moved), "--out", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    assert "as built" not in said and "of its limit" not in said and "peaks a_i" in said
