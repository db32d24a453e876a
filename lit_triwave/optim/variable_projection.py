"""`VariableProjection`: Levenberg–Marquardt for networks whose output layer is linear, here the limit of a stack."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from lit_triwave.construction.quadratic import (
    Layers,
    quadratic_curvature,
    quadratic_features,
    quadratic_gradient,
    quadratic_jacobian,
)
from lit_triwave.nn.stack import SPREAD, StackNetwork
from lit_triwave.optim.jacobian import NormalEquations, add_gram, mirrored

DAMPING_LIMITS = (1e-15, 1e6)
RIDGE = 50
"""Roundoffs of the dtype added to the diagonal of the output layer's matrix, whose diagonal is one."""
EXACT_ROUNDOFFS = 64
"""A fit whose error is below so many roundoffs of the target range is exact; more steps would move digits at random."""
LARGEST_BEND = 1.0
"""Steps are corrected for curvature where the correction's acceleration is at most this multiple of the step."""
DEAD_FLOOR = 1e-14
"""Diagonal entries are taken as at least this part of the largest one."""


class LimitProblem:
    """The least-squares problem of a stack's limit network on a data set.

    All sums are taken over chunks of samples and over all ranks, so memory does not grow with the samples and every
    rank takes the same steps.

    Args:
        network: in its limit, on the device of the data.
        inputs: shape (M, in_features), in the domain's units.
        targets: shape (M, 1) or (M, R), in the targets' units.
        chunk: samples that are differentiated at a time; the Jacobian takes R · P · chunk numbers.
        reduce: sums a tensor over the processes; None for one process.
        validation: returns the mean squared errors of all replicas on validation data, (R,); None keeps the iterate
            that is best on the training data.
        average: network that becomes the mean of the replicas after each step, see `StackNetwork.average`; None: the
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
        """The number of samples of all ranks."""
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
        """The normal equations in all parameters, those of the output last.

        Args:
            layers: the hidden layers of the active replicas.
            output: their output weights and bias, (A, F).
            active: which replicas these are, (A,) int64.
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
        return NormalEquations(*(part / count for part in self.sum(loss, gradient, mirrored(gram))))

    def curvature(self, layers: Layers, output: Tensor, active: Tensor, step: Layers, output_step: Tensor) -> Tensor:
        """The mean over the samples of the output's second derivative along a step times its first derivatives, (A, P).

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
        """The output layer that fits best for given hidden layers.

        Args:
            layers, active: as in `normal_equations`.
            guess: an output layer to correct, (A, F): the nearer it is, the more digits the result has.
            penalty: of the squared output weights and bias, (A, F), beside the mean squared error.

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


FIRST_PENALTY = 1e-4
PENALTY_LIMITS = (1e-12, 1e2)


