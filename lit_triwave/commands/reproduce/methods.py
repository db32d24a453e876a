"""The methods of the paper's tables and ours, as arguments of `FunctionRegressor`."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from lit_triwave.commands.reproduce.paper import Function, Table
from lit_triwave.modules.staged import StageName
from lit_triwave.modules.stages import Limit, Polish, Stage

STEPS_PER_EPOCH = 50
"""Full-batch steps in one Lightning epoch. With fewer, the work of Lightning would take longer than the steps."""
_FUSED = {"fused": True}
"""Options for Adam with one kernel for a step: the same arithmetic, faster for small networks."""
_LIMIT_STEPS = 100
"""Iterations on the limit of a stack; most functions need half of them."""
_DEPTHS_POLISH_STEPS = 100
"""Steps of the polish at each depth of the study by depth."""


@dataclass(frozen=True)
class Method:
    """One row of a table.

    Args:
        label: name in tables.
        options: arguments for `FunctionRegressor`.
        stages: stages in which its networks are trained.
        ours: whether it is not in the paper.
    """

    label: str
    options: dict[str, Any] = field(default_factory=dict)
    stages: tuple[StageName, ...] = ("pretrain", "train")
    ours: bool = False

    @property
    def constructed(self) -> bool:
        """Whether its networks are constructed, not initialised at random."""
        return "initialization" not in self.options

    @property
    def family(self) -> tuple[Any, ...]:
        """Name of a family of methods. They train the same architecture in the same way after their pretraining."""
        return self.constructed, self.stages[-1]

    def recipe(self, table: Table, function: Function, targets: int = 1) -> dict[StageName, Any]:
        """Returns all stages of a table's networks for a function. Stages that the method does not use have 0 epochs.

        Args:
            table: table of the networks.
            function: the target, or one of several targets that are fitted in the same way.
            targets: number of targets that are fitted side by side.
        """
        polish_steps = _DEPTHS_POLISH_STEPS if table == "depths" else function.polish_steps
        options = {"groups": targets, "kick_scales": [0.03]}
        stages: dict[StageName, Any] = {
            "limit": Limit(_epochs(_LIMIT_STEPS)),
            "pretrain": _pretraining(table),
            "train": _training(table) if self.constructed else _paper_training(),
            "polish": Polish(_epochs(polish_steps), exchange=0.5, options=options),
        }
        return {name: stage if name in self.stages else replace(stage, epochs=0) for name, stage in stages.items()}


METHODS = {
    "kaiming": Method("Kaiming", {"initialization": "kaiming"}, ("train",)),
    "raai": Method("RAAI", {"initialization": "raai"}, ("train",)),
    "skip_pretraining": Method("skip pretraining", stages=("train",)),
    "free_scales": Method("pretraining, no Theorem 3.1", {"theorem31": False}),
    "theorem31": Method("pretraining + Theorem 3.1"),
    "polish": Method("pretraining + Theorem 3.1 + polish", {"recruit": True}, ("pretrain", "polish"), ours=True),
    "limit": Method("limit of a stack, then built", {"wiring": "stack"}, ("limit",), ours=True),
}
TABLE_METHODS: dict[Table, tuple[str, ...]] = {
    "dense": tuple(METHODS),
    # Our methods would fit the ten points exactly and ignore the function between them.
    "sparse": tuple(name for name, method in METHODS.items() if not method.ours),
    # The paper compares only the full method with a standard network.
    "nonconvex": ("kaiming", "theorem31", "polish", "limit"),
    "depths": ("polish", "limit"),
}


def _epochs(steps: int) -> int:
    """Returns the number of Lightning epochs for at least this number of steps."""
    return -(-steps // STEPS_PER_EPOCH)


def _paper_training() -> Stage:
    """Returns the paper's training of random starts: 1000 full-batch steps of Adam at learning rate 1e-3."""
    return Stage(_epochs(1000), lr=1e-3, options=_FUSED, schedule="constant", warmup=0.0)


def _pretraining(table: Table) -> Stage:
    """Returns the pretraining of the peaks. For ten points it has fewer steps and a lower rate, against overfitting."""
    steps, lr = (200, 0.03) if table == "sparse" else (500, 0.1)
    return Stage(_epochs(steps), lr=lr, options={"betas": [0.9, 0.99], **_FUSED})


def _training(table: Table) -> Stage:
    """Returns the training of constructed weights, with as many steps of Adam as for a random start.

    Constructed weights start near a good fit, which Adam's first steps would destroy. So the learning rate rises
    slowly, and it ends at 0. With full batches, a higher β₁ and a lower β₂ than the defaults help. With the default
    betas at 1e-3, which are used for sparse data, the errors of x³ and x¹¹ are two to four times higher.
    """
    if table == "sparse":
        return Stage(_epochs(1000), lr=1e-3, options=_FUSED)
    return Stage(_epochs(1000), lr=5e-3, options={"betas": [0.96, 0.985], **_FUSED}, warmup=0.5)
