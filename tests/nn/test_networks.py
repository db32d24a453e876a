from __future__ import annotations

import copy
import io
import itertools
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lit_triwave.analysis.regions import count_linear_regions
from lit_triwave.nn.bank import TriangleBank
from lit_triwave.nn.networks import TriangleNetwork

F64 = torch.float64
STAGES = [None, "blocks", "dense"]
WIRINGS = ["single", "difference", "sum", "composition"]
RANGE = (-2.0, 3.0)
ONE = {"x": (-1.0, 3.0)}
TWO = {"x": (-1.0, 3.0), "y": (0.5, 2.0)}
CASES = [("single", ONE), ("difference", ONE), ("sum", ONE), ("composition", ONE)]
CASES += [(wiring, TWO) for wiring in WIRINGS[1:]]


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def new_network(wiring: Any, domain: Any, released: Any = None, replicas: int = 2, **options: Any) -> TriangleNetwork:
    """A network with random parameters; after a release they are changed at random."""
    seed = options.pop("seed", 0)
    settings = {"target_range": RANGE, "depth": 3, "generator": seeded(seed), **options}
    network = TriangleNetwork(domain, wiring=wiring, replicas=replicas, **settings)
    if released is not None:
        network.release(released)
    disturb(network, 0.1 if released is None else 0.03, seed)
    return network


def disturb(network: TriangleNetwork, size: float, seed: int) -> None:
    generator = seeded(seed + 100)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += size * torch.randn(parameter.shape, generator=generator, dtype=F64)


def points(domain: Any, batch: int = 60) -> Tensor:
    """Random points of the domain and its corners."""
    bounds = torch.tensor(list(domain.values()), dtype=F64)
    inside = torch.rand(batch, len(bounds), generator=seeded(9), dtype=F64)
    corners = torch.cartesian_prod(*[torch.tensor([0.0, 1.0], dtype=F64)] * len(bounds)).reshape(-1, len(bounds))
    return bounds[:, 0] + torch.cat([inside, corners]) * (bounds[:, 1] - bounds[:, 0])


def subnetworks(network: TriangleNetwork, x: Tensor) -> Tensor:
    """N_j(x_j) (and M_j(x_j) behind them) of a network over TWO or ONE, shape (batch, replicas, subnetworks)."""
    bounds = torch.tensor(list((ONE if x.shape[1] == 1 else TWO).values()), dtype=F64)
    u = (x - bounds[:, 0]) / (bounds[:, 1] - bounds[:, 0])
    if network.wiring == "difference":
        u = torch.cat([u, u], 1)
    return network.bank(u[:, None].expand(-1, network.replicas, -1))


@pytest.mark.parametrize("released", STAGES)
@pytest.mark.parametrize(("wiring", "domain"), CASES)
def test_each_wiring_is_its_formula(wiring: str, domain: Any, released: Any) -> None:
    network, x = new_network(wiring, domain, released), points(domain)
    n, m = subnetworks(network, x), len(domain)
    y = n[..., :m].sum(-1) - n[..., m:].sum(-1)  # there are more than m in a difference alone
    if wiring == "composition":
        assert network.outer is not None
        y = network.outer((network.outer_gain * y + network.outer_shift).clamp(0, 1)[..., None])[..., 0]
    else:
        assert network.outer is None
    assert network(x).shape == (len(x), 2)
    torch.testing.assert_close(network(x), -2 + 5 * y, rtol=0, atol=1e-13)


@pytest.mark.parametrize("released", STAGES)
@pytest.mark.parametrize(("wiring", "domain"), CASES)
def test_to_sequential_is_one_replica_in_plain_layers(wiring: str, domain: Any, released: Any) -> None:
    network, x = new_network(wiring, domain, released), points(domain)
    for replica in range(2):
        plain = network.to_sequential(replica)
        assert all(isinstance(layer, nn.Linear | nn.ReLU) for layer in plain)
        # Three hidden layers; a composition has as many again, and one that clamps.
        assert sum(isinstance(layer, nn.ReLU) for layer in plain) == (7 if wiring == "composition" else 3)
        torch.testing.assert_close(plain(x), network(x)[:, replica, None], rtol=0, atol=1e-12)
    assert all(parameter.grad is None for parameter in network.parameters())


