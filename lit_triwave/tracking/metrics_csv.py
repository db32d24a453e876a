"""Writes `metrics.csv` of a run folder."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.utilities import rank_zero_only

from lit_triwave.tracking.flat_config import plain
from lit_triwave.tracking.private_paths import hidden
from lit_triwave.tracking.run import Run

_FLUSH_EVERY = 20
"""Rows that may be lost when the process is killed; a resumed run writes them again from its checkpoint."""
Row = tuple[int, dict[str, float]]
"""Step, and the metrics that were logged at it."""


class MetricsCSV(CSVLogger):
    """Logs to `metrics.csv`, each row once.

    Args:
        run: the run; the file is in its folder.
        rows: rows logged before the checkpoint from which the run resumes. The file may have lost some of them, or may
            have later ones.
    """

    def __init__(self, run: Run, rows: Sequence[Row] = ()) -> None:
        root = run.folder.parent.parent
        super().__init__(root, run.experiment or "", version=run.id, flush_logs_every_n_steps=_FLUSH_EVERY)
        self.rows: list[Row] = []
        for step, metrics in rows:
            self.log_metrics(metrics, step)

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, Any], step: int | None = None) -> None:
        row = (int(step or 0), dict(metrics))
        # Before a checkpoint inside an epoch, `StageCheckpoint` logs the row of its step; Lightning logs it again.
        if not self.rows or (self.rows[-1][0], self.rows[-1][1].keys()) != (row[0], row[1].keys()):
            self.rows.append(row)
            super().log_metrics(metrics, step)

    @rank_zero_only
    def log_hyperparams(self, params: Any = None) -> None:
        """Saves the model's arguments to `hparams.yaml`, without the arguments that Lightning's CLI adds."""
        given = {name: value for name, value in dict(params or {}).items() if not name.startswith("_")}
        super().log_hyperparams(hidden(plain(given)))
