"""Finds seeds whose weights are not finite, so that `inspect` can skip them."""

from __future__ import annotations

from lit_triwave.checkpoints.rebuild import Saved
from lit_triwave.errors import TriwaveError

_NETWORK = "network."
_SHARED = "network.scaling."
"""Buffers that all seeds of a function share. All other parameters and buffers have the seeds as first dimension."""


def lost_seeds(saved: Saved) -> dict[int, str]:
    """Returns the seeds with weights that are not finite: seed ↦ name of its first such parameter or buffer.

    Args:
        saved: the checkpoint; a classifier has one seed, 0.
    """
    found: dict[int, str] = {}
    for name, value in saved.module.state_dict().items():
        if not name.startswith(_NETWORK):  # for example errors of the seeds, which are NaN until they are known
            continue
        by_seed = saved.is_function and not name.startswith(_SHARED) and value.numel()
        finite = value.isfinite().reshape(saved.seeds if by_seed else 1, -1).all(1).expand(saved.seeds)
        for seed in (~finite).nonzero().flatten().tolist():
            found.setdefault(seed, name)
    return found


def healthy_seed(saved: Saved, asked: int | None, lost: dict[int, str], target: str | None = None) -> int:
    """Returns the seed to inspect: the given one, or else the best seed with finite weights.

    Args:
        saved: the checkpoint.
        asked: the given seed, from 0, or None.
        lost: see `lost_seeds`.
        target: target to inspect if there are several; by default the first.

    Raises:
        TriwaveError: there is no such seed or target, or its weights are not finite.
    """
    seed = saved.seed(asked, target)
    if seed not in lost:
        return seed
    if asked is None and len(lost) < saved.seeds:
        errors = saved.module.train_mse.nan_to_num(float("inf"))
        each = saved.seeds // len(saved.targets)
        first = seed - seed % each  # first seed of the same target
        others = [other for other in range(first, first + each) if other not in lost]
        if others:
            return min(others, key=lambda other: float(errors[other]))
    which = "" if saved.seeds == 1 else f" in seed {seed}" if len(lost) < saved.seeds else " in all seeds"
    raise TriwaveError(f"checkpoint {saved.path} has weights that are not finite{which}: {lost[seed]}")
