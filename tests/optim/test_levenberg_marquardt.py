"""Guarantees of the second-order last stage: derivatives, steps, kicks, and restarts."""

from __future__ import annotations

import io
import itertools
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lit_triwave.analysis.regions import count_linear_regions
from lit_triwave.modules.stages import PEAK_OPTIONS
from lit_triwave.nn.baselines import DenseNetwork
from lit_triwave.nn.networks import TriangleNetwork, Wiring
from lit_triwave.optim import LeastSquares, LevenbergMarquardt, NormalEquations, jacobian

REPLICAS = 3


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def triangle_network(
    wiring: Wiring, release: str = "blocks", replicas: int = REPLICAS, seed: int = 0
) -> TriangleNetwork:
    domain = {"x": (-1.0, 2.0)} if wiring in ("single", "difference") else {"x": (-1.0, 2.0), "y": (0.0, 3.0)}
    network = TriangleNetwork(
        domain, (-1.0, 4.0), wiring=wiring, depth=3, margin=0.2, replicas=replicas, generator=generator(seed)
    )
    network.release(release)  # type: ignore[arg-type]
    with torch.no_grad():
        for p in network.parameters():  # away from the construction, where many derivatives are zero
            p.mul_(1 + 0.1 * torch.randn(p.shape, generator=generator(seed + 1), dtype=p.dtype))
    return network


def peaks_network(wiring: Wiring, theorem31: bool, depth: int) -> TriangleNetwork:
    """Networks of three targets, each in its own units."""
    domain = {"x": (-1.0, 2.0)} if wiring in ("single", "difference") else {"x": (-1.0, 2.0), "y": (0.0, 3.0)}
    network = TriangleNetwork(
        domain,
        [(-1.0, 4.0), (0.0, 2.0), (5.0, 5.5)],
        wiring=wiring,
        depth=depth,
        theorem31=theorem31,
        replicas=REPLICAS,
        generator=generator(),
    )
    with torch.no_grad():
        for p in network.parameters():  # also where a composition starts from peaks 1/2
            p.add_(0.1 * torch.randn(p.shape, generator=generator(1), dtype=p.dtype))
    return network


def points(network: TriangleNetwork | DenseNetwork, count: int = 40) -> Tensor:
    u = torch.rand(count, network.scaling.in_features, generator=generator(5), dtype=torch.float64)
    return network.scaling.lower + network.scaling.span * u


def autograd_rows(network: nn.Module, x: Tensor) -> Tensor:
    """(R, P, B), by one backward pass for each sample."""
    rows = []
    for sample in x:
        gradients = torch.autograd.grad(network(sample[None]).sum(), list(network.parameters()))
        rows.append(torch.cat([g.reshape(len(g), -1) for g in gradients], 1))
    return torch.stack(rows, -1)


