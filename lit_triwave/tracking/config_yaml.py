"""Writes `config.yaml` of a run folder."""

from __future__ import annotations

from pathlib import Path

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.cli import SaveConfigCallback

from lit_triwave.files import written_whole
from lit_triwave.tracking.private_paths import hidden
from lit_triwave.tracking.run_files import CONFIG_YAML


class SaveFitConfig(SaveConfigCallback):
    """Saves `config.yaml` of a `fit`. An evaluation must not change it, because it describes how the run was made.

    The run's id and checkpoint are left out, so that the saved config starts another run of the same experiment. The
    user's name is also left out, see `private_paths`.
    """

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage == "fit":
            self.config = hidden(self.config.clone())
            self.config.run.id = self.config.ckpt_path = None
            super().setup(trainer, pl_module, stage)

    def save_config(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        # `save_to_log_dir` would leave half a file if the process were killed.
        with written_whole(Path(trainer.default_root_dir) / CONFIG_YAML) as partial:
            # The config was checked when it was parsed; a second check would take a tenth of a second.
            options = {"skip_none": False, "skip_validation": True, "multifile": False}
            self.parser.save(self.config, str(partial), overwrite=True, **options)