def test_to_sequential_keeps_the_clamp_of_the_outer_input() -> None:
    network, x = new_network("composition", TWO), points(TWO)
    with torch.no_grad():
        network.outer_gain *= 3
        network.outer_shift -= 0.5
    inner = network.outer_gain * subnetworks(network, x).sum(-1) + network.outer_shift
    assert inner.min() < 0
    assert inner.max() > 1
    torch.testing.assert_close(network.to_sequential(1)(x)[:, 0], network(x)[:, 1], rtol=0, atol=1e-12)


@pytest.mark.parametrize("theorem31", [True, False])
@pytest.mark.parametrize("margin", [1e-2, 0.2])
@pytest.mark.parametrize(
    "ends", [(-1.0, 1.0), (0.0, 1.0), (-1.0, 3.0), (-0.25, 0.5), (0.5, 2.0), (-7.0, -3.0), (100.0, 101.0)]
)
def test_inner_subnetworks_start_at_the_square(ends: tuple[float, float], theorem31: bool, margin: float) -> None:
    depth, (low, high) = 4, ends
    other = (-2.0, 0.5)
    network = TriangleNetwork(
        {"x": ends, "y": other}, wiring="composition", depth=depth, theorem31=theorem31, margin=margin, replicas=2
    )
    t = torch.arange(2**depth + 1, dtype=F64) / 2**depth
    size = max(abs(low), abs(high)) ** 2
    squares = network.bank(t[:, None, None].expand(-1, 2, 2))
    for replica in range(2):
        torch.testing.assert_close(squares[:, replica, 0], (low + (high - low) * t) ** 2, rtol=0, atol=1e-14 * size)
        torch.testing.assert_close(squares[:, replica, 1], (-2 + 2.5 * t) ** 2, rtol=0, atol=1e-14)
    # Between the nodes it is Yarotsky's error, times the square of the span, above.
    middle = t[:-1] + 0.5**depth / 2
    above = network.bank(middle[:, None, None].expand(-1, 2, 2))[:, 0, 0] - (low + (high - low) * middle) ** 2
    expected = torch.full_like(above, (high - low) ** 2 * 0.25 ** (depth + 1))
    torch.testing.assert_close(above, expected, rtol=0, atol=1e-14 * size)


@pytest.mark.parametrize("first", [(-1.0, 1.0), (0.0, 1.0), (-1.0, 3.0), (0.5, 2.0), (-7.0, -3.0)])
@pytest.mark.parametrize("second", [(-2.0, 2.0), (0.25, 5.0)])
def test_outer_input_starts_within_the_unit_interval(first: Any, second: Any) -> None:
    network = TriangleNetwork({"x": first, "y": second}, wiring="composition", depth=6, replicas=2)
    grids = [torch.linspace(*ends, 129, dtype=F64) for ends in (first, second)]
    x = torch.cartesian_prod(*grids)
    seen: list[Tensor] = []
    assert network.outer is not None
    handle = network.outer.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    network(x)
    handle.remove()
    assert seen[0].min() >= -1e-12
    assert seen[0].max() <= 1 + 1e-12
    # It is r² scaled by its extremes over the domain, up to Yarotsky's error of both coordinates.
    squares = x.square().sum(1)
    closest = [0.0 if low < 0 < high else min(low**2, high**2) for low, high in (first, second)]
    farthest = [max(low**2, high**2) for low, high in (first, second)]
    expected = (squares - sum(closest)) / (sum(farthest) - sum(closest))
    bound = sum((high - low) ** 2 for low, high in (first, second)) * 0.25**7 / (sum(farthest) - sum(closest))
    assert (seen[0][..., 0] - expected[:, None]).abs().max() <= bound + 1e-12


