from __future__ import annotations

import copy
import math
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from filelock import FileLock
from torch import Tensor, nn

from lit_triwave.checkpoints.rebuild import load_module
from lit_triwave.cli import main
from lit_triwave.commands.export.formats import SUFFIXES
from tests.conftest import REPOSITORY, shared_folder
from tests.image_data import write_imagenet
from tests.small_runs import DIGITS, FUNCTION, small_run

pytestmark = pytest.mark.xdist_group("export")  # each worker that exports imports torch's and ONNX's exporters, 3 s
F32 = ["--trainer.precision", "32-true"]
PLANE = ["--data.expression", "x**2 + exp(y)", "--data.domain", "{x: [-1, 1], y: [0, 2]}"]
PLANE += ["--data.sampling", "random", "--data.test_points", "20"]

FUNCTIONS: dict[str, list[str]] = {
    "difference, blocks": [],
    "difference, recruited": ["--model.recruit", "true", *F32],
    "single, dense": ["--model.wiring", "single", "--data.expression", "x**3", "--data.domain", "{x: [2, 5]}"],
    "sum, dense": ["--model.wiring", "sum", *PLANE, "--model.release", "dense", *F32],
    "composition, blocks": ["--model.wiring", "composition", *PLANE],
    "kaiming": ["--model.initialization", "kaiming", "--model.pretrain.epochs", "0", *F32],
}
DIGITS_OF: dict[str, list[str]] = {
    "normal": [],
    "sigmoid, dense": ["--model.squash", "sigmoid", "--model.release", "dense", "--model.dropout", "0.1"],
    "hard": ["--model.squash", "hard", "--model.backbone", "none"],
    "dense head": ["--model.head", "dense", "--model.pretrain.epochs", "0", "--model.depth", "1"],
    "dense head, batch norm": [
        *["--model.head", "dense", "--model.pretrain.epochs", "0", "--model.batch_norm", "true"],
        *["--trainer.precision", "64-true"],
    ],
}
IMAGES: dict[str, list[str]] = {
    "replaced": ["--model.backbone", "alexnet", "--model.head", "replaced", "--model.num_nets", "8"],
    "original": ["--model.head", "original", "--model.pretrain.epochs", "0"],
    "block_diagonal": ["--model.head", "block_diagonal", "--model.num_nets", "8"],
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Returns the run with a name; it is trained at its first use."""
    root = shared_folder(tmp_path_factory, "export")

    def run(name: str) -> Path:
        if name in FUNCTIONS:
            return small_run(root, name, *FUNCTION, *FUNCTIONS[name])
        if name in DIGITS_OF:
            return small_run(root, name, *DIGITS, *DIGITS_OF[name])
        data = root / "images"
        with FileLock(root / "data.lock"):
            if not data.is_dir():
                write_imagenet(data, classes=6, train=2, val=1)
        args = [
            "--config",
            str(REPOSITORY / "configs/imagenet_vgg16.yaml"),
            "--data.root",
            str(data),
            "--data.batch_size",
            "6",
        ]
        args += ["--data.image_size", "64", "--data.workers", "0", "--model.backbone", "mobilenet_v3_small"]
        args += ["--trainer.accelerator", "cpu", *F32, "--model.depth", "2"]
        args += ["--model.pretrain.epochs", "1", "--model.train.epochs", "1", *IMAGES[name]]
        return small_run(root, name, *args, "--trainer.limit_train_batches", "1", "--run.wandb", "disabled")

    return run


def inputs(run: Path) -> Tensor:
    """Random inputs, for functions also outside the domain."""
    saved = load_module(run)
    if not saved.is_function:
        return torch.randn(9, *saved.module.hparams["image_shape"]).to(saved.dtype)
    scaling = saved.scaling
    return scaling.lower + scaling.span * (2 * torch.rand(301, scaling.in_features, dtype=saved.dtype) - 0.5)


def assert_equal_to_the_model(
    checkpoint: Path, network: Callable[[Tensor], Tensor], seed: int | None = None, x: Tensor | None = None
) -> None:
    """Compares batches of any size: to 1e-12 in float64 and to 1e-6 in float32.

    Functions are compared with their networks in float64, in units of the targets' range; classifiers with the model in
    float32, in units of the largest logit or of 1.
    """
    saved = load_module(checkpoint)
    x = inputs(checkpoint) if x is None else x
    module = copy.deepcopy(saved.module).double() if saved.is_function else saved.module

    def model(batch: Tensor) -> Tensor:
        return module(batch.double())[:, [saved.seed(seed)]] if saved.is_function else module(batch)

    unit = float(saved.scaling.scale if saved.is_function else model(x).abs().max().clamp_min(1))
    for batch in (x, x[:1]):
        expected, found = model(batch), network(batch)
        assert (found.shape, found.dtype) == (expected.shape, batch.dtype)
        assert (found - expected).abs().max() <= unit * (1e-12 if batch.dtype == torch.float64 else 1e-6)


def onnx_network(file: Path) -> Callable[[Tensor], Tensor]:
    onnxruntime = pytest.importorskip("onnxruntime")
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda x: torch.from_numpy(session.run(None, {name: x.numpy()})[0])


def script_network(weights: Path) -> nn.Module:
    space: dict[str, Any] = {"__file__": str(weights.with_suffix(".py")), "__name__": "exported"}
    exec(weights.with_suffix(".py").read_text(), space)
    network: nn.Module = space["load"]()
    return network


def stages(run: Path) -> list[Path]:
    """Its checkpoints: at the end of pretraining, if there was any, and at the end; of large networks that alone."""
    names = ("last",) if run.parent.name in IMAGES else ("pretrained", "last")
    return [path for name in names if (path := run / "checkpoints" / f"{name}.ckpt").is_file()]


@pytest.mark.parametrize("name", [*FUNCTIONS, *DIGITS_OF, *IMAGES])
def test_plain_pytorch_and_the_program_equal_the_model(name: str, runs, tmp_path: Path) -> None:
    for checkpoint in stages(runs(name)):
        file = tmp_path / f"{checkpoint.stem}.pt"
        assert main(["export", str(checkpoint), "--out", str(file)]) == 0
        network = script_network(file)
        assert_equal_to_the_model(checkpoint, network)
        kinds = {type(module) for module in network.modules()}
        assert {kind.__module__.partition(".")[0] for kind in kinds} <= {"torch", "torchvision", "exported"}
        if name in FUNCTIONS:
            own = {kind for kind in kinds if kind.__module__ == "exported"}
            assert kinds - own == {nn.Sequential, nn.Linear, nn.ReLU}
            single = load_module(checkpoint).dtype == torch.float32
            assert [kind.__name__ for kind in own] == (["InFloat64"] if single else [])
    if name in IMAGES:  # takes seconds, and `replaced` has its turn below
        return
    program = file.with_suffix(".pt2")
    assert main(["export", str(checkpoint), "--format", "program", "--out", str(program)]) == 0
    assert_equal_to_the_model(checkpoint, torch.export.load(program).module())


# ONNX is written of the plain network, which the test above compares for all runs. Of functions its kinds are enough:
# in float64, of a checkpoint of each stage, and within float32.
@pytest.mark.parametrize(
    "name",
    [
        *["difference, blocks", "single, dense", "sum, dense"],
        *["normal", "sigmoid, dense", "hard", "dense head", "replaced"],
    ],
)
def test_onnx_equals_the_model(name: str, runs, tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    checkpoint = stages(runs(name))[-1 if name in ("single, dense", "normal") else 0]
    file = tmp_path / "model.onnx"
    assert main(["export", str(checkpoint), "--format", "onnx", "--out", str(file)]) == 0
    assert_equal_to_the_model(checkpoint, onnx_network(file))


def test_the_stages_of_the_matrix_are_both_there(runs) -> None:
    names = [path.stem for path in stages(runs("single, dense"))]
    assert names == ["pretrained", "last"]
    assert [load_module(path).module.stage for path in stages(runs("single, dense"))] == ["pretrain", "train"]


ELSEWHERE = """
import runpy, sys
sys.modules["lit_triwave"] = sys.modules["datamodules"] = sys.modules["lightning"] = None  # not to be imported
import torch
for folder in sys.argv[1:]:
    script = runpy.run_path(folder + "/model.py")
    state = torch.load(folder + "/model.pt", weights_only=True)
    assert all(type(value) is torch.Tensor for value in state.values())
    x = torch.load(folder + "/x.pt")
    program = torch.export.load(folder + "/model.pt2").module()
    torch.save([torch.cat([f(x), f(x[:1])]).detach() for f in (script["load"](), program)], folder + "/y.pt")
    print(script["ABOUT"]["title"])
"""


def test_exports_load_where_nothing_of_ours_is_installed(runs, tmp_path: Path) -> None:
    titles = {"difference, blocks": "x**3 - x, ", "replaced": "6 classes of images, "}
    folders = [tmp_path / name for name in ("function", "images")]
    given = [inputs(runs(name)) for name in titles]
    for name, folder, x in zip(titles, folders, given, strict=True):
        folder.mkdir()
        torch.save(x, folder / "x.pt")
        for kind, suffix in (("torch", "pt"), ("program", "pt2")):
            assert main(["export", str(runs(name)), "--format", kind, "--out", str(folder / f"model.{suffix}")]) == 0
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    command = [sys.executable, "-I", "-c", ELSEWHERE, *map(str, folders)]
    done = subprocess.run(command, cwd=elsewhere, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for name, folder, x, title in zip(titles, folders, given, done.stdout.splitlines(), strict=True):
        assert title.startswith(titles[name])
        for y in torch.load(folder / "y.pt"):
            answers = {len(x): y[: len(x)], 1: y[len(x) :]}
            assert_equal_to_the_model(runs(name), lambda batch, answers=answers: answers[len(batch)], x=x)


def test_no_file_says_where_it_was_written(runs, tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    run = runs("normal")
    for kind, suffix in (("torch", "pt"), ("program", "pt2"), ("onnx", "onnx")):
        assert main(["export", str(run), "--format", kind, "--out", str(tmp_path / f"model.{suffix}")]) == 0
    for file in tmp_path.iterdir():
        content = file.read_bytes()
        for place in (REPOSITORY, Path.home(), run, tmp_path, Path(torch.__file__).parent):
            assert str(place).encode() not in content, file


def test_the_report_says_what_was_written(runs, tmp_path: Path, capsys: Any) -> None:
    run = runs("difference, blocks")
    assert main(["export", str(run), "--seed", "1"]) == 0
    lines = capsys.readouterr().out.splitlines()
    written = [line.split()[1].rstrip(",") for line in lines if line.startswith("written")]
    assert [Path(name) for name in written] == [run / "exported" / f"last-seed1.{end}" for end in ("pt", "py")]
    assert any("x (batch, 1) float64: x in [-1, 1]" in line for line in lines)
    assert any(line.startswith("difference") and "of the targets' range" in line for line in lines)
    assert_equal_to_the_model(run, script_network(run / "exported" / "last-seed1.pt"), seed=1)


@pytest.mark.lowest
def test_onnx_tells_domain_and_classes_in_its_metadata(runs, tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    about = {}
    for name in ("difference, blocks", "normal"):
        file = tmp_path / f"{name}.onnx"
        assert main(["export", str(runs(name)), "--format", "onnx", "--out", str(file)]) == 0
        model = onnx.load(file)
        about[name] = {entry.key: entry.value for entry in model.metadata_props}
        about[name]["names"] = (model.graph.input[0].name, model.graph.output[0].name)
    assert about["difference, blocks"]["domain"] == '{"x": [-1.0, 1.0]}'
    assert about["difference, blocks"]["target"] == "x**3 - x"
    assert about["difference, blocks"]["names"] == ("x", "value")
    assert about["normal"]["classes"] == str([*"0123456789"]).replace("'", '"')
    assert about["normal"]["names"] == ("images", "logits")


# All formats are written from one plain network, which is looked at as `torch` for each of them.
FLOAT64 = [name for name, args in FUNCTIONS.items() if args[-1:] != F32[-1:]]


@pytest.mark.parametrize(
    ("name", "kind"), [*((name, "torch") for name in FLOAT64), (FLOAT64[0], "program"), (FLOAT64[-1], "onnx")]
)
def test_a_float64_model_takes_and_gives_float32_when_asked(name: str, kind: str, runs, tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    checkpoint, file = stages(runs(name))[-1], tmp_path / f"model{SUFFIXES[kind]}"
    assert main(["export", str(checkpoint), "--format", kind, "--out", str(file), "--float32"]) == 0
    network = {"torch": script_network, "onnx": onnx_network}.get(kind, lambda file: torch.export.load(file).module())
    assert_equal_to_the_model(checkpoint, network(file), x=inputs(checkpoint).float())


@pytest.mark.parametrize("name", FUNCTIONS)
def test_arithmetic_in_float32_is_for_those_who_have_nothing_else(name: str, runs, tmp_path: Path) -> None:
    run, file = runs(name), tmp_path / "model.pt"
    assert main(["export", str(run), "--out", str(file), "--float32", "--arithmetic", "float32"]) == 0
    assert {value.dtype for value in torch.load(file, weights_only=True).values()} == {torch.float32}
    network = script_network(file)
    assert {type(module) for module in network.modules()} == {nn.Sequential, nn.Linear, nn.ReLU}
    saved, x = load_module(run), inputs(run).float()
    exact = saved.module.double()(x.double())[:, [saved.seed()]]
    assert (network(x) - exact).abs().max() <= 5e-6 * saved.scaling.scale


def test_a_classifier_computes_in_float64_when_asked(runs, tmp_path: Path) -> None:
    run, file = runs("normal"), tmp_path / "model.pt"
    assert main(["export", str(run), "--out", str(file), "--arithmetic", "float64"]) == 0
    x = inputs(run)
    exact = copy.deepcopy(load_module(run).module).double()(x.double())
    torch.testing.assert_close(script_network(file)(x), exact.float(), rtol=1e-6, atol=1e-7)


STEEP = ["--config", "configs/stack.yaml", "--data.expression", "1e8 + sin(40*x)", "--data.domain", "{x: [0, 1]}"]
STEEP += ["--data.points", "300", "--model.replicas", "1", "--model.limit.epochs", "12", "--model.depth", "20"]


def test_a_stack_whose_own_rounding_is_more_than_the_limit_is_exported(runs, tmp_path: Path) -> None:
    assert main(["fit", *STEEP, "--run.root", str(tmp_path), "--run.id", "r"]) == 0
    run, file = tmp_path / "stack" / "r", tmp_path / "model.pt"
    assert main(["export", str(run), "--out", str(file)]) == 0
    saved, x = load_module(run), inputs(run)
    expected, found = saved.module(x)[:, [saved.seed()]], script_network(file)(x)
    assert 1e-12 < (found - expected).abs().max() / saved.scaling.scale.max() < 1e-6


def test_nothing_is_overwritten_unasked_nor_left_when_it_is_not_the_model(
    runs, tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, file = runs("difference, blocks"), tmp_path / "model.pt"
    file.with_suffix(".py").write_text("mine")
    assert main(["export", str(run), "--out", str(file)]) == 1
    assert "model.py exists: give --overwrite, or another --out" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["model.py"]
    from lit_triwave.commands.export import command

    def another(*args: Any) -> nn.Module:
        network = plain_network(*args)
        list(network.modules())[-1].bias += 1e-6
        return network

    plain_network = command.plain_network
    monkeypatch.setattr(command, "plain_network", another)
    assert main(["export", str(run), "--out", str(file), "--overwrite"]) == 1
    assert "not written: the torch file differs from the model by" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["model.py"]
    assert file.with_suffix(".py").read_text() == "mine"


@pytest.mark.parametrize(
    ("args", "message", "code"),
    [
        (["nowhere.ckpt"], "error: checkpoint nowhere.ckpt: no such file", 1),
        (["{run}/config.yaml"], "cannot be read", 1),
        (["{run}/figures"], "must be the folder of a run or an experiment", 1),
        (["{run}/state.pt"], "cannot be read (it is a file of torch without a module)", 1),
        (["{run}/foreign.ckpt"], "must be of FunctionRegressor or ImageClassifier, got somewhere.Else", 1),
        (["{run}/older.ckpt"], "is of another version of lit_triwave: FunctionRegressor has no neurons here", 1),
        (["{run}/shapes.ckpt"], "is of another version of lit_triwave", 1),
        (["{run}/stage_nan.ckpt"], "must be one of 0 (pretrain), 1 (train), 2 (polish), 3 (limit), got nan", 1),
        (["{run}/stage_99.ckpt"], "must be one of 0 (pretrain), 1 (train), 2 (polish), 3 (limit), got 99", 1),
        (["{run}/stage_-1.ckpt"], ", got -1", 1),
        (["{run}/stage_two.ckpt"], ", got [0, 1]", 1),
        (["{run}", "--seed", "3"], "error: --seed must be one that the checkpoint has (3 seeds, 0 to 2), got 3", 1),
        (
            ["{run}", "--format", "onx"],
            "--format must be one of torch, program, onnx, got onx; did you mean 'onnx'?",
            2,
        ),
        (
            ["{run}", "--arithmetic", "float16"],
            "--arithmetic must be one of float32, float64, got float16; did you mean",
            2,
        ),
        (
            ["{run}", "--arithmetic", "float32"],
            "--arithmetic must be float64 for a float64 model, got float32: give --float32",
            1,
        ),
        (["{run}", "--out", "a.onnx"], "--out must end in .pt for --format torch, got a.onnx", 2),
        (["{run}", "--out", "{run}/config.yaml/x.pt"], "cannot be written", 1),
        ([], "checkpoint", 2),
    ],
)
def test_bad_input_is_one_line(args: list[str], message: str, code: int, damaged: Path, capsys: Any) -> None:
    capsys.readouterr()
    assert main(["export", *[arg.format(run=damaged) for arg in args]]) == code
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


@pytest.fixture(scope="module")
def damaged(runs, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns a copy of a run with more checkpoints that cannot be exported."""
    run = tmp_path_factory.mktemp("damaged") / "a"
    shutil.copytree(runs("difference, blocks"), run)
    content = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
    arguments = content["hyper_parameters"]
    torch.save(content["state_dict"], run / "state.pt")
    torch.save(content | {"hyper_parameters": arguments | {"_class_path": "somewhere.Else"}}, run / "foreign.ckpt")
    torch.save(content | {"hyper_parameters": arguments | {"neurons": 4}}, run / "older.ckpt")
    torch.save(content | {"hyper_parameters": arguments | {"depth": 4}}, run / "shapes.ckpt")
    for word, number in {"nan": math.nan, "99": 99, "-1": -1, "two": [0, 1]}.items():
        state = content["state_dict"] | {"stage_number": torch.tensor(number)}
        torch.save(content | {"state_dict": state}, run / f"stage_{word}.ckpt")
    return run


def test_onnx_without_its_packages_says_what_to_install(runs, capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    assert main(["export", str(runs("difference, blocks")), "--format", "onnx"]) == 1
    assert "onnxscript is not installed: pip install 'lit_triwave[onnx]'" in capsys.readouterr().err
    assert not (runs("difference, blocks") / "exported" / "last.onnx").exists()


def test_a_float64_convolution_that_onnxruntime_lacks_is_said(runs, capsys: Any, tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    args = ["export", str(runs("dense head, batch norm")), "--format", "onnx", "--out", str(tmp_path / "a.onnx")]
    assert main(args) == 1
    assert "onnxruntime cannot run it" in (error := capsys.readouterr().err) and "give --float32" in error
    assert list(tmp_path.iterdir()) == []
    assert main([*args, "--float32", "--arithmetic", "float64"]) == 1
    assert "give --arithmetic float32" in capsys.readouterr().err
    assert main([*args, "--float32"]) == 0
