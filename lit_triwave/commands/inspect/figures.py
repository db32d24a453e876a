"""The figures of a checkpoint, drawn from plain tensors in the style of `lit_triwave.figures`."""

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

GREEN = "#3f8f5b"
MANY = colormaps["viridis"]
NEURONS = {
    "sum, the waves so far": BLUE,
    "t1, the wave": ORANGE,
    "t2, what of it is above the peak": GREEN,
    "bias, a constant": GREY,
}
"""What the neurons of a layer are by construction; once released, it is only what they began as."""
MAX_COLUMNS = 6
WIDTH_OF_KEY = 7.0  # inches that the names of the neurons need in one line
NARROWEST = 4.6  # inches that a legend and a title of two or three lines need


@dataclass
class Row:
    """One subnetwork in a figure of layers.

    Attributes:
        label: of the subnetwork.
        axis: name of its input.
        layers: for each shown layer x, (points,), in that input's units, and its curves, (points, curves).
    """

    label: str
    axis: str
    layers: list[tuple[Tensor, Tensor]]


def shown_layers(depth: int) -> list[int]:
    """Which layers a figure has room for: all, or the first ones and the last."""
    return list(range(depth)) if depth <= MAX_COLUMNS else [*range(MAX_COLUMNS - 1), depth - 1]


def left_out(numbers: Sequence[int], name: str, first: int = 0) -> str:
    """What a title says of the layers that a figure has no room for; nothing if all are shown.

    Args:
        numbers: of those that are shown, rising, from 0.
        name: of several of them, as "waves".
        first: what the number 0 is called.
    """
    missing = [i + first for i in range(numbers[-1]) if i not in numbers]
    if not missing:
        return ""
    which = f" {missing[0]}" if len(missing) == 1 else f"s {missing[0]} to {missing[-1]}"
    return f", without {name}{which}"


def plural(count: int, name: str) -> str:
    """A number of things: 1 breakpoint, 2 breakpoints."""
    return f"{count} {name}" if count == 1 else f"{count} {name}s"


def grid(rows: Sequence[Row], headings: Sequence[str], title: str) -> tuple[Figure, list[list[Axes]]]:
    """A panel for each subnetwork and layer."""
    size = (max(NARROWEST, 1.2 + 1.75 * len(headings)), 0.9 + 1.35 * len(rows))
    figure, axes = new_figure(len(rows), len(headings), size)
    table = [list(axes[i * len(headings) : (i + 1) * len(headings)]) for i in range(len(rows))]
    for line, row in zip(table, rows, strict=True):
        line[0].set_ylabel(row.label)
        for ax in line:
            ax.tick_params(labelsize=7)
            ax.xaxis.set_major_locator(MaxNLocator(3))
            ax.yaxis.set_major_locator(MaxNLocator(3))
            ax.set_xlabel(row.axis, fontsize=8, labelpad=1)
    for ax, heading in zip(table[0], headings, strict=True):
        ax.set_title(heading, fontsize=9)
    titled(figure, title)
    return figure, table


def waves_figure(rows: Sequence[Row], numbers: Sequence[int], title: str) -> Figure:
    """W_0 … W_{d−1} of some subnetworks, one panel each.

    Args:
        rows: subnetworks; each layer one curve.
        numbers: of the waves that are shown.
        title: of the figure.
    """
    headings = [f"$W_{{{i}}}$, {1 << (i + 1)} pieces" for i in numbers]
    figure, table = grid(rows, headings, title + left_out(numbers, "wave"))
    for line, row in zip(table, rows, strict=True):
        for ax, (x, wave) in zip(line, row.layers, strict=True):
            ax.plot(x, wave, color=BLUE, linewidth=0.9)
            ax.set_ylim(-0.05, 1.08)
    return figure


def neurons_figure(rows: Sequence[Row], numbers: Sequence[int], title: str) -> Figure:
    """What hidden neurons hold, over the input of their subnetwork, each as a share of its own largest value.

    Args:
        rows: subnetworks, four curves a layer, or a whole network of random start, with as many as it has.
        numbers: of the hidden layers that are shown, from 0.
        title: of the figure.
    """
    title += left_out(numbers, "hidden layer", 1)
    figure, table = grid(rows, [f"hidden layer {i + 1}" for i in numbers], title)
    named = rows[0].label != ""
    for line, row in zip(table, rows, strict=True):
        for ax, (x, curves) in zip(line, row.layers, strict=True):
            count = curves.shape[1]
            colors = list(NEURONS.values()) if named else [MANY(j / max(1, count - 1)) for j in range(count)]
            for curve, color in zip(curves.T, colors, strict=True):
                ax.plot(x, curve / (curve.max() or 1.0), color=color, linewidth=1.0)
            ax.set_ylim(-0.05, 1.08)
    if named:
        handles = [table[0][0].plot([], [], color=color, label=name)[0] for name, color in NEURONS.items()]
        columns = 4 if figure.get_figwidth() >= WIDTH_OF_KEY else 2
        key = {"ncols": columns, "title": "at the release each neuron began as", "title_fontsize": 8}
        figure.legend(handles=handles, loc="outside lower center", frameon=False, fontsize=8, **key)
    elif (count := rows[0].layers[0][1].shape[1]) > 1:
        numbered = ScalarMappable(Normalize(1, count), MANY)
        bar = figure.colorbar(numbered, ax=[ax for line in table for ax in line], pad=0.01, aspect=12)
        bar.ax.yaxis.set_major_locator(MaxNLocator(4, integer=True))
        bar.ax.tick_params(labelsize=7)
        bar.set_label("neuron of the layer", fontsize=8)
    return figure


