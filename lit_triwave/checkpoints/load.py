"""Loads a checkpoint's content, and refuses a file that is none."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError
from textwrap import shorten
from typing import Any
from zipfile import is_zipfile

import torch

from lit_triwave.errors import TriwaveError, reason, some
from lit_triwave.modules.staged import STAGES


def load_checkpoint(path: Path) -> dict[str, Any]:
    """A checkpoint's content, without unpickling arbitrary objects.

    Raises:
        TriwaveError: it can't be read.
    """
    try:
        content: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        content["state_dict"], content["epoch"], content["loops"], content["pytorch-lightning_version"]
    except Exception as error:
        why = f"{type(error).__name__}: {reason(error)}"
        if not is_zipfile(path):  # as everything is that torch.save writes
            why = "it is cut off, or no checkpoint at all"
        elif isinstance(error, UnpicklingError):  # of which PyTorch says a page of advice
            why = "damaged, or with other objects than tensors in it"
        others = sorted(str(other) for other in path.parent.glob("*.ckpt") if other != path)
        hint = f"; there is also {some(others)}" if others else ""
        raise TriwaveError(f"checkpoint {path} cannot be read ({why}){hint}") from error
    check_stage(path, content["state_dict"])
    return content


def check_stage(path: Path, state: dict[str, Any]) -> None:
    """Refuses the state dict of a module in a stage that there is not.

    Raises:
        TriwaveError: naming what its `stage_number` is.
    """
    number = state.get("stage_number", 0) if isinstance(state, dict) else 0
    number = number.tolist() if isinstance(number, torch.Tensor) else number
    if number not in range(len(STAGES)):
        known = ", ".join(f"{n} ({name})" for n, name in enumerate(STAGES))
        raise TriwaveError(f"checkpoint {path} has stage_number {shorten(str(number), 40)}: one of {known}")


def logged_steps(checkpoint: Mapping[str, Any]) -> int:
    """The steps up to a checkpoint as metrics.csv and Weights & Biases count them: through all stages. Lightning's own
    count begins again at the polish."""
    loop = checkpoint.get("loops", {}).get("fit_loop", {}).get("epoch_loop.state_dict", {})
    return int(loop.get("_batches_that_stepped", checkpoint.get("global_step", 0)))
