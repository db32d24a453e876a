"""Loads the content of a checkpoint, and refuses files that are not checkpoints."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError
from textwrap import shorten
from typing import Any
from zipfile import is_zipfile

import torch

from lit_triwave.errors import TriwaveError, reason, some
from lit_triwave.modules.staged import NUMBERS


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Returns a checkpoint's content, without unpickling arbitrary objects.

    Raises:
        TriwaveError: it cannot be read.
    """
    try:
        content: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        content["state_dict"], content["epoch"], content["loops"], content["pytorch-lightning_version"]
    except Exception as error:
        why = f"{type(error).__name__}: {reason(error)}"
        if not is_zipfile(path):  # which torch.save writes
            why = "it is incomplete or not a checkpoint"
        elif isinstance(error, UnpicklingError):  # PyTorch's message is a page of advice
            why = "damaged, or it holds other objects than tensors"
        others = sorted(str(other) for other in path.parent.glob("*.ckpt") if other != path)
        hint = f"; there is also {some(others)}" if others else ""
        raise TriwaveError(f"checkpoint {path} cannot be read ({why}){hint}") from error
    _check_stage(path, content["state_dict"])
    return content


def _check_stage(path: Path, state: dict[str, Any]) -> None:
    """Refuses the state dict of a module in an unknown stage.

    Raises:
        TriwaveError: naming its `stage_number`.
    """
    number = state.get("stage_number", 0) if isinstance(state, dict) else 0
    number = number.tolist() if isinstance(number, torch.Tensor) else number
    if number not in NUMBERS.values():
        known = ", ".join(f"{n} ({name})" for name, n in NUMBERS.items())
        raise TriwaveError(f"stage_number of checkpoint {path} must be one of {known}, got {shorten(str(number), 40)}")


def logged_steps(checkpoint: Mapping[str, Any]) -> int:
    """Returns the steps up to a checkpoint through all stages, as metrics.csv and Weights & Biases count them.

    Lightning's own count restarts at the polish."""
    loop = checkpoint.get("loops", {}).get("fit_loop", {}).get("epoch_loop.state_dict", {})
    return int(loop.get("_batches_that_stepped", checkpoint.get("global_step", 0)))
