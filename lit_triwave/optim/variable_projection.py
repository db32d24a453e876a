"""`VariableProjection`: Levenberg–Marquardt for networks whose output layer is linear, here the limit of a stack."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from lit_triwave.construction.quadratic import Layers
from lit_triwave.errors import check_least
from lit_triwave.nn.stack import StackNetwork
from lit_triwave.optim.levenberg_marquardt import UNUSED_OPTIONS, check_positive
from lit_triwave.optim.limit_problem import RIDGE, LimitProblem
from lit_triwave.optim.relevance import first_penalty, renewed_penalty
from lit_triwave.optim.saved_rows import check_rows, read_rows, write_rows

DAMPING_LIMITS = (1e-15, 1e6)
EXACT_ROUNDOFFS = 64
"""A fit with an error below this number of roundoffs of the target range is exact; more steps only change rounding."""
LARGEST_BEND = 1.0
"""A step is corrected for curvature if the correction is at most this multiple of the step."""
DEAD_FLOOR = 1e-14
"""Smallest value of a diagonal entry, as a share of the largest one."""


class VariableProjection(Optimizer):
    """Levenberg–Marquardt on the hidden layers of R independent networks, with the best output layer at each step.

    For given hidden layers, the best output layer is the solution of a linear problem. So Golub and Pereyra (1973)
    minimise over the hidden layers only. With Kaufman's (1975) approximation of the derivative, this is a
    Levenberg–Marquardt step without damping of the output layer, followed by a new solution for that layer. On a
    stack's limit it converges several times faster than damping all parameters.

    One `step` is one iteration of all replicas. Each replica tries a few dampings and keeps the one that lowers its
    loss most. If no damping lowers the loss, the replica does not move and its damping grows. The second derivatives
    along a step correct it for the curvature of the residuals (geodesic acceleration, Transtrum and Sethna 2012, arXiv
    1201.5885). On stacks, this makes the error after 100 iterations 100 to 10,000 times lower.

    With validation data, the parameters between steps are each replica's iterate with the lowest validation error, and
    the current iterate is in the state. Without validation data, the two are the same.

    Args:
        params: all parameters of a `StackNetwork` in its limit: the network of the problem, or its average.
        damping: damping at the start, > 0.
        damping_factors: dampings to try in each step, as multiples of the current damping, > 0.
        halving: number of steps after which the worse half of the replicas stops. This repeats until one is left. 0
            trains all replicas to the end.
        groups: number of equal groups within which replicas are compared.
        accelerated: correct steps for curvature. With `relevance` no correction is needed, because noise ends the fit
            early.
        relevance: penalise squared weights, for data with noise. Each group of weights (see `weight_groups`) has its
            own penalty, which is estimated from the training data in each step (see `renewed_penalty`).

    Raises:
        ValueError: an argument is outside its range.
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
        check_positive(damping=damping, damping_factors=damping_factors)
        check_least(0, halving=halving)
        check_least(1, groups=groups)
        options: dict[str, Any] = {
            "damping": damping,
            "damping_factors": list(damping_factors),
            "halving": halving,
            "groups": groups,
            "accelerated": accelerated,
            "relevance": relevance,
            **UNUSED_OPTIONS,
        }
        super().__init__(params, options)

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Loads a saved state. Runs from versions without the correction for curvature continue without it."""
        super().__setstate__(state)
        self.param_groups[0].setdefault("accelerated", False)

    def check_state(self, name: str, saved: Mapping[int, Mapping[str, Any]], rows: int, columns: int) -> None:
        """Refuses a saved state of other replicas or parameters, see `check_rows`."""
        parameters = self.param_groups[0]["params"]
        key = next(number for number, one in enumerate(parameters) if one.ndim == 1)  # the output bias
        shapes: dict[str, tuple[int, ...]] = {"iterate": (rows, columns)}
        shapes |= dict.fromkeys(("damping", "lowest", "loss"), (rows,))
        if self.param_groups[0]["relevance"]:
            shapes["penalty"] = (rows, columns)
        if rows > len(parameters[key]):  # members, whose parameters no checkpoint has
            shapes["kept"] = (rows, columns)
        if "held" in saved.get(key, {}):
            shapes["held"] = (rows,)
        check_rows(name, saved, key, shapes)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any]) -> Tensor:  # type: ignore[override]
        """Moves every active replica by one iteration.

        Args:
            closure: returns the `LimitProblem`.

        Returns:
            The training loss of each replica's current iterate, (R,), in squared units of the targets.
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
            state["lowest"] = torch.full_like(like, torch.inf)  # lowest error on the validation or training data
            state["loss"] = torch.full_like(like, torch.inf)
            state["iterate"] = read_rows(_parameters(network))
            if problem.average is not None:
                state["kept"] = state["iterate"]  # a resumed run's members begin without their parameters
        kept = state["kept"] if problem.average is not None else read_rows(_parameters(network))
        active = self._active(state, options)
        if not len(active):
            state["step"] += 1
            finished: Tensor = state["loss"] * problem.scale
            return finished
        for name, rows in self._iterate(problem, active, state).items():
            state[name] = state[name].index_copy(0, active, rows)
        iterate, chooses = state["iterate"], state["loss"]
        if problem.validation is not None:
            try:
                write_rows(_parameters(network), iterate)
                chooses = problem.validation().to(key.dtype)
            except BaseException:
                write_rows(_parameters(network), kept)  # after an interrupt, too, the parameters are the best ones
                raise
            if options["relevance"]:
                state["held"] = chooses / problem.scale
        lower = chooses < state["lowest"]
        kept = torch.where(lower[:, None], iterate, kept)
        write_rows(_parameters(network), kept)
        if problem.average is not None:
            state["kept"] = kept
            problem.average.average(network)
        state["lowest"] = torch.where(lower, chooses, state["lowest"])
        state["step"] += 1
        result: Tensor = state["loss"] * problem.scale
        return result

    def _active(self, state: dict[str, Any], options: dict[str, Any]) -> Tensor:
        """Returns the replicas that still move, ascending.

        A replica stops if its group has reached an exact fit, or if no damping moves it."""
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

    def _iterate(self, problem: LimitProblem, active: Tensor, state: dict[str, Any]) -> dict[str, Tensor]:
        """Makes one iteration; returns the new rows of the state for the active replicas."""
        network, options = problem.network, self.param_groups[0]
        start, damping = state["iterate"][active], state["damping"][active]
        penalty: Tensor | None = state["penalty"][active] if options["relevance"] else None
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
        gram.mul_(unit[:, :, None]).mul_(unit[:, None])
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
        rows = {"iterate": best, "loss": loss, "damping": found.clamp(*DAMPING_LIMITS)}
        if penalty is not None:
            held = state["held"][active] if "held" in state else None
            rows["penalty"] = renewed_penalty(network, gram, unit, penalty, best, loss, problem.count(), held)
        return rows

    @staticmethod
    def _split(network: StackNetwork, values: Tensor) -> tuple[Layers, Tensor]:
        """Returns (W_l, b_l) of each layer, and output weights and bias (A, F)."""
        shapes = [p.shape[1:] for p in (*network.projection, *network.shift)]
        hidden = [shape.numel() for shape in shapes]
        parts = torch.split(values, [*hidden, values.shape[1] - sum(hidden)], 1)
        tensors = [part.reshape(len(values), *shape) for part, shape in zip(parts, shapes, strict=False)]
        half = len(tensors) // 2
        return list(zip(tensors[:half], tensors[half:], strict=True)), parts[-1]


def _parameters(network: StackNetwork) -> list[nn.Parameter]:
    return [*network.projection, *network.shift, network.output_weight, network.output_bias]
