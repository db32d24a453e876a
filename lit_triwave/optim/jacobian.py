"""Per-sample derivatives of small networks, all replicas at once, and their sums for least squares."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from lit_triwave.errors import check_least
from lit_triwave.nn.bank import TriangleBank


def jacobian(network: Any, x: Tensor, out: Tensor | None = None, *, analytic: bool = True) -> tuple[Tensor, Tensor]:
    """Returns the outputs of all replicas and their derivatives by all parameters.

    Replicas share no parameters, so one derivative of the *sum* of their outputs contains the rows of all replicas. For
    this project's networks a single backward sweep over the samples writes the rows, in the method
    `jacobian_rows(x, rows)`. `rows` maps the name of a parameter to memory for its derivatives, shape (*parameter, B);
    the method returns the outputs, (R, B).
    For other modules `torch.func` computes them. It cannot do so while a bank's peaks are the parameters.

    Args:
        network: a module from (B, …) to (B, R); all its parameters have a leading dimension R. Parameters that
            do not require gradients are included.
        x: shape (B, …).
        out: memory for the derivatives, contiguous, at least R · P · B elements; new if None.
        analytic: False uses `torch.func` for every module.

    Returns:
        The outputs, shape (R, B), and the derivatives, shape (R, P, B); P runs over `network.parameters()`, each
        flattened.

    Raises:
        TypeError: `torch.func` is needed, and a bank in the network is not released.
    """
    parameters = dict(network.named_parameters())
    replicas = len(next(iter(parameters.values())))
    sizes = [p[0].numel() for p in parameters.values()]
    shape = torch.Size((replicas, sum(sizes), len(x)))
    like = next(iter(parameters.values()))
    rows = like.new_empty(shape) if out is None else out.view(-1)[: shape.numel()].view(shape)
    views = {
        name: torch.unflatten(part, 1, p.shape[1:]) if p.ndim > 1 else part[:, 0]
        for (name, p), part in zip(parameters.items(), torch.split(rows, sizes, 1), strict=True)
    }
    with torch.no_grad():
        if analytic and hasattr(network, "jacobian_rows"):
            return network.jacobian_rows(x, views), rows
        return _generic(network, x, views), rows


def _generic(network: nn.Module, x: Tensor, rows: dict[str, Tensor]) -> Tensor:
    if any(isinstance(module, TriangleBank) and module.released is None for module in network.modules()):
        # The gradient of the waves is written by hand, for autograd only.
        raise TypeError(
            f"{type(network).__name__} must have a method jacobian_rows, or its banks must be released: torch.func "
            "cannot differentiate by peaks"
        )
    parameters = {name: p.detach() for name, p in network.named_parameters()}

    def total(parameters: dict[str, Tensor], sample: Tensor) -> tuple[Tensor, Tensor]:
        values = torch.func.functional_call(network, parameters, (sample[None],))[0]
        return values.sum(), values

    derivative = torch.func.grad(total, has_aux=True)
    with torch.enable_grad():
        gradients, values = torch.func.vmap(derivative, in_dims=(None, 0))(parameters, x)
    for name, gradient in gradients.items():
        rows[name].copy_(gradient.movedim(0, -1))
    outputs: Tensor = values.T
    return outputs


GRAM_BLOCK = 128
"""Rows of a Gram matrix that are computed at a time. Blocks leave out most of the upper half, which is known by
symmetry. Smaller blocks are slow."""


def _blocks(parameters: int) -> list[tuple[int, int]]:
    """Returns the first row of each block, and the row after its last one."""
    size = -(-parameters // max(1, round(parameters / GRAM_BLOCK)))
    return [(first, min(parameters, first + size)) for first in range(0, parameters, size)]


def add_gram(gram: Tensor, rows: Tensor) -> None:
    """Adds rows · rowsᵀ to the blocks of matrices on and below the diagonal; `fill_symmetric` fills the others.

    Args:
        gram: shape (R, P, P).
        rows: shape (R, P, B).
    """
    for first, last in _blocks(rows.shape[1]):
        gram[:, first:last, :last].baddbmm_(rows[:, first:last], rows[:, :last].mT)


def fill_symmetric(gram: Tensor) -> Tensor:
    """Copies the blocks of `add_gram` below the diagonal to their places above it; returns the same matrices."""
    for first, last in _blocks(gram.shape[1])[1:]:
        gram[:, :first, first:last].copy_(gram[:, first:last, :first].mT)
    return gram


class NormalEquations(NamedTuple):
    """Sums over a data set for least squares: r are the residuals, J their derivatives, M the number of samples."""

    loss: Tensor  # (R,), Σ r² / M
    gradient: Tensor  # (R, P), Jᵀr / M
    gram: Tensor  # (R, P, P), JᵀJ / M


class LeastSquares:
    """The mean squared error of every replica of a network on a data set, as the closure of `LevenbergMarquardt.step`.

    If gradients are enabled, a call returns the `NormalEquations`. If not, it returns only the losses, shape (R,).
    (There is no argument for this choice, because Lightning calls closures without arguments.) Samples are processed in
    chunks, so memory does not grow with their number.

    Args:
        network: a module from (B, …) to (B, R); all its parameters have a leading dimension R.
        inputs: shape (M, …).
        targets: shape (M,), the same for all replicas, or (M, R).
        chunk: samples that are differentiated at a time; the Jacobian takes R · P · chunk numbers.
        reduce: sums a tensor over the processes, each of which has its own samples, for example
            `lambda t: trainer.strategy.reduce(t, reduce_op="sum")`; None for one process.
        analytic: see `jacobian`.

    Raises:
        ValueError: inputs and targets have different lengths, or there are no samples.
    """

    def __init__(
        self,
        network: nn.Module,
        inputs: Tensor,
        targets: Tensor,
        *,
        chunk: int = 512,
        reduce: Callable[[Tensor], Tensor] | None = None,
        analytic: bool = True,
    ) -> None:
        if len(inputs) != len(targets) or not len(inputs):
            raise ValueError(f"inputs and targets must be as many, at least 1, got {len(inputs)} and {len(targets)}")
        check_least(1, chunk=chunk)
        self.network = network
        self.inputs = inputs
        self.targets = targets.T.contiguous() if targets.ndim > 1 else targets[None]  # (R or 1, M)
        self.chunk = chunk
        self.reduce = reduce
        self.analytic = analytic
        self._memory: Tensor | None = None  # for the Jacobian; allocating it each time would take as long as filling it

    def __call__(self) -> NormalEquations | Tensor:
        """Returns the normal equations, or without gradients the losses (R,)."""
        return self.normal_equations() if torch.is_grad_enabled() else self.loss()

    @torch.no_grad()
    def loss(self) -> Tensor:
        """Returns the mean squared error of each replica, shape (R,)."""
        total = torch.zeros((), dtype=self.targets.dtype, device=self.targets.device)
        for x, y in self._chunks():
            total = total + (self.network(x).T - y).square().sum(1)
        return self._mean(total)[0]

    @torch.no_grad()
    def normal_equations(self) -> NormalEquations:
        """Returns the mean squared error of each replica, with gradient and Gram matrix."""
        first = next(self.network.parameters())
        replicas, parameters = len(first), sum(p[0].numel() for p in self.network.parameters())
        if self._memory is None:
            self._memory = first.new_empty(replicas * parameters * min(self.chunk, len(self.inputs)))
        loss = first.new_zeros(replicas)
        gradient = first.new_zeros(replicas, parameters)
        gram = first.new_zeros(replicas, parameters, parameters)
        for x, y in self._chunks():
            values, rows = jacobian(self.network, x, self._memory, analytic=self.analytic)
            residuals = values - y
            loss += residuals.square().sum(1)
            gradient += (rows @ residuals[..., None])[..., 0]
            add_gram(gram, rows)
        return NormalEquations(*self._mean(loss, gradient, fill_symmetric(gram)))

    def _chunks(self) -> zip[tuple[Tensor, Tensor]]:
        return zip(torch.split(self.inputs, self.chunk), torch.split(self.targets, self.chunk, 1), strict=True)

    def _mean(self, *sums: Tensor) -> list[Tensor]:
        """Returns the means over all samples, in the memory of the sums."""
        count = sums[0].new_tensor(len(self.inputs))
        if self.reduce is not None:
            count = self.reduce(count)
            sums = tuple(self.reduce(t) for t in sums)
        return [t.div_(count) for t in sums]
