"""The methods of the paper's tables, and ours, as arguments of `FunctionRegressor`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from lit_triwave.commands.reproduce.paper import Function, Table
from lit_triwave.modules.regressor import FunctionRegressor
from lit_triwave.modules.stages import Polish, Stage

STEPS_PER_EPOCH = 50
"""Full-batch steps in an epoch of Lightning's, whose bookkeeping would otherwise take longer than the steps."""
FUSED = {"fused": True}
"""One kernel for Adam's step: the same arithmetic, in less time where networks are small."""
DEPTHS_POLISH_STEPS = 100
"""At each depth of the study by depth."""


@dataclass(frozen=True)
class Method:
    """One row of a table.

    Args:
        label: as tables show it.
        options: for `FunctionRegressor`.
        pretrained, trained, polished: its stages.
    """

    label: str
    options: dict[str, Any] = field(default_factory=dict)
    pretrained: bool = False
    trained: bool = True
    polished: bool = False

    @property
    def constructed(self) -> bool:
        """Whether its networks are constructed, not drawn at random."""
        return "initialization" not in self.options

    def stages(self, table: Table, function: Function, targets: int = 1) -> dict[str, Stage | Polish]:
        """Returns the stages `pretrain`, `train` and `polish` of a table's networks for a function.

        Args:
            table: in which the networks stand.
            function: what is fitted, or one of several targets that are fitted alike.
            targets: number of targets that are fitted side by side.
        """
        polish_steps = DEPTHS_POLISH_STEPS if table == "depths" else function.polish_steps
        return {
            "pretrain": pretraining(table) if self.pretrained else Stage(0),
            "train": (training(table) if self.constructed else paper_training()) if self.trained else Stage(0),
            "polish": Polish(
                epochs(polish_steps) if self.polished else 0,
                exchange=0.5,
                options={"groups": targets, "kick_scales": [0.03]},
            ),
        }


METHODS = {
    "kaiming": Method("Kaiming", {"initialization": "kaiming"}),
    "raai": Method("RAAI", {"initialization": "raai"}),
    "skip_pretraining": Method("skip pretraining"),
    "free_scales": Method("pretraining, no Theorem 3.1", {"theorem31": False}, pretrained=True),
    "theorem31": Method("pretraining + Theorem 3.1", pretrained=True),
    "polish": Method(
        "pretraining + Theorem 3.1 + polish", {"recruit": True}, pretrained=True, trained=False, polished=True
    ),
}
TABLE_METHODS: dict[Table, tuple[str, ...]] = {
    "dense": tuple(METHODS),
    # The polish drives ten points to an exact fit and knows nothing of what lies between them.
    "sparse": tuple(name for name in METHODS if name != "polish"),
    # The paper compares the full method with a standard network only.
    "nonconvex": ("kaiming", "theorem31", "polish"),
    "depths": ("polish",),
}


def epochs(steps: int) -> int:
    """Lightning epochs of so many steps."""
    return -(-steps // STEPS_PER_EPOCH)


def paper_training() -> Stage:
    """Of random starts, as in the paper: Adam at learning rate 1e-3, one full-batch step an epoch, 1000 epochs."""
    return Stage(epochs(1000), lr=1e-3, options=FUSED, schedule="constant", warmup=0.0)


def pretraining(table: Table) -> Stage:
    """Of the peaks' logits. Ten points are soon known by heart: for them it is shorter and slower."""
    steps, lr = (200, 0.03) if table == "sparse" else (500, 0.1)
    return Stage(epochs(steps), lr=lr, options={"betas": [0.9, 0.99], **FUSED})


def training(table: Table) -> Stage:
    """Of constructed weights: as many steps of Adam as a random start.

    They begin near a good fit, which Adam's first steps would spoil, so the learning rate rises slowly; it ends at 0.
    With full batches it pays to remember gradients for longer than by default and their sizes for shorter: with the
    default betas at 1e-3, which the sparse data get, x³ and x¹¹ end two to four times higher.
    """
    if table == "sparse":
        return Stage(epochs(1000), lr=1e-3, options=FUSED)
    return Stage(epochs(1000), lr=5e-3, options={"betas": [0.96, 0.985], **FUSED}, warmup=0.5)


def new_module(
    table: Table, method: Method, function: Function, data: Any, depth: int, seeds: int, targets: int
) -> FunctionRegressor:
    """The module that trains `seeds` networks for each of the data's targets.

    Args:
        table: in which.
        method: how.
        function: what is fitted, or one of several targets that are fitted alike.
        data: a `RegressionDataModule`.
        depth: hidden layers.
        seeds: of each target.
        targets: number of targets.
    """
    stages: dict[str, Any] = method.stages(table, function, targets)
    return FunctionRegressor(
        wiring=function.wiring,
        depth=depth,
        width=function.width,
        replicas=seeds * targets,
        domain=data.domain,
        target_range=function.target_range or data.target_range,
        data_curvature=data.curvature,
        **stages,
        **method.options,
    )
