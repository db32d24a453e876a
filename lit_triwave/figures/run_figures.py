"""Draws the figures of a run from plain tensors."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.ticker import MaxNLocator
from matplotlib.transforms import offset_copy
from torch import Tensor

from lit_triwave.figures.style import BLUE, GREY, ORANGE, decades_grid, new_figure

MAX_MARKS = 400  # most breakpoints that are marked; more would hide the curve, and the legend has their number
_INKED = 3e5  # area of all points of a surface, in square points: six times that of a panel
_FEW_POINTS = 1000  # up to this number, points have no line between them, because the values there are unknown


def fit_figure(
    x: Tensor,
    target: Tensor,
    network: tuple[Tensor, Tensor],
    pieces: str,
    kinks: tuple[Tensor, Tensor],
    names: tuple[str, str],
    title: str,
) -> Figure:
    """Draws the fit over the target with the breakpoints marked; all tensors are 1-D, in the data's units.

    Args:
        x, target: points of the target, x ascending; few are drawn as points, many as a line.
        network: x and value of the network on a grid.
        pieces: number of the network's linear pieces, in words.
        kinks: x and value at the breakpoints; empty if there are too many to count.
        names: names of the input and of the target.
        title: title of the figure.
    """
    figure, (ax,) = new_figure()
    if len(x) > _FEW_POINTS:
        ax.plot(x, target, color=GREY, linewidth=5, alpha=0.45, label="target", solid_capstyle="round")
    else:
        ax.plot(x, target, "o", color=GREY, markersize=7, alpha=0.6, label="test points")
    ax.plot(*network, color=BLUE, linewidth=1.3, label=f"network, {pieces} linear piece{'' if pieces == '1' else 's'}")
    if 0 < len(kinks[0]) <= MAX_MARKS:
        ax.plot(*kinks, "o", color=ORANGE, markersize=3.2, label=f"{len(kinks[0])} breakpoints")
    ax.set(xlabel=names[0], ylabel=names[1], title=title)
    figure.legend(loc="outside lower center", ncols=3, frameon=False)  # inside, it would hide a curve
    return figure


def error_figure(x: Tensor, error: Tensor, kinks: Tensor, name: str, title: str) -> Figure:
    """Draws the error over the domain with the breakpoints as ticks; all tensors are 1-D, x ascending."""
    figure, (ax,) = new_figure()
    ax.axhline(0, color=GREY, linewidth=0.8)
    ax.plot(x, error, "-" if len(x) > _FEW_POINTS else "o", color=BLUE, linewidth=0.9, markersize=4)
    if 0 < len(kinks) <= MAX_MARKS:
        ax.plot(kinks, torch.zeros_like(kinks), "|", color=ORANGE, markersize=9, label="breakpoints")
        ax.legend(framealpha=0.9, edgecolor="white")
    ax.ticklabel_format(axis="y", style="sci", scilimits=(0, 0), useMathText=True)
    ax.set(xlabel=name, ylabel="network − target", title=title)
    return figure


def loss_figure(
    epochs: Tensor, mse: Tensor, best: int, switches: Mapping[str, float], limit: tuple[int, float] | None, title: str
) -> Figure:
    """Draws the training MSE of all seeds, with the best seed and the stage switches marked.

    Args:
        epochs: epoch of each record, (records,).
        mse: (records, seeds).
        best: the seed to mark.
        switches: name of a stage ↦ its first epoch.
        limit: number of linear pieces, and the lowest MSE for this number (METHOD section 6); None if unknown.
        title: title of the figure.
    """
    figure, (ax,) = new_figure()
    seeds = mse.shape[1]
    if seeds > 1:
        ax.plot(epochs, mse, color=GREY, linewidth=0.6, alpha=0.35)
        ax.plot([], [], color=GREY, linewidth=0.6, label=f"{seeds} seeds")
    mark = "o" if len(epochs) == 1 else ""
    label = "best on validation data" if seeds > 1 else "training"
    ax.plot(epochs, mse[:, best], marker=mark, color=BLUE, linewidth=1.6, label=label)
    for name, epoch in switches.items():
        ax.axvline(epoch, color=ORANGE, linewidth=1.0, linestyle="--")
        # The name is beside its line, because several switches would look the same in a legend.
        beside = offset_copy(ax.get_xaxis_transform(), figure, x=-4, units="points")
        text = ax.text(epoch, 0.98, name, transform=beside, rotation=90, ha="right", va="top")
        text.set(color=ORANGE, fontsize=9)
        text.set_path_effects([withStroke(linewidth=2.5, foreground="white")])  # curves may pass below
    if limit is not None:
        label = f"free-knot limit of {limit[0]} linear pieces"
        ax.axhline(limit[1], color="black", linewidth=0.9, linestyle=":", label=label)
    decades_grid(ax)
    ax.set(xlabel="epoch", ylabel="mean squared error", title=title)
    figure.legend(loc="outside lower center", ncols=3, frameon=False)  # inside, it would hide a line
    return figure


def surface_figure(x: Tensor, target: Tensor, prediction: Tensor, names: Sequence[str], title: str) -> Figure:
    """Draws target, network and error over two variables, at any points x, shape (n, 2)."""
    figure, axes = new_figure(1, 3, (12.0, 3.9))
    error = prediction - target
    low, high = float(target.min()), float(target.max())
    # The few largest errors, mostly at corners, are outside the range of colours, so that other errors are visible.
    bound, largest = float(error.abs().quantile(0.995)) or 1.0, float(error.abs().max())
    panels: list[tuple[Axes, Tensor, str, dict[str, Any]]] = [
        (axes[0], target, "target", {"cmap": "viridis", "vmin": low, "vmax": high}),
        (axes[1], prediction, "network", {"cmap": "viridis", "vmin": low, "vmax": high}),
        (axes[2], error, f"network − target, at most {largest:.1e}", {"cmap": "RdBu_r", "vmin": -bound, "vmax": bound}),
    ]
    for ax, values, label, style in panels:
        grid = _as_image(x, values)
        image: ScalarMappable
        if grid is None:
            size = min(30.0, max(4.0, _INKED / len(x)))  # many points cover the panel, so that it has no white gaps
            image = ax.scatter(x[:, 0], x[:, 1], c=values, s=size, marker="s", linewidths=0, **style)
        else:
            left, right, bottom, top = (float(end) for axis in x.T for end in axis.aminmax())
            image = ax.imshow(grid.T.numpy(), origin="lower", extent=(left, right, bottom, top), aspect="auto", **style)
        figure.colorbar(image, ax=ax, shrink=0.9, extend="both" if ax is axes[2] else "neither")
        ax.set(xlabel=names[0], ylabel=names[1], title=label)
    figure.suptitle(title)
    return figure


def agreement_figure(target: Tensor, prediction: Tensor, title: str) -> Figure:
    """Draws the network against the target, for data of three or more variables."""
    figure, (ax,) = new_figure(size=(5.0, 4.8))
    ends = torch.stack([target.min(), target.max()])
    ax.plot(ends, ends, color=GREY, linewidth=1)
    spread = math.sqrt(target.numel())  # few points are to be seen, and many to show where they are dense
    size, alpha = min(16.0, max(3.0, 160 / spread)), min(0.9, max(0.08, 20 / spread))
    ax.scatter(target, prediction, s=size, color=BLUE, alpha=alpha, linewidths=0)
    ax.set(xlabel="target", ylabel="network", title=title)
    return figure


def learning_figure(rows: Sequence[Mapping[str, Any]], images: str, switch: int | None, title: str) -> Figure:
    """Draws the error, on a linear scale, and the loss, on a logarithmic one, after each epoch.

    Args:
        rows: each with `epoch`, and with `train/loss`, `val/loss` and `val/accuracy` where known.
        images: name of the images behind the `val/` numbers.
        switch: number of epochs before the release of the weights, or None.
        title: title of the figure.
    """
    figure, (error, loss) = new_figure(1, 2, (9.5, 3.8))
    for ax, key, label, color in (
        (error, "val/accuracy", images, BLUE),
        (loss, "val/loss", images, BLUE),
        (loss, "train/loss", "last training batch logged", GREY),
    ):
        points = [(row["epoch"], row[key]) for row in rows if key in row]
        if points:
            x, y = zip(*points, strict=True)
            values = [100 * (1 - value) for value in y] if key == "val/accuracy" else y
            ax.plot(x, values, "o-", color=color, markersize=3, linewidth=1.4, label=label)
    for ax in (error, loss):
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        if switch is not None:
            ax.axvline(switch, color=ORANGE, linewidth=1.0, linestyle="--", label="release of the weights")
        if ax.get_legend_handles_labels()[0]:  # none before the first epoch ends
            ax.legend(framealpha=0.9, edgecolor="white")
        ax.set(xlabel="epoch")
    error.set_ylim(bottom=0)
    error.set(ylabel=f"wrongly classified {images} / %")
    decades_grid(loss)
    loss.set(ylabel="cross-entropy / nats, logarithmic")
    figure.suptitle(title)
    return figure


def confusion_figure(counts: Tensor, names: Sequence[str], title: str) -> Figure:
    """Draws a confusion matrix of (true, predicted) counts, with a pale diagonal so that errors are easy to see."""
    figure, (ax,) = new_figure(size=(6.2, 5.2))
    mistakes = counts.clone().fill_diagonal_(0)
    most = max(1, int(mistakes.max()))
    colors = ax.imshow(mistakes.numpy(), cmap="Oranges", vmin=0, vmax=most)
    bar = figure.colorbar(colors, ax=ax, shrink=0.8, ticks=MaxNLocator(integer=True))
    bar.set_label("images classified wrongly (blue: correctly)")
    few = len(names) <= 20
    if few:
        for i, row in enumerate(counts.tolist()):
            for j, count in enumerate(row):
                if count:
                    color = BLUE if i == j else "white" if 2 * count > most else "black"
                    ax.text(j, i, str(count), ha="center", va="center", fontsize=8, color=color)
        ax.set_xticks(range(len(names)), names, rotation=0 if len(max(names, key=len)) < 3 else 60)
        ax.set_yticks(range(len(names)), names)
    ax.set(xlabel="predicted class", ylabel="true class", title=title)
    ax.spines[["top", "right"]].set_visible(True)
    return figure


def subnetworks_figure(u: Tensor, curves: Tensor, numbers: Sequence[int], state: str) -> Figure:
    """Draws the functions of single subnetworks on [0, 1], each with its own vertical scale.

    Args:
        u: inputs, shape (points,).
        curves: outputs, shape (points, subnetworks).
        numbers: indices of these subnetworks in the bank.
        state: state of the bank, in words.
    """
    columns = 4
    figure, axes = new_figure(-(-len(numbers) // columns), columns, (9.0, 1.7 * -(-len(numbers) // columns)))
    for ax, number, curve in zip(axes, numbers, curves.T, strict=False):
        ax.plot(u, curve, color=BLUE, linewidth=1.2)
        ax.set_title(f"subnetwork {number}", fontsize=8, color=GREY)
        ax.tick_params(labelsize=7)
    for ax in axes[len(numbers) :]:
        ax.set_visible(False)
    figure.supxlabel("input, squashed to [0, 1]", fontsize=9)
    figure.supylabel("output, each on its own scale", fontsize=9)
    figure.suptitle(f"functions of {len(numbers)} subnetworks ({state})")
    return figure


def _as_image(x: Tensor, values: Tensor) -> Tensor | None:
    """Returns values as (columns, rows) if the points are a full grid with the first variable slowest, or else None."""
    first, second = torch.unique(x[:, 0]), torch.unique(x[:, 1])
    if len(first) * len(second) != len(x) or not torch.equal(x, torch.cartesian_prod(first, second)):
        return None
    return values.reshape(len(first), len(second))
