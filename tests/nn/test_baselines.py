from __future__ import annotations

import io
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lit_triwave.nn.baselines import RAI_STD, DenseNetwork, kaiming_rows, rai_rows

F64 = torch.float64
UNIT = {"x": (0.0, 1.0)}
TWO = {"x": (-1.0, 3.0), "y": (0.5, 2.0)}
STARTS: list[Any] = ["kaiming", "rai", "raai"]
# Kolmogorov-Smirnov distance times √n that a right sample exceeds once in a hundred thousand times.
KS_BOUND = 2.5


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def ks_distance(sample: Tensor, distribution: Tensor) -> float:
    """√n · largest distance between the sample's distribution function and the given one at the sorted sample."""
    steps = (torch.arange(len(sample), dtype=F64) + 0.5) / len(sample)
    return (distribution - steps).abs().max().item() * math.sqrt(len(sample))


def split_rai_rows(fan_in: int, share: float, rows: int = 40000) -> tuple[Tensor, Tensor, Tensor]:
    """Index and value of each row's Beta entry, and the row divided by std / √fan_in.

    With a standard deviation of 1e−9 the Beta entry is the one that is not tiny.
    """
    drawn = rai_rows((rows, fan_in + 1), seeded(), std=1e-9, share=share)
    value, chosen = drawn.max(-1)
    return chosen, value, drawn / 1e-9 * math.sqrt(fan_in)


@pytest.mark.parametrize("fan_in", [1, 4, 16])
def test_kaiming_has_the_distribution_of_nn_linear(fan_in: int) -> None:
    rows = kaiming_rows((3, 4000, fan_in + 1), seeded())
    torch.manual_seed(0)
    linear = nn.Linear(fan_in, 12000, dtype=F64)
    bound = 1 / math.sqrt(fan_in)
    for ours, theirs in ((rows[..., :-1], linear.weight), (rows[..., -1], linear.bias)):
        for sample in (ours.flatten(), theirs.detach().flatten()):
            assert sample.abs().max() <= bound
            assert sample.var().item() == pytest.approx(bound**2 / 3, rel=0.05)
            ordered = sample.sort().values
            assert ks_distance(ordered, (ordered / bound + 1) / 2) < KS_BOUND


@pytest.mark.parametrize("fan_in", [1, 2, 4])
@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_one_entry_of_each_rai_row_chosen_uniformly_is_beta_2_1(fan_in: int, share: float) -> None:
    chosen, value, _ = split_rai_rows(fan_in, share)
    n = fan_in + 1
    frequency = chosen.bincount(minlength=n).double() / len(chosen)
    assert (frequency - 1 / n).abs().max() < 4.5 * math.sqrt((1 - 1 / n) / n / len(chosen))
    ordered = value.sort().values  # Beta(2, 1): x² is the distribution function
    assert ks_distance(ordered, ordered**2) < KS_BOUND
    assert value.mean().item() == pytest.approx(2 / 3, abs=0.005)


@pytest.mark.parametrize("fan_in", [2, 4])
@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_the_other_entries_are_gaussian_less_a_share_of_their_mean(fan_in: int, share: float) -> None:
    n = fan_in + 1
    chosen, _, rows = split_rai_rows(fan_in, share)
    # g_i − k·mean(g) for independent unit g: variance 1 + (k² − 2k)/n, covariance (k² − 2k)/n.
    covariance = (share**2 - 2 * share) / n
    for i in range(n):
        for j in range(i + 1):
            both = rows[(chosen != i) & (chosen != j)]
            expected = covariance + (1.0 if i == j else 0.0)
            assert (both[:, i] * both[:, j]).mean().item() == pytest.approx(expected, abs=0.05)
    others = rows[chosen != 0][:, 0].sort().values / math.sqrt(1 + covariance)
    assert ks_distance(others, torch.special.ndtr(others)) < KS_BOUND


def test_raai_entries_are_as_anti_correlated_as_n_entries_can_be() -> None:
    # A row of n that sums to zero has correlations of −1/(n−1); the replaced entry is minus the sum of the others.
    chosen, _, rows = split_rai_rows(4, share=1.0)
    others = rows[chosen == 4][:, :4]
    correlation = torch.corrcoef(others.T)
    off_diagonal = correlation[~torch.eye(4, dtype=torch.bool)]
    torch.testing.assert_close(off_diagonal, torch.full_like(off_diagonal, -1 / 4), rtol=0, atol=0.04)


def test_rai_uses_the_published_standard_deviation() -> None:
    assert RAI_STD == 0.6007
    rows = rai_rows((200, 1000, 10), seeded())
    below_zero = rows[rows < 0]  # half of the Gaussian entries, none of the others
    assert below_zero.square().mean().item() == pytest.approx(RAI_STD**2 / 9, rel=0.01)


