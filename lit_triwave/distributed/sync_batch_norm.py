"""Batch norm over all ranks, also on CPUs."""

from __future__ import annotations

from typing import Any

import torch
from lightning.pytorch.plugins.layer_sync import TorchSyncBatchNorm
from torch import Tensor, distributed, nn
from torch.nn.modules.batchnorm import _BatchNorm


class _SumOverRanks(torch.autograd.Function):
    """Sums a tensor over all ranks; the gradient is the sum of the ranks' gradients."""

    @staticmethod
    def forward(context: Any, x: Tensor) -> Tensor:
        total = x.clone()
        distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> Tensor:  # type: ignore[override]
        total = gradient.clone()
        distributed.all_reduce(total)
        return total


class _RankBatchNorm(_BatchNorm):
    """Batch norm with the statistics of all ranks' batches together."""

    def forward(self, input: Tensor) -> Tensor:
        """Maps input (batch, channels, ...) to the same shape."""
        if not self.training:
            evaluated: Tensor = super().forward(input)
            return evaluated
        others = [axis for axis in range(input.ndim) if axis != 1]
        shape = [-1 if axis == 1 else 1 for axis in range(input.ndim)]
        x = input.to(torch.promote_types(input.dtype, torch.float32))  # statistics of halves under autocast too
        count = x.new_full((1,), x.numel() / x.shape[1])
        # Two passes: the difference of sums of x² and x is inexact if the variance is small compared with the mean.
        total, count = _SumOverRanks.apply(torch.cat([x.sum(others), count])).split([x.shape[1], 1])
        mean = total / count
        centred = x - mean.view(shape)
        variance = _SumOverRanks.apply(centred.square().sum(others)) / count
        if self.running_mean is not None and self.running_var is not None and self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
            share = 1.0 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
            self.running_mean.lerp_(mean.detach(), share)
            self.running_var.lerp_((variance * count / (count - 1)).detach(), share)
        y: Tensor = centred * (variance + self.eps).rsqrt().view(shape)
        if self.weight is not None:
            y = y * self.weight.view(shape) + self.bias.view(shape)
        return y.to(input.dtype)

    def _check_input_dim(self, input: Tensor) -> None:
        """Accepts any shape with channels."""


class SynchronizedBatchNorms(TorchSyncBatchNorm):
    """Replaces every batch norm while several ranks train with `trainer.sync_batchnorm`.

    On GPUs it is PyTorch's `SyncBatchNorm`, which does not support CPUs; on CPUs it is `_RankBatchNorm`.
    """

    def __init__(self) -> None:
        self.kinds: list[tuple[nn.Module, type[nn.Module]]] = []

    def apply(self, model: nn.Module) -> nn.Module:
        if model.trainer.strategy.root_device.type != "cpu":  # type: ignore[union-attr]
            return super().apply(model)
        self.kinds = [(module, type(module)) for module in model.modules() if isinstance(module, _BatchNorm)]
        for module, _ in self.kinds:
            module.__class__ = _RankBatchNorm
        return model

    def revert(self, model: nn.Module) -> nn.Module:
        for module, kind in self.kinds:
            module.__class__ = kind
        self.kinds = []
        return super().revert(model)
