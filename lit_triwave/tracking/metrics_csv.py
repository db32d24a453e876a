"""The two loggers of a run: metrics.csv in its folder, and Weights & Biases."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.utilities import rank_zero_only

from lit_triwave.tracking.flat_config import plain
from lit_triwave.tracking.private_paths import hidden
from lit_triwave.tracking.run import Run

FLUSH_EVERY = 20
"""Logged rows that metrics.csv may lag behind."""


Row = tuple[int, dict[str, float]]
"""A step, and what was logged at it."""


class MetricsCSV(CSVLogger):
    """`metrics.csv`, with every row once.

    Args:
        run: whose folder it is in.
        rows: logged before the checkpoint that the run goes on from; rows of the file itself may be later, or lost.
    """

    def __init__(self, run: Run, rows: Sequence[Row] = ()) -> None:
        super().__init__(
            run.folder.parent.parent, run.experiment or "", version=run.id, flush_logs_every_n_steps=FLUSH_EVERY
        )
        self.rows: list[Row] = []
        for step, metrics in rows:
            self.log_metrics(metrics, step)

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, Any], step: int | None = None) -> None:
        row = (int(step or 0), dict(metrics))
        # A checkpoint inside an epoch has the row of its step logged before Lightning does so.
        if not self.rows or (self.rows[-1][0], self.rows[-1][1].keys()) != (row[0], row[1].keys()):
            self.rows.append(row)
            super().log_metrics(metrics, step)

    @rank_zero_only
    def log_hyperparams(self, params: Any = None) -> None:
        """Saves the model's arguments, without the words by which Lightning's CLI finds its own way back."""
        given = {name: value for name, value in dict(params or {}).items() if not name.startswith("_")}
        super().log_hyperparams(hidden(plain(given)))
