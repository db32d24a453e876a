"""Tables, files and the figure of a head comparison."""

from __future__ import annotations

from collections.abc import Mapping

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from lit_triwave.figures.style import BLUE, GREY, ORANGE, new_figure


def heads_figure(curves: Mapping[str, Tensor], first: str, title: str) -> Figure:
    """Error after each epoch, mean and range over seeds, on a logarithmic axis; one panel for each kind of rival.

    Args:
        curves: head ↦ accuracy in %, (seeds, epochs).
        first: the head that is shown in every panel.
        title: of the figure.
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
            label = "batch norm" if name.endswith("batch norm") else "no batch norm"
            ax.plot(
                epochs, error.mean(0), color=color, linewidth=1.6, label=name if name == first else f"dense, {label}"
            )
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
