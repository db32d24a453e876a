"""`LevenbergMarquardt`: second order for many small networks at once, with random kicks and exchange of replicas."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from lit_triwave.errors import check_least
from lit_triwave.optim.jacobian import NormalEquations
from lit_triwave.optim.saved_rows import check_rows, read_rows, write_rows

DAMPING_LIMITS = (1e-12, 1e4)
"""Range of the damping. Below it, rounding of float64 hides the damping; above it, steps are too short to change the
loss."""

UNUSED_OPTIONS = {"lr": 1.0, "weight_decay": 0.0}
"""Lightning's `LearningRateMonitor` reads these of every optimizer; no step uses them."""


def check_positive(**options: float | Sequence[float]) -> None:
    """Refuses numbers that are not positive, and lists that are empty or have such a number.

    Raises:
        ValueError: an option is refused; the message names it.
    """
    for name, given in options.items():
        values = given if isinstance(given, Sequence) else [given]
        if not values or not all(value > 0 for value in values):
            raise ValueError(f"{name} must be above 0, got {given}")


class LevenbergMarquardt(Optimizer):
    """Levenberg–Marquardt with kicks, for R independent small networks (replicas) trained side by side.

    One `step` is one iteration of all replicas. It solves the normal equations for a few dampings, in proportion to
    their diagonal (Marquardt 1963), and tries a few lengths of each solution. Each replica keeps the trial that lowers
    its loss most. Trials are cheap compared with the Jacobian, and they help if a loss is not smooth (ReLU networks).
    If all trials of a replica fail, because the loss does not fall or the matrix is not positive definite, the replica
    does not move and its damping grows. Other replicas are not affected.

    The loss of a ReLU network has very many local minima, and 20 to 40 iterations reach one. So rounds of
    `round_length` steps begin after `warmup` steps. Each round starts with a *kick*: a random tenth of the weights of
    the best point so far is multiplied by 1 + noise. The result of the round is kept if its loss is lower. With
    `exchange`, the worse replicas start from the points of better ones, which uses the steps more effectively.

    Between steps **the parameters are always the best point of each replica**. So their loss never rises, and
    validating, saving or stopping is possible at any time. The point of the current round is in the optimizer's state.
    The state dictionary contains plain numbers and tensors. A run that continues from it (and from the parameters)
    takes the same steps, bit for bit. Kicks are drawn from the seed and the number of the round, on the CPU, so every
    rank of a distributed run draws the same kicks.

    The package `torch-levenberg-marquardt` 1.2.3 is not used for three reasons. It trains one network at a time, so
    seeds would be a Python loop. It takes its last trial even if no trial lowers the loss. Its damping is in no state
    dictionary. Its step of a 93-parameter network on 500 samples takes 4.8 ms (Cholesky, one trial). Here a step of 120
    of these networks takes 170 ms with nine trials each, 1.4 ms a network (one CPU thread, float64).

    Args:
        params: the parameters of the closure's network, in its order: one group, with a leading dimension R.
        damping: damping at the start and after each kick, in units of the diagonal, > 0.
        damping_factors: dampings to try, as multiples of the current one, each > 0. The best trial's damping is used in
            the next step. If no trial lowers the loss, the current damping is multiplied by 4 · the largest factor.
        diagonal_floor: smallest value of a diagonal entry, as a share of the largest entry, in (0, 1]. The default only
            avoids a division by zero for dead parameters, whose entries are zero. 1 damps all parameters equally
            (Levenberg 1944); it suits parameters such as the logits of peaks, whose entries vanish for large logits.
        step_lengths: multiples of each solution that are tried, each > 0.
        warmup: steps before the first kick, ≥ 1.
        round_length: steps between kicks, ≥ 1; 0 for no kicks.
        kick_scales: standard deviations of the relative noise, used in turn.
        kick_share: share of the weights that a kick changes, in (0, 1]; a kick changes at least one weight.
        exchange: share of the replicas, 0 to 1/2, that start every third round from the point of a better replica. The
            worst starts from the best, the second worst from the second best, and so on. 0 keeps replicas independent.
        groups: number of groups of consecutive replicas, of equal size, within which replicas exchange points. R must
            be a multiple of it.
        seed: seed of the kicks.

    Raises:
        ValueError: an argument is outside its range, the parameters have no common leading dimension, or there are
            several groups of parameters.

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
        check_positive(
            damping=damping,
            damping_factors=damping_factors,
            diagonal_floor=diagonal_floor,
            step_lengths=step_lengths,
            kick_scales=kick_scales,
            kick_share=kick_share,
            warmup=warmup,
            groups=groups,
        )
        check_least(0, round_length=round_length)
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
            **UNUSED_OPTIONS,
        }
        super().__init__(params, options)
        if len(self.param_groups) > 1:
            count = len(self.param_groups)
            raise ValueError(f"params must be one group, as a step couples all parameters of a replica, got {count}")
        replicas = {p.shape[:1] for p in self._params}
        if len(replicas) > 1 or torch.Size() in replicas:
            shapes = ", ".join(str(tuple(p.shape)) for p in self._params)
            raise ValueError(f"params must all have the replicas as their first dimension, got shapes {shapes}")
        if len(self._params[0]) % groups:
            raise ValueError(f"groups must divide the {len(self._params[0])} replicas, got {groups}")

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Loads a saved state. Options that were added after it was saved get their defaults."""
        super().__setstate__(state)
        own = {name: value for name, value in self.defaults.items() if name != "differentiable"}  # PyTorch adds it
        self.param_groups[0] = {**own, **self.param_groups[0]}

    def check_state(self, name: str, saved: Mapping[int, Mapping[str, Any]], rows: int, columns: int) -> None:
        """Refuses a saved state of other replicas or parameters, see `check_rows`."""
        check_rows(name, saved, 0, {"excursion": (rows, columns), "damping": (rows,), "lowest": (rows,)})

    @property
    def _params(self) -> list[nn.Parameter]:
        return self.param_groups[0]["params"]  # type: ignore[no-any-return]

    @torch.no_grad()
    def step(self, closure: Callable[[], Any]) -> Tensor:  # type: ignore[override]
        """Moves every replica by one iteration.

        Args:
            closure: called without arguments. Returns `NormalEquations` at the current parameters if gradients are
                enabled; otherwise the losses, shape (R,). See `LeastSquares`.

        Returns:
            The lowest loss of each replica so far, which is the loss of its parameters, shape (R,).

        Raises:
            ValueError: the normal equations and the parameters have different sizes.
        """
        options, state = self.param_groups[0], self.state[self._params[0]]
        best = read_rows(self._params)
        if not state:
            state["step"] = 0
            state["excursion"] = best.clone()
            state["damping"] = best.new_full(best.shape[:1], options["damping"])
            state["lowest"] = best.new_full(best.shape[:1], torch.inf)
        since = state["step"] - options["warmup"]
        if options["round_length"] and since >= 0 and since % options["round_length"] == 0:
            state["excursion"] = self._kick(best, state["lowest"], since // options["round_length"])
            state["damping"].fill_(options["damping"])
        write_rows(self._params, state["excursion"])
        try:
            loss, weights = self._iterate(closure, state)
        except BaseException:
            write_rows(self._params, best)  # after an interrupt, too, the parameters must be the best point
            raise
        lower = loss < state["lowest"]
        write_rows(self._params, torch.where(lower[:, None], weights, best))
        state["excursion"] = weights
        state["lowest"] = torch.where(lower, loss, state["lowest"])
        state["step"] += 1
        lowest: Tensor = state["lowest"]
        return lowest.clone()

    def _iterate(self, closure: Callable[[], Any], state: dict[str, Any]) -> tuple[Tensor, Tensor]:
        """Makes one iteration from the current parameters; returns the new losses (R,) and points (R, P)."""
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
        gram = equations.gram.mul_(unit[:, :, None]).mul_(unit[:, None])  # in place: new memory would be slower
        scaled = diagonal.clone()
        gradient = (equations.gradient * unit)[..., None]
        loss, weights = equations.loss, start
        largest = max(options["damping_factors"])
        new_damping = 4 * largest * damping
        for factor in options["damping_factors"]:
            tried = factor * damping
            torch.add(scaled, tried[:, None], out=diagonal)
            # An LU solve stops at the first singular matrix; this function reports all singular ones.
            cholesky, info = torch.linalg.cholesky_ex(gram)
            direction = -torch.cholesky_solve(gradient, cholesky)[..., 0] * unit
            for length in options["step_lengths"]:
                trial = start + length * direction
                write_rows(self._params, trial)
                trial_loss: Tensor = closure()
                lower = (trial_loss < loss) & (info == 0)
                loss = torch.where(lower, trial_loss, loss)
                weights = torch.where(lower[:, None], trial, weights)
                new_damping = torch.where(lower, tried, new_damping)
        state["damping"] = new_damping.clamp(*DAMPING_LIMITS)
        return loss, weights

    def _kick(self, best: Tensor, lowest: Tensor, round_: int) -> Tensor:
        """Returns the points from which the replicas start a round, (R, P)."""
        options = self.param_groups[0]
        if options["exchange"] and round_ % 3 == 2:
            order = lowest.view(options["groups"], -1).argsort(dim=1, stable=True)  # NaN counts as the worst
            order = order + torch.arange(0, len(lowest), order.shape[1], device=order.device)[:, None]
            count = int(options["exchange"] * order.shape[1])
            source = torch.arange(len(lowest), device=order.device)
            source[order.flip(1)[:, :count]] = order[:, :count]
            best = best[source]
        # A new generator for each round, from the seed and the round: a checkpoint needs no generator state.
        generator = torch.Generator().manual_seed(1_000_003 * options["seed"] + round_)
        shape = tuple(best.shape)
        draw = torch.rand(shape, generator=generator, dtype=torch.float64)
        noise = torch.randn(shape, generator=generator, dtype=torch.float64)
        chosen = (draw < options["kick_share"]) | (draw == draw.amin(1, keepdim=True))
        scale = options["kick_scales"][round_ % len(options["kick_scales"])]
        kicked: Tensor = best * (1 + scale * noise * chosen).to(best)
        return kicked
