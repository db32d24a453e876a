"""Draws the figures of a checkpoint from plain tensors, in the style of `lit_triwave.figures`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from lit_triwave.figures.run_figures import MAX_MARKS
from lit_triwave.figures.style import BLUE, GREY, ORANGE, new_figure, titled

_GREEN = "#3f8f5b"
_MANY = colormaps["viridis"]
_NEURONS = {
    "sum, the waves so far": BLUE,
    "t1, the wave": ORANGE,
    "t2, the part above the peak": _GREEN,
    "bias, a constant": GREY,
}
"""The four neurons of a layer by construction; training may change what they compute."""
MAX_COLUMNS = 6
"""Most panels side by side."""
_MOST_ROWS = 8  # of panels: as many layers as a stack chooses for itself
_WIDTH_OF_KEY = 7.0  # inches for the names of the neurons in one line
_NARROWEST = 4.6  # inches for a legend and a title of two or three lines


@dataclass
class Row:
    """One subnetwork in a figure of layers.

    Attributes:
        label: name of the subnetwork.
        axis: name of its input.
        layers: for each shown layer, the input in its units, shape (points,), and the curves, shape (points, curves).
    """

    label: str
    axis: str
    layers: list[tuple[Tensor, Tensor]]


def shown_layers(depth: int, most: int = MAX_COLUMNS) -> list[int]:
    """Returns the layers that a figure has room for: all, or the first ones and the last."""
    return list(range(depth)) if depth <= most else [*range(most - 1), depth - 1]


def left_out(numbers: Sequence[int], name: str, first: int = 0) -> str:
    """Returns the part of a title that names the layers without room in a figure; an empty string if all are shown.

    Args:
        numbers: indices of the shown layers, ascending, from 0.
        name: name of one layer, such as "wave".
        first: number of the first layer in titles, 0 or 1.
    """
    missing = [i + first for i in range(numbers[-1]) if i not in numbers]
    if len(missing) < 2:
        return f", without {name} {missing[0]}" if missing else ""
    return f", without {name}s {missing[0]} {'and' if len(missing) == 2 else 'to'} {missing[-1]}"


def plural(count: int, name: str) -> str:
    """Returns a count with its noun: 1 breakpoint, 2 breakpoints."""
    return f"{count} {name}" if count == 1 else f"{count} {name}s"


def _grid(rows: Sequence[Row], headings: Sequence[str], title: str) -> tuple[Figure, list[list[Axes]]]:
    """Returns a figure with a panel for each subnetwork and layer, and its panels as rows."""
    size = (max(_NARROWEST, 1.2 + 1.75 * len(headings)), 0.9 + 1.35 * len(rows))
    figure, axes = new_figure(len(rows), len(headings), size)
    table = [list(axes[i * len(headings) : (i + 1) * len(headings)]) for i in range(len(rows))]
    for line, row in zip(table, rows, strict=True):
        line[0].set_ylabel(row.label)
        for ax in line:
            _small(ax, row.axis)
    for ax, heading in zip(table[0], headings, strict=True):
        ax.set_title(heading, fontsize=9)
    titled(figure, title)
    return figure, table


def _small(ax: Axes, name: str) -> None:
    """Gives a small panel few ticks, and the name of its input."""
    ax.tick_params(labelsize=7)
    ax.xaxis.set_major_locator(MaxNLocator(3))
    ax.yaxis.set_major_locator(MaxNLocator(3))
    ax.set_xlabel(name, fontsize=8, labelpad=1)


def waves_figure(rows: Sequence[Row], numbers: Sequence[int], title: str) -> Figure:
    """Draws the waves W_0 … W_{d−1} of some subnetworks, one panel each.

    Args:
        rows: subnetworks, with one curve in each layer.
        numbers: indices of the shown waves.
        title: title of the figure.
    """
    headings = [f"$W_{{{i}}}$, {1 << (i + 1)} pieces" for i in numbers]
    figure, table = _grid(rows, headings, title + left_out(numbers, "wave"))
    for line, row in zip(table, rows, strict=True):
        for ax, (x, wave) in zip(line, row.layers, strict=True):
            ax.plot(x, wave, color=BLUE, linewidth=0.9)
            ax.set_ylim(-0.05, 1.08)
    return figure


def functions_figure(rows: Sequence[Sequence[Row]], title: str) -> Figure:
    """Draws the functions of one variable of a stack, one row of panels for each layer, beside their squares.

    Args:
        rows: for each layer, the functions to show, as rows of a single layer with a single curve.
        title: title of the figure.
    """
    shown = shown_layers(len(rows), _MOST_ROWS)
    columns = max(len(row) for row in rows)
    size = (max(_NARROWEST, 0.5 + 1.9 * columns), 1.3 + 1.6 * len(shown))
    figure, axes = new_figure(len(shown), columns, size)
    for place, i in enumerate(shown):
        line = axes[place * columns : (place + 1) * columns]
        for ax, function in zip(line, rows[i], strict=False):
            ((v, q),) = function.layers
            ax.plot(v, q, color=BLUE, linewidth=1.4, label="learned function")
            ax.plot(v, v.square(), "--", color=ORANGE, linewidth=1.0, label="v², from which it was built")
            _small(ax, function.axis)
            ax.set_ylabel(function.label, fontsize=8, labelpad=4)
        for ax in line[len(rows[i]) :]:
            ax.set_visible(False)
        line[0].set_title(f"layer {i + 1}", fontsize=9, loc="left")
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2, frameon=False, fontsize=8)
    titled(figure, title + left_out(shown, "layer", 1))
    return figure


def neurons_figure(rows: Sequence[Row], numbers: Sequence[int], title: str) -> Figure:
    """Draws hidden neurons over the input of their subnetwork, each as a share of its own largest value.

    Args:
        rows: subnetworks, with four curves in each layer; or one network with a random start and any number of curves.
        numbers: indices of the shown hidden layers, from 0.
        title: title of the figure.
    """
    title += left_out(numbers, "hidden layer", 1)
    figure, table = _grid(rows, [f"hidden layer {i + 1}" for i in numbers], title)
    named = rows[0].label != ""
    for line, row in zip(table, rows, strict=True):
        for ax, (x, curves) in zip(line, row.layers, strict=True):
            count = curves.shape[1]
            colors = list(_NEURONS.values()) if named else [_MANY(j / max(1, count - 1)) for j in range(count)]
            for curve, color in zip(curves.T, colors, strict=True):
                ax.plot(x, curve / (curve.max() or 1.0), color=color, linewidth=1.0)
            ax.set_ylim(-0.05, 1.08)
    if named:
        handles = [table[0][0].plot([], [], color=color, label=name)[0] for name, color in _NEURONS.items()]
        columns = 4 if figure.get_figwidth() >= _WIDTH_OF_KEY else 2
        key = {"ncols": columns, "title": "role of each neuron at the release", "title_fontsize": 8}
        figure.legend(handles=handles, loc="outside lower center", frameon=False, fontsize=8, **key)
    elif (count := rows[0].layers[0][1].shape[1]) > 1:
        numbered = ScalarMappable(Normalize(1, count), _MANY)
        bar = figure.colorbar(numbered, ax=[ax for line in table for ax in line], pad=0.01, aspect=12)
        bar.ax.yaxis.set_major_locator(MaxNLocator(4, integer=True))
        bar.ax.tick_params(labelsize=7)
        bar.set_label("neuron of the layer", fontsize=8)
    return figure


def breakpoints_figure(x: Tensor, curvature: Tensor, kinks: Tensor, name: str, title: str) -> Figure:
    """Draws the breakpoints against those of the best free-knot approximation (METHOD section 6).

    Args:
        x: centres of equal cells of the domain, shape (points,).
        curvature: f'' at x, shape (points,).
        kinks: breakpoints of the network, shape (kinks,).
        name: name of the variable.
        title: title of the figure.
    """
    width = float(x[1] - x[0])
    density = curvature.abs().pow(2 / 5).nan_to_num(0.0, 0.0, 0.0)
    total = float(density.sum()) * width
    optimal = density / total if total > 0 else torch.full_like(density, 1 / (width * len(x)))
    low, high = float(x[0]) - width / 2, float(x[-1]) + width / 2
    figure, (counts, running) = new_figure(1, 2, (10.0, 4.0))
    bins = max(8, min(40, len(kinks) // 3))
    label = f"{plural(len(kinks), 'breakpoint')} of the network"
    counts.hist(kinks.numpy(), bins=bins, range=(low, high), color=BLUE, alpha=0.35, label=label)
    expected = optimal * len(kinks) * (high - low) / bins
    counts.plot(x, expected, color=ORANGE, linewidth=1.6, label="optimal density, $|f''|^{2/5}$")
    counts.set(xlabel=name, ylabel="breakpoints in a bin")
    if len(kinks) <= MAX_MARKS:
        counts.plot(kinks, torch.zeros_like(kinks), "|", color=BLUE, markersize=8)
    counts.yaxis.set_major_locator(MaxNLocator(integer=True))
    counts.set_ylim(top=1.25 * counts.get_ylim()[1])  # room for the legend
    counts.legend(framealpha=0.9, edgecolor="white", fontsize=8)
    steps, numbers = [low, *kinks.tolist(), high], [*range(len(kinks) + 1), len(kinks)]
    running.plot(steps, numbers, drawstyle="steps-post", color=BLUE, linewidth=1.4)
    running.plot(x, optimal.cumsum(0) * width * len(kinks), color=ORANGE, linewidth=1.6)
    running.set(xlabel=name, ylabel=f"breakpoints up to this {name}")
    running.yaxis.set_major_locator(MaxNLocator(integer=True))
    titled(figure, title, 11)
    return figure


@dataclass
class ActivationCurve:
    """A subnetwork as an activation function of the batch-normalised projection z.

    Attributes:
        title: name of the subnetwork.
        z: inputs, shape (points,).
        density: density of z in a batch, if it is normal, as a share of its largest value, shape (points,).
        now: outputs of squash and subnetwork, shape (points,).
        constructed: the same outputs at the release; None if they are unknown.
    """

    title: str
    z: Tensor
    density: Tensor
    now: Tensor
    constructed: Tensor | None


def activations_figure(curves: Sequence[ActivationCurve], title: str) -> Figure:
    """Draws learned activation functions, each on its own scale, over the normal distribution of their inputs."""
    columns = min(4, len(curves))
    rows = -(-len(curves) // columns)
    figure, axes = new_figure(rows, columns, (max(_NARROWEST, 0.6 + 2.3 * columns), 1.3 + 1.7 * rows))
    for ax, curve in zip(axes, curves, strict=False):
        shade = ax.twinx()
        shade.fill_between(curve.z, curve.density, color=GREY, alpha=0.25, linewidth=0, label="z, if normal")
        shade.set_ylim(0, 2.2)  # the bell fills the lower part
        shade.set_yticks([])
        shade.spines[["top", "right"]].set_visible(False)
        ax.set_zorder(shade.get_zorder() + 1)
        ax.patch.set_visible(False)
        if curve.constructed is not None:
            ax.plot(curve.z, curve.constructed, color=ORANGE, linewidth=1.0, label="at the release")
        ax.plot(curve.z, curve.now, color=BLUE, linewidth=1.3, label="now")
        ax.set_title(curve.title, fontsize=8, color=GREY)
        ax.tick_params(labelsize=7)
        ax.yaxis.set_major_locator(MaxNLocator(3))
    for ax in axes[len(curves) :]:
        ax.set_visible(False)
    handles = [*axes[0].get_lines(), shade.collections[0]]
    figure.legend(handles=handles, loc="outside lower center", ncols=3, frameon=False, fontsize=8)
    for ax in axes[max(0, len(curves) - columns) : len(curves)]:
        ax.set_xlabel("z, the batch-normalised projection", fontsize=7)
    figure.supylabel("output, each on its own scale", fontsize=9)
    titled(figure, title)
    return figure


def peaks_figure(peaks: Tensor, regions: Sequence[int], before: int, title: str) -> Figure:
    """Draws the distributions of the peaks in each layer and of the linear pieces of many subnetworks.

    Args:
        peaks: shape (subnetworks, depth + 1).
        regions: numbers of linear pieces of some subnetworks now.
        before: number of linear pieces of each at the release.
        title: title of the figure.
    """
    figure, (left, right) = new_figure(1, 2, (9.5, 3.8))
    n, count = peaks.shape
    jitter = torch.linspace(-0.28, 0.28, n)
    for i in range(count):
        values = peaks[:, i]
        left.plot(i + jitter, values, ".", color=BLUE, markersize=3, alpha=0.6)
        quarter, middle, three = values.quantile(torch.tensor([0.25, 0.5, 0.75], dtype=values.dtype)).tolist()
        left.plot([i - 0.36, i + 0.36], [middle, middle], color=ORANGE, linewidth=2)
        left.fill_between([i - 0.36, i + 0.36], quarter, three, color=ORANGE, alpha=0.15, linewidth=0)
    left.set_xticks(range(count), [f"$a_{{{i}}}$" for i in range(count)])
    left.set(ylim=(0, 1), ylabel=f"peaks of {n} subnetworks\n(line: median, box: middle half)")
    low, high = min(regions), max(regions)
    step = max(1, math.ceil((high - low + 1) / 30))
    edges = [low - 0.5 + step * i for i in range(math.ceil((high - low + 1) / step) + 1)]
    right.hist(regions, bins=edges, color=BLUE, alpha=0.6)
    right.axvline(before, color=ORANGE, linestyle="--", linewidth=1.2, label=f"{before} by construction")
    right.xaxis.set_major_locator(MaxNLocator(integer=True))
    right.yaxis.set_major_locator(MaxNLocator(integer=True))
    right.set(xlabel="linear pieces of a subnetwork on [0, 1]", ylabel="subnetworks")
    right.set_ylim(top=1.2 * right.get_ylim()[1])  # room for the legend
    right.legend(framealpha=0.9, edgecolor="white")
    titled(figure, title)
    return figure


def activity_figure(layers: Sequence[Tensor], on: str, title: str) -> Figure:
    """Draws the share of the inputs on which each hidden neuron is above zero, sorted, one panel for each layer.

    Args:
        layers: shares for each layer, shape (neurons,), 0 to 1.
        on: name of the inputs.
        title: title of the figure.
    """
    shown = shown_layers(len(layers))
    figure, axes = new_figure(1, len(shown), (max(_NARROWEST, 1.4 + 1.9 * len(shown)), 3.2))
    for ax, i in zip(axes, shown, strict=True):
        share = 100 * layers[i].sort().values
        ax.stairs(share, torch.arange(len(share) + 1), fill=True, color=BLUE, alpha=0.35, linewidth=0)
        dead = int((share == 0).sum())
        ax.set_title(f"hidden layer {i + 1}: {dead} dead", fontsize=9, color=ORANGE if dead else "black")
        ax.set(ylim=(0, 102), xlim=(0, len(share)))
        ax.tick_params(labelsize=7)
        ax.set_xlabel("neurons, sorted", fontsize=8)
    axes[0].set_ylabel(f"above zero / % of {on}", fontsize=8)
    title += left_out(shown, "hidden layer", 1)
    titled(figure, title)
    return figure
