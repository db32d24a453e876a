"""`FunctionRegressor`: fits a function with constructed or randomly started networks, many seeds at once."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import torch
from lightning.pytorch import Trainer
from torch import Tensor, nn
from torch.optim import Optimizer
from torchmetrics import MetricCollection

from lit_triwave.analysis.costs import copied
from lit_triwave.analysis.dead_units import SAMPLES
from lit_triwave.analysis.regions import TooManyPieces, count_linear_regions
from lit_triwave.distributed.ranks import say
from lit_triwave.errors import TrainingDiverged, TriwaveError
from lit_triwave.modules.limit import LimitStage, check_points, refuse_stack_options, stack_layers
from lit_triwave.modules.metrics import over_targets, regression_metrics, spread
from lit_triwave.modules.staged import StagedModule, StageName
from lit_triwave.modules.stages import Limit, Polish, Stage
from lit_triwave.nn.bank import Release
from lit_triwave.nn.baselines import RAAI_SHARE, DenseNetwork
from lit_triwave.nn.networks import TriangleNetwork, Wiring
from lit_triwave.nn.scaling import TargetRange, named_domain, target_count
from lit_triwave.nn.sizes import check_sizes
from lit_triwave.nn.stack import StackNetwork, check_depth
from lit_triwave.nn.stack_layers import is_steep
from lit_triwave.optim import LeastSquares

MAX_DEPTH = 16
DEFAULT_DEPTH = 5
LIMIT_EPOCHS = 100
MOST_PIECES = 1 << 14
"""Largest number of linear pieces that is counted for a stack of width at most `_WIDTH`; its layers multiply them."""
_WIDTH = 64
CLIP_EPSILON = 1e-6
"""Number that `torch.nn.utils.clip_grad_norm_` adds to a norm before it divides by the norm."""
DEFAULT_LIMIT = Limit()
DEFAULT_PRETRAIN = Stage(epochs=500, lr=0.1, options={"betas": [0.9, 0.99]})
DEFAULT_POLISH = Polish(epochs=0)
DEFAULT_TRAIN = Stage(epochs=1000, lr=1e-3, options={"betas": [0.9, 0.99]})


class FunctionRegressor(StagedModule):
    """Regression of functions of one or several variables: initialise, pretrain the peaks, release, train the weights.

    All replicas (seeds) are trained side by side as one network. The loss is the sum of their mean squared errors, in
    units of the squared range of the targets, so no replica influences another. `test`, `predict` and the figures use
    the replica with the lowest MSE on the validation data, at the last validation or end of a stage.

    A batch is (x, y) or (x, y, weight). x are inputs (batch, in_features), or (batch,) for one variable. y are targets
    (batch,), (batch, 1) or (batch, F). The loss is multiplied by the number `weight`, by default 1.

    Levenberg–Marquardt (in `polish`, and in `pretrain` with this optimizer) takes one step an epoch on all points,
    which must be one batch.

    Several targets of the same inputs are also fitted side by side, each by its own networks. With F targets and R
    outputs, the outputs R / F · t to R / F · (t + 1) − 1 learn target t.

    Args:
        initialization: `"constructed"` (this project's networks) or a dense network with a random start: `"kaiming"`,
            `"rai"`, `"raai"`.
        wiring: wiring of the constructed subnetworks: `single`, `difference`, `sum`, `composition` (see
            `TriangleNetwork`), or `stack` (see `StackNetwork`).
        depth: hidden layers of each (sub)network, 1 to 16, for a stack 1 to 26. None means 5; for a stack, the smallest
            depth that adds less error than its limit network has.
        layers: neurons of each layer of a stack. None chooses them from the number of inputs and training points, and
            `data_degree`.
        members: number of stacks whose mean is one seed. The mean is a stack with this many times the neurons. The mean
            of stacks from different random starts generalises better from data with noise.
        width: neurons of each hidden layer of a random start; constructed subnetworks are four wide.
        replicas: number of seeds of each target, at least 1.
        theorem31: tie the scales to the peaks (Theorem 3.1); False makes them free parameters.
        release: weights that standard training may change: `"blocks"` or `"dense"`.
        recruit: at the release, turn neurons that carry only constants into further breakpoints; not in the paper.
        curvature: `"convex"`, `"concave"`, or `"auto"` to take it from the training data.
        margin: peaks stay in [margin, 1 − margin].
        raai_share: share of a row's mean that RAAI subtracts.
        limit: the first stage of a stack; other networks do not have it.
        pretrain: the stage that trains the peaks. Must have 0 epochs for a random start.
        train: the stage that trains the weights.
        polish: a last stage of Levenberg–Marquardt; 0 epochs by default.
        domain: input name ↦ (lower, upper), or a list of (lower, upper), one for each input. With a config it is taken
            from the data.
        target_range: (lowest, highest) training target; for several targets a list of pairs. With a config it is taken
            from the data.
        data_curvature: curvature of each input for `"auto"`; for F targets, F lists. With a config it is taken from the
            data.
        data_points: number of training points. With a config it is taken from the data.
        data_degree: degree of a polynomial that approximates the function to six digits; None if not known. With a
            config it is taken from the data.
        data_noise: standard deviation of the targets' noise; None if not known. With a config it is the data's.

    Raises:
        ValueError: an argument is outside its range, or two arguments contradict each other.
    """

    task = "regression"
    monitor = "val/mse_min"  # error of the best seed
    pretrain_mse: Tensor
    pretrain_regions: Tensor
    train_mse: Tensor
    best_replica: Tensor
    limit_mse: Tensor
    built_mse: Tensor

    def __init__(
        self,
        initialization: Literal["constructed", "kaiming", "rai", "raai"] = "constructed",
        wiring: Wiring | Literal["stack"] = "single",
        depth: int | None = None,
        layers: list[int] | None = None,
        members: int = 1,
        width: int = 4,
        replicas: int = 1,
        theorem31: bool = True,
        release: Release = "blocks",
        recruit: bool = False,
        curvature: Literal["auto", "convex", "concave"] = "auto",
        margin: float = 1e-2,
        raai_share: float = RAAI_SHARE,
        limit: Limit = DEFAULT_LIMIT,
        pretrain: Stage = DEFAULT_PRETRAIN,
        train: Stage = DEFAULT_TRAIN,
        polish: Polish = DEFAULT_POLISH,
        domain: Mapping[str, Sequence[float]] | Sequence[Sequence[float]] | None = None,
        target_range: TargetRange = (0.0, 1.0),
        data_curvature: Sequence[Any] | None = None,
        data_points: int | None = None,
        data_degree: int | None = None,
        data_noise: float | None = None,
    ) -> None:
        stacked = wiring == "stack" and initialization == "constructed"
        domain = named_domain(domain or {"x": (0.0, 1.0)})
        check_sizes(members=members)
        if stacked:
            chosen, exact = layers is None, data_noise == 0
            layers = stack_layers(layers, len(domain), data_points, limit, data_degree, exact)
            if depth is not None:
                check_depth(depth)
        else:
            refuse_stack_options(wiring, initialization, limit, layers, members)
            depth = DEFAULT_DEPTH if depth is None else depth
            if depth > MAX_DEPTH:
                raise ValueError(
                    f"depth must be at most {MAX_DEPTH}, as 2^depth pieces are counted for every seed, got {depth}"
                )
        if limit.epochs is None:
            limit = dataclasses.replace(limit, epochs=LIMIT_EPOCHS if stacked else 0)
        if stacked and not limit.epochs:
            raise ValueError("limit.epochs must be at least 1 for wiring stack, got 0: its layers are fitted there")
        super().__init__(pretrain, train, release, polish, recruit, limit)
        self.save_hyperparameters(ignore=["limit", "pretrain", "train", "polish"])
        self.save_hyperparameters({"depth": depth})  # the chosen value
        self.chosen_layers = stacked and chosen
        if initialization != "constructed":
            self.save_hyperparameters({"pretrain": {"epochs": 0}})  # for `load_from_checkpoint`: not the default
        self.num_targets = target_count(target_range)
        if self.num_targets > 1:
            self.monitor = "val/relative_mse_min"  # errors in the units of the targets are not comparable
        seeds = [f"{part}/mse_{kind}" for part in ("val", "train") for kind in ("min", "mean", "median", "max")]
        self.fit_metrics = (*dict.fromkeys([self.monitor, *seeds]),)
        replicas *= self.num_targets
        self.network: TriangleNetwork | StackNetwork | DenseNetwork
        self._limit: LimitStage | None = None
        if stacked:
            assert layers is not None
            self._make_stack(layers)
        elif initialization == "constructed":
            assert wiring != "stack" and depth is not None
            shapes: Any = curvature if curvature != "auto" else (data_curvature or "convex")
            if not isinstance(shapes[0], str):  # for each of F targets, which have R / F seeds each
                shapes = [kinds for kinds in shapes for _ in range(replicas // len(shapes))]
            self.network = TriangleNetwork(
                domain,
                target_range,
                wiring=wiring,
                depth=depth,
                curvature=shapes,
                theorem31=theorem31,
                replicas=replicas,
                margin=margin,
            )
        else:
            if pretrain.epochs:
                raise ValueError(
                    f"initialization {initialization!r} has no peaks to pretrain: set pretrain.epochs to 0"
                )
            assert depth is not None
            self.network = DenseNetwork(
                domain,
                target_range,
                width=width,
                depth=depth,
                initialization=initialization,
                replicas=replicas,
                raai_share=raai_share,
            )
        self.val_metrics = regression_metrics(replicas, "val/")
        self.test_metrics = regression_metrics(replicas, "test/")
        self.test_results: dict[str, Tensor] = {}
        first = torch.arange(self.num_targets) * (replicas // self.num_targets)
        self.register_buffer("best_replica", first if self.num_targets > 1 else first[0].clone())
        # Results of the stages, for the summary of a resumed run.
        unknown = torch.full((replicas,), torch.nan, dtype=torch.float64)
        self.register_buffer("limit_mse", unknown, persistent=stacked)  # checkpoints of other networks do not have it
        self.register_buffer("built_mse", unknown.clone(), persistent=stacked)
        self.register_buffer("pretrain_mse", torch.full((replicas,), torch.nan, dtype=torch.float64))
        self.register_buffer("pretrain_regions", torch.zeros(replicas, dtype=torch.long))
        self.register_buffer("train_mse", torch.full((replicas,), torch.nan, dtype=torch.float64))
        self._loaded = False
        self._end_mse: float | None = None  # lowest validation error at the end of the last finished stage

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        if f"{prefix}limit_mse" in state_dict:  # only stacks have it; checkpoints of earlier versions do not
            state_dict.setdefault(f"{prefix}built_mse", torch.full_like(self.built_mse, torch.nan))
        for name in ("limit_mse", "built_mse", "pretrain_mse", "train_mse"):
            if f"{prefix}{name}" in state_dict:  # in the precision that they have, not in that of the weights
                setattr(self, name, getattr(self, name).to(state_dict[f"{prefix}{name}"].dtype))
        super()._load_from_state_dict(state_dict, prefix, *args)
        each = self.network.replicas // self.num_targets
        first = torch.arange(self.num_targets, device=self.best_replica.device) * each
        if not ((first <= self.best_replica) & (self.best_replica < first + each)).all():
            raise ValueError(f"best_replica must be of {each} seeds, got {self.best_replica.tolist()}")

    def forward(self, x: Tensor) -> Tensor:
        """Maps x (batch, in_features) to the predictions of all R replicas, (batch, R), in the units of the targets."""
        values: Tensor = self.network(x.to(self.network.scaling.lower.dtype))
        return values

    def training_step(self, batch: Sequence[Any], batch_idx: int) -> dict[str, Tensor]:
        x, y, weight = _parts(batch)
        if self._limit is not None and self.stage == "limit":
            return self._limit_step(self._limit, x, y, batch_idx)
        if self.stages[self.stage].second_order:
            return self._second_order_step(x, y, batch_idx)
        mse = (self(x) - self.targets(y)).square().mean(0)
        loss = weight * (mse / self.network.scaling.scale.square()).sum()
        # Reading a value waits for the GPU, so the check is only in steps in which the loss is read anyway. A loss that
        # is not finite does not become finite again.
        if (self.device.type == "cpu" or self.is_logged(batch_idx)) and not loss.isfinite():
            self._diverged(mse, batch_idx)
        mse = self.trainer.strategy.reduce(weight * mse.detach(), reduce_op="mean")  # mean over the global batch
        if self.is_logged(batch_idx):
            self._log_seeds("train/mse", mse)
        return {"loss": loss, "mse": mse}

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

    def _second_order_step(self, x: Tensor, y: Tensor, batch_idx: int) -> dict[str, Tensor]:
        """One Levenberg–Marquardt step of all replicas on all points of all ranks."""
        self._check_one_batch()
        chunk, dtype = self.stages[self.stage].chunk, self.network.scaling.lower.dtype
        y = self.targets(y.to(dtype))
        problem = LeastSquares(self.network, x.to(dtype), y, chunk=chunk, reduce=self._sum_over_ranks)
        optimizer: Any = self.optimizers()
        group = self.trainer.optimizers[0].param_groups[0]
        if group["groups"] % self.num_targets:
            group["groups"] = self.num_targets  # seeds of different targets must not exchange weights
        mse: Tensor = optimizer.step(problem)
        if not mse.isfinite().all():
            self._diverged(mse, batch_idx)
        if self.is_logged(batch_idx):
            self._log_seeds("train/mse", mse)
        return {"loss": mse.sum(), "mse": mse}

    def _check_one_batch(self) -> None:
        passes = getattr(self.trainer.datamodule, "repeats", 1)  # type: ignore[attr-defined]
        if self.trainer.num_training_batches != passes:
            # Only these stages let the user set the number of samples that are differentiated at a time.
            bound = f"{self.stage}.chunk bounds the memory" if self.stage != "pretrain" else "memory stays bounded"
            raise TriwaveError(
                f"{self.stage} takes all training points in one batch, not in "
                f"{self.trainer.num_training_batches // passes}: set data.batch_size to null ({bound})"
            )

    def _limit_step(self, stage: LimitStage, x: Tensor, y: Tensor, batch_idx: int) -> dict[str, Tensor]:
        """One iteration of all replicas on all points of all ranks."""
        self._check_one_batch()
        loaders, optimizer = self._validation_loaders(), self.optimizers()
        dtype = self.network.scaling.lower.dtype
        problem = stage.problem(
            x.to(dtype),
            self.targets(y.to(dtype), stage.trained),
            reduce=self._sum_over_ranks,
            validation=None if loaders is None else lambda: self._mse(loaders, stage.trained),
            ranks=self.trainer.world_size,
        )
        self.trainer.optimizers[0].param_groups[0]["groups"] = self.num_targets
        mse: Tensor = optimizer.step(lambda: problem)  # type: ignore[union-attr, assignment]
        if not mse.isfinite().any():
            self._diverged(mse, batch_idx)
        mse = mse.view(self.network.replicas, -1).mean(1)  # the error of the members' mean is lower
        if self.current_epoch == self.stage_epochs["limit"] * 4 // 5:
            stage.late_mse = float(mse.nan_to_num(nan=torch.inf).amin())
        if self.is_logged(batch_idx):
            self._log_seeds("train/mse", mse)
        return {"loss": mse.sum(), "mse": mse}

    def _make_stack(self, layers: list[int]) -> None:
        """Makes the network and the stage `limit` of a stack with these layers."""
        options = self.hparams
        self.save_hyperparameters({"layers": layers})
        member = {"domain": options["domain"], "target_range": options["target_range"], "layers": layers}
        self.network = StackNetwork(
            **member | {"layers": [options["members"] * neurons for neurons in layers]},
            theorem31=options["theorem31"],
            replicas=options["replicas"] * self.num_targets,
            margin=options["margin"],
        )
        self._limit = LimitStage(self.network, self.stages["limit"], options["depth"], options["members"], member)

    def enter_stage(self, name: StageName) -> None:
        """Builds a stack that is still its limit, then releases it if the stage needs this."""
        if self._limit is not None and name != "limit" and self.network.parameterization == "limit":
            self._limit.build(self.limit_mse, self.best_replicas)
        super().enter_stage(name)

    def finish(self) -> None:
        """Builds a stack that is still its limit, in the same way as at the end of the stage `limit`."""
        network = self.network
        if self._limit is not None and isinstance(network, StackNetwork) and network.parameterization == "limit":
            network.build(self._limit.depth(network, self.limit_mse, self.best_replicas))

    def optimizer_rows(self) -> tuple[int, int]:
        trained = self.network if self._limit is None or self.stage != "limit" else self._limit.trained
        return trained.replicas, sum(p.numel() for p in trained.parameters()) // trained.replicas

    def check_start(self) -> None:
        # A saved run may continue with too few points, because earlier versions accepted them.
        if self._limit is not None and not self._loaded:
            inputs, points = self.network.scaling.in_features, self.hparams["data_points"]
            check_points(self.hparams["layers"], inputs, points, self.stages["limit"], self.chosen_layers)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_load_checkpoint(checkpoint)
        self._loaded = True
        layers = (checkpoint.get("hyper_parameters") or {}).get("layers")
        if self.chosen_layers and layers and layers != self.hparams["layers"]:
            # A version that chose other layers saved the run.
            state, members = checkpoint["state_dict"], self.hparams["members"]
            saved = [state.get(f"network.projection.{i}", state["stage_number"]).shape[1:2] for i in range(len(layers))]
            if saved == [(members * neurons,) for neurons in layers]:
                self._make_stack(layers)

    def on_fit_start(self) -> None:
        self.check_start()
        if self.chosen_layers and self.stage == "limit":
            layers, inputs, degree = (
                self.hparams["layers"],
                self.network.scaling.in_features,
                self.hparams["data_degree"],
            )
            variables = "1 input" if inputs == 1 else f"{inputs} inputs"
            need = f"; a polynomial would need degree {degree}" if is_steep(inputs, degree) else ""
            say(f"layers {layers}, chosen for {variables} and {self.hparams['data_points']} training points{need}")

    def configure_gradient_clipping(
        self,
        optimizer: Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
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

    def _step(self, batch_idx: int) -> int:
        """Number of steps before this one in all stages, for messages."""
        accumulated = self.trainer.accumulate_grad_batches
        per_epoch = -(-int(self.trainer.num_training_batches) // accumulated)
        return self.current_epoch * per_epoch + batch_idx // accumulated

    def _sum_over_ranks(self, values: Tensor) -> Tensor:
        total: Tensor = self.trainer.strategy.reduce(values, reduce_op="sum")
        return total

    def _diverged(self, mse: Tensor, batch_idx: int) -> None:
        seeds = (~mse.isfinite()).nonzero().flatten().tolist()
        rate = self.trainer.optimizers[0].param_groups[0].get("lr")
        advice = (
            ""
            if not rate or self.stages[self.stage].second_order
            else f" at learning rate {rate:.3g}: try a lower {self.stage}.lr"
        )
        where = f"{self.place(self.current_epoch)}, step {self._step(batch_idx)}"
        raise TrainingDiverged(f"the loss is not finite in {where}, for {len(seeds)} of {len(mse)} seeds{advice}")

    def _log_seeds(self, name: str, values: Tensor) -> None:
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
        self._log_seeds("val/mse", results["val/mse"])
        if self.num_targets > 1:
            self.log(str(self.monitor), self._lowest_mean(results["val/mse"]), sync_dist=True)

    def on_validation_start(self) -> None:
        if self.trainer.state.fn == "validate":  # a fit validates its limit without building it
            self.finish()

    def on_test_start(self) -> None:
        """Builds a stack that is still its limit, so that the test uses the same network as `inspect` and `export`."""
        self.finish()

    def on_predict_start(self) -> None:
        self.finish()

    def test_step(self, batch: Sequence[Any], batch_idx: int) -> None:
        self._update(self.test_metrics, batch)

    def on_test_epoch_end(self) -> None:
        self.test_results = self.test_metrics.compute()
        self.test_metrics.reset()
        best = {name: over_targets(name, values[self.best_replica]) for name, values in self.test_results.items()}
        self.log_dict(best, sync_dist=True)
        self._log_seeds("test/mse", self.test_results["test/mse"])

    def predict_step(self, batch: Sequence[Any], batch_idx: int) -> dict[str, Tensor]:
        x, y, _ = _parts(batch)
        values = self(x)
        seeds = values if self.num_targets == 1 else values.unflatten(1, (self.num_targets, -1))
        found = {"x": x, "target": y, "prediction": values[:, self.best_replica]}
        return found | ({"lowest_seed": seeds.amin(-1), "highest_seed": seeds.amax(-1)} if seeds.shape[-1] > 1 else {})

    def _update(self, metrics: MetricCollection, batch: Sequence[Any]) -> None:
        x, y, _ = _parts(batch)
        values = self(x).double()
        metrics.update(values.contiguous(), self.targets(y).double().expand_as(values).contiguous())

    def check_trainer(self, trainer: Trainer, fits: bool) -> None:
        if trainer.precision not in ("64-true", "32-true", "bf16-mixed", "16-mixed"):
            raise TriwaveError(f"trainer.precision must be 64-true or 32-true for functions, got {trainer.precision}")
        device = trainer.strategy.root_device.type
        if device == "mps":
            raise TriwaveError("trainer.accelerator must be cpu or cuda for functions, got mps, which has no float64")
        second = [name for name, one in self.stages.items() if one.epochs and one.second_order]
        if fits and second and trainer.precision == "16-mixed" and device == "cuda":
            # Its gradient scaler calls the optimizer without the closure that a second-order step needs.
            raise TriwaveError(
                f"trainer.precision must be 64-true, 32-true or bf16-mixed for stage {second[0]}, got 16-mixed"
            )

    @torch.no_grad()
    def on_stage_end(self) -> None:
        """Computes the exact training error of each seed, the best seed and, after pretraining, the region counts."""
        train = self.check_finite()
        loaders = self._validation_loaders()
        errors = train if loaders is None else self._mse(loaders)
        self.best_replica = self.lowest(errors)
        if self.stage == "limit":
            self.limit_mse = train
            if self.ends_stage(self.current_epoch):
                self.enter_stage("pretrain")  # even if it has no epochs: the run continues with a ReLU network
                train = self.check_finite()
                self.built_mse = train.clone()
                errors = train if loaders is None else self._mse(loaders)
                self.best_replica = self.lowest(errors)
        elif self.stage == "pretrain":
            self.pretrain_mse = train
            regions = [self.linear_regions(seed) or 0 for seed in range(len(train))]
            self.pretrain_regions = torch.tensor(regions, device=self.device)
        self._end_mse = None if loaders is None else float(self._lowest_mean(errors))
        self.train_mse = train

    def _validation_loaders(self) -> Any:
        """Returns the validation data, also if this process has not validated yet; None if there are none."""
        trainer = self.trainer
        if trainer.val_dataloaders is None and trainer.enable_validation:
            trainer.validating = True  # as Lightning does
            trainer.fit_loop.epoch_loop.val_loop.setup_data()
            trainer.training = True
        return trainer.val_dataloaders

    def end_of_stage(self, metric: str) -> float | None:
        return self._end_mse if metric == self.monitor else None

    @torch.no_grad()
    def check_finite(self) -> Tensor:
        """Checks and returns the training error of each seed after the last step, (replicas,).

        Raises:
            TrainingDiverged: an error is not finite, so no checkpoint must be saved.
        """
        assert self.trainer.train_dataloader is not None
        mse = self._mse(self.trainer.train_dataloader)
        if not mse.isfinite().all():
            self._diverged(mse, int(self.trainer.num_training_batches) - 1)
        return mse

    def _mse(self, loader: Iterable[Sequence[Any]], network: Any = None) -> Tensor:
        """Returns the mean squared error of each replica over a loader and all ranks, shape (replicas,)."""
        network = network or self.network
        total = torch.zeros(network.replicas + 1, dtype=torch.float64, device=self.device)
        dtype = self.network.scaling.lower.dtype
        # A copy, because a loader that saves its position has only one, and may be in the middle of an epoch.
        for batch in copy.copy(loader):
            x, y, _ = _parts(self.trainer.strategy.batch_to_device(batch, self.device))
            parts = (torch.split(values, SAMPLES) for values in (x, self.targets(y, network)))
            for inputs, targets in zip(*parts, strict=True):
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

    def _lowest_mean(self, errors: Tensor) -> Tensor:
        """Returns the lowest error of the seeds, 0-d; for several targets the mean in units of their squared ranges."""
        if self.num_targets > 1:
            errors = errors / self.network.scaling.scale.square().to(errors)
        return errors.view(self.num_targets, -1).amin(1).mean()

    @property
    def best_replicas(self) -> list[int]:
        """The replica of each target that is tested."""
        found: list[int] = self.best_replica.reshape(-1).tolist()
        return found

    def plain(self, replica: int) -> nn.Sequential:
        """Returns one replica as plain layers: in float64 before the release, then in the dtype of the weights."""
        network = self.network
        if network.parameterization != "weights" and self.dtype != torch.float64:
            network = copied(network).double()  # the weights of these peaks, not their rounding to float32
        if self._limit is not None and isinstance(network, StackNetwork) and network.parameterization == "limit":
            network = copied(network)
            network.build(self._limit.depth(network, self.limit_mse, [replica]))
        return network.to_sequential(replica)

    @property
    def diagonal(self) -> tuple[list[float], list[float]]:
        """Both ends of the domain, or of its diagonal if there are several variables."""
        lower = self.network.scaling.lower
        return lower.tolist(), (lower + self.network.scaling.span).tolist()

    @property
    def trained_parameters(self) -> int:
        """Number of parameters of one replica that the current or last stage of the run trains."""
        network = self.network
        built = self.stage == "pretrain" and not self.stages["pretrain"].epochs
        if isinstance(network, StackNetwork) and (self.stage == "limit" or built):
            return network.limit_parameters
        return sum(p.numel() for p in self.parameters()) // network.replicas

    def linear_regions(self, replica: int) -> int | None:
        """Counts the linear pieces of one replica on the domain, or along its diagonal if there are several variables.

        None for a stack that has too many pieces to count.
        """
        plain = self.plain(replica)
        try:
            return count_linear_regions(plain, *self.diagonal, most=self.most_pieces(plain))
        except TooManyPieces:
            return None

    def most_pieces(self, plain: nn.Sequential) -> int | None:
        """Returns the limit of `linear_regions`: `MOST_PIECES` for a stack, less for a wide one, else None (no limit).

        Args:
            plain: one replica as plain layers. The time for a piece grows with the square of their width.
        """
        if not isinstance(self.network, StackNetwork):
            return None
        width = max(_WIDTH, *(layer.out_features for layer in plain if isinstance(layer, nn.Linear)))
        return MOST_PIECES * _WIDTH**2 // width**2


def _parts(batch: Any) -> tuple[Tensor, Tensor, Any]:
    """Returns inputs (n, in_features), targets (n,) or (n, F), and the weight of a batch.

    Args:
        batch: (x, y, weight); (x, y), with weight 1; for a prediction also only x, with NaN as targets.
    """
    x, *rest = [batch] if isinstance(batch, Tensor) else batch
    y = rest[0] if rest else x.new_full((len(x),), torch.nan)
    return x[:, None] if x.ndim == 1 else x, y, rest[1] if len(rest) > 1 else 1.0