def breakpoints_figure(x: Tensor, curvature: Tensor, kinks: Tensor, name: str, title: str) -> Figure:
    """Where the breakpoints sit, against where the best free-knot approximation has them (METHOD section 6).

    Args:
        x: centres of equal cells of the domain, (points,).
        curvature: f'' there, (points,).
        kinks: breakpoints of the network, (kinks,).
        name: of the variable.
        title: of the figure.
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
    counts.plot(x, expected, color=ORANGE, linewidth=1.6, label="as many, as dense as $|f''|^{2/5}$")
    counts.set(xlabel=name, ylabel="breakpoints in a bin")
    if len(kinks) <= MAX_MARKS:
        counts.plot(kinks, torch.zeros_like(kinks), "|", color=BLUE, markersize=8)
    counts.yaxis.set_major_locator(MaxNLocator(integer=True))
    counts.set_ylim(top=1.25 * counts.get_ylim()[1])  # room for the legend
    counts.legend(framealpha=0.9, edgecolor="white", fontsize=8)
    ends = torch.tensor([low, high], dtype=kinks.dtype)
    steps = torch.cat([ends[:1], kinks, ends[1:]])
    running.plot(steps, [0, *range(1, len(kinks) + 1), len(kinks)], drawstyle="steps-post", color=BLUE, linewidth=1.4)
    running.plot(x, optimal.cumsum(0) * width * len(kinks), color=ORANGE, linewidth=1.6)
    running.set(xlabel=name, ylabel=f"breakpoints up to this {name}")
    running.yaxis.set_major_locator(MaxNLocator(integer=True))
    titled(figure, title, 11)
    return figure


@dataclass
class ActivationCurve:
    """A subnetwork as an activation function of the batch-normalised projection z.

    Attributes:
        number: of the subnetwork.
        z: (points,).
        now: the subnetwork's output behind the squash, (points,).
        constructed: the same at the release, or None.
        mean, deviation: of z, as the batch norm sets them.
        regions: linear pieces on [0, 1], or None.
    """

    number: int
    z: Tensor
    now: Tensor
    constructed: Tensor | None
    mean: float
    deviation: float
    regions: int | None


def activations_figure(curves: Sequence[ActivationCurve], title: str) -> Figure:
    """Learned activation functions, each on its own scale, over the normal distribution of their inputs."""
    columns = min(4, len(curves))
    rows = -(-len(curves) // columns)
    figure, axes = new_figure(rows, columns, (max(NARROWEST, 0.6 + 2.3 * columns), 1.3 + 1.7 * rows))
    for ax, curve in zip(axes, curves, strict=False):
        shade = ax.twinx()
        bell = torch.exp(-((curve.z - curve.mean) ** 2) / (2 * curve.deviation**2))
        shade.fill_between(curve.z, bell, color=GREY, alpha=0.25, linewidth=0, label="z in a batch, if normal")
        shade.set_ylim(0, 2.2)  # the bell fills the lower part
        shade.set_yticks([])
        shade.spines[["top", "right"]].set_visible(False)
        ax.set_zorder(shade.get_zorder() + 1)
        ax.patch.set_visible(False)
        if curve.constructed is not None:
            ax.plot(curve.z, curve.constructed, color=ORANGE, linewidth=1.0, label="at the release")
        ax.plot(curve.z, curve.now, color=BLUE, linewidth=1.3, label="now")
        pieces = "" if curve.regions is None else f", {curve.regions} pieces"
        ax.set_title(f"subnetwork {curve.number}{pieces}", fontsize=8, color=GREY)
        ax.tick_params(labelsize=7)
        ax.yaxis.set_major_locator(MaxNLocator(3))
    for ax in axes[len(curves) :]:
        ax.set_visible(False)
    handles, labels = axes[0].get_legend_handles_labels()
    handles.append(shade.collections[0])
    figure.legend(handles, [*labels, "z, if normal"], loc="outside lower center", ncols=3, frameon=False, fontsize=8)
    for ax in axes[max(0, len(curves) - columns) : len(curves)]:
        ax.set_xlabel("z, the batch-normalised projection", fontsize=7)
    figure.supylabel("output, each on its own scale", fontsize=9)
    titled(figure, title)
    return figure


def peaks_figure(peaks: Tensor, regions: Sequence[int], before: int, title: str) -> Figure:
    """How the peaks of many subnetworks are distributed in each layer, and how many linear pieces they have.

    Args:
        peaks: (subnetworks, depth + 1).
        regions: linear pieces now, of some of them.
        before: linear pieces of each at the release.
        title: of the figure.
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
    """On which share of the inputs each hidden neuron is above zero, neurons in order, one panel a layer.

    Args:
        layers: shares of the neurons, (neurons,) each.
        on: what the inputs are.
        title: of the figure.
    """
    shown = shown_layers(len(layers))
    figure, axes = new_figure(1, len(shown), (max(NARROWEST, 1.4 + 1.9 * len(shown)), 3.2))
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
