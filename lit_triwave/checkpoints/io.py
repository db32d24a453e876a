"""Writes checkpoints whole, and without paths that name the home folder."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO

from lit_triwave.errors import TriwaveError, reason
from lit_triwave.files import written_whole
from lit_triwave.tracking.private_paths import hidden

if TYPE_CHECKING:
    pass

HYPER_PARAMETERS = ("hyper_parameters", "datamodule_hyper_parameters")


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint beside its place and renames it when it is whole; reads without unpickling arbitrary objects.

    Lightning's own writes to the system's temporary folder and, where that is another file system, copies: a full disk
    or a kill then leaves half a checkpoint where the last good one was.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        # Without Lightning's notes of this machine's paths.
        checkpoint |= {name: hidden(dict(checkpoint[name])) for name in HYPER_PARAMETERS if name in checkpoint}
        try:
            with written_whole(Path(path)) as partial:
                super().save_checkpoint(checkpoint, partial, storage_options)
        except (OSError, RuntimeError) as error:  # torch reports a full disk as a RuntimeError
            raise TriwaveError(
                f"checkpoint {path} cannot be written ({reason(error)}); the one before is kept"
            ) from error

    def load_checkpoint(self, path: Any, map_location: Any = "cpu", weights_only: bool | None = True) -> Any:
        return torch.load(path, map_location=map_location, weights_only=True)
