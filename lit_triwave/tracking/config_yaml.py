"""`config.yaml` of a run folder."""

from __future__ import annotations

from pathlib import Path

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.cli import SaveConfigCallback

from lit_triwave.files import written_whole
from lit_triwave.tracking.private_paths import hidden
from lit_triwave.tracking.run_files import CONFIG_YAML


class SaveFitConfig(SaveConfigCallback):
    """Saves `config.yaml` for `fit` alone: evaluating a run must not change how it says it was made.

    Without the run's id and checkpoint, so that the saved config, run again, is another run of the same experiment; and
    without the user's name, see `home`.
    """

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage == "fit":
            self.config = hidden(self.config.clone())
            self.config.run.id = self.config.ckpt_path = None
            super().setup(trainer, pl_module, stage)

    def save_config(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        # Not by `save_to_log_dir`: a process killed then leaves half a file where a whole one was.
        with written_whole(Path(trainer.default_root_dir) / CONFIG_YAML) as partial:
            self.parser.save(self.config, str(partial), skip_none=False, overwrite=True, multifile=False)
