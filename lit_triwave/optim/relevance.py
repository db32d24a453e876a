"""Penalties on groups of weights, for the limit of a stack. The data determine the size of the penalties."""

from __future__ import annotations

import torch
from torch import Tensor

from lit_triwave.nn.stack import StackNetwork
from lit_triwave.optim.limit_problem import RIDGE

FIRST_PENALTY = 1e-4
PENALTY_LIMITS = (1e-12, 1e2)


def weight_groups(network: StackNetwork) -> Tensor:
    """Returns the group of each parameter of a stack's limit, (P,) int64, in the order of `VariableProjection`.

    The hidden layers have one group for the weights on each input, one for the weights on earlier neurons, and one for
    the shifts. The output's weights on the inputs are a group, and so are those on the neurons of each layer. The
    output's bias is group 0 and has no penalty.
    """
    inputs, found = network.scaling.in_features, []
    for weight in network.projection:
        width = weight.shape[2]
        columns = torch.full((width,), inputs + 1)
        columns[:inputs] = torch.arange(1, inputs + 1)
        found.append(columns.expand(weight.shape[1], width).flatten())
    found += [torch.full((shift.shape[1],), inputs + 2) for shift in network.shift]
    found.append(torch.full((inputs,), inputs + 3))
    found += [torch.full((neurons,), inputs + 4 + i) for i, neurons in enumerate(network.layers)]
    return torch.cat([*found, torch.zeros(1, dtype=torch.long)]).to(network.output_weight.device)


def first_penalty(network: StackNetwork) -> Tensor:
    """Returns the penalties before the first step, (R, P)."""
    penalty = torch.where(weight_groups(network) > 0, FIRST_PENALTY, 0.0).to(network.output_weight)
    return penalty.repeat(network.replicas, 1)


def renewed_penalty(
    network: StackNetwork,
    gram: Tensor,
    unit: Tensor,
    penalty: Tensor,
    point: Tensor,
    mse: Tensor,
    count: Tensor,
    held: Tensor | None,
) -> Tensor:
    """Returns the penalties for which the data are most probable: automatic relevance determination.

    The prior of a group's weights is a normal distribution. Its variance is estimated from the squared weights and
    from the number γ of weights that the data determine. The weights of groups that the data do not need go to zero.
    See MacKay 1992, "A practical Bayesian framework for backpropagation networks", and Foresee and Hagan 1997, who use
    the Gauss–Newton matrix as here.

    Args:
        network: stack in its limit.
        gram: Gauss–Newton matrix with the penalties, scaled by `unit` on both sides, (A, P, P).
        unit: (A, P).
        penalty: current penalties, (A, P).
        point: parameters, (A, P).
        mse: mean squared error of these parameters, (A,).
        count: number of samples.
        held: mean squared error on held-out data, (A,), if there are any. The noise is taken to be at least this: with
            as many parameters as samples, the training error says nothing about the noise.
    """
    groups = weight_groups(network)
    matrix = gram.clone()
    matrix.diagonal(dim1=1, dim2=2).add_(RIDGE * torch.finfo(gram.dtype).eps)
    cholesky, info = torch.linalg.cholesky_ex(matrix)
    spread = torch.cholesky_inverse(cholesky).diagonal(dim1=1, dim2=2) * unit.square()
    known = (1 - penalty * spread).clamp(0, 1)
    shape = (len(point), int(groups.max()) + 1)
    determined = point.new_zeros(shape).index_add(1, groups, known)
    squares = point.new_zeros(shape).index_add(1, groups, point.square())
    noise = mse * count / (count - known.sum(1)).clamp_min(1)
    if held is not None:
        noise = torch.maximum(noise, held)
    found = determined * (noise / count)[:, None] / squares.clamp_min(torch.finfo(point.dtype).tiny)
    found = found.clamp(*PENALTY_LIMITS)[:, groups]
    found = torch.where(groups > 0, found, 0.0)
    return torch.where((info == 0)[:, None], found, penalty)
