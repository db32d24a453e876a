"""Writes the table, the files and the figure of a head comparison."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from rich.console import Console
from rich.table import Table
from torch import Tensor

from lit_triwave.figures.style import BLUE, GREY, ORANGE, new_figure
from lit_triwave.files import write_json, written_whole

_SHOWN_EPOCHS = (1, 2, 5)
CONSTRUCTED = "constructed"
Results = dict[str, list[dict[str, Any]]]
"""Head ↦ record of each seed's run."""


def _heads_figure(curves: Mapping[str, Tensor], first: str, title: str) -> Figure:
    """Draws the error after each epoch, mean and range over seeds; one panel for each kind of dense head.

    Args:
        curves: head ↦ accuracy in %, (seeds, epochs).
        first: head that is shown in every panel.
        title: title of the figure.
    """
    panels: dict[str, list[str]] = {}
    for name in curves:
        if name != first:
            panels.setdefault(name.removesuffix(" + batch norm"), []).append(name)
    figure, axes = new_figure(1, len(panels), (4.0 * len(panels), 4.0))
    highest = max(float((100 - curve).mean(0).max()) for curve in curves.values())
    for ax, (panel, names) in zip(axes, panels.items(), strict=True):
        for name, color in zip([first, *names], (BLUE, ORANGE, GREY), strict=False):
            error = (100 - curves[name]).clamp_min(0)
            epochs = range(1, error.shape[1] + 1)
            norm = "batch norm" if name.endswith("batch norm") else "no batch norm"
            label = name if name == first else f"dense, {norm}"
            ax.plot(epochs, error.mean(0), color=color, linewidth=1.6, label=label)
            ax.fill_between(epochs, error.amin(0), error.amax(0), color=color, alpha=0.15, linewidth=0)
        ax.set_yscale("symlog", linthresh=1)
        ticks = [0, 0.5, 1, 2, 5, 10, 20, 50]
        ax.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
        ax.set_ylim(0, highest * 1.2)
        ax.minorticks_off()
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        ax.set(xlabel="epoch", title=panel)
        ax.legend(framealpha=0.9, edgecolor="white")
    axes[0].set_ylabel("error / %, mean and range over seeds\n(linear below 1 %, logarithmic above)")
    figure.suptitle(title, fontsize=10)
    return figure


def write_results(results: Results, folder: Path, config: Path, own_splits: bool) -> None:
    """Shows the table, and writes it as Markdown and CSV, all results as JSON, and the figure.

    The test accuracy has its own column if the curves belong to other images.
    """
    curves = {name: 100 * torch.tensor([r["accuracy"] for r in runs]) for name, runs in results.items()}
    epochs = len(next(iter(curves.values()))[0])
    shown = [epoch for epoch in _SHOWN_EPOCHS if epoch < epochs] + [epochs]
    images = results[CONSTRUCTED][0]["images"]
    other = images != "test"  # the curves are not those of the test images
    header = ["head", "parameters", "processor, s", *(f"epoch {epoch}" for epoch in shown), *["test"] * other]
    rows = []
    for name, runs in results.items():
        values = [curves[name][:, epoch - 1] for epoch in shown]
        values += [100 * torch.tensor([r["test/accuracy"] for r in runs])] * other
        seconds = sum(r["processor_seconds"] for r in runs) / len(runs)
        rows.append([name, f"{runs[0]['parameters']:,}", f"{seconds:.1f}", *map(_mean_and_spread, values)])
    seeds = len(results[CONSTRUCTED])
    of = ("mean ± standard deviation of " if seeds > 1 else "") + _of_seeds(seeds)
    of += ", each with its own split" if own_splits and seeds > 1 else ""
    last = " and, at the end, on the test images" if other else ""
    title = f"{config.name}: accuracy in % on the {images} images after some epochs{last}, {of}"
    lead = verdict(curves, shown)
    table = Table(title=title)
    for column in header:
        table.add_column(column, justify="left" if column == "head" else "right")
    for row in rows:
        table.add_row(*row)
    console = Console()
    Console(width=console.width if console.is_terminal else max(console.width, 120)).print(table)
    print(lead)
    lines = "\n".join(f"| {' | '.join(row)} |" for row in (header, ["---"] * len(header), *rows))
    with written_whole(folder / "comparison.md") as partial:
        partial.write_text(f"{title}.\n\n{lines}\n\n{lead}\n")
    with written_whole(folder / "comparison.csv") as partial, partial.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["head", "seed", "parameters", "epoch", "accuracy"])
        for name, runs in results.items():
            for r in runs:
                writer.writerows([name, r["seed"], r["parameters"], i + 1, a] for i, a in enumerate(r["accuracy"]))
    write_json(folder / "comparison.json", dict(results))
    figure = _heads_figure(curves, CONSTRUCTED, f"{config.name}: error on the {images} images, {_of_seeds(seeds)}")
    figure.savefig(folder / "accuracy.png")


def _of_seeds(seeds: int) -> str:
    """Returns the number of seeds in words."""
    return f"{seeds} seeds" if seeds > 1 else "one seed"


def _mean_and_spread(values: torch.Tensor) -> str:
    """Returns mean ± standard deviation over seeds."""
    spread = f" ± {values.std():.2f}" if len(values) > 1 else ""
    return f"{values.mean():.2f}{spread}"


def verdict(curves: dict[str, torch.Tensor], epochs: Sequence[int]) -> str:
    """Returns the rank of the constructed head among the dense ones, by the mean over seeds, after some epochs."""
    parts = []
    for epoch in epochs:
        means = {name: float(curve[:, epoch - 1].mean()) for name, curve in curves.items()}
        own = means.pop(CONSTRUCTED)
        best = max(means, key=means.__getitem__)
        behind = sum(own > value for value in means.values())
        gap = own - means[best]
        place = f"{abs(gap):.2f} points {'above' if gap > 0 else 'below'}" if gap else "level with"
        rank = f"ahead of {behind} of {len(means)} dense heads, {place} the best of them ({best})"
        parts.append(f"after epoch {epoch} it is {rank}")
    return "The constructed head: " + "; ".join(parts) + "."
