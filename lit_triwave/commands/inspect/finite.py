"""Weights that are not finite: of a network none of whose figures would be right, or of some of a function's seeds."""

from __future__ import annotations

from torch import Tensor

from lit_triwave.checkpoints.rebuild import Saved
from lit_triwave.errors import TriwaveError
from lit_triwave.modules.regressor import FunctionRegressor

NETWORK = "network."
OF_ALL_SEEDS = "network.scaling."
"""What a function's seeds have in common; all else has them as its first dimension."""


def lost_seeds(saved: Saved) -> dict[int, str]:
    """The seeds with weights that are not finite, and the first parameter or buffer of each that is not.

    Args:
        saved: the checkpoint; a classifier is its only seed, 0.
    """
    found: dict[int, str] = {}
    for name, value in saved.module.state_dict().items():
        if not name.startswith(NETWORK):  # errors of the seeds, which are NaN until they are known
            continue
        for seed in bad_seeds(value, saved.is_function and not name.startswith(OF_ALL_SEEDS), saved.seeds):
            found.setdefault(seed, name)
    return found


def bad_seeds(value: Tensor, by_seed: bool, seeds: int) -> list[int]:
    """The seeds whose part of a tensor is not finite: of one that they share, all or none."""
    finite = value.isfinite()
    if by_seed and value.numel():
        bad: list[int] = (~finite.reshape(seeds, -1).all(1)).nonzero().flatten().tolist()
        return bad
    return [] if bool(finite.all()) else list(range(seeds))


def healthy_seed(saved: Saved, asked: int | None, lost: dict[int, str]) -> int:
    """The seed to look at: the one asked for; else the best one, or the best of the finite ones if it is not.

    Args:
        saved: the checkpoint.
        asked: for a seed, from 0.
        lost: see `lost_seeds`.

    Raises:
        TriwaveError: there is no such seed, or its weights are not finite.
    """
    seed = saved.seed(asked)
    if seed not in lost:
        return seed
    module = saved.module
    if asked is None and len(lost) < saved.seeds and isinstance(module, FunctionRegressor):
        errors = module.train_mse.nan_to_num(float("inf"))
        return min((other for other in range(saved.seeds) if other not in lost), key=lambda other: float(errors[other]))
    which = "" if saved.seeds == 1 else f" in seed {seed}" if len(lost) < saved.seeds else " in all seeds"
    raise TriwaveError(f"checkpoint {saved.path} has weights that are not finite{which}: {lost[seed]}")