def test_curvature_is_that_of_the_subnetworks_the_wiring_leaves_open() -> None:
    def signs(bank: TriangleBank | None) -> list[float]:
        assert bank is not None
        return bank.sign[0].tolist()

    concave: Any = "concave"
    each: Any = ["concave", "convex"]
    assert signs(TriangleNetwork(ONE, curvature=concave).bank) == [1]
    assert signs(TriangleNetwork(TWO, wiring="sum", curvature=each).bank) == [1, -1]
    assert signs(TriangleNetwork(TWO, wiring="difference", curvature=concave).bank) == [-1] * 4
    composition = TriangleNetwork(TWO, wiring="composition", curvature=concave)
    assert (signs(composition.bank), signs(composition.outer)) == ([-1, -1], [1])


@pytest.mark.parametrize("released", STAGES)
@pytest.mark.parametrize(("wiring", "domain"), CASES)
def test_the_loss_of_one_replica_moves_no_other(wiring: str, domain: Any, released: Any) -> None:
    network = new_network(wiring, domain, released, replicas=3)
    network(points(domain))[:, 1].square().sum().backward()
    for parameter in network.parameters():
        assert parameter.grad is not None
        assert (parameter.grad[[0, 2]] == 0).all()
    assert all(parameter.grad[1].abs().sum() > 0 for parameter in network.bank.parameters())  # type: ignore[index]


def test_replicas_differ_and_follow_from_the_generator() -> None:
    x = points(TWO)
    one, same, other = (TriangleNetwork(TWO, wiring="sum", replicas=3, generator=seeded(seed))(x) for seed in (3, 3, 4))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    assert all((one[:, i] - one[:, j]).abs().max() > 1e-3 for i, j in itertools.combinations(range(3), 2))


@pytest.mark.parametrize("released", STAGES)
@pytest.mark.parametrize(("wiring", "domain"), CASES)
def test_inputs_outside_the_domain_are_clamped_to_it(wiring: str, domain: Any, released: Any) -> None:
    network = new_network(wiring, domain, released)
    x = 10 * torch.randn(50, len(domain), generator=seeded(), dtype=F64)
    bounds = torch.tensor(list(domain.values()), dtype=F64)
    clamped = torch.minimum(torch.maximum(x, bounds[:, 0]), bounds[:, 1])
    assert (clamped != x).any()
    torch.testing.assert_close(network(x), network(clamped), rtol=0, atol=1e-12)


@pytest.mark.parametrize("kind", STAGES[1:])
@pytest.mark.parametrize(("wiring", "domain"), CASES)
def test_release_keeps_the_function(wiring: str, domain: Any, kind: Any) -> None:
    network, x = new_network(wiring, domain, depth=5), points(domain)
    before = network(x)
    assert network.parameterization == "peaks"
    network.release(kind)
    assert network.parameterization == "weights"
    assert all(bank.released == kind for bank in network.banks)
    torch.testing.assert_close(network(x), before, rtol=0, atol=1e-12)


@pytest.mark.parametrize("present", STAGES)
@pytest.mark.parametrize("saved", STAGES)
@pytest.mark.parametrize(("wiring", "domain"), CASES)
def test_a_state_dict_restores_the_function_and_the_stage(wiring: str, domain: Any, saved: Any, present: Any) -> None:
    source, network = new_network(wiring, domain, saved), new_network(wiring, domain, present, seed=5)
    network.scaling.offset.fill_(7.0)  # the units are part of the checkpoint
    file = io.BytesIO()
    torch.save(source.state_dict(), file)
    file.seek(0)
    network.load_state_dict(torch.load(file, weights_only=True))
    assert all(bank.released == saved for bank in network.banks)
    assert torch.equal(network(points(domain)), source(points(domain)))


@pytest.mark.parametrize(("wiring", "domain"), CASES)
def test_float32_gives_the_function_to_its_precision(wiring: str, domain: Any) -> None:
    network, x = new_network(wiring, domain), points(domain)
    single = copy.deepcopy(network).float()
    y = single(x.float())
    assert y.dtype == torch.float32
    torch.testing.assert_close(y.double(), network(x), rtol=0, atol=5e-4)
    torch.testing.assert_close(single.to_sequential(1)(x.float())[:, 0], y[:, 1], rtol=0, atol=5e-4)
    assert network(x.float()).dtype == F64


