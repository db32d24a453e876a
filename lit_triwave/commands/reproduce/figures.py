"""Draws the figures of a reproduction."""

from __future__ import annotations

import math
from typing import Any

import torch
from matplotlib.figure import Figure
from pandas import DataFrame

from lit_triwave.analysis.regions import count_linear_regions
from lit_triwave.commands.reproduce.methods import METHODS
from lit_triwave.commands.reproduce.paper import DEPTHS, FUNCTIONS
from lit_triwave.commands.reproduce.report import TITLES, label
from lit_triwave.figures.style import BLUE, GREY, ORANGE, decades_grid, new_figure
from lit_triwave.nn.baselines import DenseNetwork
from lit_triwave.nn.networks import TriangleNetwork

_SHORT = {
    "kaiming": "Kaiming",
    "raai": "RAAI",
    "skip_pretraining": "skip\npretraining",
    "free_scales": "no Theo-\nrem 3.1",
    "theorem31": "Theorem\n3.1",
    "polish": "polish",
    "limit": "limit",
}


def boxes(seeds: DataFrame, stats: DataFrame) -> Figure:
    """Draws a box over the seeds for each method, one panel for each function, with the MSE on a log axis.

    Args:
        seeds: the table's rows of `Results.seeds`.
        stats: the table's rows of `statistics`.
    """
    columns, methods = seeds["column"].unique(), seeds["method"].unique()
    legend: dict[str, Any] = {}
    figure, axes = new_figure(1, len(columns), (max(7.0, 0.9 + 0.62 * (len(methods) + 1) * len(columns)), 4.6))
    for ax, column in zip(axes, columns, strict=True):
        here, cells = seeds[seeds["column"] == column], stats[stats["column"] == column]
        values = [here["mse"][here["method"] == method] for method in methods]
        ax.boxplot(
            values,
            whis=(0, 100),  # from the best to the worst seed
            widths=0.6,
            patch_artist=True,
            boxprops={"facecolor": BLUE, "alpha": 0.25, "edgecolor": BLUE},
            whiskerprops={"color": BLUE},
            capprops={"color": BLUE},
            medianprops={"color": BLUE, "linewidth": 1.6},
        )
        for place, paper in enumerate(cells["paper_min"], start=1):
            if not math.isnan(paper):
                ax.hlines(paper, place - 0.42, place + 0.42, color=ORANGE, linewidth=2, label="paper, lowest")
        bound = cells["free_knot_limit"].iloc[0]
        if not math.isnan(bound):
            ax.axhline(bound, color="black", linewidth=0.9, linestyle=":", label="free-knot limit")
        decades_grid(ax)
        ax.set_xticks(range(1, len(methods) + 1), [_SHORT[method] for method in methods], rotation=90)
        ax.set(title=label(column), ylabel="test MSE" if ax is axes[0] else "")
        handles, labels = ax.get_legend_handles_labels()
        legend |= dict(zip(labels, handles, strict=True))
    figure.legend(legend.values(), legend.keys(), loc="outside lower center", ncols=2, frameon=False)
    figure.suptitle(f"{TITLES[seeds['table'].iloc[0]]}; {len(values[0])} seeds, lowest to highest")
    return figure


def depth_figure(stats: DataFrame) -> Figure:
    """Draws the lowest MSE for x³ against the depth, with the free-knot limit, which falls by 16 with each layer.

    Args:
        stats: the rows of `statistics` of the study by depth.
    """
    figure, (ax,) = new_figure()
    stats = stats.assign(depth=stats["column"].astype(int))
    for (method, cells), color in zip(stats.groupby("method", sort=False), (BLUE, ORANGE, GREY), strict=False):
        ax.plot(cells["depth"], cells["min"], "o-", color=color, label=METHODS[str(method)].label, markersize=4)
    limits = stats.drop_duplicates("depth")
    ax.plot(limits["depth"], limits["free_knot_limit"], "k:", label="free-knot limit, ∝ 16$^{-d}$")
    decades_grid(ax)
    ax.set_xticks(limits["depth"])
    ax.set(xlabel="depth d", ylabel="lowest test MSE", title=f"{FUNCTIONS['x3'].label} by depth")
    ax.legend(frameon=False)
    return figure


def regions_figure(seeds: int) -> Figure:
    """Draws the linear regions on [0, 1] at initialisation against depth: the mean over seeds, and the range."""
    figure, (ax,) = new_figure()
    generator = torch.Generator().manual_seed(0)
    kinds: dict[str, Any] = {"constructed": TriangleNetwork, "Kaiming": DenseNetwork}
    for (name, kind), color in zip(kinds.items(), (BLUE, ORANGE), strict=True):
        counts = []
        for depth in DEPTHS:
            network = kind({"x": (0, 1)}, depth=depth, replicas=seeds, generator=generator)
            counts.append([count_linear_regions(network.to_sequential(seed)) for seed in range(seeds)])
        pieces = torch.tensor(counts, dtype=torch.float64)
        ax.fill_between(DEPTHS, pieces.amin(1), pieces.amax(1), color=color, alpha=0.2, linewidth=0)
        ax.plot(list(DEPTHS), pieces.mean(1), "o-", color=color, markersize=4, label=f"{name}, 4 wide")
    ax.plot(list(DEPTHS), [2**d for d in DEPTHS], "k:", label="2$^d$")
    ax.set_yscale("log", base=2)
    ax.grid(True, which="major", axis="y", color="#e3e5e8", linewidth=0.8)
    ax.set_xticks(list(DEPTHS))
    title = f"Linear regions at initialisation; {seeds} seeds, fewest to most"
    ax.set(xlabel="depth d", ylabel="linear regions on [0, 1]", title=title)
    ax.legend(frameon=False)
    return figure
