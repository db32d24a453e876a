"""Many ReLU networks, four neurons wide, side by side: forward and backward pass for speed.

Samples come last, x (n, batch) ↦ (n, batch), and each network's matrices, biases as their last columns, are one row of
the weights, (n, 8 + 20·(d − 1) + 5): input (4, 2), hidden (d − 1, 4, 5), output (1, 5).

What takes time is to write neurons to memory and to read them back. So the backward pass computes them again, and
without a compiler a few networks at a time are worked on, whose neurons stay in the processor's cache. With one, the
results alone are written.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import torch
from torch import Tensor

INPUT, OUTPUT = 8, 5
"""Weights of the input layer's and of the output layer's matrix with its bias."""
CHUNK = 1 << 16
"""Values of one neuron, over networks and samples, that are worked on at a time on a CPU."""


@torch.library.custom_op("lit_triwave::blocks", mutates_args=())
def blocks(x: Tensor, weights: Tensor, unrolled: bool) -> Tensor:
    """The networks' values, differentiable once.

    Args:
        x: shape (n, batch), contiguous.
        weights: see above.
        unrolled: every neuron as an element-wise expression, compiled; otherwise one batched product a layer.
    """
    if unrolled:
        y: Tensor = compiled(unrolled_forward)(x, weights)
        return y
    return torch.cat([batched_forward(*part) for part in chunks(x, weights)])


@torch.library.custom_op("lit_triwave::blocks_backward", mutates_args=())
def blocks_backward(grad: Tensor, x: Tensor, weights: Tensor, unrolled: bool) -> tuple[Tensor, Tensor]:
    """The gradients to x and to the weights."""
    if unrolled:
        to_x, to_weights = compiled(unrolled_backward)(grad, x, weights)
        return to_x, to_weights
    parts = zip(*(batched_backward(*part) for part in chunks(grad, x, weights)), strict=True)
    to_x, to_weights = (torch.cat(part) for part in parts)
    return to_x, to_weights


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    *tensors, ctx.unrolled = inputs
    ctx.save_for_backward(*tensors)


def _backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    return *blocks_backward(grad.contiguous(), *ctx.saved_tensors, ctx.unrolled), None


blocks.register_fake(lambda x, weights, unrolled: torch.empty_like(x))
blocks_backward.register_fake(lambda grad, x, weights, unrolled: (torch.empty_like(x), torch.empty_like(weights)))
blocks.register_autograd(_backward, setup_context=_save)


def chunks(*tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Some networks' parts of tensors at a time, about equally many; on other devices than a CPU, all at once."""
    n, batch = tensors[0].shape
    times = -(-n * batch // CHUNK) if tensors[0].device.type == "cpu" else 1
    size = -(-n // max(times, 1))
    return zip(*(torch.split(t, max(size, 1)) for t in tensors), strict=True)


@cache
def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """By `torch.compile`, once in a process, as one loop: by default it would part the sums (93 for depth 5)."""
    return torch.compile(function, fullgraph=True, options={"max_fusion_size": 1000})


def matrices(weights: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Those of the input (n, 4, 2), the hidden layers (n, d − 1, 4, 5) and the output (n, 1, 5)."""
    n, size = weights.shape
    first, hidden, last = torch.split(weights, [INPUT, size - INPUT - OUTPUT, OUTPUT], 1)
    return first.view(n, 4, 2), hidden.view(n, -1, 4, 5), last.view(n, 1, 5)


def batched_neurons(x: Tensor, first: Tensor, hidden: Tensor) -> list[Tensor]:
    """The neurons of all hidden layers, each (n, 4, batch)."""
    h = [torch.addcmul(first[..., 1:], first[..., :1], x[:, None]).relu_()]
    for layer in hidden.unbind(1):
        h.append(torch.baddbmm(layer[..., 4:], layer[..., :4], h[-1]).relu_())
    return h


def batched_forward(x: Tensor, weights: Tensor) -> Tensor:
    """The values, (n, batch)."""
    first, hidden, last = matrices(weights)
    return torch.baddbmm(last[..., 4:], last[..., :4], batched_neurons(x, first, hidden)[-1])[:, 0]


def batched_backward(grad: Tensor, x: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """The gradients to x and to the weights."""
    first, hidden, last = matrices(weights)
    h, g = batched_neurons(x, first, hidden), grad[:, None]
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
    """The gradient g where the neuron is active, in place."""
    stopped: Tensor = torch.ops.aten.threshold_backward.grad_input(g, h, 0, grad_input=g)
    return stopped


def unrolled_neurons(x: Tensor, first: Tensor, hidden: Tensor) -> list[list[Tensor]]:
    """The neurons of all hidden layers, each (n, batch)."""
    h = [[(w[:, :1] * x + w[:, 1:]).relu() for w in first.unbind(1)]]
    for layer in hidden.unbind(1):
        h.append([(w[:, 4:] + _dot(w, h[-1])).relu() for w in layer.unbind(1)])
    return h


def unrolled_forward(x: Tensor, weights: Tensor) -> Tensor:
    """The values, (n, batch)."""
    first, hidden, last = matrices(weights)
    return last[:, 0, 4:] + _dot(last[:, 0], unrolled_neurons(x, first, hidden)[-1])


def unrolled_backward(grad: Tensor, x: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """The gradients to x and to the weights."""
    first, hidden, last = matrices(weights)
    h = unrolled_neurons(x, first, hidden)
    sums = _sums([grad], h[-1])
    g = [torch.where(n > 0, grad * last[:, 0, j, None], 0) for j, n in enumerate(h[-1])]
    for i in range(hidden.shape[1] - 1, -1, -1):
        sums = _sums(g, h[i]) + sums
        g = [torch.where(n > 0, _dot(hidden[:, i, :, j], g), 0) for j, n in enumerate(h[i])]
    return _dot(first[:, :, 0], g), _columns(_sums(g, [x]) + sums)


def _dot(w: Tensor, h: list[Tensor]) -> Tensor:
    """Σ w_j h_j of w (n, ≥ 4) and four h (n, batch)."""
    return w[:, :1] * h[0] + w[:, 1:2] * h[1] + w[:, 2:3] * h[2] + w[:, 3:4] * h[3]


def _sums(g: list[Tensor], h: list[Tensor]) -> list[Tensor]:
    """The entries of the gradient of a matrix with its bias as the last column, row by row, each (n,)."""
    return [part.sum(-1) for one in g for part in [*(one * n for n in h), one]]


@torch.library.custom_op("lit_triwave::columns", mutates_args=())
def _columns(parts: list[Tensor]) -> Tensor:
    """(n,) tensors as columns, unseen by the compiler, which would otherwise compute each in a loop of its own."""
    return torch.stack(parts, -1)


_columns.register_fake(lambda parts: torch.stack(parts, -1))
