"""Bounds of the arguments of a stack's neurons over the domain."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.quasirandom import SobolEngine

from lit_triwave.construction.quadratic import Layers, quadratic_features

RANGE_POINTS = 8192
"""Number of points of the domain where the search for the extremes begins."""
CLIMBS = 25
"""Steps of projected gradient ascent from the extreme points of this search."""
RANGE_MARGIN = 0.01
"""Share by which each neuron's range is widened at both ends."""


@torch.no_grad()
def argument_ranges(inputs: int, layers: Layers) -> list[tuple[Tensor, Tensor]]:
    """Returns the bounds of every neuron's argument v over the domain.

    Projected gradient steps start from the extremes among many points, with corners and faces of the domain. The range
    that they find is widened by a hundredth at both ends.

    Args:
        inputs: number of inputs.
        layers: weights (R, K_l, width of h) and biases (R, K_l) of each layer of the limit network.

    Returns:
        (lowest, highest) of each layer, (R, K_l) each.
    """
    with torch.inference_mode(False):  # evaluations run in inference mode, where nothing has a gradient
        layers = [(weight.clone(), bias.clone()) for weight, bias in layers]
        points = _domain_points(inputs, layers[0][0])
        _, arguments = quadratic_features(points, layers)
        found = []
        for i, v in enumerate(arguments):
            ends = []
            for sign in (-1.0, 1.0):
                start = points.T[(sign * v).argmax(-1)].mT  # (R, n, K_l): one point for each neuron
                ends.append(sign * _climb(start, sign, layers[: i + 1]))
            low, high = torch.minimum(ends[0], v.amin(-1)), torch.maximum(ends[1], v.amax(-1))
            # A neuron that does not depend on its inputs still needs a range of some length.
            slack = RANGE_MARGIN * (high - low) + 1e-6 * (1 + high.abs())
            found.append((low - slack, high + slack))
        return found


def _climb(points: Tensor, sign: float, layers: Layers) -> Tensor:
    """Largest sign · v of each neuron of the last layer, searched from one start point for each, (R, n, K)."""

    def heights(at: Tensor) -> Tensor:
        h = at
        for weight, bias in layers:
            v = torch.baddbmm(bias[..., None], weight, h)
            h = torch.cat([h, v * v], 1)
        return sign * v.diagonal(dim1=1, dim2=2)

    best = heights(points)
    step = torch.full_like(best, 0.05)
    for _ in range(CLIMBS):
        with torch.enable_grad():
            at = points.detach().requires_grad_()
            (slope,) = torch.autograd.grad(heights(at).sum(), at)
        slope = slope / slope.norm(dim=1, keepdim=True).clamp_min(torch.finfo(slope.dtype).tiny)
        trial = (points + step[:, None] * slope).clamp(-1, 1)
        height = heights(trial)
        higher = height > best
        points = torch.where(higher[:, None], trial, points)
        best = torch.where(higher, height, best)
        step = torch.where(higher, 2 * step, step / 2)
    return best


def _domain_points(inputs: int, like: Tensor) -> Tensor:
    """Points of [−1, 1]^n, (n, count): first the corners; of the others, a tenth lies on each face of an axis."""
    points, axes = sobol_points(inputs, like, 1.25), min(inputs, 10)
    corners = torch.cartesian_prod(*[points.new_tensor([-1.0, 1.0])] * axes).view(-1, axes).T
    points[:axes, : corners.shape[1]] = corners
    return points


def sobol_points(inputs: int, like: Tensor, stretch: float = 1.0) -> Tensor:
    """Returns `RANGE_POINTS` points of [−stretch, stretch]^n, clamped to [−1, 1]^n, (n, points)."""
    engine = SobolEngine(inputs, scramble=True, seed=0)  # type: ignore[no-untyped-call]
    fraction: Tensor = engine.draw(RANGE_POINTS, dtype=torch.float64)
    return (stretch * (2 * fraction - 1)).clamp(-1, 1).T.contiguous().to(like)
