"""The methods of the paper's tables, and ours, as arguments of `FunctionRegressor`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from lit_triwave.modules.regressor import FunctionRegressor
from lit_triwave.reproduction.paper import Function, Table
from lit_triwave.stages import Polish, Stage

STEPS_PER_EPOCH = 50
"""Full-batch steps in an epoch of Lightning's, whose bookkeeping would otherwise take longer than the steps."""
TRAIN_STEPS = 1000
"""The paper's: Adam at learning rate 1e-3, one full-batch step an epoch, 1000 epochs."""
PRETRAIN_LR = 0.1
"""Of the logits of the peaks."""
TRAIN_LR = 1e-3
"""Of constructed weights."""
BETAS = (0.9, 0.99)
"""Adam's for constructed networks; a longer memory of gradient sizes costs them accuracy."""


@dataclass(frozen=True)
class Method:
    """One row of a table.

    Args:
        label: as tables show it.
        options: for `FunctionRegressor`.
        pretrain_steps, train_steps, polish_steps: lengths of the stages.
    """

    label: str
    options: dict[str, Any]
    pretrain_steps: int = 0
    train_steps: int = 0
    polish_steps: int = 0


METHODS = {
    "kaiming": Method("Kaiming", {"initialization": "kaiming"}, train_steps=TRAIN_STEPS),
    "raai": Method("RAAI", {"initialization": "raai"}, train_steps=TRAIN_STEPS),
    "skip_pretraining": Method("skip pretraining", {}, train_steps=TRAIN_STEPS),
    "free_scales": Method("pretraining, no Theorem 3.1", {"theorem31": False}, 500, TRAIN_STEPS),
    "theorem31": Method("pretraining + Theorem 3.1", {}, 500, TRAIN_STEPS),
    "polish": Method("pretraining + Theorem 3.1 + polish", {}, pretrain_steps=1000, polish_steps=700),
}
TABLE_METHODS: dict[Table, tuple[str, ...]] = {
    "dense": tuple(METHODS),
    # The polish drives ten points to an exact fit and knows nothing of what lies between them.
    "sparse": tuple(name for name in METHODS if name != "polish"),
    # The paper compares the full method with a standard network only.
    "nonconvex": ("kaiming", "theorem31", "polish"),
    "depths": ("theorem31", "polish"),
}


def epochs(steps: int) -> int:
    """Lightning epochs of so many steps."""
    return -(-steps // STEPS_PER_EPOCH)


def new_module(
    method: Method, function: Function, data: Any, depth: int, seeds: int, targets: int
) -> FunctionRegressor:
    """The module that trains `seeds` networks for each of the data's targets.

    Args:
        method: how.
        function: what is fitted, or one of several targets that are fitted alike.
        data: a `RegressionDataModule`.
        depth: hidden layers.
        seeds: of each target.
        targets: number of targets.
    """
    constructed = "initialization" not in method.options
    betas = {"betas": list(BETAS)}
    # A random start is trained as in the paper. A constructed one starts near a good fit, which Adam's first steps
    # would spoil, and ends with a falling learning rate.
    train = Stage(epochs(method.train_steps), lr=TRAIN_LR, options=betas)
    if not constructed:
        train = Stage(epochs(method.train_steps), lr=1e-3, schedule="constant", warmup=0.0)
    polish = Polish(epochs(method.polish_steps), exchange=0.25, options={"groups": targets})
    return FunctionRegressor(
        wiring=function.wiring,
        depth=depth,
        width=function.width,
        replicas=seeds * targets,
        pretrain=Stage(epochs(method.pretrain_steps), lr=PRETRAIN_LR, options=betas),
        train=train,
        polish=polish,
        domain=data.domain,
        target_range=data.target_range,
        data_curvature=data.curvature,
        **method.options,
    )
