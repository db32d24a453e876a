"""Quadratic neurons: what a constructed subnetwork with peaks 1/2 becomes as it gets deeper (METHOD section 7).

With all peaks 1/2 and the scales of Theorem 3.1 a subnetwork converges to 4·s_0·(u − u²). A quadratic neuron q = v² on
[lo, hi] is therefore the limit of a constructed subnetwork, and layers of such neurons are the limit of a ReLU network:

    v_l = W_l · h_{l−1} + b_l,    q_l = v_l²,    h_l = (h_{l−1}, q_l),    output = c · h_L + c_0

where h_0 are the inputs. Samples come last in every tensor, replicas first.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

Layers = Sequence[tuple[Tensor, Tensor]]
"""(W_l, b_l) of each layer, shapes (R, K_l, width of h_{l−1}) and (R, K_l)."""


def quadratic_features(h: Tensor, layers: Layers) -> tuple[Tensor, list[Tensor]]:
    """Evaluates layers of quadratic neurons.

    Args:
        h: the inputs h_0, shape (R, n, B) or (n, B).
        layers: see above.

    Returns:
        (h_L, 1), shape (R, n + Σ K_l + 1, B), and v_l for each layer, (R, K_l, B).
    """
    replicas, widths = len(layers[0][1]), [bias.shape[1] for _, bias in layers]
    inputs, samples = h.shape[-2:]
    features = h.new_empty(replicas, inputs + sum(widths) + 1, samples)
    features[:, :inputs] = h
    features[:, -1] = 1
    arguments, width = [], inputs
    for weight, bias in layers:
        v = torch.baddbmm(bias[..., None], weight, features[:, :width])
        torch.mul(v, v, out=features[:, width : width + v.shape[1]])
        width += v.shape[1]
        arguments.append(v)
    return features, arguments


def quadratic_sensitivities(output: Tensor, layers: Layers, arguments: Sequence[Tensor]) -> list[Tensor]:
    """Derivatives of the output by each q_l, through all later layers.

    Args:
        output: the weights c of the output, (R, n + Σ K_l).
        layers, arguments: as in `quadratic_features`.

    Returns:
        One tensor for each layer, (R, K_l, B).
    """
    samples = arguments[0].shape[-1]
    g = output[..., None].expand(*output.shape, samples).clone()
    result: list[Tensor] = []
    end = output.shape[1]
    for (weight, _), v in zip(reversed(layers), reversed(arguments), strict=True):
        start = end - v.shape[1]
        result.append(g[:, start:end])
        g[:, :start].baddbmm_(weight.mT, 2 * v * g[:, start:end])
        end = start
    return result[::-1]


def quadratic_jacobian(
    features: Tensor, arguments: Sequence[Tensor], layers: Layers, output: Tensor, rows: Tensor
) -> None:
    """Writes the derivatives of the output by all parameters, in one backward sweep.

    Args:
        features, arguments: what `quadratic_features` returned.
        layers: see above.
        output: the weights c of the output, (R, n + Σ K_l).
        rows: memory for the derivatives, (R, P, B), in the order W_1, …, W_L, b_1, …, b_L, c, c_0, each flattened.
    """
    replicas, _, samples = features.shape
    weights = [weight[0].numel() for weight, _ in layers]
    biases = [bias.shape[1] for _, bias in layers]
    parts = torch.split(rows, [*weights, *biases, features.shape[1]], 1)
    parts[-1].copy_(features)
    for i, g in enumerate(quadratic_sensitivities(output, layers, arguments)):
        delta = parts[len(layers) + i]
        torch.mul(g, arguments[i], out=delta).mul_(2)
        out, width = layers[i][0].shape[1:]
        view = parts[i].view(replicas, out, width, samples)
        torch.mul(delta[:, :, None], features[:, None, :width], out=view)


def quadratic_gradient(
    features: Tensor, arguments: Sequence[Tensor], layers: Layers, output: Tensor, weights: Tensor
) -> Tensor:
    """Returns the sum over the samples of the derivatives by all parameters, each sample with a weight.

    Args:
        features, arguments, layers, output: as in `quadratic_jacobian`. The Jacobian itself is never in memory.
        weights: weights of the samples, (R, B).

    Returns:
        Shape (R, P), in the order of `quadratic_jacobian`.
    """
    projections, shifts = [], []
    for (weight, _), v, g in zip(layers, arguments, quadratic_sensitivities(output, layers, arguments), strict=True):
        delta = (2 * v * g).mul_(weights[:, None])
        projections.append(torch.bmm(delta, features[:, : weight.shape[2]].mT).flatten(1))
        shifts.append(delta.sum(-1))
    return torch.cat([*projections, *shifts, torch.bmm(features, weights[..., None])[..., 0]], 1)


def quadratic_curvature(h: Tensor, layers: Layers, output: Tensor, step: Layers, output_step: Tensor) -> Tensor:
    """Returns the second derivative of the output along a change of all parameters.

    Args:
        h: the inputs h_0, shape (n, B).
        layers: see above.
        output: the weights c of the output, (R, n + Σ K_l).
        step: the change of (W_l, b_l) of each layer.
        output_step: the change of c, (R, n + Σ K_l).

    Returns:
        Shape (R, B).
    """
    value = h.expand(len(output), *h.shape)
    first, second = torch.zeros_like(value), torch.zeros_like(value)
    for (weight, bias), (weight_step, bias_step) in zip(layers, step, strict=True):
        v = torch.baddbmm(bias[..., None], weight, value)
        dv = torch.baddbmm(bias_step[..., None], weight_step, value).baddbmm_(weight, first)
        ddv = torch.bmm(weight, second).baddbmm_(weight_step, first, alpha=2)
        value = torch.cat([value, v * v], 1)
        first = torch.cat([first, 2 * v * dv], 1)
        second = torch.cat([second, 2 * (dv * dv + v * ddv)], 1)
    return torch.bmm(output[:, None], second).baddbmm_(output_step[:, None], first, alpha=2)[:, 0]


def construction_mse(
    sensitivities: Sequence[Tensor], arguments: Sequence[Tensor], ranges: Sequence[tuple[Tensor, Tensor]], depth: int
) -> Tensor:
    """Mean squared difference between a network of constructed subnetworks and its limit, to first order.

    At depth d, a neuron on a range of length ℓ is above its limit by ℓ²·4^{−d}·(t − t²), where t is the fractional
    part of 2^d·u. The mean square of this error over uniform u is ℓ⁴·16^{−d}/30 = (4·s_0)²·16^{−d}/30. The errors of
    several neurons are added at sample points, with the derivatives of the output as weights. So the sum is also right
    for neurons with dependent arguments.

    Args:
        sensitivities: derivatives of the output by each layer's neurons at the points, (R, K_l, B).
        arguments: v of each layer at the points, (R, K_l, B).
        ranges: (lo, hi) of each layer's neurons, (R, K_l) each.
        depth: d.

    Returns:
        Shape (R,), in squared units of the output.
    """
    total = torch.zeros_like(arguments[0][:, 0])
    for g, v, (low, high) in zip(sensitivities, arguments, ranges, strict=True):
        length = (high - low)[..., None]
        t = (2.0**depth * (v - low[..., None]) / length).frac()
        total += (g * length.square() * (t - t.square())).sum(1)
    return total.square().mean(-1) * 16.0**-depth