def weight_groups(network: StackNetwork) -> Tensor:
    """Which group each parameter of a stack's limit belongs to, (P,) int64, in the order of `VariableProjection`.

    A group each: all weights on one input, the weights on earlier neurons, the shifts, the output's weights on the
    inputs, and those on the neurons of one layer. The output's bias is group 0, which is not penalised.
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
    """The penalties before the first step, (R, P)."""
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
    """The penalties under which the data are most probable: automatic relevance determination.

    A group's weights are taken as drawn from a normal distribution. Its variance is estimated from their squares and
    from the number γ of them that the data determine (MacKay 1992, "A practical Bayesian framework for backpropagation
    networks"; Foresee and Hagan 1997 with Gauss–Newton's matrix, as here). Groups that the data do not need vanish.

    Args:
        network: in its limit.
        gram: Gauss–Newton's matrix with the penalties, scaled by `unit` on both sides, (A, P, P).
        unit: (A, P).
        penalty: before, (A, P).
        point: the parameters, (A, P).
        mse: their mean squared error, (A,).
        count: number of samples.
        held: mean squared error on held-out data, (A,), if there are any. It is the least that is taken for the noise:
            where parameters are as many as samples, the training error says nothing about it.
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


class VariableProjection(Optimizer):
    """Levenberg–Marquardt on the hidden layers of R independent networks, with the output layer always at its best.

    For given hidden layers the best output layer is the solution of a linear problem. Golub and Pereyra (1973) minimise
    over the hidden layers alone; with Kaufman's (1975) approximation of the derivative this is one step of
    Levenberg–Marquardt whose damping leaves out the output layer, followed by a new solution for that layer. On a
    stack's limit it converges several times faster than damping all parameters does.

    One `step` is one iteration of all replicas. Each tries a few dampings and keeps the best that lowers its own loss.
    A step follows the curve on which the residuals bend, not its tangent: the second derivatives along the step say how
    far it has to turn (geodesic acceleration, Transtrum and Sethna 2012, arXiv 1201.5885). On stacks 100 iterations end
    100 to 10,000 times lower by that. A replica for which none does stays where it is and is damped more.

    With validation data the parameters hold, between steps, the iterate with the lowest validation error of each
    replica, and the current iterate is in the state. Without, they are the same.

    Args:
        params: all parameters of a `StackNetwork` in its limit, that of the problem or its average.
        damping: at the start, > 0.
        damping_factors: tried in each step, as multiples of the present damping, > 0.
        halving: number of steps after which only the better half of the replicas goes on, again and again until one is
            left. 0 trains all to the end.
        groups: number of equal groups within which replicas are compared.
        accelerated: corrects steps for curvature; with `relevance` they need none, since noise ends the fit early.
        relevance: penalises squared weights, for data with noise. Each group of weights (see `weight_groups`) has a
            penalty of its own, which is estimated from the training data in each step: `Relevance`.

    Raises:
        ValueError: for an argument outside its range.
    """

    def __init__(
        self,
        params: Iterable[nn.Parameter],
        *,
        damping: float = 1e-2,
        damping_factors: Sequence[float] = (0.1, 1.0, 10.0),
        halving: int = 0,
        groups: int = 1,
        accelerated: bool = True,
        relevance: bool = False,
    ) -> None:
        if not damping > 0 or not damping_factors or not all(factor > 0 for factor in damping_factors):
            raise ValueError(f"damping and damping_factors must be above 0, got {damping} and {damping_factors}")
        if halving < 0 or groups < 1:
            raise ValueError(f"halving must be at least 0 and groups at least 1, got {halving} and {groups}")
        options: dict[str, Any] = {
            "damping": damping,
            "damping_factors": list(damping_factors),
            "halving": halving,
            "groups": groups,
            "accelerated": accelerated,
            "relevance": relevance,
            # What Lightning's `LearningRateMonitor` reads of every optimizer; no step uses them.
            "lr": 1.0,
            "weight_decay": 0.0,
        }
        super().__init__(params, options)

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Takes a saved state; runs that began before steps were accelerated end as they would have."""
        super().__setstate__(state)
        self.param_groups[0].setdefault("accelerated", False)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any]) -> Tensor:  # type: ignore[override]
        """Moves every active replica by one iteration.

        Args:
            closure: returns the `LimitProblem`.

        Returns:
            The training loss of each replica's present iterate, (R,), in squared units of the targets.
        """
        with torch.enable_grad():
            problem: LimitProblem = closure()
        network, options = problem.network, self.param_groups[0]
        owner = network if problem.average is None else problem.average
        key = owner.output_bias
        state = self.state[key]
        if not state:
            penalty = None
            if options["relevance"]:
                state["penalty"] = first_penalty(network)
                penalty = state["penalty"][:, -network.output_weight.shape[1] - 1 :]
            problem.start(penalty)
            state["step"] = 0
            like = network.output_bias.detach()
            state["damping"] = torch.full_like(like, options["damping"])
            state["lowest"] = torch.full_like(like, torch.inf)  # of the parameters, on what chooses
            state["loss"] = torch.full_like(like, torch.inf)
            state["iterate"] = self._read(network)
            if problem.average is not None:
                state["kept"] = state["iterate"]  # a resumed run's members begin without their parameters
        kept = state["kept"] if problem.average is not None else self._read(network)
        iterate: Tensor = state["iterate"]
        active = self._active(state, options)
        if not len(active):
            state["step"] += 1
            finished: Tensor = state["loss"] * problem.scale
            return finished
        penalty = state["penalty"][active] if options["relevance"] else None
        noise = state["held"][active] if "held" in state else None
        moved, loss, damping, penalty = self._iterate(
            problem, active, iterate[active], state["damping"][active], penalty, noise
        )
        if penalty is not None:
            state["penalty"] = state["penalty"].index_copy(0, active, penalty)
        iterate = iterate.index_copy(0, active, moved)
        state["iterate"] = iterate
        state["loss"] = state["loss"].index_copy(0, active, loss)
        state["damping"] = state["damping"].index_copy(0, active, damping)
        chooses = state["loss"]
        if problem.validation is not None:
            try:
                self._write(network, iterate)
                chooses = problem.validation().to(key.dtype)
            except BaseException:
                self._write(network, kept)  # an interrupt leaves the best parameters
                raise
            if penalty is not None:
                state["held"] = chooses / problem.scale
        lower = chooses < state["lowest"]
        kept = torch.where(lower[:, None], iterate, kept)
        self._write(network, kept)
        if problem.average is not None:
            state["kept"] = kept
            problem.average.average(network)
        state["lowest"] = torch.where(lower, chooses, state["lowest"])
        state["step"] += 1
        result: Tensor = state["loss"] * problem.scale
        return result

    def _active(self, state: dict[str, Any], options: dict[str, Any]) -> Tensor:
        """The replicas that still move, ascending: none of a group that has reached an exact fit, none that no damping
        moves."""
        replicas = len(state["lowest"])
        each = replicas // options["groups"]
        rounds = state["step"] // options["halving"] if options["halving"] else 0
        left = max(1, each >> min(rounds, 62))
        order = state["lowest"].view(options["groups"], each).argsort(dim=1, stable=True)[:, :left]
        first = torch.arange(0, replicas, each, device=order.device)[:, None]
        exact = (EXACT_ROUNDOFFS * torch.finfo(state["loss"].dtype).eps) ** 2
        done = (state["loss"].view(-1, each).amin(1, keepdim=True) < exact).expand(-1, each).flatten()
        done = done | (state["damping"] >= DAMPING_LIMITS[1])
        chosen = (order + first).flatten().sort().values
        moving: Tensor = chosen[~done[chosen]]
        return moving

    def _iterate(
        self,
        problem: LimitProblem,
        active: Tensor,
        start: Tensor,
        damping: Tensor,
        penalty: Tensor | None,
        noise: Tensor | None,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        """One iteration of some replicas: points (A, P), mean squared errors (A,), dampings (A,), penalties (A, P)."""
        network, options = problem.network, self.param_groups[0]
        layers, output = self._split(network, start)
        equations = problem.normal_equations(layers, output, active)
        linear = output.shape[1]
        gram, gradient = equations.gram, equations.gradient
        weight = torch.zeros_like(start) if penalty is None else penalty
        gram.diagonal(dim1=1, dim2=2).add_(weight)
        gradient = gradient + weight * start
        diagonal = gram.diagonal(dim1=1, dim2=2)
        unit = (
            torch.maximum(diagonal, DEAD_FLOOR * diagonal.amax(1, keepdim=True))
            .clamp_min(torch.finfo(gram.dtype).tiny)
            .rsqrt()
        )
        gram = gram * unit[:, :, None] * unit[:, None]
        gradient = (gradient * unit)[..., None]
        best, loss = start, equations.loss
        aim = loss + (weight * start.square()).sum(1)
        found = 4 * max(options["damping_factors"]) * damping
        for factor in options["damping_factors"]:
            tried = factor * damping
            added = tried[:, None].expand_as(unit).clone()
            added[:, -linear:] = RIDGE * torch.finfo(gram.dtype).eps
            matrix = gram.clone()
            matrix.diagonal(dim1=1, dim2=2).add_(added)
            cholesky, info = torch.linalg.cholesky_ex(matrix)
            step = -torch.cholesky_solve(gradient, cholesky)[..., 0] * unit
            if options["accelerated"] and penalty is None:
                curved = problem.curvature(layers, output, active, *self._split(network, step))
                bend = -torch.cholesky_solve((curved * unit)[..., None], cholesky)[..., 0] * unit
                small = (bend / unit).norm(dim=1) <= LARGEST_BEND * (step / unit).norm(dim=1)
                step = torch.where(small[:, None], step + bend / 2, step)
            trial = start + step
            trial = torch.where(((info == 0) & trial.isfinite().all(1))[:, None], trial, start)
            hidden, guess = self._split(network, trial)
            solved, error = problem.solve(hidden, guess, active, None if penalty is None else penalty[:, -linear:])
            trial = torch.cat([trial[:, :-linear], solved], 1)
            total = error + (weight * trial.square()).sum(1)
            lower = total < aim
            best = torch.where(lower[:, None], trial, best)
            aim, loss = torch.where(lower, total, aim), torch.where(lower, error, loss)
            found = torch.where(lower, tried, found)
        if penalty is not None:
            penalty = renewed_penalty(network, gram, unit, penalty, best, loss, problem.count(), noise)
        return best, loss, found.clamp(*DAMPING_LIMITS), penalty

    @staticmethod
    def _parameters(network: StackNetwork) -> list[nn.Parameter]:
        return [*network.projection, *network.shift, network.output_weight, network.output_bias]

    def _read(self, network: StackNetwork) -> Tensor:
        parts = [p.detach() for p in self._parameters(network)]
        return torch.cat([p.flatten(1) if p.ndim > 1 else p[:, None] for p in parts], 1)

    def _write(self, network: StackNetwork, values: Tensor) -> None:
        parameters = self._parameters(network)
        parts = torch.split(values, [p[0].numel() for p in parameters], 1)
        for p, part in zip(parameters, parts, strict=True):
            p.copy_(part.reshape(p.shape))

    @staticmethod
    def _split(network: StackNetwork, values: Tensor) -> tuple[Layers, Tensor]:
        """(W_l, b_l) of each layer, and output weights and bias (A, F)."""
        shapes = [p.shape[1:] for p in (*network.projection, *network.shift)]
        hidden = [shape.numel() for shape in shapes]
        parts = torch.split(values, [*hidden, values.shape[1] - sum(hidden)], 1)
        tensors = [part.reshape(len(values), *shape) for part, shape in zip(parts, shapes, strict=False)]
        half = len(tensors) // 2
        return list(zip(tensors[:half], tensors[half:], strict=True)), parts[-1]
