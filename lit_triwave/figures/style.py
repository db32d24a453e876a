"""The common style of all figures, without torch."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

BLUE, ORANGE, GREY = "#1f5fa8", "#d9622b", "#8a8f98"
_TITLE_SHARE = 0.94  # widest title, as a share of the figure's width
_LINE_HEIGHT = 1.2  # line height of a title, in units of the font size


def new_figure(
    rows: int = 1, columns: int = 1, size: tuple[float, float] = (7.0, 4.2)
) -> tuple[Figure, Sequence[Axes]]:
    """Returns an empty figure with rows × columns panels, size in inches, and its axes row by row."""
    figure = Figure(figsize=size, dpi=150, layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).flatten()
    for ax in axes:
        ax.spines[["top", "right"]].set_visible(False)
    return figure, list(axes)


def titled(figure: Figure, title: str, size: float = 10.0) -> None:
    """Adds a title over all panels, wrapped to the figure's width. For each further line the figure becomes taller.

    Args:
        figure: a figure of `new_figure`.
        title: the text; a single word that is too wide is not cut.
        size: font size in points.
    """
    text = figure.suptitle("", fontsize=size)
    lines: list[str] = []
    for word in title.split():
        text.set_text(f"{lines[-1]} {word}" if lines else word)
        if lines and text.get_window_extent().width <= _TITLE_SHARE * figure.bbox.width:
            lines[-1] = text.get_text()
        else:
            lines.append(word)
    text.set_text("\n".join(lines))
    width, height = figure.get_size_inches()
    figure.set_size_inches(width, height + (len(lines) - 1) * _LINE_HEIGHT * size / 72)


def decades_grid(ax: Axes) -> None:
    """Makes the vertical axis logarithmic, with a grid line at each decade; linear if all lines are zero."""
    heights = [line.get_ydata() for line in ax.lines]
    if not heights or any((np.asarray(values, dtype=float) > 0).any() for values in heights):
        ax.set_yscale("log")
    ax.grid(True, which="major", axis="y", color="#e3e5e8", linewidth=0.8)
