"""`FunctionRegressor`: fits a function with constructed or randomly started networks, many seeds at once."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from lightning.pytorch import Trainer
from torch import Tensor, nn

from lit_triwave.analysis.costs import copied
from lit_triwave.analysis.regions import TooManyPieces, count_linear_regions
from lit_triwave.distributed.ranks import say
from lit_triwave.errors import TriwaveError
from lit_triwave.modules.limit import LimitStage, check_points, refuse_stack_options
from lit_triwave.modules.replicas import ReplicatedModule, split_batch
from lit_triwave.modules.second_order import limit_step, second_order_step
from lit_triwave.modules.staged import StageName
from lit_triwave.modules.stages import Limit, Polish, Stage
from lit_triwave.nn.bank import Release
from lit_triwave.nn.baselines import RAAI_SHARE, DenseNetwork
from lit_triwave.nn.networks import TriangleNetwork, Wiring
from lit_triwave.nn.scaling import TargetRange, named_domain, target_count
from lit_triwave.nn.sizes import check_sizes
from lit_triwave.nn.stack import StackNetwork, check_depth
from lit_triwave.nn.stack_layers import check_layers, choose_layers, is_steep

MAX_DEPTH = 16
DEFAULT_DEPTH = 5
LIMIT_EPOCHS = 100
MOST_PIECES = 1 << 14
"""Largest number of linear pieces that is counted for a stack of width at most `_WIDTH`; its layers multiply them."""
_WIDTH = 64
_ROUNDING = 1e-6
"""Share of a domain by which float32 may leave it."""
_ERRORS = {"limit_mse": False, "built_mse": False, "pretrain_mse": True, "train_mse": True}
"""Training errors after the stages ↦ whether networks without a limit save them."""
DEFAULT_LIMIT = Limit()
DEFAULT_PRETRAIN = Stage(epochs=500, lr=0.1, options={"betas": [0.9, 0.99]})
DEFAULT_POLISH = Polish(epochs=0)
DEFAULT_TRAIN = Stage(epochs=1000, lr=1e-3, options={"betas": [0.9, 0.99]})


class FunctionRegressor(ReplicatedModule):
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
        bounded: keep a stack's predictions in the range of the training targets, widened by a tenth at both ends. Far
            from all training points, the polynomial of a stack may have values far outside of it.
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
    limit_mse: Tensor
    built_mse: Tensor

    def __init__(
        self,
        initialization: Literal["constructed", "kaiming", "rai", "raai"] = "constructed",
        wiring: Wiring | Literal["stack"] = "single",
        depth: int | None = None,
        layers: list[int] | None = None,
        members: int = 1,
        bounded: bool = False,
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
        for name, given, kind in (("limit", limit, Limit), ("polish", polish, Polish)):
            if not isinstance(given, kind):
                raise TypeError(f"{name} must be a {kind.__name__}, such as {kind.__name__}(epochs=10), got {given!r}")
        stacked = wiring == "stack" and initialization == "constructed"
        domain = named_domain(domain or {"x": (0.0, 1.0)})
        check_sizes(members=members)
        if stacked:
            chosen = layers is None
            if layers is None:
                most = limit.max_points
                points = data_points if most is None else min(most, data_points or most)
                layers = choose_layers(len(domain), points, limit.regularized, data_degree, exact=data_noise == 0)
            check_layers(layers)
            if depth is not None:
                check_depth(depth)
        else:
            refuse_stack_options(wiring, initialization, limit, layers, members, bounded)
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
        self._limit: LimitStage | None = None
        if stacked:
            assert layers is not None
            self._make_stack(list(layers))
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
                    f"pretrain.epochs must be 0 for initialization {initialization!r}, which has no peaks to pretrain, "
                    f"got {pretrain.epochs}"
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
        self.make_metrics()
        # Results of the stages, for the summary of a resumed run. Only a stack's checkpoints have those of the limit.
        for name, saved in _ERRORS.items():
            unknown = torch.full((replicas,), torch.nan, dtype=torch.float64)
            self.register_buffer(name, unknown, persistent=stacked or saved)
        self.register_buffer("pretrain_regions", torch.zeros(replicas, dtype=torch.long))
        self._loaded = False
        self._end_mse: float | None = None  # lowest validation error at the end of the last finished stage

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        if f"{prefix}limit_mse" in state_dict:  # only stacks have it; checkpoints of earlier versions do not
            state_dict.setdefault(f"{prefix}built_mse", torch.full_like(self.built_mse, torch.nan))
        for name in _ERRORS:
            if f"{prefix}{name}" in state_dict:  # in the precision that they have, not in that of the weights
                setattr(self, name, getattr(self, name).to(state_dict[f"{prefix}{name}"].dtype))
        super()._load_from_state_dict(state_dict, prefix, *args)

    def training_step(self, batch: Sequence[Any], batch_idx: int) -> dict[str, Tensor]:
        x, y, weight = split_batch(batch)
        if self.current_epoch == batch_idx == 0 and not isinstance(self.network, DenseNetwork):  # which does not clamp
            self._report_outside(x)
        logged = self.is_logged(batch_idx)
        if self._limit is not None and self.stage == "limit":
            mse = limit_step(self, self._limit, x, y, batch_idx)
            loss = mse.sum()
        elif self.stages[self.stage].second_order:
            mse = second_order_step(self, x, y, batch_idx)
            loss = mse.sum()
        else:
            mse = (self(x) - self.targets(y)).square().mean(0)
            loss = weight * (mse / self.network.scaling.scale.square()).sum()
            # Reading a value waits for the GPU, so the check is only in steps in which the loss is read anyway. A loss
            # that is not finite does not become finite again.
            if (self.device.type == "cpu" or logged) and not loss.isfinite():
                self.diverged(mse, batch_idx)
            mse = self.trainer.strategy.reduce(weight * mse.detach(), reduce_op="mean")  # mean over the global batch
        if logged:
            self.log_seeds("train/mse", mse)
        return {"loss": loss, "mse": mse}

    def _report_outside(self, x: Tensor) -> None:
        """Prints how many inputs of a batch are outside the domain, as with a default domain and a user's own data."""
        u = self.network.scaling.inputs(x)
        count = int(((u < -_ROUNDING) | (u > 1 + _ROUNDING)).any(1).sum())
        if count:
            ranges = ", ".join(f"{name} in [{low:g}, {high:g}]" for name, (low, high) in self.hparams["domain"].items())
            say(
                f"{count} of the first {len(x)} training points are outside the domain, {ranges}: the network takes "
                "them to its nearest end"
            )

    def _make_stack(self, layers: list[int]) -> None:
        """Makes the network and the stage `limit` of a stack with these layers."""
        options = self.hparams
        self.save_hyperparameters({"layers": layers})
        member = {"domain": options["domain"], "target_range": options["target_range"], "layers": layers}
        self.network = StackNetwork(
            **member | {"layers": [options["members"] * neurons for neurons in layers]},
            bounded=options["bounded"],
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

    def on_validation_start(self) -> None:
        if self.trainer.state.fn == "validate":  # a fit validates its limit without building it
            self.finish()

    def on_test_start(self) -> None:
        """Builds a stack that is still its limit, so that the test uses the same network as `inspect` and `export`."""
        self.finish()

    def on_predict_start(self) -> None:
        self.finish()

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
                self._make_stack(list(layers))

    def on_fit_start(self) -> None:
        self.check_start()
        if self.chosen_layers and self.stage == "limit":
            options, inputs = self.hparams, self.network.scaling.in_features
            variables = "1 input" if inputs == 1 else f"{inputs} inputs"
            points = f" and {options['data_points']} training points" if options["data_points"] else ""
            degree = options["data_degree"]
            need = f"; a polynomial would need degree {degree}" if is_steep(inputs, degree) else ""
            say(f"layers {options['layers']}, chosen for {variables}{points}{need}")

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
        self._measure()
        if self.stage == "limit":
            self.limit_mse = self.train_mse
            if self.ends_stage(self.current_epoch):
                self.enter_stage("pretrain")  # even if it has no epochs: the run continues with a ReLU network
                self._measure()
                self.built_mse = self.train_mse.clone()
        elif self.stage == "pretrain":
            self.pretrain_mse = self.train_mse
            regions = [self.linear_regions(seed) or 0 for seed in range(self.network.replicas)]
            self.pretrain_regions = torch.tensor(regions, device=self.device)

    def _measure(self) -> None:
        """Computes the training error of each seed, the best seed, and the lowest validation error."""
        errors = self.train_mse = self.check_finite()
        loaders = self.validation_loaders()
        if loaders is not None:
            errors = self.mse_over(loaders)
        self.best_replica = self.lowest(errors)
        self._end_mse = None if loaders is None else float(self.lowest_mean(errors))

    def end_of_stage(self, metric: str) -> float | None:
        return self._end_mse if metric == self.monitor else None

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
        if isinstance(network, StackNetwork) and self.trained_stage == "limit":
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
