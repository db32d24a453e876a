"""Dense ReLU networks with random initialisations to compare with: Kaiming, RAI and RAAI, batched over replicas."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from lit_triwave.construction import dense
from lit_triwave.errors import check_choice
from lit_triwave.nn.derivatives import Layer, Rows, backward_sweep, forward_sweep
from lit_triwave.nn.scaling import Domain, TargetRange, UnitScaling
from lit_triwave.nn.sizes import check_sizes

RandomStart = Literal["kaiming", "rai", "raai"]

RAI_STD = 0.6007
"""Standard deviation of RAI's Gaussian entries times √fan_in (Lu et al. 2019, arXiv 1903.06733)."""
RAAI_SHARE = 1.0
"""Share of a row's mean that RAAI subtracts from its Gaussian entries (Singh & Sreejith 2021, arXiv 2103.12499).

At 1 the row sums to zero. The paper of METHOD gives no constant."""


def kaiming_rows(shape: Sequence[int], generator: torch.Generator | None = None) -> Tensor:
    """Draws weights and biases ~ U(−1/√fan_in, 1/√fan_in), PyTorch's default for `nn.Linear`.

    Args:
        shape: (…, out, in + 1).
        generator: generator of the draw; None uses PyTorch's global one.

    Returns:
        Rows (weights, bias) of that shape, float64.
    """
    bound = 1 / math.sqrt(shape[-1] - 1)
    return torch.empty(*shape, dtype=torch.float64).uniform_(-bound, bound, generator=generator)


def rai_rows(
    shape: Sequence[int], generator: torch.Generator | None = None, *, std: float = RAI_STD, share: float = 0.0
) -> Tensor:
    """Draws a randomized asymmetric initialisation; with `share` > 0 its variant RAAI (METHOD section 5).

    Each row (weights and bias together, length fan_in + 1) is drawn from N(0, std²/fan_in), and `share` of its mean is
    subtracted. Then one entry, chosen at random, is drawn from Beta(2, 1) instead.

    Args:
        shape: (…, out, in + 1).
        generator: generator of all draws; None uses PyTorch's global one.
        std: standard deviation of the Gaussian entries, times √fan_in.
        share: share of the row's mean that is subtracted, in [0, 1].

    Returns:
        Rows of that shape, float64.
    """
    rows = torch.empty(*shape, dtype=torch.float64).normal_(0, std / math.sqrt(shape[-1] - 1), generator=generator)
    rows -= share * rows.mean(-1, keepdim=True)
    chosen = torch.randint(shape[-1], (*shape[:-1], 1), generator=generator)
    # Beta(2, 1) has the distribution function x² on [0, 1]: it is the square root of a uniform number.
    beta = torch.rand(*shape[:-1], 1, dtype=torch.float64, generator=generator).sqrt()
    return rows.scatter(-1, chosen, beta)


class DenseNetwork(nn.Module):
    """Dense ReLU networks with one output, R independent replicas in one batched product.

    Args:
        domain: name ↦ (lower, upper) of each input. As in the paper, inputs are not scaled.
        target_range: not used, because targets are not scaled; accepted to have the arguments of `TriangleNetwork`.
        width: neurons of each hidden layer, ≥ 1.
        depth: hidden layers, ≥ 1.
        initialization: `"kaiming"`, `"rai"` or `"raai"`.
        replicas: number of replicas R, ≥ 1.
        raai_share: share in [0, 1] for `"raai"`, see `rai_rows`.
        generator: generator of the draw; None uses PyTorch's global one.

    Raises:
        ValueError: an argument is outside its range.
    """

    parameterization: Literal["weights"] = "weights"

    def __init__(
        self,
        domain: Domain,
        target_range: TargetRange = (0.0, 1.0),
        *,
        width: int = 4,
        depth: int = 5,
        initialization: RandomStart = "kaiming",
        replicas: int = 1,
        raai_share: float = RAAI_SHARE,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        check_sizes(width=width, depth=depth, replicas=replicas)
        check_choice(RandomStart, initialization=initialization)
        if not 0 <= raai_share <= 1:
            raise ValueError(f"raai_share must be in [0, 1], got {raai_share}")
        self.scaling = UnitScaling(domain, target_range, replicas)
        self.replicas = replicas
        sizes = [self.scaling.in_features, *[width] * depth, 1]
        self.weight, self.bias = nn.ParameterList(), nn.ParameterList()
        for fan_in, fan_out in itertools.pairwise(sizes):
            shape = (replicas, fan_out, fan_in + 1)
            if initialization == "kaiming":
                rows = kaiming_rows(shape, generator)
            else:
                rows = rai_rows(shape, generator, share=raai_share if initialization == "raai" else 0.0)
            self.weight.append(nn.Parameter(rows[..., :-1].clone()))
            self.bias.append(nn.Parameter(rows[..., -1:].mT.clone()))

    @property
    def segments(self) -> int:
        """Linear pieces of a constructed network of this depth, for comparison with the same free-knot limit."""
        return 1 << (len(self.weight) - 1)

    def forward(self, x: Tensor) -> Tensor:
        """Maps inputs (batch, in_features) to outputs (batch, replicas)."""
        # The samples come last: a product whose long side is contiguous is about twice as fast as its transpose.
        h = x.T.expand(self.replicas, *x.T.shape)
        last = len(self.weight) - 1
        for i, (weight, bias) in enumerate(zip(self.weight, self.bias, strict=True)):
            h = torch.baddbmm(bias.mT, weight, h)
            if i < last:
                h = h.relu_()
        return h[:, 0].T

    def to_sequential(self, replica: int = 0) -> nn.Sequential:
        """Returns one replica as plain layers, from (batch, in_features) to (batch, 1)."""
        layers = zip(self.weight, self.bias, strict=True)
        return dense.sequential([(w[replica].detach(), b[replica, 0].detach()) for w, b in layers])

    def jacobian_rows(self, x: Tensor, rows: Rows) -> Tensor:
        """Writes the derivatives of all replicas by all parameters, see `optim.jacobian`; returns values, (R, B)."""
        layers = [
            Layer(w, b[:, 0], rows[f"weight.{i}"], rows[f"bias.{i}"][:, 0])
            for i, (w, b) in enumerate(zip(self.weight, self.bias, strict=True))
        ]
        activations = forward_sweep(layers, x.T.expand(self.replicas, *x.T.shape))
        backward_sweep(layers, activations, torch.ones_like(activations[-1]), to_input=False)
        return activations[-1][:, 0]
