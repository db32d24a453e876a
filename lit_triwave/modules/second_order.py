"""Second-order steps of a `ReplicatedModule`: one step of all replicas on all points of all ranks."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lit_triwave.errors import TriwaveError, out_of_memory
from lit_triwave.modules.limit import LimitStage
from lit_triwave.modules.replicas import ReplicatedModule
from lit_triwave.nn.sizes import available_memory, bounded_memory
from lit_triwave.optim import LeastSquares
from lit_triwave.optim.limit_problem import LimitProblem


def second_order_step(module: ReplicatedModule, x: Tensor, y: Tensor, batch_idx: int) -> Tensor:
    """Takes one Levenberg–Marquardt step.

    Args:
        module: the module, in a stage with this optimizer.
        x, y: all points of this rank, (n, in_features), and their targets, (n,) or (n, F).
        batch_idx: number of the batch, for messages.

    Returns:
        The mean squared error of each replica, (R,).

    Raises:
        TriwaveError: the points are in several batches, or the matrices of all weights do not fit into memory.
        TrainingDiverged: an error is not finite.
    """
    _check_one_batch(module)
    chunk, dtype = module.stages[module.stage].chunk, module.network.scaling.lower.dtype
    y = module.targets(y.to(dtype))
    problem = LeastSquares(module.network, x.to(dtype), y, chunk=chunk, reduce=module.sum_over_ranks)
    optimizer: Any = module.optimizers()
    group = module.trainer.optimizers[0].param_groups[0]
    if group["groups"] % module.num_targets:
        group["groups"] = module.num_targets  # seeds of different targets must not exchange weights
    try:
        with bounded_memory(available_memory()):  # or the system would end the process, without a word
            mse: Tensor = optimizer.step(problem)
    except (MemoryError, RuntimeError) as error:
        if not out_of_memory(error):
            raise
        weights, replicas = sum(p[0].numel() for p in module.network.parameters()), module.network.replicas
        size = 2 * replicas * weights**2 * torch.finfo(dtype).bits / 8e9
        raise TriwaveError(
            f"out of memory: stage {module.stage} needs two matrices of {weights} × {weights} for each of {replicas} "
            f"networks, {size:,.1f} GB: use fewer seeds or weights, or only the stage train"
        ) from error
    if not mse.isfinite().all():
        module.diverged(mse, batch_idx)
    return mse


def limit_step(module: ReplicatedModule, stage: LimitStage, x: Tensor, y: Tensor, batch_idx: int) -> Tensor:
    """Takes one iteration of the stage `limit`; for arguments, result and errors see `second_order_step`."""
    _check_one_batch(module)
    options, trained, network = module.stages["limit"], stage.trained, module.network
    loaders, optimizer = module.validation_loaders(), module.optimizers()
    dtype = network.scaling.lower.dtype
    x, y = x.to(dtype), module.targets(y.to(dtype), trained)
    if options.max_points is not None:  # the same points in each iteration, an equal number on each rank
        order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
        chosen = order[: max(1, options.max_points // module.trainer.world_size)].to(x.device)
        x, y = x[chosen], y[chosen]
    problem = LimitProblem(
        trained,
        x,
        y,
        chunk=options.chunk,
        reduce=module.sum_over_ranks,
        validation=None if loaders is None else lambda: module.mse_over(loaders, trained),
        average=None if trained is network else network,  # type: ignore[arg-type]
    )
    module.trainer.optimizers[0].param_groups[0]["groups"] = module.num_targets
    mse: Tensor = optimizer.step(lambda: problem)  # type: ignore[union-attr, assignment]
    if not mse.isfinite().any():
        module.diverged(mse, batch_idx)
    mse = mse.view(module.network.replicas, -1).mean(1)  # the error of the members' mean is lower
    if module.current_epoch == module.stage_epochs["limit"] * 4 // 5:
        stage.late_mse = float(mse.nan_to_num(nan=torch.inf).amin())
    return mse


def _check_one_batch(module: ReplicatedModule) -> None:
    trainer, stage = module.trainer, module.stage
    passes = getattr(trainer.datamodule, "repeats", 1)  # type: ignore[attr-defined]
    if trainer.num_training_batches != passes:
        # Only these stages let the user set the number of samples that are differentiated at a time.
        bound = f"{stage}.chunk bounds the memory" if stage != "pretrain" else "memory stays bounded"
        raise TriwaveError(
            f"data.batch_size must be null for stage {stage}, which takes all training points in one batch, got "
            f"{trainer.num_training_batches // passes} batches: {bound}"
        )
