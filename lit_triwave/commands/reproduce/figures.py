"""Draws the figures of a reproduction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from matplotlib.figure import Figure

from lit_triwave.analysis.regions import count_linear_regions
from lit_triwave.commands.reproduce.methods import METHODS
from lit_triwave.commands.reproduce.paper import DEPTHS, FUNCTIONS, Table, paper_figure
from lit_triwave.commands.reproduce.report import TITLES, columns_of, label, limit
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


def boxes(table: Table, methods: Mapping[str, Mapping[str, Mapping[str, Sequence[Any]]]]) -> Figure:
    """Draws a box over the seeds for each method, one panel for each function, with the MSE on a log axis.

    Args:
        table: name of the table.
        methods: method ↦ column ↦ `mse`, the test MSE of each seed.
    """
    columns = list(next(iter(methods.values())))
    legend: dict[str, Any] = {}
    figure, axes = new_figure(1, len(columns), (max(7.0, 0.9 + 0.62 * (len(methods) + 1) * len(columns)), 4.6))
    for ax, column in zip(axes, columns, strict=True):
        values = [cells[column]["mse"] for cells in methods.values()]
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
        for place, method in enumerate(methods, start=1):
            paper = paper_figure("min", table, method, column)
            if paper is not None:
                ax.hlines(paper, place - 0.42, place + 0.42, color=ORANGE, linewidth=2, label="paper, lowest")
        bound = limit(table, column)
        if bound is not None:
            ax.axhline(bound, color="black", linewidth=0.9, linestyle=":", label="free-knot limit")
        decades_grid(ax)
        ax.set_xticks(range(1, len(methods) + 1), [_SHORT[method] for method in methods], rotation=90)
        ax.set(title=label(column), ylabel="test MSE" if ax is axes[0] else "")
        handles, labels = ax.get_legend_handles_labels()
        legend |= dict(zip(labels, handles, strict=True))
    figure.legend(legend.values(), legend.keys(), loc="outside lower center", ncols=2, frameon=False)
    figure.suptitle(f"{TITLES[table]}; {len(values[0])} seeds, lowest to highest")
    return figure


def depth_figure(methods: Mapping[str, Mapping[str, Mapping[str, Sequence[Any]]]]) -> Figure:
    """Draws the lowest MSE for x³ against the depth, with the free-knot limit, which falls by 16 with each layer."""
    figure, (ax,) = new_figure()
    for (method, cells), color in zip(methods.items(), (BLUE, ORANGE, GREY), strict=False):
        lowest = [min(cell["mse"]) for cell in cells.values()]
        ax.plot([int(depth) for depth in cells], lowest, "o-", color=color, label=METHODS[method].label, markersize=4)
    depths = [int(column) for column in columns_of(methods)]
    ax.plot(depths, [limit("depths", str(d)) or 0 for d in depths], "k:", label="free-knot limit, ∝ 16$^{-d}$")
    decades_grid(ax)
    ax.set_xticks(depths)
    ax.set(xlabel="depth d", ylabel="lowest test MSE", title=f"{FUNCTIONS['x3'].label} by depth")
    ax.legend(frameon=False)
    return figure


def region_counts(seeds: int) -> dict[str, list[list[int]]]:
    """Counts the linear pieces on [0, 1] at initialisation: kind of network ↦ for each depth, a count for each seed."""
    generator = torch.Generator().manual_seed(0)
    counts: dict[str, list[list[int]]] = {"constructed": [], "Kaiming": []}
    for depth in DEPTHS:
        options: dict[str, Any] = {"depth": depth, "replicas": seeds, "generator": generator}
        networks = {"constructed": TriangleNetwork({"x": (0, 1)}, **options)}
        networks["Kaiming"] = DenseNetwork({"x": (0, 1)}, **options)  # type: ignore[assignment]
        for name, network in networks.items():
            counts[name].append([count_linear_regions(network.to_sequential(seed)) for seed in range(seeds)])
    return counts


def regions_figure(counts: Mapping[str, Sequence[Sequence[int]]]) -> Figure:
    """Draws the linear regions against depth: the mean over seeds, with a band from the fewest to the most."""
    figure, (ax,) = new_figure()
    for (name, of_depths), color in zip(counts.items(), (BLUE, ORANGE), strict=True):
        pieces = torch.tensor(of_depths, dtype=torch.float64)
        ax.fill_between(DEPTHS, pieces.amin(1), pieces.amax(1), color=color, alpha=0.2, linewidth=0)
        ax.plot(list(DEPTHS), pieces.mean(1), "o-", color=color, markersize=4, label=f"{name}, 4 wide")
    ax.plot(list(DEPTHS), [2**d for d in DEPTHS], "k:", label="2$^d$")
    ax.set_yscale("log", base=2)
    ax.grid(True, which="major", axis="y", color="#e3e5e8", linewidth=0.8)
    ax.set_xticks(list(DEPTHS))
    seeds = len(next(iter(counts.values()))[0])
    title = f"Linear regions at initialisation; {seeds} seeds, fewest to most"
    ax.set(xlabel="depth d", ylabel="linear regions on [0, 1]", title=title)
    ax.legend(frameon=False)
    return figure
