"""How all figures look; for those too that are drawn without torch."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

BLUE, ORANGE, GREY = "#1f5fa8", "#d9622b", "#8a8f98"


def new_figure(
    rows: int = 1, columns: int = 1, size: tuple[float, float] = (7.0, 4.2)
) -> tuple[Figure, Sequence[Axes]]:
    """An empty figure of so many panels, in inches, and its axes, row by row."""
    figure = Figure(figsize=size, dpi=150, layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).flatten()
    for ax in axes:
        ax.spines[["top", "right"]].set_visible(False)
    return figure, list(axes)


def decades_grid(ax: Axes) -> None:
    """A logarithmic vertical axis with a line at each decade."""
    ax.set_yscale("log")
    ax.grid(True, which="major", axis="y", color="#e3e5e8", linewidth=0.8)