class Polynomial(nn.Module):
    """Σ_k c_k · x^k, linear in its parameters; no output depends on the parameter `spare`."""

    def __init__(self, replicas: int, degree: int) -> None:
        super().__init__()
        self.c = nn.Parameter(torch.randn(replicas, degree + 1, generator=generator(), dtype=torch.float64))
        self.spare = nn.Parameter(torch.ones(replicas, 2, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        return x ** torch.arange(self.c.shape[1]) @ self.c.T + 0 * self.spare.sum(1)


class Rosenbrock:
    """Residuals 10·(y − x²) and 1 − x of R replicas, with the optimum at (1, 1), as a closure.

    `indefinite` spoils the matrix of one replica, `uphill` the sign of the gradient of another.
    """

    def __init__(self, starts: Tensor, indefinite: int | None = None, uphill: int | None = None) -> None:
        self.w = nn.Parameter(starts.clone())
        self.indefinite, self.uphill = indefinite, uphill

    def __call__(self) -> NormalEquations | Tensor:
        x, y = self.w.detach().unbind(1)
        r = torch.stack([10 * (y - x * x), 1 - x], 1)
        loss = r.square().sum(1)
        if not torch.is_grad_enabled():
            return loss
        j = torch.zeros(len(x), 2, 2, dtype=x.dtype)
        j[:, 0, 0], j[:, 0, 1], j[:, 1, 0] = -20 * x, 10, -1
        gradient, gram = (j.mT @ r[..., None])[..., 0], j.mT @ j
        if self.indefinite is not None:
            gram[self.indefinite] = torch.tensor([[1.0, 2.0], [2.0, 1.0]])
        if self.uphill is not None:
            gradient[self.uphill] *= -1
        return NormalEquations(loss, gradient, gram)


STARTS = torch.tensor([[-1.2, 1.0], [3.0, -2.0], [0.0, 5.0]], dtype=torch.float64)


@pytest.mark.parametrize("release", ["blocks", "dense"])
@pytest.mark.parametrize("wiring", ["single", "difference", "sum", "composition"])
def test_jacobian_of_every_wiring_equals_autograd(wiring: Wiring, release: str) -> None:
    network = triangle_network(wiring, release)
    x = points(network)
    values, rows = jacobian(network, x)
    torch.testing.assert_close(values, network(x).T.detach(), rtol=1e-12, atol=1e-13)
    torch.testing.assert_close(rows, autograd_rows(network, x), rtol=1e-10, atol=1e-12)
    assert (rows.abs().amax((0, 2)) > 0).float().mean() > 0.5


def test_a_network_of_peaks_without_its_own_jacobian_is_refused_by_name() -> None:
    class Wrapped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = peaks_network("single", True, 3)

        def forward(self, x: Tensor) -> Tensor:
            values: Tensor = self.inner(x)
            return values

    network = Wrapped()
    x = points(network.inner)
    with pytest.raises(TypeError, match="Wrapped must have a method jacobian_rows"):
        jacobian(network, x)
    network.inner.release()
    torch.testing.assert_close(jacobian(network, x)[1], jacobian(network.inner, x)[1])


def test_jacobian_stops_where_the_composition_clamps() -> None:
    network = triangle_network("composition")
    with torch.no_grad():
        network.outer_shift.add_(torch.tensor([-5.0, 0.0, 5.0]))  # below, within and above [0, 1]
    x = points(network)
    rows = jacobian(network, x)[1]
    torch.testing.assert_close(rows, autograd_rows(network, x), rtol=1e-10, atol=1e-12)
    assert (rows[[0, 2], 0] == 0).all()


def test_jacobian_of_the_dense_baseline_equals_autograd() -> None:
    network = DenseNetwork({"x": (-1.0, 2.0), "y": (0.0, 3.0)}, depth=3, replicas=REPLICAS, generator=generator())
    x = points(network)
    values, rows = jacobian(network, x)
    torch.testing.assert_close(values, network(x).T.detach(), rtol=1e-12, atol=1e-13)
    torch.testing.assert_close(rows, autograd_rows(network, x), rtol=1e-10, atol=1e-12)


def test_any_module_with_replicas_has_a_jacobian() -> None:
    for network in (triangle_network("composition"), Polynomial(REPLICAS, 3)):
        x = points(network) if isinstance(network, TriangleNetwork) else torch.linspace(-1, 1, 9).double()[:, None]
        values, rows = jacobian(network, x, analytic=False)
        torch.testing.assert_close(values, network(x).T.detach(), rtol=1e-12, atol=1e-13)
        torch.testing.assert_close(rows, autograd_rows(network, x), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("depth", [1, 4])
@pytest.mark.parametrize("theorem31", [True, False])
@pytest.mark.parametrize("wiring", ["single", "difference", "sum", "composition"])
def test_jacobian_by_the_peaks_equals_autograd(wiring: Wiring, theorem31: bool, depth: int) -> None:
    network = peaks_network(wiring, theorem31, depth)
    x = points(network)
    values, rows = jacobian(network, x)
    torch.testing.assert_close(values, network(x).T.detach(), rtol=1e-12, atol=1e-13)
    torch.testing.assert_close(rows, autograd_rows(network, x), rtol=1e-10, atol=1e-12)
    assert (rows.abs().amax((0, 2)) > 0).float().mean() > 0.5


@pytest.mark.parametrize("wiring", ["single", "difference", "sum", "composition"])
def test_second_order_pretraining_keeps_every_region(wiring: Wiring) -> None:
    network = peaks_network(wiring, theorem31=True, depth=3)
    x = points(network, 100)
    problem = LeastSquares(network, x, x.square().sum(1).sin())
    first = problem.loss()
    options: dict[str, Any] = PEAK_OPTIONS | {"warmup": 5, "round_length": 3, "kick_scales": [0.5]}
    optimizer = LevenbergMarquardt(network.parameters(), **options)
    for _ in range(12):
        loss = optimizer.step(problem)
        for bank in network.banks:
            assert ((bank.peaks > bank.margin) & (bank.peaks < 1 - bank.margin)).all()
            for replica, net in itertools.product(range(REPLICAS), range(bank.shape[1])):
                subnetwork = bank.select(replica).subset(torch.tensor([net]))
                assert count_linear_regions(subnetwork.to_sequential()) == 2**bank.depth
    assert (loss < 0.5 * first).all()


def test_chunks_change_the_sums_by_rounding_only() -> None:
    network = triangle_network("difference")
    x = points(network)
    y = torch.stack([x[:, 0] ** k for k in range(REPLICAS)], 1)
    whole, parts = LeastSquares(network, x, y)(), LeastSquares(network, x, y, chunk=7)()
    for a, b in zip(whole, parts, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-13)
    with torch.no_grad():
        for chunk in (7, 512):
            torch.testing.assert_close(LeastSquares(network, x, y, chunk=chunk)(), whole[0], rtol=1e-12, atol=0)


def test_normal_equations_of_ranks_add_up_to_those_of_all_samples() -> None:
    network = triangle_network("single")
    x = points(network)
    whole = LeastSquares(network, x, x[:, 0]).normal_equations()
    sums: list[list[Tensor]] = []

    def record(value: Tensor) -> Tensor:
        sums[-1].append(value.clone())
        return value

    for part in (x[:10], x[10:]):  # unequal shares: means of means would be wrong
        sums.append([])
        LeastSquares(network, part, part[:, 0], reduce=record)()
    totals = iter([a + b for a, b in zip(*sums, strict=True)])
    reduced = LeastSquares(network, x[:10], x[:10, 0], reduce=lambda _: next(totals)).normal_equations()
    for name, value in reduced._asdict().items():
        torch.testing.assert_close(value, getattr(whole, name), rtol=1e-12, atol=1e-14)


def test_memory_does_not_grow_with_the_samples() -> None:
    network = triangle_network("single")
    x = points(network, 5000)
    problem = LeastSquares(network, x, x[:, 0], chunk=100)
    problem()
    assert problem._memory is not None
    assert problem._memory.numel() == jacobian(network, x[:100])[1].numel()


def test_linear_least_squares_takes_one_step_and_ignores_dead_parameters() -> None:
    network = Polynomial(REPLICAS, 3)
    x = torch.linspace(-1, 1, 50, dtype=torch.float64)[:, None]
    optimizer = LevenbergMarquardt(network.parameters(), damping=1e-12, round_length=0)
    loss = optimizer.step(LeastSquares(network, x, 1 + 2 * x[:, 0] - 3 * x[:, 0] ** 3))
    assert loss.max() < 1e-20
    torch.testing.assert_close(network.c.detach()[1], torch.tensor([1.0, 2.0, 0.0, -3.0], dtype=torch.float64))
    assert (network.spare == 1).all()


def test_finds_the_optimum_of_rosenbrock_from_every_start() -> None:
    problem = Rosenbrock(STARTS)
    optimizer = LevenbergMarquardt([problem.w], round_length=0)
    for _ in range(60):
        optimizer.step(problem)
    torch.testing.assert_close(problem.w.detach(), torch.ones_like(STARTS), rtol=0, atol=1e-8)


@pytest.mark.parametrize("fault", ["indefinite", "uphill"])
def test_a_rejected_step_leaves_its_replica_where_it_is_and_the_others_move(fault: str) -> None:
    problem = Rosenbrock(STARTS, **{fault: 1})
    optimizer = LevenbergMarquardt([problem.w], round_length=0)
    before = problem()
    assert isinstance(before, NormalEquations)
    loss = optimizer.step(problem)
    assert torch.equal(problem.w.detach()[1], STARTS[1])
    assert loss[1] == before.loss[1]
    assert (problem.w.detach()[[0, 2]] != STARTS[[0, 2]]).any(1).all()
    assert (loss[[0, 2]] < before.loss[[0, 2]]).all()
    damping = optimizer.state[problem.w]["damping"]
    assert damping[1] > damping[[0, 2]].max()


@pytest.mark.parametrize("spoil", [0.0, math.nan])
def test_a_dead_or_broken_replica_does_not_disturb_the_others(spoil: float) -> None:
    x = points(triangle_network("single"))
    results = []
    for value in (None, spoil):
        network = triangle_network("single")
        if value is not None:
            with torch.no_grad():
                for p in network.parameters():
                    p[1] = value
        optimizer = LevenbergMarquardt(network.parameters(), warmup=2, round_length=2)
        for _ in range(6):
            loss = optimizer.step(LeastSquares(network, x, x[:, 0].square()))
        results.append(loss)
    assert torch.equal(results[0][[0, 2]], results[1][[0, 2]])


def test_replicas_do_not_depend_on_each_other_without_exchange() -> None:
    x = points(triangle_network("single"))
    y = torch.stack([x[:, 0] ** 2, x[:, 0].exp(), x[:, 0].sin()], 1)
    finals = []
    for targets in (y, torch.stack([y[:, 0], y[:, 2], y[:, 1]], 1)):
        network = triangle_network("single")
        optimizer = LevenbergMarquardt(network.parameters(), warmup=3, round_length=3)
        for _ in range(12):
            optimizer.step(LeastSquares(network, x, targets))
        finals.append([p.detach()[0] for p in network.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*finals, strict=True))


def test_exchange_stays_within_groups_and_copies_the_better_replicas() -> None:
    network = Polynomial(8, 2)
    optimizer = LevenbergMarquardt(network.parameters(), exchange=0.5, groups=2, kick_scales=[1e-9], kick_share=1)
    best = torch.arange(8.0, dtype=torch.float64)[:, None].expand(8, 5)
    lowest = torch.tensor([3, 1, 2, 4, 30, math.nan, 10, 20], dtype=torch.float64)
    sources = optimizer._kick(best, lowest, round_=2)[:, 0].round()
    assert sources.tolist() == [2, 1, 2, 1, 7, 6, 6, 7]
    assert optimizer._kick(best, lowest, round_=3)[:, 0].round().tolist() == list(range(8))


def test_error_never_rises_and_parameters_hold_the_lowest() -> None:
    network = triangle_network("difference")
    x = points(network)
    problem = LeastSquares(network, x, x[:, 0].sin())
    optimizer = LevenbergMarquardt(network.parameters(), warmup=4, round_length=3, kick_scales=[0.5], exchange=0.5)
    last = problem.loss()
    for _ in range(25):
        loss = optimizer.step(problem)
        assert (loss <= last).all()
        torch.testing.assert_close(problem.loss(), loss, rtol=1e-9, atol=0)
        last = loss


def test_kicks_find_lower_minima_than_the_same_steps_without() -> None:
    finals = []
    for round_length in (0, 5):
        network = triangle_network("single", replicas=10)
        x = points(network, 100)
        problem = LeastSquares(network, x, x[:, 0].square())
        optimizer = LevenbergMarquardt(network.parameters(), warmup=20, round_length=round_length)
        for _ in range(80):
            loss = optimizer.step(problem)
        finals.append(loss.log().mean())
    assert finals[1] < finals[0] - math.log(2)


@pytest.mark.parametrize("steps", [3, 8])  # before the first kick, and within a round
def test_state_dict_round_trip_continues_bit_for_bit(steps: int) -> None:
    def make() -> tuple[TriangleNetwork, LevenbergMarquardt, LeastSquares]:
        network = triangle_network("composition")
        x = points(network)
        optimizer = LevenbergMarquardt(network.parameters(), warmup=4, round_length=3, exchange=0.4, seed=7)
        return network, optimizer, LeastSquares(network, x, x.square().sum(1))

    network, optimizer, problem = make()
    for _ in range(steps):
        optimizer.step(problem)
    file = io.BytesIO()
    torch.save({"network": network.state_dict(), "optimizer": optimizer.state_dict()}, file)
    file.seek(0)
    saved: dict[str, Any] = torch.load(file, weights_only=True)
    resumed, other, again = make()
    resumed.load_state_dict(saved["network"])
    other.load_state_dict(saved["optimizer"])
    for _ in range(10):
        assert torch.equal(optimizer.step(problem), other.step(again))
    for a, b in zip(network.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(a, b)


def test_an_interrupt_leaves_the_best_point_in_the_parameters() -> None:
    network = triangle_network("single")
    x = points(network)
    problem = LeastSquares(network, x, x[:, 0].square())
    optimizer = LevenbergMarquardt(network.parameters(), warmup=1, round_length=2)
    optimizer.step(problem)
    before = [p.detach().clone() for p in network.parameters()]

    def interrupted() -> Tensor:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        optimizer.step(interrupted)
    assert all(torch.equal(a, b) for a, b in zip(before, network.parameters(), strict=True))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"damping": 0.0}, "damping must be above 0, got 0.0"),
        ({"damping_factors": []}, r"damping_factors must be above 0, got \[\]"),
        ({"exchange": 0.6}, "exchange must be between 0 and 1/2, got 0.6"),
        ({"groups": 2}, "groups must divide the 3 replicas, got 2"),
        ({"kick_share": 1.5}, "kick_share"),
        ({"round_length": -1}, "round_length"),
    ],
)
def test_refuses_bad_options_by_name(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LevenbergMarquardt([nn.Parameter(STARTS.clone())], **options)


def test_refuses_parameters_without_common_replicas_and_foreign_problems() -> None:
    with pytest.raises(ValueError, match="params must all have the replicas as their first dimension"):
        LevenbergMarquardt([nn.Parameter(torch.zeros(3, 2)), nn.Parameter(torch.zeros(4))])
    network = triangle_network("single")
    x = points(network)
    with pytest.raises(ValueError, match="normal equations for"):
        LevenbergMarquardt([next(network.parameters())]).step(LeastSquares(network, x, x[:, 0]))
    with pytest.raises(ValueError, match="got 40 and 3"):
        LeastSquares(network, x, x[:3, 0])
