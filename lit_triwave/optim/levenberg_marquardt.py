"""`LevenbergMarquardt`: a second-order optimizer for many small networks at once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from lit_triwave.optim.jacobian import NormalEquations

DAMPING_LIMITS = (1e-12, 1e4)
"""Below, the damping is lost in the rounding of float64; above, no step is long enough to change the loss."""


class LevenbergMarquardt(Optimizer):
    """Levenberg–Marquardt with kicks, for R independent small networks (replicas) trained side by side.

    One `step` is one iteration of all replicas. It solves the normal equations, damped in proportion to their diagonal
    (Marquardt 1963), for a few dampings, tries a few lengths of each of those steps, and keeps for each replica what
    lowers its own loss most: next to the Jacobian, solutions and evaluations are cheap, and where a loss is not smooth
    (ReLU networks) they pay. A replica whose tries all fail, because the loss does not fall or the matrix is not
    positive definite, stays where it is and is damped more; the others move on.

    Such a loss has very many minima, and 20 to 40 iterations reach one. So after `warmup` steps begin rounds of
    `round_length` steps. Each starts with a *kick*: a random tenth of the weights of the best point so far is
    multiplied by 1 + noise. The excursion is kept where it ends lower. With `exchange`, the worse replicas set out from
    the points of the better ones instead of their own, which spends the budget where it pays.

    Between steps **the parameters always hold the best point of each replica**, so their loss never rises and any
    moment is a good one to validate, save or stop; excursions live in the optimizer's state. The state dictionary holds
    plain numbers and tensors; a run that continues from it (and from the parameters) takes the same steps, bit for bit.
    Kicks are drawn from the seed and the number of the round, on the CPU, so every rank of a distributed run draws the
    same.

    Why it exists: `torch-levenberg-marquardt` 1.2.3 trains one network at a time, so seeds would be a Python loop, and
    takes the last of its tries even when none lowers the loss; its damping is not part of any state dictionary. A step
    of a 93-parameter network on 500 samples took it 4.8 ms (Cholesky, one try); a step of 120 such networks here 170 ms
    with nine tries each, 1.4 ms a network (one CPU thread, float64).

    Args:
        params: parameters with a leading dimension R, one group; those of the closure's network, in its order.
        damping: at the start and after each kick, in units of the diagonal, > 0.
        damping_factors: the dampings tried, as multiples of the present one, each > 0. The one that won is the next
            step's; the present one is multiplied by 4 · the largest when none lowers the loss.
        diagonal_floor: share of the largest diagonal entry, in (0, 1], that every entry is taken to have at least. The
            default only keeps dead parameters, whose entries are zero, from a division by zero. 1 damps all parameters
            alike (Levenberg 1944): for bounded parameters such as the logits of peaks, whose entries vanish far out.
        step_lengths: multiples of each solution that are tried, each > 0.
        warmup: steps before the first kick, ≥ 1.
        round_length: steps between kicks, ≥ 1; 0 for no kicks.
        kick_scales: standard deviations of the relative noise, used in turn.
        kick_share: share of the weights that a kick changes, in (0, 1]; at least one is.
        exchange: share of the replicas, 0 to 1/2, that set out from the point of a better one every third round: the
            worst from the best, the second worst from the second best, and so on. 0 keeps replicas independent.
        groups: replicas exchange within this many groups of equal size and consecutive numbers; R must be a multiple.
        seed: of the kicks.

    Raises:
        ValueError: for an argument outside its range, parameters without a common leading dimension, or several groups.

    Example:
        >>> problem = LeastSquares(network, x, y)
        >>> optimizer = LevenbergMarquardt(network.parameters())
        >>> for _ in range(100):
        ...     loss = optimizer.step(problem)  # (R,)
    """

    def __init__(
        self,
        params: Iterable[nn.Parameter],
        *,
        damping: float = 1e-3,
        damping_factors: Sequence[float] = (0.1, 1.0, 10.0),
        diagonal_floor: float = 1e-12,
        step_lengths: Sequence[float] = (1.0, 0.5, 2.0),
        warmup: int = 30,
        round_length: int = 10,
        kick_scales: Sequence[float] = (0.03, 0.1),
        kick_share: float = 0.1,
        exchange: float = 0.0,
        groups: int = 1,
        seed: int = 0,
    ) -> None:
        positive: dict[str, Sequence[float]] = {
            "damping": [damping],
            "damping_factors": damping_factors,
            "diagonal_floor": [diagonal_floor],
            "step_lengths": step_lengths,
            "kick_scales": kick_scales,
            "kick_share": [kick_share],
            "warmup": [warmup],
            "groups": [groups],
        }
        for name, values in positive.items():
            if not values or not all(value > 0 for value in values):
                raise ValueError(f"{name} must be above 0, got {values}")
        if round_length < 0:
            raise ValueError(f"round_length must be at least 0, got {round_length}")
        for name, share in {"diagonal_floor": diagonal_floor, "kick_share": kick_share}.items():
            if share > 1:
                raise ValueError(f"{name} must be at most 1, got {share}")
        if not 0 <= exchange <= 0.5:
            raise ValueError(f"exchange must be between 0 and 1/2, got {exchange}")
        options: dict[str, Any] = {
            "damping": damping,
            "damping_factors": list(damping_factors),
            "diagonal_floor": diagonal_floor,
            "step_lengths": list(step_lengths),
            "warmup": warmup,
            "round_length": round_length,
            "kick_scales": list(kick_scales),
            "kick_share": kick_share,
            "exchange": exchange,
            "groups": groups,
            "seed": seed,
            # What Lightning's `LearningRateMonitor` reads of every optimizer; no step uses them.
            "lr": 1.0,
            "weight_decay": 0.0,
        }
        super().__init__(params, options)
        if len(self.param_groups) > 1:
            raise ValueError("params must be one group, as a step couples all parameters of a replica")
        replicas = {p.shape[:1] for p in self._params}
        if len(replicas) > 1 or torch.Size() in replicas:
            shapes = ", ".join(str(tuple(p.shape)) for p in self._params)
            raise ValueError(f"parameters of shapes {shapes}: the first dimension of all must be the replicas")
        if len(self._params[0]) % groups:
            raise ValueError(f"groups must divide the {len(self._params[0])} replicas, got {groups}")

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Takes a saved state; options that its version did not have get their defaults."""
        super().__setstate__(state)
        own = {name: value for name, value in self.defaults.items() if name != "differentiable"}  # PyTorch adds it
        self.param_groups[0] = {**own, **self.param_groups[0]}

    @property
    def _params(self) -> list[nn.Parameter]:
        return self.param_groups[0]["params"]  # type: ignore[no-any-return]

    def _read(self) -> Tensor:
        """The parameters of each replica in a row, (R, P)."""
        return torch.cat([p.flatten(1) if p.ndim > 1 else p[:, None] for p in self._params], 1)

    def _write(self, weights: Tensor) -> None:
        parts = torch.split(weights, [p[0].numel() for p in self._params], 1)
        for p, part in zip(self._params, parts, strict=True):
            p.copy_(part.view_as(p))

    @torch.no_grad()
    def step(self, closure: Callable[[], Any]) -> Tensor:  # type: ignore[override]
        """Moves every replica by one iteration.

        Args:
            closure: called without arguments; returns `NormalEquations` at the present parameters where gradients are
                enabled and their losses, shape (R,), where they are not. See `LeastSquares`.

        Returns:
            The lowest loss of each replica so far, that of its parameters, shape (R,).

        Raises:
            ValueError: for normal equations of another size than the parameters.
        """
        options, state = self.param_groups[0], self.state[self._params[0]]
        best = self._read()
        if not state:
            state["step"] = 0
            state["excursion"] = best.clone()
            state["damping"] = best.new_full(best.shape[:1], options["damping"])
            state["lowest"] = best.new_full(best.shape[:1], torch.inf)
        since = state["step"] - options["warmup"]
        if options["round_length"] and since >= 0 and since % options["round_length"] == 0:
            state["excursion"] = self._kick(best, state["lowest"], since // options["round_length"])
            state["damping"].fill_(options["damping"])
        self._write(state["excursion"])
        try:
            loss, weights = self._iterate(closure, state)
        except BaseException:
            self._write(best)  # an interrupt must not leave an excursion in the parameters
            raise
        lower = loss < state["lowest"]
        self._write(torch.where(lower[:, None], weights, best))
        state["excursion"] = weights
        state["lowest"] = torch.where(lower, loss, state["lowest"])
        state["step"] += 1
        lowest: Tensor = state["lowest"]
        return lowest.clone()

    def _iterate(self, closure: Callable[[], Any], state: dict[str, Any]) -> tuple[Tensor, Tensor]:
        """One iteration from the present parameters: the losses (R,) and the points (R, P) it leads to."""
        options, start, damping = self.param_groups[0], state["excursion"], state["damping"]
        with torch.enable_grad():
            equations: NormalEquations = closure()
        if equations.gradient.shape != start.shape:
            raise ValueError(
                f"normal equations for {tuple(equations.gradient.shape)} replicas and parameters, "
                f"but the optimizer has {tuple(start.shape)}"
            )
        # In units in which the diagonal is one, Marquardt's damping is a multiple of the identity.
        diagonal = equations.gram.diagonal(dim1=1, dim2=2)
        floor = options["diagonal_floor"] * diagonal.amax(1, keepdim=True) + torch.finfo(diagonal.dtype).tiny
        unit = torch.maximum(diagonal, floor).rsqrt()
        gram = equations.gram.mul_(unit[:, :, None]).mul_(unit[:, None])  # in place: fresh memory would cost more
        gradient = (equations.gradient * unit)[..., None]
        loss, weights = equations.loss, start
        largest = max(options["damping_factors"])
        new_damping = 4 * largest * damping
        for factor in options["damping_factors"]:
            tried = factor * damping
            matrix = gram.clone()
            matrix.diagonal(dim1=1, dim2=2).add_(tried[:, None])
            # An LU solve stops at the first singular matrix; this one says which they are.
            cholesky, info = torch.linalg.cholesky_ex(matrix)
            direction = -torch.cholesky_solve(gradient, cholesky)[..., 0] * unit
            for length in options["step_lengths"]:
                trial = start + length * direction
                self._write(trial)
                trial_loss: Tensor = closure()
                lower = (trial_loss < loss) & (info == 0)
                loss = torch.where(lower, trial_loss, loss)
                weights = torch.where(lower[:, None], trial, weights)
                new_damping = torch.where(lower, tried, new_damping)
        state["damping"] = new_damping.clamp(*DAMPING_LIMITS)
        return loss, weights

    def _kick(self, best: Tensor, lowest: Tensor, round_: int) -> Tensor:
        """Where the replicas set out from in a round, (R, P)."""
        options = self.param_groups[0]
        if options["exchange"] and round_ % 3 == 2:
            order = lowest.view(options["groups"], -1).argsort(dim=1, stable=True)  # NaN counts as the worst
            order = order + torch.arange(0, len(lowest), order.shape[1], device=order.device)[:, None]
            count = int(options["exchange"] * order.shape[1])
            source = torch.arange(len(lowest), device=order.device)
            source[order.flip(1)[:, :count]] = order[:, :count]
            best = best[source]
        # No generator is kept between rounds: the seed and the round say everything, so there is nothing to save.
        generator = torch.Generator().manual_seed(1_000_003 * options["seed"] + round_)
        shape = tuple(best.shape)
        draw = torch.rand(shape, generator=generator, dtype=torch.float64)
        noise = torch.randn(shape, generator=generator, dtype=torch.float64)
        chosen = (draw < options["kick_share"]) | (draw == draw.amin(1, keepdim=True))
        scale = options["kick_scales"][round_ % len(options["kick_scales"])]
        kicked: Tensor = best * (1 + scale * noise * chosen).to(best)
        return kicked
