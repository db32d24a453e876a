from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from lit_triwave.checkpoints.rebuild import load_module
from lit_triwave.cli import main
from lit_triwave.commands.inspect import figures
from lit_triwave.commands.inspect.drawing import draw
from lit_triwave.commands.inspect.subnetworks import Group, groups
from lit_triwave.commands.inspect.units import activity
from lit_triwave.construction.triangle import waves
from lit_triwave.nn.bank import TriangleBank
from tests.conftest import shared_folder
from tests.small_runs import DIGITS, FUNCTION, small_run

PLANE = ["--data.expression", "(x**2 + y**2)**1.5", "--data.domain", "{x: [-1, 1], y: [-1, 1]}"]
PLANE += ["--data.sampling", "random", "--data.test_points", "20"]
FUNCTIONS: dict[str, list[str]] = {
    "difference": [],
    "single": ["--model.wiring", "single", "--data.expression", "x**2"],
    "composition": ["--model.wiring", "composition", *PLANE],
    "sum_dense": ["--model.wiring", "sum", "--model.release", "dense", *PLANE],
    "flat": ["--model.wiring", "single", "--data.expression", "x**2", "--model.depth", "1"],
    "kaiming_plane": ["--model.initialization", "kaiming", "--model.pretrain.epochs", "0", *PLANE],
    "stack": ["--model.wiring", "stack", "--model.layers", "[2, 1]", "--model.limit.epochs", "5"],
    "deep": ["--model.depth", "9", "--model.train.epochs", "1"],
    "kaiming": ["--model.initialization", "kaiming", "--model.pretrain.epochs", "0"],
}
DIGITS_OF: dict[str, list[str]] = {
    "digits": [],
    "digits_few": ["--model.release", "dense", "--model.num_nets", "3", "--model.depth", "2"],
    "digits_dense": ["--model.release", "dense"],
    "dense_head": ["--model.head", "dense", "--model.pretrain.epochs", "0"],
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Returns the run with a name; it is trained at its first use."""
    root = shared_folder(tmp_path_factory, "inspect")

    def run(name: str) -> Path:
        if name in FUNCTIONS:
            return small_run(root, name, *FUNCTION, "--model.recruit", "false", *FUNCTIONS[name])
        return small_run(root, name, *DIGITS, *DIGITS_OF[name])

    return run


@pytest.mark.draws
@pytest.mark.parametrize(
    ("name", "pictures"),
    [
        ("difference", {"waves", "neurons", "breakpoints"}),
        ("composition", {"waves", "neurons"}),
        ("sum_dense", {"waves", "neurons"}),
        ("flat", {"waves", "neurons", "breakpoints"}),
        ("stack", {"functions", "neurons", "breakpoints"}),
        ("kaiming", {"neurons", "breakpoints"}),
        ("kaiming_plane", set()),
        ("digits", {"waves", "neurons", "activations", "peaks", "activity"}),
        ("digits_few", {"waves", "neurons", "activations", "peaks", "activity"}),
        ("digits_dense", {"waves", "neurons", "activations", "peaks", "activity"}),
        ("dense_head", {"activity"}),
    ],
)
def test_every_kind_of_checkpoint_is_described_and_drawn(name: str, pictures: set[str], runs, capsys: Any) -> None:
    run = runs(name)
    capsys.readouterr()
    assert main(["inspect", str(run)]) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    folder = run / "figures" / "inspect"
    assert {path.stem for path in folder.iterdir()} == pictures
    for path in folder.iterdir():
        with Image.open(path) as image:
            grey = image.convert("L")
            assert len(grey.getcolors()) > 10  # something is drawn
            for edge in (0, grey.width - 1):  # and nothing is cut
                assert grey.crop((edge, 0, edge + 1, grey.height)).getextrema() == (255, 255), (path.name, edge)
        assert str(path) in captured.out.replace("\n", "")
    if name == "kaiming_plane":
        assert "no neurons.png: the network has 2 inputs" in captured.out
    if name in ("composition", "sum_dense", "kaiming_plane"):
        assert "no breakpoints.png: the target has 2 variables" in captured.out


def test_the_facts_are_those_of_the_run(runs, capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    run = runs("difference")
    capsys.readouterr()
    assert main(["inspect", str(run), "--out", str(run / "pictures")]) == 0
    text = capsys.readouterr().out
    module = load_module(run).module
    best = int(module.best_replica)
    now, before = module.linear_regions(best), int(module.pretrain_regions[best])
    for words in (
        "FunctionRegressor",
        "stage 'train', epoch 5/5",
        "FunctionDataModule x**3 - x",
        f"3, the best one is {best}; seed {best} is shown",
        f"{before} at the end of pretraining, {now} now",
        "x in [-1, 1]",
        "constructed, wiring difference",
        "moved since the release",
    ):
        assert words in text, words
    assert before == 2 * 2**3 - 1
    for value in module.network.bank.released_peaks[best].flatten().tolist():
        assert f"{value:.3f}" in text


def test_scales_are_those_before_the_release_or_relative_ones(runs, tmp_path: Path) -> None:
    run = runs("difference")
    last = load_module(run)
    seed = last.seed()
    (known,) = groups(last, seed)
    constructed = load_module(run / "checkpoints" / "pretrained.ckpt").module.network.bank
    assert known.constructed is not None and torch.equal(known.scales, constructed.scales[seed])
    loose = shutil.copy(run / "checkpoints" / "last.ckpt", tmp_path / "loose.ckpt")
    (relative,) = groups(load_module(loose), seed)
    assert relative.constructed is None and relative.distance(recruited=False) == {}
    torch.testing.assert_close(relative.scales, known.scales / known.scales[:, :1])


def test_moved_weights_are_measured_from_the_construction(runs) -> None:
    saved = load_module(runs("digits"))
    (group,) = groups(saved, 0)
    assert all(0 < share < 0.5 for share in group.distance(recruited=False).values())
    group.bank.load_state_dict(released(group.constructed).state_dict())
    assert group.distance(recruited=False) == {"input": 0, "hidden": 0, "output": 0}
    assert group.off_diagonal() is None
    (dense,) = groups(load_module(runs("digits_dense")), 0)
    share = dense.off_diagonal()
    blocks = torch.block_diag(*[torch.ones(4, 4)] * 8).bool()
    squares = dense.bank.hidden_weight.double().square()
    assert share == pytest.approx(float(squares[:, ~blocks].sum() / squares.sum())) and share > 0


def released(bank: Any) -> Any:
    other = copy.deepcopy(bank)
    other.release("blocks")
    return other


@pytest.mark.parametrize("name", ["difference", "digits", "digits_dense"])
def test_a_drawn_subnetwork_is_the_banks(name: str, runs) -> None:
    saved = load_module(runs(name))
    for checkpoint in (saved, load_module(saved.path.with_name("pretrained.ckpt"))):
        (group,) = groups(checkpoint, checkpoint.seed())
        u = torch.linspace(0, 1, 33, dtype=torch.float64)
        n = len(group.labels)
        j = n - 1
        inputs = torch.full((33, n), 0.5, dtype=torch.float64)
        inputs[:, group.shares[j]] = u[:, None]
        expected = group.bank.double()(inputs)[:, j]
        torch.testing.assert_close(group.outputs(j, u), expected, rtol=0, atol=1e-5)
        ends, values = group.wave(j, 2)
        torch.testing.assert_close(waves(ends, group.peaks[j, :3])[:, 2], values.double(), rtol=0, atol=1e-9)


def test_dead_neurons_are_those_that_are_zero_everywhere(runs) -> None:
    saved = load_module(runs("kaiming"))
    found = activity(saved, 0)
    network = saved.module.network
    network.bias[0][0] -= 100  # no neuron of the first layer can be above zero any more
    after = activity(saved, 0)
    assert bool((after.layers[0] == 0).all()) and after.dead > found.dead
    assert found.neurons == after.neurons == 4 * 3
    assert all(bool(((layer == 0) | (layer == 1)).all()) for layer in after.layers)  # all that follows is constant


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_run_and_inspect_count_the_same_dead_neurons(name: str, runs, monkeypatch: pytest.MonkeyPatch) -> None:
    run = runs(name)
    saved = load_module(run)
    data = saved.data()
    data.setup("fit")
    monkeypatch.setattr(
        "lit_triwave.commands.inspect.units._domain_points", lambda saved: (data.train_set.x, "the same")
    )
    found = activity(saved, saved.seed())
    assert found.dead / found.neurons == json.loads((run / "summary.json").read_text())["dead_units"]
    subnetworks = {"difference": 2, "composition": 3, "sum_dense": 2, "deep": 2, "stack": 3}
    assert found.neurons == 4 * {"deep": 9, "flat": 1}.get(name, 3) * subnetworks.get(name, 1)


def test_a_figure_of_many_layers_shows_the_first_and_the_last() -> None:
    assert figures.shown_layers(3) == [0, 1, 2]
    assert figures.shown_layers(16) == [0, 1, 2, 3, 4, 15]


@pytest.mark.parametrize(
    ("depth", "words"), [(6, ""), (7, ", without hidden layer 6"), (9, ", without hidden layers 6 to 8")]
)
def test_a_figure_says_which_layers_it_leaves_out(depth: int, words: str) -> None:
    assert figures.left_out(figures.shown_layers(depth), "hidden layer", 1) == words
    figure = figures.activity_figure([torch.rand(12)] * depth, "all", "some neurons")
    assert figure.get_suptitle().replace("\n", " ") == f"some neurons{words}"


def test_each_neuron_of_a_random_start_has_a_colour_and_there_is_a_key() -> None:
    x = torch.linspace(0, 1, 5)
    row = figures.Row("", "x", [(x, torch.rand(5, 16))] * 2)
    panel, _, key = figures.neurons_figure([row], [0, 1], "neurons").axes
    assert len({tuple(line.get_color()) for line in panel.lines}) == 16
    assert key.get_ylabel() == "neuron of the layer"


def test_the_bars_of_all_neurons_are_as_wide() -> None:
    figure = figures.activity_figure([torch.linspace(0.1, 1, 12)], "all", "neurons")
    (ax,) = figure.axes
    edges = ax.patches[0].get_data().edges
    assert list(edges) == list(range(13)) and ax.get_xlim() == (0, 12)


def test_a_loose_checkpoint_is_drawn_in_the_present_folder(runs, tmp_path: Path, monkeypatch: Any, capsys: Any) -> None:
    shutil.copy(runs("difference") / "checkpoints" / "last.ckpt", tmp_path / "loose.ckpt")
    monkeypatch.chdir(tmp_path)
    assert main(["inspect", "loose.ckpt", "--seed", "2"]) == 0
    assert (tmp_path / "inspect" / "waves.png").is_file()
    assert "seed 2 is shown" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["{run}/checkpoints/lost.ckpt"], "lost.ckpt: no such file; did you mean 'last.ckpt'?"),
        (["{run}", "--seed", "9"], "error: --seed must be one that the checkpoint has (3 seeds, 0 to 2), got 9"),
        (["{run}", "--out", "{run}/config.yaml"], "cannot be written"),
        (["{run}/../.."], "*/checkpoints/last.ckpt in it; experiments in it: "),
    ],
)
def test_bad_input_is_one_line(args: list[str], message: str, runs, capsys: Any) -> None:
    run = runs("difference")
    capsys.readouterr()
    assert main(["inspect", *[arg.format(run=run) for arg in args]]) == 1
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


def damaged(run: Path, folder: Path, parameter: str, where: Any = ...) -> Path:
    """A copy of a run's last checkpoint with NaN in a parameter."""
    content = torch.load(run / "checkpoints" / "last.ckpt", weights_only=False)
    content["state_dict"][parameter][where] = torch.nan
    torch.save(content, folder / "damaged.ckpt")
    return folder / "damaged.ckpt"


@pytest.mark.parametrize("parameter", ["network.backbone.0.weight", "network.head.layers.bank.hidden_bias"])
def test_a_classifier_that_is_not_finite_is_refused(parameter: str, runs, tmp_path: Path, capsys: Any) -> None:
    path = damaged(runs("digits"), tmp_path, parameter)
    capsys.readouterr()
    assert main(["inspect", str(path), "--out", str(tmp_path / "out")]) == 1
    captured = capsys.readouterr()
    assert captured.err == f"error: checkpoint {path} has weights that are not finite: {parameter}\n"
    assert captured.out == "" and not (tmp_path / "out").exists()


@pytest.mark.parametrize(("name", "parameter"), [("difference", "bank.hidden_weight"), ("kaiming", "weight.1")])
def test_a_lost_seed_is_left_out(
    name: str, parameter: str, runs, tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    module = load_module(runs(name)).module
    best = int(module.best_replica)
    lost, other = (best + 1) % 3, (best + 2) % 3
    path = damaged(runs(name), tmp_path, f"network.{parameter}", lost)
    place = [str(path), "--out", str(tmp_path / "out")]
    capsys.readouterr()
    counts = [module.linear_regions(seed) for seed in (best, other)]
    for args, shown in (([], best), (["--seed", str(other)], other)):
        assert main(["inspect", *place, *args]) == 0
        text = capsys.readouterr().out
        assert (
            f"seed {shown} is shown" in text and f"not finite, seed {lost}" in text and f"network.{parameter};" in text
        )
        assert f"the 2 finite seeds {min(counts)} to {max(counts)}" in text
    assert main(["inspect", *place, "--seed", str(lost)]) == 1
    error = capsys.readouterr().err
    assert error == f"error: checkpoint {path} has weights that are not finite in seed {lost}: network.{parameter}\n"


def test_without_the_best_seed_the_next_is_shown(runs, tmp_path: Path, capsys: Any) -> None:
    module = load_module(runs("difference")).module
    best = int(module.best_replica)
    path = damaged(runs("difference"), tmp_path, "network.bank.output_bias", best)
    errors = module.train_mse.clone()
    errors[best] = torch.inf
    assert main(["inspect", str(path), "--out", str(tmp_path / "out")]) == 0
    assert f"seed {int(errors.argmin())} is shown" in capsys.readouterr().out
    path = damaged(runs("difference"), tmp_path, "network.bank.output_bias")
    assert main(["inspect", str(path)]) == 1
    assert "not finite in all seeds: network.bank.output_bias" in capsys.readouterr().err


def test_a_place_that_cannot_be_written_is_refused_before_the_work(runs, capsys: Any) -> None:
    run = runs("difference")
    capsys.readouterr()
    assert main(["inspect", str(run), "--out", str(run / "config.yaml")]) == 1
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("name", ["deep", "digits"])
def test_all_peaks_and_scales_are_shown_in_a_pipe(
    name: str, runs, capsys: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    run = runs(name)
    saved = load_module(run)
    (group,) = groups(saved, saved.seed())
    capsys.readouterr()
    assert main(["inspect", str(run), "--out", str(tmp_path)]) == 0
    text = capsys.readouterr().out
    assert "…" not in text and max(map(len, text.splitlines()[1:-1])) <= max(80, len(str(tmp_path)) + 20)
    cells = [cell.strip() for line in text.splitlines() for cell in line.split("│")]
    for value in group.peaks[0].tolist():
        assert f"{value:.3f}" in cells
    for value in group.scales[0].tolist():
        assert f"{value:.2g}" in cells


def test_float32_peaks_have_all_pieces_and_no_more() -> None:
    torch.manual_seed(0)
    bank = TriangleBank(64, 5, dtype=torch.float32)
    group = Group(bank, "subnetworks", [""] * 64, [("z", 0.0, 1.0)] * 64, [[j] for j in range(64)], bank)
    assert list(group.counts.values()) == [32] * 64


def drawn(checkpoint: Path, seed: int | None = None) -> tuple[dict[str, Any], list[str]]:
    """The figures of a checkpoint by name, and the remarks on missing figures."""
    saved = load_module(checkpoint)
    number = saved.seed(seed)
    parts = groups(saved, number)
    remarks: list[str] = []
    return dict(draw(saved, number, parts, None, remarks)), remarks


def title_of(figure: Any) -> str:
    return " ".join(figure.get_suptitle().split())


@pytest.mark.parametrize("name", ["difference", "kaiming"])
def test_figures_say_of_which_function_run_seed_and_stage_they_are(name: str, runs) -> None:
    found, _ = drawn(runs(name), seed=1)
    for figure in found.values():
        assert title_of(figure).startswith(f"x**3 - x, run {name}/a, seed 1, stage 'train', epoch 5/5: ")


def test_the_names_of_neurons_are_explained_as_what_they_began_as(runs) -> None:
    found, _ = drawn(runs("difference"))
    (legend,) = found["neurons"].legends
    assert legend.get_title().get_text() == "role of each neuron at the release"
    names = [text.get_text() for text in legend.get_texts()]
    assert [name.partition(", ")[0] for name in names] == ["sum", "t1", "t2", "bias"]
    assert all(name.partition(", ")[2] for name in names)


def test_titles_say_how_many_of_the_subnetworks_are_shown(runs) -> None:
    found, _ = drawn(runs("digits"))
    assert {name: "of 8 subnetworks" in title_of(figure) for name, figure in found.items()} == {
        "waves": True,
        "neurons": True,
        "activations": False,  # all are shown
        "peaks": False,
    }
    assert "of 4 of 8 subnetworks" in title_of(found["waves"])
    assert all(" of 2 " not in title_of(figure) for figure in drawn(runs("difference"))[0].values())


def test_a_network_without_breakpoints_has_no_figure_of_them(runs, tmp_path: Path, capsys: Any) -> None:
    content = torch.load(runs("single") / "checkpoints" / "last.ckpt", weights_only=False)
    for parameter in ("output_weight", "hidden_weight", "input_weight"):
        content["state_dict"][f"network.bank.{parameter}"].zero_()
    torch.save(content, tmp_path / "line.ckpt")
    capsys.readouterr()
    assert main(["inspect", str(tmp_path / "line.ckpt"), "--out", str(tmp_path / "out"), "--seed", "1"]) == 0
    said = capsys.readouterr().out
    assert "no breakpoints.png: seed 1 has no breakpoint in the domain, where it is linear" in said
    assert not (tmp_path / "out" / "breakpoints.png").exists()


def test_a_file_that_is_no_checkpoint_is_said_to_be_none(tmp_path: Path, capsys: Any) -> None:
    (tmp_path / "text.ckpt").write_text("hello\n")
    assert main(["inspect", str(tmp_path / "text.ckpt")]) == 1
    error = capsys.readouterr().err
    assert "cannot be read (it is incomplete or not a checkpoint)" in error and "file of torch" not in error
    torch.save({"a": 1}, tmp_path / "other.ckpt")
    assert main(["inspect", str(tmp_path / "other.ckpt")]) == 1
    assert "it is a file of torch without a module" in capsys.readouterr().err
