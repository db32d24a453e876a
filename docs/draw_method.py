"""Draws the pictures of docs/METHOD.md and docs/explanation/stages.md with the library itself.

python docs/draw_method.py
"""

from __future__ import annotations

from pathlib import Path

import torch
from matplotlib.figure import Figure

from lit_triwave import TriangleBank
from lit_triwave.construction.triangle import theorem31_scales, wave_form, waves
from lit_triwave.figures.style import BLUE, GREY, ORANGE, new_figure

FOLDER = Path(__file__).parent / "figures"
DEPTH = 4
PEAKS = torch.tensor([0.42, 0.55, 0.46, 0.52, 0.5], dtype=torch.float64)  # d + 1 of them, chosen to look uneven
FIRST_SCALE = torch.tensor(0.25, dtype=torch.float64)  # that of x², see Yarotsky in METHOD section 1


def waves_figure() -> Figure:
    """The waves W_0 … W_3 of uneven peaks, and the convex functions that their sums give layer by layer."""
    x = torch.linspace(0, 1, 2001, dtype=torch.float64)
    scales = theorem31_scales(PEAKS, FIRST_SCALE)
    figure, (left, right) = new_figure(1, 2, size=(9.0, 3.4))
    for i, wave in enumerate(waves(x, PEAKS[:-1]).unbind(-1)):
        left.plot(x, wave - 1.3 * i, color=BLUE, linewidth=1.2)
        left.text(1.03, 0.35 - 1.3 * i, f"$W_{i}$\n{2 ** (i + 1)} pieces", fontsize=8)
    left.set(title="Waves: compositions of triangle functions", xlabel="x", yticks=[])
    zero, one, sign = (torch.tensor(value, dtype=torch.float64) for value in (0.0, 1.0, -1.0))
    for depth in range(1, DEPTH + 1):
        y = wave_form(x, PEAKS[:depth], scales[:depth], zero, one, sign)
        color, alpha = (ORANGE, 1.0) if depth == DEPTH else (GREY, 0.3 + 0.2 * depth)
        right.plot(x, y, color=color, alpha=alpha, linewidth=1.4, label=f"{2**depth} pieces")
    right.set(title="Their sum: x − Σ sᵢWᵢ", xlabel="x")
    right.legend(frameon=False, fontsize=8)
    return figure


def block_diagonal_figure() -> Figure:
    """A hidden matrix of six subnetworks side by side: constructed, and after a dense release and some training."""
    torch.manual_seed(0)
    bank = TriangleBank(6, DEPTH, dtype=torch.float64)
    bank.release("dense")
    before = bank.hidden_weight[0].detach().clone()
    optimizer = torch.optim.Adam(bank.parameters(), lr=0.003)
    x = torch.rand(500, 6, dtype=torch.float64)
    for _ in range(200):
        optimizer.zero_grad()
        (bank(x).sum(-1) - x.prod(-1)).square().mean().backward()
        optimizer.step()
    figure, axes = new_figure(1, 2, size=(7.6, 3.8))
    titles = ["constructed: blocks of 4 × 4", "after a dense release and training"]
    for ax, weight, title in zip(axes, (before, bank.hidden_weight[0].detach()), titles, strict=True):
        image = ax.imshow(weight.abs().clamp(min=1e-4).log10(), cmap="Blues", vmin=-4, vmax=0.5)
        ax.set(title=title, xlabel="neuron of layer 0", ylabel="neuron of layer 1")
    figure.colorbar(image, ax=axes, label="log₁₀ |weight|", shrink=0.8)
    return figure


if __name__ == "__main__":
    for name, figure in {"waves": waves_figure(), "block_diagonal": block_diagonal_figure()}.items():
        figure.savefig(FOLDER / f"{name}.png", dpi=120, metadata={"Software": None})
