"""Sends rows to Weights & Biases, each step once."""

from __future__ import annotations

import os
import re
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.utilities import rank_zero_only

from lit_triwave.distributed.ranks import say
from lit_triwave.files import link
from lit_triwave.tracking.metric_goals import goal
from lit_triwave.tracking.metrics_csv import Row
from lit_triwave.tracking.private_paths import names_home
from lit_triwave.tracking.run import Run, swept

STEP = "trainer/global_step"
"""Name of the column with Lightning's step."""
_LONGEST_NAME = 128
"""Characters of an artifact's name."""


def wandb_loggers(trainer: Trainer) -> list[WandbRows]:
    """Returns the trainer's loggers that send to Weights & Biases."""
    return [logger for logger in trainer.loggers if isinstance(logger, WandbRows)]


class WandbRows(WandbLogger):
    """Sends one row per step to Weights & Biases; its step is Lightning's step.

    A row is sent when the next step begins or the run ends without an error, so it is either complete or missing.
    Another thread sends it, because W&B's answer may take longer than a step. A resumed run first sends the rows of its
    checkpoint that W&B does not have. It then skips the steps that are computed again but that W&B already has.

    Args:
        run: the run to track.
        experiment: the started W&B run; None on ranks other than the first.
        sent: the last step that W&B has; -1 if it has none.
        rows: rows logged before the checkpoint from which the run resumes.
    """

    def __init__(self, run: Run, experiment: Any, sent: int = -1, rows: Sequence[Row] = ()) -> None:
        name = experiment.id if experiment is not None else None
        super().__init__(project=run.project, id=name, save_dir=run.folder, experiment=experiment)
        self._sent = sent
        self._lost = False  # whether W&B's process is gone
        self._step = -1
        self._row: dict[str, Any] = {}  # logged at `_step`, not yet sent
        self._summary: dict[str, Any] = {}
        self._defined: set[str] = set()
        self._thread = ThreadPoolExecutor(max_workers=1)  # makes calls to W&B in order
        self._calls: deque[Future[None]] = deque()
        self._artifact = f"{run.experiment}-{run.id}"
        for step, metrics in rows:
            self.log_metrics(metrics, step)

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        if step is not None and step != self._step:
            self._send()
            self._step = step
        self._row |= metrics

    def _send(self) -> None:
        if self._row and self._step > self._sent and not self._lost:
            while self._calls and self._calls[0].done():
                self._calls.popleft().result()  # raises its error
            self._calls.append(self._thread.submit(self._send_row, self._row, self._step))
            self._sent = self._step
        self._row = {}

    def _wait(self) -> None:
        """Waits until all rows are sent; raises the first error."""
        while self._calls:
            self._calls.popleft().result()

    def _send_row(self, row: dict[str, Any], step: int) -> None:
        if not self._lost:
            with self._may_be_lost():
                self._define(row)
                self.experiment.log({**row, STEP: step}, step=step, commit=True)

    @contextmanager
    def _may_be_lost(self) -> Iterator[None]:
        """Records that W&B's process is gone. This must not end the run; `finish_wandb` reports it."""
        try:
            yield
        except OSError:
            self._lost = True

    def _define(self, names: Iterable[str]) -> None:
        """Tells W&B for each training or validation metric, once, whether lower or higher is better."""
        for name in names:
            wanted = goal(name)
            if name.startswith(("train/", "val/")) and wanted and name not in self._defined:
                self.experiment.define_metric(name, step_metric=STEP, step_sync=True, summary=wanted)
                self._defined.add(name)

    @rank_zero_only
    def log_hyperparams(self, params: Any) -> None:
        """Does nothing, because W&B gets the whole config, which contains the hyperparameters."""

    @rank_zero_only
    def log_config(self, config: Mapping[str, Any]) -> None:
        """Sets W&B's config, flat; values that a W&B sweep has set are kept."""
        self._wait()
        kept = set(self.experiment.config.keys()) if swept() else set()
        given = {name: value for name, value in config.items() if name not in kept}
        with self._may_be_lost():
            self.experiment.config.update(given, allow_val_change=True)

    @rank_zero_only
    def log_cut(self, why: str) -> None:
        """Writes to W&B's config what cut the run short; a resumed run that reached its end removes it."""
        if why or (self.experiment.config.get("cut_short") and not self._lost):
            self.log_config({"cut_short": why or None})

    @rank_zero_only
    def log_summary(self, summary: Mapping[str, Any]) -> None:
        """Sets W&B's summary after the last row, because `stage` is a number in rows and a name in the summary. For
        training and validation metrics W&B keeps the best value itself."""
        self._summary |= summary

    @rank_zero_only
    def log_checkpoint(self, path: Path) -> None:
        """Uploads a checkpoint as an artifact named after the run, from the run folder itself."""
        self._wait()
        if self._lost:
            return
        import wandb

        # A separate link, because a resumed run may replace the checkpoint before it is uploaded.
        own = Path(os.path.relpath(self.experiment.dir)).parent / "artifact" / path.name
        if names_home(own):
            say("Weights & Biases: no artifact, as its path would name the home folder: start the run from within it")
            return
        own.parent.mkdir(exist_ok=True)
        link(path, own)
        artifact = wandb.Artifact(re.sub(r"[^\w.-]", "-", self._artifact)[-_LONGEST_NAME:], type="model")
        # With its default policy, W&B would copy the file to the home folder and write this path into its file.
        artifact.add_file(str(own), name=path.name, policy="immutable")
        with self._may_be_lost():
            self.experiment.log_artifact(artifact)

    @rank_zero_only
    def finalize(self, status: str) -> None:
        if status == "success":
            self._send()
        self._wait()
        if self._summary and not self._lost:
            with self._may_be_lost():
                self.experiment.summary.update({k: v for k, v in self._summary.items() if k not in self._defined})
        super().finalize(status)
