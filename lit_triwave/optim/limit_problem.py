"""The least-squares problem of a stack's limit network on a data set."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from lit_triwave.construction.quadratic import (
    Layers,
    quadratic_curvature,
    quadratic_features,
    quadratic_gradient,
    quadratic_jacobian,
)
from lit_triwave.nn.stack import SPREAD, StackNetwork
from lit_triwave.optim.jacobian import NormalEquations, add_gram, fill_symmetric

RIDGE = 50
"""Roundoffs of the dtype added to the diagonal of the output layer's matrix, whose diagonal is one."""


class LimitProblem:
    """The least-squares problem of a stack's limit network on a data set.

    All sums are computed over chunks of samples and over all ranks. So memory does not grow with the samples, and every
    rank takes the same steps.

    Args:
        network: stack in its limit, on the device of the data.
        inputs: shape (M, in_features), in the domain's units.
        targets: shape (M, 1) or (M, R), in the targets' units.
        chunk: samples that are differentiated at a time; the Jacobian takes R · P · chunk numbers.
        reduce: sums a tensor over the processes; None for one process.
        validation: returns the mean squared errors of all replicas on validation data, (R,). None keeps the iterate
            that is best on the training data.
        average: network that becomes the mean of the replicas after each step, see `StackNetwork.average`. None if the
            replicas are independent results.
    """

    def __init__(
        self,
        network: StackNetwork,
        inputs: Tensor,
        targets: Tensor,
        *,
        chunk: int = 1024,
        reduce: Callable[[Tensor], Tensor] | None = None,
        validation: Callable[[], Tensor] | None = None,
        average: StackNetwork | None = None,
    ) -> None:
        self.network = network
        self.average = average
        scaling = network.scaling
        self.scale = scaling.scale.square()
        self.chunk = chunk
        self.reduce = reduce
        self.validation = validation
        self.h = network.inputs(inputs).contiguous()  # (n, M)
        self.y = ((targets - scaling.offset) / scaling.scale).T.contiguous()  # (R or 1, M)

    def sum(self, *parts: Tensor) -> list[Tensor]:
        """Sums over all ranks."""
        return list(parts) if self.reduce is None else [self.reduce(part) for part in parts]

    def chunks(self, active: Tensor) -> Iterable[tuple[Tensor, Tensor]]:
        y = self.y if len(self.y) == 1 else self.y[active]
        return zip(torch.split(self.h, self.chunk, 1), torch.split(y, self.chunk, 1), strict=True)

    def count(self) -> Tensor:
        """Returns the number of samples of all ranks."""
        return self.sum(self.h.new_tensor(float(self.h.shape[1])))[0]

    @torch.no_grad()
    def start(self, penalty: Tensor | None = None) -> None:
        """Shifts and scales every neuron's argument to mean 0 and deviation 0.7 over the samples, then fits the output.

        Args:
            penalty: see `solve`.
        """
        network, count = self.network, self.count()
        every = torch.arange(network.replicas, device=self.h.device)
        for i in range(len(network.layers)):
            layers = network.limit_layers[: i + 1]
            first = second = self.h.new_zeros(network.replicas, network.layers[i])
            for h, _ in self.chunks(every):
                v = quadratic_features(h, layers)[1][-1]
                first, second = first + v.sum(-1), second + v.square().sum(-1)
            first, second = self.sum(first, second)
            mean = first / count
            deviation = (second / count - mean.square()).clamp_min(1e-12).sqrt()
            network.projection[i].mul_((SPREAD / deviation)[..., None])
            network.shift[i].sub_(mean).mul_(SPREAD / deviation)
        guess = torch.cat([network.output_weight, network.output_bias[:, None]], 1).detach()
        output, _ = self.solve(network.limit_layers, guess, every, penalty)
        network.output_weight.copy_(output[:, :-1])
        network.output_bias.copy_(output[:, -1])

    def normal_equations(self, layers: Layers, output: Tensor, active: Tensor) -> NormalEquations:
        """Returns the normal equations in all parameters; those of the output layer come last.

        Args:
            layers: the hidden layers of the active replicas.
            output: their output weights and bias, (A, F).
            active: indices of these replicas, (A,) int64.
        """
        hidden = sum(weight[0].numel() + bias.shape[1] for weight, bias in layers)
        size = hidden + output.shape[1]
        memory = output.new_empty(len(output) * size * min(self.chunk, self.h.shape[1]))
        loss = output.new_zeros(len(output))
        gradient, gram = output.new_zeros(len(output), size), output.new_zeros(len(output), size, size)
        for h, y in self.chunks(active):
            features, arguments = quadratic_features(h, layers)
            residuals = torch.bmm(output[:, None], features)[:, 0] - y
            rows = memory[: len(output) * size * h.shape[1]].view(len(output), size, -1)
            quadratic_jacobian(features, arguments, layers, output[:, :-1], rows)
            loss += residuals.square().sum(1)
            gradient += torch.bmm(rows, residuals[..., None])[..., 0]
            add_gram(gram, rows)
        count = self.count()
        return NormalEquations(*(part / count for part in self.sum(loss, gradient, fill_symmetric(gram))))

    def curvature(self, layers: Layers, output: Tensor, active: Tensor, step: Layers, output_step: Tensor) -> Tensor:
        """Returns mean(∂²output/∂step² · ∂output/∂parameters) over the samples, (A, P).

        Args:
            layers, output, active: as in `normal_equations`.
            step, output_step: the change of the hidden layers, and of the output weights and bias.
        """
        total = torch.zeros(())
        for h, _ in self.chunks(active):
            features, arguments = quadratic_features(h, layers)
            bend = quadratic_curvature(h, layers, output[:, :-1], step, output_step[:, :-1])
            total = total + quadratic_gradient(features, arguments, layers, output[:, :-1], bend)
        return self.sum(total)[0] / self.count()

    def solve(
        self, layers: Layers, guess: Tensor, active: Tensor, penalty: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Returns the best output layer for given hidden layers.

        Args:
            layers, active: as in `normal_equations`.
            guess: an output layer to correct, (A, F). The closer it is to the result, the more exact is the result.
            penalty: factors of the squared output weights and bias that are added to the mean squared error, (A, F).

        Returns:
            The output layer, (A, F), and its mean squared error, (A,), infinite where there is none.
        """
        gram = guess.new_zeros(len(guess), guess.shape[1], guess.shape[1])
        right = torch.zeros_like(guess)
        for h, y in self.chunks(active):
            features, _ = quadratic_features(h, layers)
            gram.baddbmm_(features, features.mT)
            right += torch.bmm(features, (y - torch.bmm(guess[:, None], features)[:, 0])[..., None])[..., 0]
        gram, right = self.sum(gram, right)
        if penalty is not None:
            weight = penalty * self.count()
            gram.diagonal(dim1=1, dim2=2).add_(weight)
            right -= weight * guess
        unit = gram.diagonal(dim1=1, dim2=2).clamp_min(torch.finfo(gram.dtype).tiny).rsqrt()
        gram = gram * unit[:, :, None] * unit[:, None]
        gram.diagonal(dim1=1, dim2=2).add_(RIDGE * torch.finfo(gram.dtype).eps)
        factor, info = torch.linalg.cholesky_ex(gram)
        output = guess + torch.cholesky_solve((right * unit)[..., None], factor)[..., 0] * unit
        loss = guess.new_zeros(len(guess))
        for h, y in self.chunks(active):
            features, _ = quadratic_features(h, layers)
            loss += (torch.bmm(output[:, None], features)[:, 0] - y).square().sum(1)
        (loss,) = self.sum(loss)
        loss = loss / self.count()
        return output, torch.where(loss.isfinite() & (info == 0), loss, torch.inf)
