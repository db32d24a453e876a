"""The wave form with its analytic gradient, for speed."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


class WaveSum(torch.autograd.Function):
    """y = α + c_0·x + Σ_i c_{i+1}·W_i(x) for n subnetworks, samples last.

    About 2.5 times faster, forward and backward, than the same formula left to autograd (2 cores, 60 subnetworks of
    depth 5, 500 samples, float64), which keeps two branches and two masks of every triangle. On its linear pieces,
    T_a has the slope t = 1/a or −1/(1−a), and dT_a/da = −t·T_a on both.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, peaks: Tensor, coefficients: Tensor, alpha: Tensor) -> Tensor:
        """x (n, batch), peaks (n, d), coefficients (n, d + 1), alpha (n,) ↦ (n, batch)."""
        n, d = peaks.shape
        rise, fall = (1 / peaks)[..., None], (1 / (1 - peaks))[..., None]
        waves = x.new_empty(d + 1, n, x.shape[1])
        waves[0] = x
        for i in range(d):
            falling = torch.addcmul(fall[:, i], waves[i], fall[:, i], value=-1)
            torch.minimum(waves[i] * rise[:, i], falling, out=waves[i + 1])
        ctx.save_for_backward(waves, peaks, rise, fall, coefficients)
        return torch.einsum("ni,inb->nb", coefficients, waves) + alpha[:, None]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # type: ignore[override]
        waves, peaks, rise, fall, coefficients = ctx.saved_tensors
        grad_peaks = torch.empty_like(peaks)
        g = coefficients[:, -1:] * grad
        for i in range(peaks.shape[1] - 1, -1, -1):
            g = g * torch.where(waves[i] < peaks[:, i : i + 1], rise[:, i], -fall[:, i])
            grad_peaks[:, i] = -torch.linalg.vecdot(g, waves[i + 1])
            g = torch.addcmul(g, coefficients[:, i : i + 1], grad)
        return g, grad_peaks, torch.einsum("nb,inb->ni", grad, waves), grad.sum(1)
