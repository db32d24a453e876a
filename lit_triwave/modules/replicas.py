"""`ReplicatedModule`: errors of several replicas (seeds) of a network, and the choice of the best one."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer
from torchmetrics import MetricCollection

from lit_triwave.analysis.dead_units import SAMPLES
from lit_triwave.errors import TrainingDiverged, TriwaveError
from lit_triwave.modules.metrics import over_targets, regression_metrics, spread
from lit_triwave.modules.staged import StagedModule
from lit_triwave.nn.baselines import DenseNetwork
from lit_triwave.nn.networks import TriangleNetwork
from lit_triwave.nn.stack import StackNetwork

BEST_NOW = "best_now"
"""Key of a stopped run's checkpoint: the best replicas at its step. `best_replica` is that of the last validation."""
CLIP_EPSILON = 1e-6
"""Number that `torch.nn.utils.clip_grad_norm_` adds to a norm before it divides by the norm."""


class ReplicatedModule(StagedModule):
    """A network of R replicas that learn F targets side by side: validation, test, prediction, and the best replica.

    The replicas R / F · t to R / F · (t + 1) − 1 learn target t. A subclass sets `num_targets` and `network`, then
    calls `make_metrics`. For the arguments see `StagedModule`.

    Attributes:
        best_replica: replica with the lowest error on the validation data, 0-d, or (F,) for several targets.
        test_results: metric ↦ value of each replica, (R,), after a test.
    """

    network: TriangleNetwork | StackNetwork | DenseNetwork
    num_targets: int
    best_replica: Tensor

    def make_metrics(self) -> None:
        """Makes the metrics of the replicas, and the buffer of the best one."""
        replicas = self.network.replicas
        self.val_metrics = regression_metrics(replicas, "val/")
        self.test_metrics = regression_metrics(replicas, "test/")
        self.test_results: dict[str, Tensor] = {}
        first = torch.arange(self.num_targets) * (replicas // self.num_targets)
        self.register_buffer("best_replica", first if self.num_targets > 1 else first[0].clone())

    @property
    def stops_seeds(self) -> bool:
        """Whether the limit stops the worse seeds early. Then the mean over seeds says little."""
        limit = self.stages["limit"]
        return bool(limit.epochs and limit.halving) and self.network.replicas > self.num_targets

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_load_checkpoint(checkpoint)
        fits = self._trainer is not None and self._trainer.state.fn == "fit"
        if BEST_NOW in checkpoint and not fits:
            best = torch.tensor(checkpoint[BEST_NOW]).reshape(self.best_replica.shape)
            checkpoint["state_dict"]["best_replica"] = best

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        super()._load_from_state_dict(state_dict, prefix, *args)
        each = self.network.replicas // self.num_targets
        first = torch.arange(self.num_targets, device=self.best_replica.device) * each
        if not ((first <= self.best_replica) & (self.best_replica < first + each)).all():
            raise ValueError(f"best_replica must be of {each} seeds, got {self.best_replica.tolist()}")

    def forward(self, x: Tensor) -> Tensor:
        """Maps x (batch, in_features) to the predictions of all R replicas, (batch, R), in the units of the targets."""
        values: Tensor = self.network(x.to(self.network.scaling.lower.dtype))
        return values

    def targets(self, y: Tensor, network: Any = None) -> Tensor:
        """Returns the targets of the replicas, (batch, 1) or (batch, R), from y (batch,) or (batch, F).

        Raises:
            TriwaveError: the data have another number of targets than the module.
        """
        count = 1 if y.ndim == 1 else y.shape[1]
        if count != self.num_targets:
            raise TriwaveError(
                f"target_range must have a (lowest, highest) for each of the data's {count} targets, got "
                f"{self.num_targets}"
            )
        replicas = (network or self.network).replicas
        return y[:, None] if y.ndim == 1 else y.repeat_interleave(replicas // count, 1)

    def configure_gradient_clipping(
        self, optimizer: Optimizer, gradient_clip_val: float | None = None, gradient_clip_algorithm: str | None = None
    ) -> None:
        """Clips the norm of each replica's gradient separately, because one norm over all would couple them."""
        if not gradient_clip_val or gradient_clip_algorithm == "value":
            super().configure_gradient_clipping(optimizer, gradient_clip_val, gradient_clip_algorithm)
            return
        found = [p.grad for p in self.parameters() if p.grad is not None]
        gradients = [gradient.view(len(gradient), -1) for gradient in found]
        norm = torch.stack([gradient.norm(dim=1) for gradient in gradients]).norm(dim=0)  # (replicas,)
        factor = (gradient_clip_val / (norm + CLIP_EPSILON)).clamp_max(1.0)
        for gradient in gradients:
            gradient.mul_(factor[:, None])

    def sum_over_ranks(self, values: Tensor) -> Tensor:
        """Returns the sum of a tensor over all ranks."""
        total: Tensor = self.trainer.strategy.reduce(values, reduce_op="sum")
        return total

    def validation_loaders(self) -> Any:
        """Returns the validation data, also if this process has not validated yet; None if there are none."""
        trainer = self.trainer
        if trainer.val_dataloaders is None and trainer.enable_validation:
            trainer.validating = True  # as Lightning does
            trainer.fit_loop.epoch_loop.val_loop.setup_data()
            trainer.training = True
        return trainer.val_dataloaders

    def mse_over(self, loader: Iterable[Sequence[Any]], network: Any = None) -> Tensor:
        """Returns the mean squared error of each replica over a loader and all ranks, shape (replicas,)."""
        network = network or self.network
        total = torch.zeros(network.replicas + 1, dtype=torch.float64, device=self.device)
        dtype = self.network.scaling.lower.dtype
        # A copy, because a loader that saves its position has only one, and may be in the middle of an epoch.
        for batch in copy.copy(loader):
            x, y, _ = split_batch(self.trainer.strategy.batch_to_device(batch, self.device))
            pieces = (torch.split(values, SAMPLES) for values in (x, self.targets(y, network)))
            for inputs, targets in zip(*pieces, strict=True):
                total[:-1] += (network(inputs.to(dtype)) - targets).square().sum(0)
            total[-1] += len(y)
        total = self.trainer.strategy.reduce(total, reduce_op="sum")
        return total[:-1] / total[-1]

    def lowest(self, errors: Tensor) -> Tensor:
        """Returns the index of the replica with the lowest error, from errors (R,); NaN is the highest.

        Returns:
            0-d, or (F,) for several targets.
        """
        each = errors.nan_to_num(nan=torch.inf).view(self.num_targets, -1)
        found = each.argmin(1) + torch.arange(self.num_targets, device=errors.device) * each.shape[1]
        return found if self.num_targets > 1 else found[0]

    def lowest_mean(self, errors: Tensor) -> Tensor:
        """Returns the lowest error of the seeds, 0-d; for several targets the mean in units of their squared ranges."""
        if self.num_targets > 1:
            errors = errors / self.network.scaling.scale.square().to(errors)
        return errors.view(self.num_targets, -1).amin(1).mean()

    @property
    def best_replicas(self) -> list[int]:
        """The replica of each target that is tested."""
        found: list[int] = self.best_replica.reshape(-1).tolist()
        return found

    @torch.no_grad()
    def check_finite(self) -> Tensor:
        """Checks and returns the training error of each seed after the last step, (replicas,).

        Raises:
            TrainingDiverged: an error is not finite, so no checkpoint must be saved.
        """
        assert self.trainer.train_dataloader is not None
        mse = self.mse_over(self.trainer.train_dataloader)
        if not mse.isfinite().all():
            self.diverged(mse, int(self.trainer.num_training_batches) - 1)
        return mse

    def diverged(self, mse: Tensor, batch_idx: int) -> None:
        """Raises TrainingDiverged for errors (R,) that are not all finite, with the place and the number of seeds."""
        seeds = int((~mse.isfinite()).sum())
        steps_per_epoch = -(-int(self.trainer.num_training_batches) // self.trainer.accumulate_grad_batches)
        step = self.current_epoch * steps_per_epoch + batch_idx // self.trainer.accumulate_grad_batches
        rate = self.trainer.optimizers[0].param_groups[0].get("lr")
        tunable = rate and not self.stages[self.stage].second_order
        advice = f" at learning rate {rate:.3g}: try a lower {self.stage}.lr" if tunable else ""
        if self.trainer.global_step == 0:  # no step was taken, so no learning rate is to blame
            advice = ": the first batch may have values that are not finite"
        where = f"{self.place(self.current_epoch)}, step {step}"
        raise TrainingDiverged(f"the loss is not finite in {where}, for {seeds} of {len(mse)} seeds{advice}")

    def log_seeds(self, name: str, values: Tensor) -> None:
        """Logs the lowest, mean, median and highest over seeds of values that are equal on all ranks."""
        training = self.trainer.training
        found = spread(name, values, self.num_targets)
        found[f"{name}_max"] = values.view(self.num_targets, -1).amax(1).mean()
        self.log_dict(found, rank_zero_only=training, sync_dist=not training)

    def validation_step(self, batch: Sequence[Any], batch_idx: int) -> None:
        self._update(self.val_metrics, batch)

    def on_validation_epoch_end(self) -> None:
        results = self.val_metrics.compute()
        self.val_metrics.reset()
        self.best_replica = self.lowest(results["val/mse"])
        self.log_seeds("val/mse", results["val/mse"])
        if self.num_targets > 1:
            self.log(str(self.monitor), self.lowest_mean(results["val/mse"]), sync_dist=True)

    def test_step(self, batch: Sequence[Any], batch_idx: int) -> None:
        self._update(self.test_metrics, batch)

    def on_test_epoch_end(self) -> None:
        self.test_results = self.test_metrics.compute()
        self.test_metrics.reset()
        best = {name: over_targets(name, values[self.best_replica]) for name, values in self.test_results.items()}
        self.log_dict(best, sync_dist=True)
        self.log_seeds("test/mse", self.test_results["test/mse"])

    def predict_step(self, batch: Sequence[Any], batch_idx: int) -> dict[str, Tensor]:
        x, y, _ = split_batch(batch)
        values = self(x)
        seeds = values if self.num_targets == 1 else values.unflatten(1, (self.num_targets, -1))
        found = {"x": x, "target": y, "prediction": values[:, self.best_replica]}
        return found | ({"lowest_seed": seeds.amin(-1), "highest_seed": seeds.amax(-1)} if seeds.shape[-1] > 1 else {})

    def _update(self, metrics: MetricCollection, batch: Sequence[Any]) -> None:
        x, y, _ = split_batch(batch)
        values = self(x).double()
        metrics.update(values.contiguous(), self.targets(y).double().expand_as(values).contiguous())


def split_batch(batch: Any) -> tuple[Tensor, Tensor, Any]:
    """Returns inputs (n, in_features), targets (n,) or (n, F), and the weight of a batch.

    Args:
        batch: (x, y, weight); (x, y), with weight 1; for a prediction also only x, with NaN as targets.

    Raises:
        TypeError: the batch is something else, such as a dictionary.
    """
    parts = batch if isinstance(batch, (tuple, list)) else [batch]
    if not parts or not all(isinstance(part, Tensor) for part in parts[:2]):
        kinds = " and ".join(type(part).__name__ for part in parts[:2]) or "nothing"
        raise TypeError(f"a batch must be (x, y) or (x, y, weight) of tensors, got {kinds}")
    x, *rest = parts
    y = rest[0] if rest else x.new_full((len(x),), torch.nan)
    return x[:, None] if x.ndim == 1 else x, y, rest[1] if len(rest) > 1 else 1.0
