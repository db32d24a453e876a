"""Rows sent to Weights & Biases, each step once."""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from queue import Queue
from typing import Any

from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.utilities import rank_zero_only

from lit_triwave.distributed.ranks import say
from lit_triwave.files import link
from lit_triwave.tracking.metric_goals import goal
from lit_triwave.tracking.metrics_csv import Row
from lit_triwave.tracking.private_paths import names_home
from lit_triwave.tracking.run import Run, swept

STEP = "trainer/global_step"


MOST_LETTERS = 128
"""Of an artifact's name."""


class WandbRows(WandbLogger):
    """Sends one row for each step to Weights & Biases, W&B's own step being Lightning's, each of them once.

    What is logged at a step is sent when the next step comes or all is well at the end, so that a row is whole or not
    there at all. Another thread sends it: on a busy machine W&B's answer takes longer than the step. A run that goes on
    sends what its checkpoint knows and W&B lacks, then leaves out the steps, computed again since the checkpoint, that
    W&B has.

    Args:
        run: to be tracked.
        experiment: the started W&B run; None on ranks but the first.
        sent: the last step that W&B has, -1 for none.
        rows: logged before the checkpoint that the run goes on from.
    """

    def __init__(self, run: Run, experiment: Any, sent: int = -1, rows: Sequence[Row] = ()) -> None:
        name = experiment.id if experiment is not None else None
        super().__init__(project=run.project, id=name, save_dir=run.folder, experiment=experiment)
        self._sent = sent
        self._lost = False  # W&B's process is gone
        self._step = -1
        self._row: dict[str, Any] = {}  # logged at `_step`, not yet sent
        self._summary: dict[str, Any] = {}
        self._defined: set[str] = set()
        self._background = Background()
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
            self._background.call(partial(self._send_row, self._row, self._step))
            self._sent = self._step
        self._row = {}

    def _send_row(self, row: dict[str, Any], step: int) -> None:
        if not self._lost:
            with self._may_be_lost():
                self._define(row)
                self.experiment.log({**row, STEP: step}, step=step, commit=True)

    @contextmanager
    def _may_be_lost(self) -> Iterator[None]:
        """Notes that W&B's process is gone, which must not cost the run; `finish_wandb` will say it."""
        try:
            yield
        except OSError:
            self._lost = True

    def _define(self, names: Iterable[str]) -> None:
        """Says of each metric of the course, once, whether its lowest or its highest value counts."""
        for name in names:
            wanted = goal(name)
            if name.startswith(("train/", "val/")) and wanted and name not in self._defined:
                self.experiment.define_metric(name, step_metric=STEP, step_sync=True, summary=wanted)
                self._defined.add(name)

    @rank_zero_only
    def log_hyperparams(self, params: Any) -> None:
        """Nothing: W&B has the whole config, of which these are a part."""

    @rank_zero_only
    def log_config(self, config: Mapping[str, Any]) -> None:
        """Sets W&B's config, flat; a sweep's own values stay."""
        self._background.wait()
        kept = set(self.experiment.config.keys()) if swept() else set()
        given = {name: value for name, value in config.items() if name not in kept}
        with self._may_be_lost():
            self.experiment.config.update(given, allow_val_change=True)

    @rank_zero_only
    def log_summary(self, summary: Mapping[str, Any]) -> None:
        """Sets W&B's summary when the last row is sent, whose `stage` is a number where the summary's is a name; of the
        metrics of the course W&B keeps the best value itself."""
        self._summary |= summary

    @rank_zero_only
    def log_checkpoint(self, path: Path) -> None:
        """Keeps a file as an artifact of the run and of its name, to be uploaded from where it lies."""
        self._background.wait()
        if self._lost:
            return
        import wandb

        # A link of its own: the run may be prolonged, and then has another checkpoint before this one is uploaded.
        own = Path(os.path.relpath(self.experiment.dir)).parent / "artifact" / path.name
        if names_home(own):
            say("Weights & Biases: no artifact, as its path from here would name the home folder; start from within it")
            return
        own.parent.mkdir(exist_ok=True)
        link(path, own)
        artifact = wandb.Artifact(re.sub(r"[^\w.-]", "-", self._artifact)[-MOST_LETTERS:], type="model")
        # W&B's own copy would be in the home folder, which the segment would then name.
        artifact.add_file(str(own), name=path.name, policy="immutable")
        with self._may_be_lost():
            self.experiment.log_artifact(artifact)

    @rank_zero_only
    def finalize(self, status: str) -> None:
        if status == "success":
            self._send()
        self._background.wait()
        if self._summary and not self._lost:
            with self._may_be_lost():
                self.experiment.summary.update({k: v for k, v in self._summary.items() if k not in self._defined})
        super().finalize(status)


class Background:
    """A thread that makes calls in the order in which they come, so that who hands them over need not wait.

    The thread begins with the first call and ends with the process.
    """

    def __init__(self) -> None:
        self._calls: Queue[Callable[[], None]] = Queue()
        self._thread: threading.Thread | None = None
        self._error: Exception | None = None

    def call(self, function: Callable[[], None]) -> None:
        """Has a function called soon."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, daemon=True)
            self._thread.start()
        self._calls.put(function)

    def wait(self) -> None:
        """Returns when all calls are made; raises what the first that failed has raised."""
        self._calls.join()
        error, self._error = self._error, None
        if error is not None:
            raise error

    def _work(self) -> None:
        while True:
            function = self._calls.get()
            try:
                function()
            except Exception as error:  # it is raised where someone waits for it
                self._error = self._error or error
            finally:
                self._calls.task_done()
