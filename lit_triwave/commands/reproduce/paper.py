"""The paper's experiments and results (METHOD section 5; Milkert, Hyde, Laine, ICML 2025, arXiv 2311.18022)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from lit_triwave.nn.networks import Wiring
from lit_triwave.nn.stack import DEEPEST_STACK

Table = Literal["dense", "sparse", "nonconvex", "depths"]
"""The paper's tables, and our study of x³ by depth."""
TABLES: tuple[Table, ...] = get_args(Table)
DEPTH = 5
"""Number of hidden layers of all networks in the paper's tables."""
DEPTHS = range(1, 11)
"""Depths of the study by depth."""
STACK_DEPTHS = range(1, DEEPEST_STACK + 1)
"""Depths of the stacks in this study; their error falls until the precision of float64 ends."""


@dataclass(frozen=True)
class Function:
    """A function to fit.

    Args:
        label: name in figures and tables.
        expression: formula in the variables of the domain.
        domain: variable ↦ (lower, upper).
        wiring: wiring of the constructed network.
        width: width of the network with a random start.
        random_points: number of random (Sobol) training points; None for 500 equally spaced ones, or for ten in the
            sparse table.
        target_range: (lowest, highest) target; None for the range of the training data. The convex and concave
            functions share (0, 1), so that no fit depends on the functions fitted beside it.
        polish_steps: steps of the polish; a step of a composition takes as long as five of a single subnetwork.
        layers: layers of the stack with about as many parameters: 92 for the 93 of one subnetwork.
    """

    label: str
    expression: str
    domain: dict[str, tuple[float, float]]
    wiring: Wiring = "single"
    width: int = 4
    random_points: int | None = None
    target_range: tuple[float, float] | None = (0.0, 1.0)
    polish_steps: int = 300
    layers: tuple[int, ...] = (3, 3, 3, 3)


_UNIT = {"x": (0.0, 1.0)}
FUNCTIONS = {
    "x3": Function("x³", "x**3", _UNIT),
    "x11": Function("x¹¹", "x**11", _UNIT),
    "sin": Function("sin x", "sin(x)", _UNIT),
    "tanh3x": Function("tanh 3x", "tanh(3*x)", _UNIT),
    "x3_minus_x": Function(
        "x³ − x",
        "x**3 - x",
        {"x": (-1.0, 1.0)},
        wiring="difference",
        width=8,
        target_range=None,
        polish_steps=200,
        layers=(4, 4, 4, 4),  # 146 parameters for 186; a layer more has 222
    ),
    "r3": Function(
        "r³",
        "(x**2 + y**2)**1.5",
        {"x": (-1.0, 1.0), "y": (-1.0, 1.0)},
        wiring="composition",
        width=8,
        random_points=500,
        target_range=None,
        polish_steps=80,
        layers=(6, 6, 5, 5),  # 272 parameters for 281
    ),
}
_CONVEX = ("x3", "x11", "sin", "tanh3x")
TABLE_FUNCTIONS: dict[Table, tuple[str, ...]] = {
    "dense": _CONVEX,
    "sparse": _CONVEX,
    "nonconvex": ("x3_minus_x", "r3"),
    "depths": ("x3",),
}

_LOWEST: dict[Table, dict[str, tuple[float, ...]]] = {
    "dense": {
        "kaiming": (2.11e-5, 2.19e-5, 4.50e-5, 5.75e-5),
        "raai": (2.14e-5, 4.40e-5, 3.59e-5, 1.09e-5),
        "skip_pretraining": (7.63e-7, 1.86e-5, 1.96e-7, 1.07e-6),
        "free_scales": (1.64e-7, 3.20e-6, 4.41e-8, 1.49e-7),
        "theorem31": (7.86e-8, 8.86e-7, 5.06e-8, 6.82e-8),
    },
    "sparse": {"kaiming": (2.41e-4, 2.14e-3, 2.27e-5, 1.60e-4), "theorem31": (5.65e-6, 6.53e-4, 7.92e-7, 5.09e-6)},
    "nonconvex": {"kaiming": (8e-6, 1.5e-4), "theorem31": (5.52e-7, 3.5e-6)},
}
"""Lowest MSE of 30 seeds: table ↦ method ↦ a value for each of `TABLE_FUNCTIONS`."""
_MEAN: dict[Table, dict[str, tuple[float, ...]]] = {
    "dense": {
        "kaiming": (7.20e-2, 2.82e-2),
        "raai": (3.97e-2, 4.12e-2),
        "skip_pretraining": (3.89e-5, 3.56e-4),
        "free_scales": (1.02e-5, 3.73e-5),
        "theorem31": (5.27e-7, 7.87e-6),
    }
}
"""Mean MSE of 30 seeds, known for the first two functions."""


def paper_value(statistic: str, table: Table, method: str, column: str) -> float | None:
    """Returns the paper's value for a cell; None if the paper has none.

    Args:
        statistic: `"min"` or `"mean"`.
        table, method, column: names that identify the cell.
    """
    of_methods = {"min": _LOWEST, "mean": _MEAN}.get(statistic, {}).get(table, {})
    return dict(zip(TABLE_FUNCTIONS[table], of_methods.get(method, ()), strict=False)).get(column)
