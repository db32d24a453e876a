"""Writes checkpoints whole or not at all, and without paths that name the home folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lightning.pytorch.plugins.io import TorchCheckpointIO

from lit_triwave.checkpoints.load import check_saved, load_checkpoint
from lit_triwave.errors import TriwaveError, reason
from lit_triwave.files import written_whole
from lit_triwave.tracking.private_paths import found, hidden

_WITH_PATHS = ("hyper_parameters", "datamodule_hyper_parameters", "callbacks")
"""Parts of a checkpoint in which Lightning saves paths of this machine."""


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint to a temporary file beside it and renames this when complete; reads by `load_checkpoint`.

    Lightning's class may copy from the system's temporary folder. A full disk or a kill then leaves half a checkpoint
    instead of the last good one.

    The first checkpoint is opened before it is renamed, because modules of the user may save objects that cannot be
    read again.
    """

    def __init__(self) -> None:
        super().__init__()
        self._checked = False

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        checkpoint |= {name: hidden(dict(checkpoint[name])) for name in _WITH_PATHS if name in checkpoint}
        try:
            with written_whole(Path(path)) as partial:
                super().save_checkpoint(checkpoint, partial, storage_options)
                if not self._checked and partial.is_file():  # not a pipe, which can be read only once
                    check_saved(partial, checkpoint)
                    self._checked = True
        except (OSError, RuntimeError) as error:  # torch reports a full disk as a RuntimeError
            what = f"cannot be written ({reason(error)}); the one before is kept"
            raise TriwaveError(f"checkpoint {path} {what}") from error

    def load_checkpoint(self, path: Any, map_location: Any = "cpu", weights_only: bool | None = True) -> Any:
        content = load_checkpoint(Path(path))
        return content | {"callbacks": found(content.get("callbacks", {}))}
