"""Fast forward and backward pass of many ReLU networks, four neurons wide, side by side.

Samples are the last dimension: x, shape (n, batch) ↦ y, shape (n, batch). All matrices of a network, each with its bias
as the last column, are one row of the weights, shape (n, 8 + 20·(d − 1) + 5). The row holds the input (4, 2), the
hidden layers (d − 1, 4, 5) and the output (1, 5).

Most of the time goes into writing neurons to memory and reading them back. So the backward pass computes them again.
Without a compiler, a few networks are computed at a time, so that their neurons stay in the processor's cache. With a
compiler, only the results are written.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import torch
from torch import Tensor

_INPUT, _OUTPUT = 8, 5
"""Numbers of weights in the input layer's and in the output layer's matrix, biases included."""
_CHUNK = 1 << 16
"""Values of one neuron, over networks and samples, that are computed at a time on a CPU."""


@torch.library.custom_op("lit_triwave::blocks", mutates_args=())
def blocks(x: Tensor, weights: Tensor, unrolled: bool) -> Tensor:
    """Returns the networks' values, shape (n, batch), differentiable once.

    Args:
        x: shape (n, batch), contiguous.
        weights: shape (n, 8 + 20·(d − 1) + 5), see the module.
        unrolled: compute each neuron by a compiled element-wise expression, not each layer by one batched product.
    """
    if unrolled:
        y: Tensor = _compiled(_unrolled_forward)(x, weights)
        return y
    return torch.cat([_batched_forward(*part) for part in _chunks(x, weights)])


@torch.library.custom_op("lit_triwave::blocks_backward", mutates_args=())
def _blocks_backward(grad: Tensor, x: Tensor, weights: Tensor, unrolled: bool) -> tuple[Tensor, Tensor]:
    """Returns the gradients with respect to x and to the weights."""
    if unrolled:
        to_x, to_weights = _compiled(_unrolled_backward)(grad, x, weights)
        return to_x, to_weights
    parts = zip(*(_batched_backward(*part) for part in _chunks(grad, x, weights)), strict=True)
    to_x, to_weights = (torch.cat(part) for part in parts)
    return to_x, to_weights


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    *tensors, ctx.unrolled = inputs
    ctx.save_for_backward(*tensors)


def _backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    return *_blocks_backward(grad.contiguous(), *ctx.saved_tensors, ctx.unrolled), None


blocks.register_fake(lambda x, weights, unrolled: torch.empty_like(x))
_blocks_backward.register_fake(lambda grad, x, weights, unrolled: (torch.empty_like(x), torch.empty_like(weights)))
blocks.register_autograd(_backward, setup_context=_save)


def _chunks(*tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Yields the parts of tensors of some networks at a time, or all at once on a device other than a CPU."""
    n, batch = tensors[0].shape
    times = -(-n * batch // _CHUNK) if tensors[0].device.type == "cpu" else 1
    size = -(-n // max(times, 1))
    return zip(*(torch.split(t, max(size, 1)) for t in tensors), strict=True)


@cache
def _compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compiles a function once in a process, as one loop. By default there would be a loop for each of the 93 sums."""
    return torch.compile(function, fullgraph=True, options={"max_fusion_size": 1000})


def _matrices(weights: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Returns the matrices of the input (n, 4, 2), the hidden layers (n, d − 1, 4, 5) and the output (n, 1, 5)."""
    n, size = weights.shape
    first, hidden, last = torch.split(weights, [_INPUT, size - _INPUT - _OUTPUT, _OUTPUT], 1)
    return first.view(n, 4, 2), hidden.view(n, -1, 4, 5), last.view(n, 1, 5)


def _batched_neurons(x: Tensor, first: Tensor, hidden: Tensor) -> list[Tensor]:
    """Returns the neurons of all hidden layers, each (n, 4, batch)."""
    h = [torch.addcmul(first[..., 1:], first[..., :1], x[:, None]).relu_()]
    for layer in hidden.unbind(1):
        h.append(torch.baddbmm(layer[..., 4:], layer[..., :4], h[-1]).relu_())
    return h


def _batched_forward(x: Tensor, weights: Tensor) -> Tensor:
    """Returns the values, shape (n, batch)."""
    first, hidden, last = _matrices(weights)
    return torch.baddbmm(last[..., 4:], last[..., :4], _batched_neurons(x, first, hidden)[-1])[:, 0]


def _batched_backward(grad: Tensor, x: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the gradients with respect to x and to the weights."""
    first, hidden, last = _matrices(weights)
    h, g = _batched_neurons(x, first, hidden), grad[:, None]
    sums = [_matrix_gradient(g, h[-1])]
    g = _stopped(last[..., :4].mT * g, h[-1])
    for layer, below in zip(reversed(hidden.unbind(1)), reversed(h[:-1]), strict=True):
        sums.append(_matrix_gradient(g, below))
        g = _stopped(torch.bmm(layer[..., :4].mT, g), below)
    sums.append(_matrix_gradient(g, x[:, None]))
    return torch.bmm(first[..., :1].mT, g)[:, 0], torch.cat([part.flatten(1) for part in reversed(sums)], 1)


def _matrix_gradient(g: Tensor, h: Tensor) -> Tensor:
    return torch.cat([torch.bmm(g, h.mT), g.sum(-1, keepdim=True)], -1)


def _stopped(g: Tensor, h: Tensor) -> Tensor:
    """Sets the gradient g to zero where the neuron is zero, in place, and returns it."""
    stopped: Tensor = torch.ops.aten.threshold_backward.grad_input(g, h, 0, grad_input=g)
    return stopped


def _unrolled_neurons(x: Tensor, first: Tensor, hidden: Tensor) -> list[list[Tensor]]:
    """Returns the four neurons of each hidden layer, each (n, batch)."""
    h = [[(w[:, :1] * x + w[:, 1:]).relu() for w in first.unbind(1)]]
    for layer in hidden.unbind(1):
        h.append([(w[:, 4:] + _dot(w, h[-1])).relu() for w in layer.unbind(1)])
    return h


def _unrolled_forward(x: Tensor, weights: Tensor) -> Tensor:
    """Returns the values, shape (n, batch)."""
    first, hidden, last = _matrices(weights)
    return last[:, 0, 4:] + _dot(last[:, 0], _unrolled_neurons(x, first, hidden)[-1])


def _unrolled_backward(grad: Tensor, x: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the gradients with respect to x and to the weights."""
    first, hidden, last = _matrices(weights)
    h = _unrolled_neurons(x, first, hidden)
    sums = _sums([grad], h[-1])
    g = [torch.where(n > 0, grad * last[:, 0, j, None], 0) for j, n in enumerate(h[-1])]
    for i in range(hidden.shape[1] - 1, -1, -1):
        sums = _sums(g, h[i]) + sums
        g = [torch.where(n > 0, _dot(hidden[:, i, :, j], g), 0) for j, n in enumerate(h[i])]
    return _dot(first[:, :, 0], g), _columns(_sums(g, [x]) + sums)


def _dot(w: Tensor, h: list[Tensor]) -> Tensor:
    """Returns Σ_j w_j h_j for w, shape (n, ≥ 4), and four h, shape (n, batch)."""
    return w[:, :1] * h[0] + w[:, 1:2] * h[1] + w[:, 2:3] * h[2] + w[:, 3:4] * h[3]


def _sums(g: list[Tensor], h: list[Tensor]) -> list[Tensor]:
    """Returns the gradient of a matrix with its bias as the last column: its entries row by row, each (n,)."""
    return [part.sum(-1) for one in g for part in [*(one * n for n in h), one]]


@torch.library.custom_op("lit_triwave::columns", mutates_args=())
def _columns(parts: list[Tensor]) -> Tensor:
    """Stacks (n,) tensors as columns, hidden from the compiler, which would compute each in a separate loop."""
    return torch.stack(parts, -1)


_columns.register_fake(lambda parts: torch.stack(parts, -1))
