"""The page of a reproduction: tables, figures, machine and remarks in one Markdown file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lit_triwave.reproduction.methods import BETAS, METHODS, PRETRAIN_LR, STEPS_PER_EPOCH, TRAIN_LR, epochs
from lit_triwave.reproduction.report import Stats, markdown, remarks

INTRODUCTION = """\
# The paper's tables, and ours

Written by

    {command}

The paper: M. Milkert, D. Hyde, F. Laine, *Compelling ReLU Networks to Exhibit Exponentially Many Linear Regions at
Initialization and During Training*, ICML 2025, [arXiv 2311.18022](https://arxiv.org/abs/2311.18022). Its figures are
those in brackets. {seeds} seeds, float64, networks of depth 5, four neurons wide; x³ − x and r³ take two and three of
them, against an ordinary network 8 wide. The MSE is that on test points: a grid of 20 001 points (r³: 201 × 201), in
the sparse table the centres of ten equal cells.

| | |
|---|---|
"""

PROTOCOL = """\
## How each row is trained

{recipes}

One step is one full batch. Random starts: Adam at 1e-3, as in the paper. Constructed networks: Adam at {pretrain_lr:g}
for the logits of the peaks and at {train_lr:g} for the weights, betas {betas}, with a warm-up and a cosine to zero. The
paper says neither how long it pretrains nor its constants of RAAI (here: standard deviation 0.6007 / √fan_in, a row's
mean taken off whole).

The polish is Levenberg–Marquardt with kicks on the released weights, directly after pretraining. Every third round of
kicks some seeds go on from the weights of better ones (`exchange`): **its seeds are not independent, so its mean and
median say how the whole group ended, not what one seed would do.** The row is ours, not the paper's.

The free-knot limit is that of METHOD section 6 for as many segments as the depth buys. Released networks may use more
pieces than that, and may then lie below it.
"""


def page(
    command: str, facts: Mapping[str, str], stats: Stats, figures: Mapping[str, str], counts: Mapping[str, Any]
) -> str:
    """The whole page.

    Args:
        command: that makes it.
        facts: heading ↦ value, of the machine and the run.
        stats: the tables.
        figures: caption ↦ path relative to the page.
        counts: of networks whose linear regions were counted after pretraining: `networks`, `as_many` as 2^d predicts.
    """
    text = INTRODUCTION.format(command=command, seeds=facts["seeds"])
    text += "".join(f"| {name} | {value} |\n" for name, value in facts.items()) + "\n"
    text += markdown(stats) + "\n"
    text += "".join(f"![{caption}]({path})\n\n" for caption, path in figures.items())
    text += "## Worse than the paper, or far from it\n\n"
    text += "".join(f"- {remark}\n" for remark in remarks(stats)) or "No cell.\n"
    text += "\n" + PROTOCOL.format(recipes=recipes(stats), pretrain_lr=PRETRAIN_LR, train_lr=TRAIN_LR, betas=BETAS)
    if counts["networks"]:
        share = f"{counts['as_many']} of {counts['networks']} networks of one subnetwork have 2^d"
        text += f"\nLinear regions after pretraining, counted exactly: {share}.\n"
    return text


def recipes(stats: Stats) -> str:
    """The lengths of the stages of the methods that were run."""
    run = {method for methods in stats.values() for method in methods}
    rows = ["| method | pretraining | Adam | polish |", "|---|---:|---:|---:|"]
    for name, method in METHODS.items():
        if name in run:
            lengths = (method.pretrain_steps, method.train_steps, method.polish_steps)
            steps = [f"{epochs(length) * STEPS_PER_EPOCH} steps" if length else "" for length in lengths]
            rows.append(f"| {method.label} | {' | '.join(steps)} |")
    return "\n".join(rows)
