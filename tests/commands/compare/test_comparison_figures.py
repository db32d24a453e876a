"""The content of the figures of `compare`."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text

from lit_triwave.cli import main
from lit_triwave.commands.compare.read.run_folders import read_run_folder
from lit_triwave.commands.compare.show.charts import colours
from lit_triwave.commands.compare.show.curves import Curves, read_curves
from lit_triwave.commands.compare.show.figures import cost_figure, curves_figure, parallel_figure
from lit_triwave.commands.compare.table.fields import Fields
from lit_triwave.commands.compare.table.table import Comparison, compare
from tests.compared_runs import LONG, write_diverged, write_run, write_two_functions


def comparison_of(root: Path) -> tuple[Comparison, Curves]:
    """The comparison of all runs under a folder, and its curves."""
    runs = [read_run_folder(path.parent) for path in sorted(root.rglob("run.json"))]
    comparison = compare(runs, Fields(runs))
    return comparison, read_curves(comparison, lambda done, total: None)


def drawn_figures(root: Path) -> dict[str, Figure]:
    """The figures of all runs under a folder, laid out."""
    comparison, curves = comparison_of(root)
    best = colours(comparison, curves)
    figures = {"curves": curves_figure(comparison, curves, best), "parallel": parallel_figure(comparison)}
    figures |= {cost: cost_figure(comparison, cost, best) for cost in ("parameters", "fit_seconds")}
    there = {name: figure for name, figure in figures.items() if figure is not None}
    for figure in there.values():
        figure.draw_without_rendering()
    return there


@pytest.mark.draws
def test_figures_are_drawn_for_many_rows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from matplotlib.image import imread

    curve = "step,train/mse_mean\n" + "".join(f"{step},{1 / (1 + step)}\n" for step in range(300))
    for depth in range(2, 18):
        summary = {"test/mse": 10.0**-depth, "parameters": 20 * depth, "fit_seconds": 2.0 * depth}
        write_run(tmp_path / "runs" / "x3" / str(depth), {"model.depth": depth}, summary, metrics=curve)
    assert main(["compare", str(tmp_path / "runs"), "--figures", str(tmp_path / "figures")]) == 0
    for name in ("curves", "parameters", "time", "parallel"):
        picture = imread(tmp_path / "figures" / f"{name}.png")
        assert picture.shape[0] > 500 and picture.std() > 0.02, name
    write_run(tmp_path / "bare" / "x3" / "a", {}, {"test/mse": 1.0})
    assert main(["compare", str(tmp_path / "bare"), "--figures", str(tmp_path / "none")]) == 0
    assert "curves.png: not drawn" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "none").iterdir()] == ["time.png"] or not list(
        (tmp_path / "none").iterdir()
    )


@pytest.mark.parametrize("errors", [(0.002789, 0.002813), (0.5, 20.0), (1e-9, 1.0)])
def test_figures_of_few_points_have_labelled_axes_and_a_title_beside_no_legend(
    errors: tuple[float, float], tmp_path: Path
) -> None:
    for depth, error in zip((4, 5), errors, strict=True):
        summary = {"test/mse": error, "parameters": 42_000 + depth, "fit_seconds": 1.2 * 10 ** (depth - 4)}
        long = {"model.depth": depth, "model.start": "a start with a long name " * depth}
        write_run(tmp_path / "x3" / str(depth), long, summary)
    for name, figure in drawn_figures(tmp_path).items():
        (ax,) = figure.axes
        if name != "parallel":
            for axis, (low, high) in ((ax.xaxis, ax.get_xlim()), (ax.yaxis, ax.get_ylim())):
                shown = [tick for tick in (*axis.get_major_ticks(), *axis.get_minor_ticks()) if tick.label1.get_text()]
                assert 2 <= sum(low <= tick.get_loc() <= high for tick in shown) <= 15, name
            (title,) = (text for text in ax.findobj(Text) if text.get_text() == ax.get_title(loc="left"))
            (legend,) = figure.legends
            assert not title.get_window_extent().overlaps(legend.get_window_extent()), name
            assert legend.get_window_extent().x1 <= figure.bbox.x1, name


def test_curves_that_lie_on_each_other_are_both_seen(tmp_path: Path) -> None:
    for depth, scale in {4: 1.0, 5: 1.001, 6: 2.0}.items():
        curve = "step,train/mse_mean\n" + "".join(f"{step},{scale / (1 + step)}\n" for step in range(40))
        write_run(tmp_path / "x3" / str(depth), {"model.depth": depth}, {"test/mse": 1.0 * depth}, metrics=curve)
    (ax,) = drawn_figures(tmp_path)["curves"].axes
    widths = {line.get_label(): line.get_linewidth() for line in ax.lines}
    assert widths["depth 5"] > 2 * widths["depth 4"] and widths["depth 6"] == widths["depth 4"]
    assert ax.lines[-1].get_label() == "depth 4"  # the thin one on top


def test_names_in_a_legend_are_cut_at_no_place_inside_a_word(tmp_path: Path) -> None:
    fields = [f"model.{part}.epochs_of_the_stage" for part in ("pretrain", "train", "polish", "finish")]
    for number in range(16):
        config = {field: 30 * (number >> place & 1) for place, field in enumerate(fields)}
        write_run(tmp_path / "x3" / str(number), config, {"test/mse": 1.0 + number, "parameters": number})
    comparison, _ = comparison_of(tmp_path)
    short = comparison.fields.short
    whole = {f"{short(name)} {row.values[name]}" for row in comparison.rows for name in fields} | {"6 others"}
    figure = drawn_figures(tmp_path)["parameters"]
    (legend,) = figure.legends
    texts = [re.sub(r" · \d+$", "", text.get_text()) for text in legend.get_texts()]
    assert max(len(line) for text in texts for line in text.split("\n")) <= 56
    assert {part for text in texts for part in re.split(r",\s", text.replace("\n", " "))} <= whole | {"…"}
    box = legend.get_window_extent()
    assert box.x1 <= figure.bbox.x1 and box.y0 >= 0


def test_labels_of_the_parallel_coordinates_lie_beside_the_lines(tmp_path: Path) -> None:
    for depth in (4, 5, 6):
        config = {"model.depth": depth, "model.release": "ab"[depth % 2]}
        write_run(tmp_path / "x3" / str(depth), config, {"test/mse": 1.0 * depth})
    (ax,) = drawn_figures(tmp_path)["parallel"].axes
    for text in ax.texts:
        if text.get_position()[0] < 1:  # of the first axis, whose lines go on to the right
            place = ax.transData.transform((0, {"4": 0, "5": 0.5, "6": 1}[text.get_text()]))[1]
            assert text.get_window_extent().y0 > place + 2


def test_a_legend_counts_one_other_as_one(tmp_path: Path) -> None:
    for depth in range(11):
        summary = {"test/mse": 1.0 + depth, "parameters": depth}
        write_run(tmp_path / "x3" / str(depth), {"model.depth": depth}, summary)
    (legend,) = drawn_figures(tmp_path)["parameters"].legends
    assert legend.get_texts()[-1].get_text() == "1 other"


def test_labels_keep_the_state_and_both_ends(tmp_path: Path) -> None:
    words = ["alpha", "beta", "gamma", "delta", "epsilon"]
    for number in range(4):
        config = {f"model.{word}": f"{word} with a value of many words {number}" for word in words}
        config |= {"data.expression": LONG + f" + {number}"}
        write_run(tmp_path / "x3" / str(number), config, {"test/mse": 1.0}, "running" if number % 2 else "finished")
    comparison, _ = comparison_of(tmp_path)
    for row in comparison.rows:
        label = comparison.label(row, comparison.columns, 56)
        assert len(label) <= 56
        assert label.endswith(" (running)") != row.finished
    short = comparison.label(comparison.rows[0], ["data.expression"], 30)
    assert short.startswith("sqrt(x**2") and "…" in short and short.endswith("/ 0.01) + 0")


def test_a_diverged_run_is_above_the_axes_of_the_others(tmp_path: Path) -> None:
    write_diverged(tmp_path)
    for name, figure in drawn_figures(tmp_path).items():
        (ax,) = figure.axes
        texts = [text.get_text() for text in ax.texts]
        if name == "parallel":
            assert "> 0.01" in texts
        else:
            low, high = ax.get_ylim()
            assert 1e-6 < low < 1e-4 and 1e-2 < high < 1
            assert any("diverged" in text for text in texts)


def test_a_bold_line_is_that_of_a_best_row(tmp_path: Path) -> None:
    write_two_functions(tmp_path)
    (ax,) = drawn_figures(tmp_path)["parallel"].axes
    assert ax.get_title(loc="left").endswith("; the best of each function or data set bold")
    widest = max(line.get_linewidth() for line in ax.lines)
    (bold,) = (line for line in ax.lines if line.get_linewidth() == widest)
    others = [line for line in ax.lines if len(line.get_ydata()) == len(bold.get_ydata()) and line is not bold]
    assert sorted(np.asarray(line.get_ydata())[-1] for line in others)[1] == np.asarray(bold.get_ydata())[-1]