@pytest.mark.parametrize(("wiring", "segments"), [("single", 32), ("difference", 64), ("sum", 32), ("composition", 32)])
def test_segments_are_the_pieces_that_the_depth_buys_in_one_variable(wiring: Any, segments: int) -> None:
    network = TriangleNetwork({"x": (0.0, 1.0)}, wiring=wiring, depth=5, generator=seeded())
    assert network.segments == segments
    # The two nets of a difference share the ends of the interval: 2·(2^d − 1) kinks.
    expected = {"difference": segments - 1, "composition": None}.get(wiring, segments)
    if expected is not None:
        assert count_linear_regions(network) == expected


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"wiring": "product"}, "wiring must be one of single, difference, sum, composition.* got 'product'"),
        ({"domain": TWO}, r"wiring must be difference, sum or composition for the inputs x, y, got 'single'"),
        ({"replicas": 0}, "replicas must be at least 1, got 0"),
        ({"depth": 0}, "depth must be at least 1, got 0"),
        ({"margin": 0.6}, "margin must be .* got 0.6"),
        ({"curvature": "flat"}, "curvature must be .* got 'flat'"),
        ({"domain": {}}, "domain must have .* got {}"),
        ({"domain": {"x": (0.0, 1.0, 2.0)}}, "domain must have .lower, upper. for each input"),
        ({"domain": {"x": (1.0, 1.0)}}, "domain of x must have lower < upper, both finite, got 1.0 and 1.0"),
        ({"domain": {"x": (0.0, 1.0), "y": (2.0, 1.0)}, "wiring": "sum"}, "domain of y must have .*, got 2.0 and 1.0"),
        ({"domain": {"x": (0.0, math.inf)}}, "domain of x must have .*, got 0.0 and inf"),
        ({"domain": {"x": (math.nan, 1.0)}}, "domain of x must have .*, got nan and 1.0"),
        ({"target_range": (1.0, 1.0)}, r"target_range must be \(lowest, highest\), .*, got \(1.0, 1.0\)"),
        ({"target_range": (math.nan, 1.0)}, "target_range must be .*, got"),
        ({"target_range": (0.0, 1e200)}, r"target_range must be from 1e-100 to 1e\+100 long, got 0 to 1e\+200"),
    ],
)
def test_an_argument_outside_its_range_is_named_in_one_line(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as raised:
        TriangleNetwork(**{"domain": ONE, **arguments})
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"target_range": (0.0, math.inf)}, "target_range"),
        ({"target_range": (0.0, 1.0, 2.0)}, "target_range"),
        ({"target_range": [(0.0, 1.0), (2.0, 2.0)], "replicas": 2}, r"target_range must be .*, got \(2.0, 2.0\)"),
        ({"target_range": [(0.0, 1.0), (2.0, 3.0)], "replicas": 3}, "replicas must be a multiple of the 2 targets"),
        ({"domain": {"x": (0.0, 1.0), "y": (1.0,)}, "wiring": "sum"}, "domain"),
        ({"wiring": "difference", "curvature": "flat"}, "curvature must be .* got 'flat'"),
        ({"wiring": "composition", "domain": TWO, "curvature": ["convex", "flat"]}, "curvature"),
        ({"wiring": "composition", "domain": TWO, "curvature": []}, "curvature"),
    ],
)
def test_a_malformed_argument_is_refused_by_its_name(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TriangleNetwork(**{"domain": ONE, **arguments})


@pytest.mark.parametrize(("domain", "columns"), [(ONE, 2), (TWO, 1)])
def test_a_wrong_number_of_input_columns_is_refused(domain: Any, columns: int) -> None:
    network = TriangleNetwork(domain, wiring="sum")
    with pytest.raises(ValueError, match=rf"\(batch, {len(domain)}\)"):
        network(torch.rand(5, columns, dtype=F64))
