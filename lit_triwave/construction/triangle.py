"""The mathematics of the construction as pure functions on tensors (METHOD sections 1 to 3).

All functions are batched over any leading shape `*shape` (subnetworks, replicas), work in float32 and float64, and are
differentiable. Symbols follow the paper: peaks `a`, scales `s`, waves `W_i = T_{a_i} ∘ … ∘ T_{a_0}`, and

    F(x) = α + β·x + sign · Σ_{i<d} s_i · W_i(x),     sign = −1 for convex F, +1 for concave F.

Source: Milkert, Hyde, Laine, "Compelling ReLU Networks to Exhibit Exponentially Many Linear Regions at Initialization
and During Training", ICML 2025, arXiv 2311.18022.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from lit_triwave.construction.block_kernels import blocks
from lit_triwave.construction.wave_kernels import WIDE, WaveSum, wide_wave_sum

SUM_SLACK = 0.25
"""Lower bound of the `sum` neuron's input on [0, 1]. At zero, the ReLU's kink could coincide with an end of the domain,
where the gradient would depend on rounding."""


def triangle(x: Tensor, peak: Tensor) -> Tensor:
    """Evaluates the triangle function T_a, which rises from (0, 0) to (a, 1) and falls to (1, 0).

    Args:
        x: points in [0, 1], any shape that broadcasts with `peak`.
        peak: a, in (0, 1).

    Returns:
        min(x / a, (1 − x) / (1 − a)), in the broadcast shape.
    """
    return torch.minimum(x / peak, (1 - x) / (1 - peak))


def waves(x: Tensor, peaks: Tensor) -> Tensor:
    """Evaluates all waves W_0 … W_{d−1} of subnetworks.

    Args:
        x: points in [0, 1], shape (batch, *shape).
        peaks: a_0 … a_{d−1}, shape (*shape, d).

    Returns:
        W_i(x), shape (batch, *shape, d); W_i has 2^(i+1) linear pieces.
    """
    result = []
    for peak in peaks.unbind(-1):
        x = triangle(x, peak)
        result.append(x)
    return torch.stack(result, -1)


def theorem31_scales(peaks: Tensor, first: Tensor) -> Tensor:
    """Returns the scales for which F is differentiable in the limit of infinite depth (Theorem 3.1).

    s_{i+1} = s_i · (1 − a_{i+1}) · a_{i+2}. So depth d, with d waves, needs d + 1 peaks.

    Args:
        peaks: a_0 … a_d, shape (*shape, d + 1), in (0, 1).
        first: s_0, shape (*shape,).

    Returns:
        s_0 … s_{d−1}, shape (*shape, d).
    """
    scales = [first]
    # Not `cumprod`: its gradient checks on the device whether a factor is zero, and each step waits for the result.
    for ratio in ((1 - peaks[..., 1:-1]) * peaks[..., 2:]).unbind(-1):
        scales.append(scales[-1] * ratio)
    return torch.stack(scales, -1)


def wave_form(x: Tensor, peaks: Tensor, scales: Tensor, alpha: Tensor, beta: Tensor, sign: Tensor) -> Tensor:
    """Evaluates F(x) as a sum of waves, the fast form that is used while the peaks are trained.

    Args:
        x: points in [0, 1], shape (batch, *shape).
        peaks: a_0 … a_{d−1}, shape (*shape, d).
        scales: s_0 … s_{d−1}, shape (*shape, d).
        alpha, beta: affine part, shape (*shape,).
        sign: −1 (convex) or +1 (concave), shape (*shape,).

    Returns:
        F(x), shape (batch, *shape).
    """
    shape, n = x.shape[1:], alpha.numel()
    coefficients = torch.cat([beta[..., None], sign[..., None] * scales], -1)
    flat = x.reshape(len(x), n)
    if n >= WIDE or torch.compiler.is_compiling():
        first, second = (t.reshape(n, t.shape[-1]).T for t in (peaks, coefficients))
        return wide_wave_sum(flat, first, second, alpha.reshape(n)).reshape(x.shape)
    # Samples come last, so that each subnetwork's numbers are contiguous.
    result: Tensor = WaveSum.apply(  # type: ignore[no-untyped-call]
        flat.T.contiguous(),
        peaks.reshape(n, peaks.shape[-1]),
        coefficients.reshape(n, coefficients.shape[-1]),
        alpha.reshape(n),
    )
    return result.T.reshape(len(x), *shape)


class BlockWeights(NamedTuple):
    """Weights of ReLU networks, four neurons wide, with d hidden layers; one network for each element of `*shape`.

    The neurons of a layer are, in this order, `sum`, `t1`, `t2`, `bias` (METHOD section 3).
    """

    input_weight: Tensor  # (*shape, 4)
    input_bias: Tensor  # (*shape, 4)
    hidden_weight: Tensor  # (*shape, d − 1, 4, 4), entry [i, j] leads from neuron j to neuron i
    hidden_bias: Tensor  # (*shape, d − 1, 4)
    output_weight: Tensor  # (*shape, 4)
    output_bias: Tensor  # (*shape,)


def block_weights(peaks: Tensor, scales: Tensor, alpha: Tensor, beta: Tensor, sign: Tensor) -> BlockWeights:
    """Returns the weights of the network that computes F on [0, 1] (METHOD section 3).

    The neurons `t1` and `t2` of layer i hold the wave multiplied by s_{i−1}, and the `bias` neuron holds that factor.
    This keeps the numbers well conditioned.

    Args:
        peaks: a_0 … a_{d−1}, shape (*shape, d), in (0, 1).
        scales: s_0 … s_{d−1}, shape (*shape, d), positive.
        alpha, beta: affine part, shape (*shape,).
        sign: −1 (convex) or +1 (concave), shape (*shape,).

    Returns:
        The weights. `network_form` with them equals `wave_form` on [0, 1], and so do the gradients with respect to
        the peaks.
    """
    zero, one = torch.zeros_like(alpha), torch.ones_like(alpha)
    # The `sum` neuron is smallest on [0, 1] at the lower end of β·x, with all waves subtracted if F is convex.
    shift = (-beta).clamp_min(0) + torch.where(sign < 0, scales.sum(-1), zero) + SUM_SLACK
    ratios = torch.cat([scales[..., :1], scales[..., 1:] / scales[..., :-1]], -1)  # S_i = s_i / s_{i−1}, S_0 = s_0
    rise = ratios / peaks  # S_i / a_i
    turn = ratios / (peaks * (1 - peaks))  # S_i / (a_i − a_i²)

    def row(*entries: Tensor) -> Tensor:
        return torch.stack(torch.broadcast_tensors(*entries), -1)  # type: ignore[no-untyped-call]

    r, t, s = rise[..., :-1], turn[..., :-1], ratios[..., :-1]
    signs, zeros, ones = sign[..., None], torch.zeros_like(r), torch.ones_like(r)
    hidden = torch.stack(
        [
            row(ones, signs * r, -signs * t, zeros),
            row(zeros, r, -t, zeros),
            row(zeros, r, -t, -s * peaks[..., 1:]),
            row(zeros, zeros, zeros, s),
        ],
        -2,
    )
    return BlockWeights(
        input_weight=row(beta, one, one, zero),
        input_bias=row(shift, zero, -peaks[..., 0], one),
        hidden_weight=hidden,
        hidden_bias=hidden.new_zeros(hidden.shape[:-1]),
        output_weight=row(one, sign * rise[..., -1], -sign * turn[..., -1], zero),
        output_bias=alpha - shift,
    )


def recruit(weights: BlockWeights, peaks: Tensor) -> BlockWeights:
    """Turns neurons with only a constant or affine value into further breakpoints, without changing the function.

    On [0, 1] the `bias` neurons are constants, and the first layer's `sum` neuron is affine in its `t1` neuron. The
    biases of the next layer and `t1` can take over the values of these neurons. Each recruited neuron then has its
    breakpoint at a new place: the middle of the longer (`bias`) or shorter (`sum`) side of the peak. Its outgoing
    weights start at zero, so the function changes only when they are trained. Training can then use more than 2^d
    pieces.

    This is not in the paper. The block structure and the number of weights stay the same.

    Args:
        weights: as `block_weights` returns them, of any `*shape`.
        peaks: a_0 … a_{d−1} of those weights, shape (*shape, d).

    Returns:
        New weights, for which `network_form` is the same on [0, 1].
    """
    input_weight, input_bias, hidden_weight, hidden_bias, output_weight, output_bias = (t.clone() for t in weights)
    longer = torch.where(peaks <= 0.5, (1 + peaks) / 2, peaks / 2)
    shorter = torch.where(peaks <= 0.5, peaks / 2, (1 + peaks) / 2)
    # The `bias` neurons hold 1, s_0, s_1, …; the waves of a layer are in units of its `bias` neuron.
    first = input_bias[..., 3:]
    held = torch.cat([first, first * hidden_weight[..., 3, 3].cumprod(-1)], -1)
    hidden_bias += hidden_weight[..., 3] * held[..., :-1, None]
    hidden_weight[..., 3] = 0
    hidden_weight[..., 3, :] = hidden_weight[..., 1, :]
    hidden_bias[..., 3] = hidden_bias[..., 1] - longer[..., 1:] * held[..., 1:]
    # The layer after the first takes the affine part from `t1`, which on [0, 1] is the input.
    slope, constant = input_weight[..., 0], input_bias[..., 0]
    if hidden_weight.shape[-3]:
        passed = hidden_weight[..., 0, :, 0].clone()
        hidden_weight[..., 0, :, 1] += passed * slope[..., None]
        hidden_weight[..., 0, :, 0] = 0
        hidden_bias[..., 0, :] += passed * constant[..., None]
    else:
        output_bias = output_bias + output_weight[..., 0] * constant
        output_weight[..., 1] += output_weight[..., 0] * slope
        output_weight[..., 0] = 0
    for neuron, place in ((0, shorter), (3, longer)):
        input_weight[..., neuron] = 1
        input_bias[..., neuron] = -place[..., 0]
    return BlockWeights(input_weight, input_bias, hidden_weight, hidden_bias, output_weight, output_bias)


def network_form(x: Tensor, weights: BlockWeights) -> Tensor:
    """Evaluates F(x) as a ReLU network, four neurons wide and d hidden layers deep.

    Args:
        x: points in [0, 1], shape (batch, *shape).
        weights: weights of the same `*shape`.

    Returns:
        F(x), shape (batch, *shape).
    """
    shape = x.shape[1:]
    n = shape.numel()
    w = BlockWeights(*(t.reshape(n, *t.shape[len(shape) :]) for t in weights))
    flat = x.reshape(len(x), n)
    unrolled = torch.compiler.is_compiling()
    if (unrolled or n >= WIDE) and not torch.compiler.is_exporting():
        layers = [torch.stack([w.input_weight, w.input_bias], -1)]
        layers.append(torch.cat([w.hidden_weight, w.hidden_bias[..., None]], -1))
        layers.append(torch.cat([w.output_weight, w.output_bias[:, None]], -1))
        y: Tensor = blocks(flat.T.contiguous(), torch.cat([layer.flatten(1) for layer in layers], 1), unrolled)
        return y.T.reshape(x.shape)
    # Each layer is one batched matrix product over all subnetworks, (n, 4, 4) @ (n, 4, batch). Samples come last, since
    # a product whose long side is contiguous takes about half the time of its transpose.
    u = flat.T[:, None]
    h = torch.addcmul(w.input_bias[..., None], w.input_weight[..., None], u).relu_()
    for layer, bias in zip(w.hidden_weight.unbind(1), w.hidden_bias.unbind(1), strict=True):
        h = torch.baddbmm(bias[..., None], layer, h).relu_()
    out = torch.baddbmm(w.output_bias[:, None, None], w.output_weight[:, None], h)
    return out[:, 0].T.reshape(x.shape)


def nodes(peaks: Tensor) -> Tensor:
    """Returns the ends of the 2^d linear pieces, which are all x with W_{d−1}(x) ∈ {0, 1}.

    All deeper waves are zero at these points, so F at any depth agrees there with its limit of infinite depth.

    Args:
        peaks: a_0 … a_{d−1}, shape (*shape, d).

    Returns:
        Nodes in ascending order from 0 to 1, shape (*shape, 2^d + 1), differentiable in the peaks.
    """
    y = peaks.new_tensor([0.0, 1.0]).expand(*peaks.shape[:-1], 2)
    for peak in reversed(peaks.unbind(-1)):
        a = peak[..., None]
        # T_a has two inverse branches, which meet at the peak; the peak is kept once.
        y = torch.cat([a * y, (1 - (1 - a) * y.flip(-1))[..., 1:]], -1)
    return y
