"""Constructed subnetworks as dense layers: block-diagonal matrices, and plain `nn.Linear` and `nn.ReLU` modules."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from lit_triwave.construction.triangle import BlockWeights

Affine = tuple[Tensor, Tensor]
"""The map x ↦ W·x + b as (W, b), shapes (out, in) and (out,). A ReLU network is a list of maps with ReLUs between."""


class DenseWeights(NamedTuple):
    """Weights of ReLU networks with n inputs, d hidden layers of 4·n neurons and n outputs.

    There is one network for each element of `*lead`.
    """

    input_weight: Tensor  # (*lead, 4n, n)
    input_bias: Tensor  # (*lead, 4n)
    hidden_weight: Tensor  # (*lead, d − 1, 4n, 4n)
    hidden_bias: Tensor  # (*lead, d − 1, 4n)
    output_weight: Tensor  # (*lead, n, 4n)
    output_bias: Tensor  # (*lead, n)


def block_diagonal(blocks: Tensor) -> Tensor:
    """Returns matrices with the given blocks on their diagonal and zeros elsewhere.

    Args:
        blocks: shape (*lead, n, rows, columns).

    Returns:
        Shape (*lead, n · rows, n · columns).
    """
    *lead, n, rows, columns = blocks.shape
    eye = torch.eye(n, dtype=blocks.dtype, device=blocks.device)
    return torch.einsum("...nij,nm->...nimj", blocks, eye).reshape(*lead, n * rows, n * columns)


def as_dense(weights: BlockWeights) -> DenseWeights:
    """Joins the subnetworks along the last dimension of `*shape` into one wider network (METHOD section 4).

    Args:
        weights: weights of subnetworks, `*shape` = (*lead, n).

    Returns:
        The same function as dense layers. Neuron k of subnetwork j becomes neuron 4·j + k.
    """
    return DenseWeights(
        input_weight=block_diagonal(weights.input_weight[..., None]),
        input_bias=weights.input_bias.flatten(-2),
        hidden_weight=block_diagonal(weights.hidden_weight.transpose(-4, -3)),
        hidden_bias=weights.hidden_bias.transpose(-3, -2).flatten(-2),
        output_weight=block_diagonal(weights.output_weight[..., None, :]),
        output_bias=weights.output_bias,
    )


def dense_form(x: Tensor, weights: DenseWeights) -> Tensor:
    """Evaluates dense networks.

    Args:
        x: shape (batch, *lead, n).
        weights: weights of networks of the same `*lead`.

    Returns:
        Shape (batch, *lead, n).
    """
    h = x.movedim(0, -1)  # (*lead, n, batch): all networks of `*lead` in one batched product, samples last
    h = (weights.input_weight @ h + weights.input_bias[..., None]).relu()
    for layer, bias in zip(weights.hidden_weight.unbind(-3), weights.hidden_bias.unbind(-2), strict=True):
        h = (layer @ h + bias[..., None]).relu()
    h = weights.output_weight @ h + weights.output_bias[..., None]
    return h.movedim(-1, 0)


def affine_layers(weights: DenseWeights) -> list[Affine]:
    """Returns the d + 1 affine maps of dense networks; several (`*lead`) become one block-diagonal network."""

    def merge(weight: Tensor, bias: Tensor) -> Affine:
        return block_diagonal(weight.reshape(-1, *weight.shape[-2:])), bias.reshape(-1)

    hidden = zip(weights.hidden_weight.unbind(-3), weights.hidden_bias.unbind(-2), strict=True)
    return [
        merge(weights.input_weight, weights.input_bias),
        *(merge(w, b) for w, b in hidden),
        merge(weights.output_weight, weights.output_bias),
    ]


def chain(*parts: Sequence[Affine]) -> list[Affine]:
    """Joins networks one after another, without a ReLU where they meet: the two affine maps there become one."""
    layers = list(parts[0])
    for part in parts[1:]:
        (w1, b1), (w2, b2) = layers[-1], part[0]
        layers[-1] = (w2 @ w1, w2 @ b1 + b2)
        layers += part[1:]
    return layers


def carry_layers(n: int, length: int, like: Tensor) -> list[Affine]:
    """The identity on n values as `length` affine maps with a ReLU between: h = relu(h) − relu(−h)."""
    eye = torch.eye(n, dtype=like.dtype, device=like.device)
    none = like.new_zeros(n)
    if length == 1:
        return [(eye, none)]
    two, both = torch.eye(2 * n, dtype=like.dtype, device=like.device), like.new_zeros(2 * n)
    return [(torch.cat([eye, -eye]), both), *[(two, both)] * (length - 2), (torch.cat([eye, -eye], 1), none)]


def beside(first: Sequence[Affine], second: Sequence[Affine]) -> list[Affine]:
    """Two networks of one length side by side: inputs and outputs of the first, then those of the second."""
    return [
        (
            torch.block_diag(w1, w2),  # type: ignore[no-untyped-call]
            torch.cat([b1, b2]),
        )
        for (w1, b1), (w2, b2) in zip(first, second, strict=True)
    ]


def of_same_inputs(networks: Sequence[Sequence[Affine]]) -> list[Affine]:
    """Several networks of one length side by side with the same inputs. The outputs of the first network come first."""
    first, *others = networks
    joined = [*first]
    for other in others:
        (w1, b1), (w2, b2) = joined[0], other[0]
        joined = [(torch.cat([w1, w2]), torch.cat([b1, b2])), *beside(joined[1:], other[1:])]
    return joined


def clamp_layers(n: int, like: Tensor) -> list[Affine]:
    """Returns the clamp of n values to [0, 1] as one hidden layer: relu(x) − relu(x − 1)."""
    eye = torch.eye(n, dtype=like.dtype, device=like.device)
    bias = torch.cat([like.new_zeros(n), -like.new_ones(n)])
    return [(torch.cat([eye, eye]), bias), (torch.cat([eye, -eye], 1), like.new_zeros(n))]


def sequential(layers: Sequence[Affine]) -> nn.Sequential:
    """Returns the plain PyTorch layers Linear, ReLU, …, Linear with copies of the given affine maps."""
    modules: list[nn.Module] = []
    for weight, bias in layers:
        # The meta device draws no random numbers, which would change the state of the global generator.
        linear = nn.Linear(1, 1, device="meta")
        linear.out_features, linear.in_features = weight.shape
        linear.weight, linear.bias = nn.Parameter(weight.detach().clone()), nn.Parameter(bias.detach().clone())
        modules += [linear, nn.ReLU()]
    return nn.Sequential(*modules[:-1])
