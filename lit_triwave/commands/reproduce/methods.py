"""The methods of the paper's tables and ours, as arguments of `FunctionRegressor`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from lit_triwave.commands.reproduce.paper import Function, Table
from lit_triwave.modules.regressor import FunctionRegressor
from lit_triwave.modules.stages import Polish, Stage

STEPS_PER_EPOCH = 50
"""Full-batch steps in one Lightning epoch, whose bookkeeping would otherwise take longer than the steps."""
_FUSED = {"fused": True}
"""Uses one kernel for Adam's step: the same arithmetic in less time for small networks."""
_DEPTHS_POLISH_STEPS = 100
"""Steps of the polish at each depth of the study by depth."""


@dataclass(frozen=True)
class Method:
    """One row of a table.

    Args:
        label: name in tables.
        options: arguments for `FunctionRegressor`.
        pretrained, trained, polished: whether it has the stages `pretrain`, `train` and `polish`.
    """

    label: str
    options: dict[str, Any] = field(default_factory=dict)
    pretrained: bool = False
    trained: bool = True
    polished: bool = False

    @property
    def constructed(self) -> bool:
        """Whether its networks are constructed, not initialised at random."""
        return "initialization" not in self.options

    def stages(self, table: Table, function: Function, targets: int = 1) -> dict[str, Stage | Polish]:
        """Returns the stages `pretrain`, `train` and `polish` of a table's networks for a function.

        Args:
            table: of the networks.
            function: the target, or one of several targets that are fitted in the same way.
            targets: number of targets that are fitted side by side.
        """
        polish_steps = _DEPTHS_POLISH_STEPS if table == "depths" else function.polish_steps
        return {
            "pretrain": _pretraining(table) if self.pretrained else Stage(0),
            "train": (_training(table) if self.constructed else _paper_training()) if self.trained else Stage(0),
            "polish": Polish(
                _epochs(polish_steps) if self.polished else 0,
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
    # The polish would fit the ten points exactly, without regard to the test points between them.
    "sparse": tuple(name for name in METHODS if name != "polish"),
    # The paper compares only the full method with a standard network.
    "nonconvex": ("kaiming", "theorem31", "polish"),
    "depths": ("polish",),
}


def _epochs(steps: int) -> int:
    """Returns the number of Lightning epochs for at least this number of steps."""
    return -(-steps // STEPS_PER_EPOCH)


def _paper_training() -> Stage:
    """Returns the paper's training of random starts: 1000 full-batch steps of Adam at learning rate 1e-3."""
    return Stage(_epochs(1000), lr=1e-3, options=_FUSED, schedule="constant", warmup=0.0)


def _pretraining(table: Table) -> Stage:
    """Returns the pretraining of the peaks; it is shorter and slower for ten points, which are soon overfitted."""
    steps, lr = (200, 0.03) if table == "sparse" else (500, 0.1)
    return Stage(_epochs(steps), lr=lr, options={"betas": [0.9, 0.99], **_FUSED})


def _training(table: Table) -> Stage:
    """Returns the training of constructed weights, with as many steps of Adam as for a random start.

    Constructed weights start near a good fit, which Adam's first steps would spoil. So the learning rate rises slowly,
    and it ends at 0. With full batches, a higher β₁ and a lower β₂ than the defaults help: with the default betas at
    1e-3, which the sparse data get, the errors of x³ and x¹¹ are two to four times higher.
    """
    if table == "sparse":
        return Stage(_epochs(1000), lr=1e-3, options=_FUSED)
    return Stage(_epochs(1000), lr=5e-3, options={"betas": [0.96, 0.985], **_FUSED}, warmup=0.5)


def new_module(
    table: Table, method: Method, function: Function, data: Any, depth: int, seeds: int, targets: int
) -> FunctionRegressor:
    """Returns the module that trains `seeds` networks for each of the data's targets.

    Args:
        table: of the networks.
        method: of the training.
        function: the target, or one of several targets that are fitted in the same way.
        data: a `RegressionDataModule`.
        depth: number of hidden layers.
        seeds: number of networks for each target.
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