@pytest.mark.parametrize("draw", [kaiming_rows, rai_rows])
def test_the_generator_decides_the_draw(draw: Any) -> None:
    state = torch.random.get_rng_state()
    assert torch.equal(draw((3, 5), seeded(1)), draw((3, 5), seeded(1)))
    assert not torch.equal(draw((3, 5), seeded(1)), draw((3, 5), seeded(2)))
    assert torch.equal(torch.random.get_rng_state(), state)


@pytest.mark.parametrize("start", STARTS)
@pytest.mark.parametrize("domain", [UNIT, TWO])
def test_batched_replicas_are_the_plain_networks(domain: Any, start: Any) -> None:
    net = DenseNetwork(domain, (5.0, 9.0), width=6, depth=3, initialization=start, replicas=4, generator=seeded())
    x = torch.randn(30, len(domain), generator=seeded(), dtype=F64)
    y = net(x)
    assert y.shape == (30, 4)
    for replica in range(4):
        plain = net.to_sequential(replica)
        assert [type(layer) for layer in plain] == [nn.Linear, nn.ReLU] * 3 + [nn.Linear]
        assert [layer.out_features for layer in plain if isinstance(layer, nn.Linear)] == [6, 6, 6, 1]
        torch.testing.assert_close(plain(x)[:, 0], y[:, replica], rtol=0, atol=1e-13)
        with torch.no_grad():
            for parameter in plain.parameters():
                parameter.zero_()
    assert torch.equal(net(x), y)


def test_a_row_holds_the_weights_and_the_bias_of_one_neuron() -> None:
    rows = kaiming_rows((3, 5, 3), seeded())
    net = DenseNetwork(TWO, width=5, depth=1, replicas=3, generator=seeded())
    x = torch.randn(4, 2, generator=seeded(1), dtype=F64)
    hidden = torch.einsum("roi,bi->bro", rows, torch.cat([x, torch.ones(4, 1, dtype=F64)], 1)).relu()
    last = rai_rows((3, 1, 6), seeded(2))
    with torch.no_grad():
        net.weight[1].copy_(last[..., :-1])
        net.bias[1].copy_(last[..., -1:])
    torch.testing.assert_close(net(x), (hidden * last[:, 0, :-1]).sum(-1) + last[:, 0, -1])


def test_the_loss_of_one_replica_moves_no_other() -> None:
    net = DenseNetwork(UNIT, initialization="rai", replicas=3, generator=seeded())
    net(torch.rand(20, 1, dtype=F64))[:, 1].square().sum().backward()
    for parameter in net.parameters():
        assert parameter.grad is not None
        assert (parameter.grad[[0, 2]] == 0).all()
    assert net.bias[-1].grad is not None
    assert net.bias[-1].grad[1].abs().sum() > 0


def dead_share(start: Any) -> float:
    """Share of 2000 networks, 4 wide and 5 deep, that are constant on [0, 1]."""
    net = DenseNetwork(UNIT, initialization=start, replicas=2000, generator=seeded())
    y = net(torch.linspace(0, 1, 101, dtype=F64)[:, None])
    return (y.amax(0) - y.amin(0) < 1e-12).double().mean().item()


def test_about_a_fifth_of_narrow_kaiming_networks_are_born_dead_and_asymmetry_prevents_it() -> None:
    assert 0.15 < dead_share("kaiming") < 0.28
    assert dead_share("rai") < 0.03
    assert dead_share("raai") < 0.03


@pytest.mark.parametrize("depth", [1, 5])
def test_it_is_compared_with_a_constructed_network_of_its_depth(depth: int) -> None:
    net = DenseNetwork(UNIT, depth=depth)
    assert net.segments == 2**depth
    assert net.parameterization == "weights"


def test_a_state_dict_restores_the_function() -> None:
    x = torch.rand(9, 2, dtype=F64)
    source, net = (DenseNetwork(TWO, replicas=3, generator=seeded(seed)) for seed in (1, 2))
    file = io.BytesIO()
    torch.save(source.state_dict(), file)
    file.seek(0)
    net.load_state_dict(torch.load(file, weights_only=True))
    assert torch.equal(net(x), source(x))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"width": 0}, "width must be at least 1, got 0"),
        ({"depth": 0}, "depth must be at least 1, got 0"),
        ({"replicas": -1}, "replicas must be at least 1, got -1"),
        ({"initialization": "he"}, "initialization must be one of kaiming, rai, raai, got 'he'"),
        ({"domain": {"x": (1.0, 0.0)}}, "domain of x"),
        ({"target_range": (1.0, 0.0)}, "target_range"),
    ],
)
def test_an_argument_outside_its_range_is_named_in_one_line(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as raised:
        DenseNetwork(**{"domain": UNIT, **arguments})
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("share", [-0.1, 1.5, math.nan])
def test_a_share_outside_zero_to_one_is_refused(share: float) -> None:
    with pytest.raises(ValueError, match="raai_share"):
        DenseNetwork(UNIT, initialization="raai", raai_share=share)
