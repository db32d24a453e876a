"""Shows the progress of a run of thousands of short epochs."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ProgressBar
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

if TYPE_CHECKING:
    from lit_triwave.modules.staged import StagedModule

_REFRESH_SECONDS = 0.1
_LINES_PER_STAGE = 5  # if the output is not a terminal, for example the log of a batch job


class StageProgress(ProgressBar):
    """Shows a bar for each stage on a terminal, and a few plain lines for each stage elsewhere."""

    def __init__(self) -> None:
        super().__init__()
        self.console = Console()
        self.enabled = True
        self._progress: Progress | None = None
        self._tasks: dict[str, TaskID] = {}
        self._next_refresh = 0.0
        self._outputs: Any = None

    def enable(self) -> None:
        self.enabled = True

    def disable(self) -> None:
        self.enabled = False

    def on_train_start(self, trainer: Trainer, pl_module: StagedModule) -> None:  # type: ignore[override]
        if not self.enabled or not self.console.is_terminal:
            return
        self._progress = Progress(
            TextColumn("{task.description:9}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("epochs"),
            TimeRemainingColumn(compact=True, elapsed_when_finished=True),
            TextColumn("{task.fields[loss]}"),
            console=self.console,
        )
        done = trainer.current_epoch
        for name, stage in pl_module.stages.items():
            if stage.epochs:
                total, completed = stage.epochs, min(done, stage.epochs)
                done -= completed
                task = self._progress.add_task(name, total=total, completed=completed, start=False, loss="")
                self._tasks[name] = task
        self._progress.start()

    def on_train_batch_end(  # type: ignore[override]
        self, trainer: Trainer, pl_module: StagedModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)
        if not self.enabled:
            return
        self._outputs = outputs
        last = batch_idx + 1 == trainer.num_training_batches and pl_module.ends_stage(trainer.current_epoch)
        if self._progress is not None and (last or time.monotonic() >= self._next_refresh):
            self._next_refresh = time.monotonic() + _REFRESH_SECONDS
            epoch, name = self._epoch_in_stage(trainer, pl_module)
            task, within = self._tasks[name], (batch_idx + 1) / float(trainer.num_training_batches)
            self._progress.start_task(task)
            self._progress.update(task, completed=int(epoch + within), loss=_describe(outputs, trainer))

    def on_train_epoch_end(self, trainer: Trainer, pl_module: StagedModule) -> None:  # type: ignore[override]
        if not self.enabled or self.console.is_terminal:
            return
        epoch, name = self._epoch_in_stage(trainer, pl_module)
        total = pl_module.stages[name].epochs  # type: ignore[index]
        if (epoch + 1) % max(1, -(-total // _LINES_PER_STAGE)) == 0 or epoch + 1 == total:
            print(f"{name:9} epoch {epoch + 1}/{total}  {_describe(self._outputs, trainer)}", flush=True)

    @staticmethod
    def _epoch_in_stage(trainer: Trainer, pl_module: StagedModule) -> tuple[int, str]:
        name = pl_module.stage_at(trainer.current_epoch)
        return trainer.current_epoch - pl_module.first_epoch(name), name

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._stop()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._stop()

    def _stop(self) -> None:
        if self._progress is not None:
            self._progress.stop()
            self._progress = None


def _describe(outputs: Any, trainer: Trainer) -> str:
    """Returns the numbers at the end of the bar; "" if this process resumed after the last step of an epoch."""
    if outputs is None:
        return ""
    if "mse" not in outputs:
        accuracy = trainer.callback_metrics.get("val/accuracy")
        loss = float(outputs["loss"]) * trainer.accumulate_grad_batches  # Lightning has divided it
        return f"loss {loss:.3g}" + ("" if accuracy is None else f"  val accuracy {accuracy:.1%}")
    module: Any = trainer.lightning_module
    each = outputs["mse"].view(getattr(module, "num_targets", 1), -1)  # a row for each target
    best, seeds = f"mse {each.amin(1).mean():.1e}", each.shape[1]
    if seeds == 1:
        return best
    stops = getattr(module, "stops_seeds", False)
    return f"{best} (best of {seeds} seeds)" if stops else f"{best} (mean of {seeds} seeds {each.mean():.1e})"
