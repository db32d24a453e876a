from __future__ import annotations

import itertools
from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from lit_triwave.analysis.regions import breakpoints, count_linear_regions
from lit_triwave.construction.triangle import block_weights, nodes, theorem31_scales
from lit_triwave.nn.bank import TriangleBank

F64 = torch.float64


def linear(weight: Tensor, bias: Tensor) -> nn.Linear:
    layer = nn.Linear(weight.shape[1], weight.shape[0], dtype=weight.dtype)
    with torch.no_grad():
        layer.weight.copy_(weight)
        layer.bias.copy_(bias)
    return layer


def relu_net(*layers: nn.Linear) -> nn.Sequential:
    return nn.Sequential(*(m for layer in layers for m in (layer, nn.ReLU())))[:-1]


def wave_net(
    peaks: Tensor, scales: Tensor, alpha: float = 0.0, beta: float = 1.0, sign: float = -1.0, dtype: torch.dtype = F64
) -> nn.Sequential:
    w = block_weights(peaks, scales, *(torch.tensor(v, dtype=F64) for v in (alpha, beta, sign)))
    return relu_net(
        linear(w.input_weight[:, None], w.input_bias),
        *(linear(*layer) for layer in zip(w.hidden_weight, w.hidden_bias, strict=True)),
        linear(w.output_weight[None], w.output_bias[None]),
    ).to(dtype)


def random_peaks(depth: int, seed: int, margin: float = 1e-2) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return margin + (1 - 2 * margin) * torch.rand(depth + 1, generator=generator, dtype=F64)


def smooth_net(depth: int, seed: int, margin: float = 1e-2, sign: float = -1.0) -> nn.Sequential:
    peaks = random_peaks(depth, seed, margin)
    return wave_net(peaks[:-1], theorem31_scales(peaks, torch.tensor(0.3, dtype=F64)), sign=sign)


def side_by_side(f: nn.Sequential, g: nn.Sequential) -> nn.Sequential:
    """f + g as one network with block-diagonal hidden layers."""
    pairs = [(a, b) for a, b in zip(f, g, strict=True) if isinstance(a, nn.Linear) and isinstance(b, nn.Linear)]
    last = len(pairs) - 1
    layers = []
    for i, (a, b) in enumerate(pairs):
        join = torch.block_diag if 0 < i < last else lambda *w, dim=int(i == last): torch.cat(w, dim)
        bias = a.bias + b.bias if i == last else torch.cat([a.bias, b.bias])
        layers.append(linear(join(a.weight.detach(), b.weight.detach()), bias.detach()))
    return relu_net(*layers)


def kaiming_net(width: int, depth: int, seed: int, dtype: torch.dtype = F64, inputs: int = 1) -> nn.Sequential:
    torch.manual_seed(seed)
    sizes = [inputs, *[width] * depth, 1]
    return relu_net(*(nn.Linear(a, b, dtype=dtype) for a, b in itertools.pairwise(sizes)))


def rational_kinks(f: nn.Sequential, start: list[Fraction], end: list[Fraction]) -> list[Fraction]:
    """Kinks of f from start to end as fractions of the segment, in rational arithmetic, from its slopes."""
    line = [(Fraction(0), start), (Fraction(1), end)]
    for layer in f:
        if isinstance(layer, nn.Linear):
            rows = [[Fraction(w) for w in row] for row in layer.weight.tolist()]
            bias = [Fraction(b) for b in layer.bias.tolist()]
            line = [
                (
                    t,
                    [
                        sum((w * v for w, v in zip(row, values, strict=True)), b)
                        for row, b in zip(rows, bias, strict=True)
                    ],
                )
                for t, values in line
            ]
        else:
            cut = [line[0]]
            for (t0, v0), (t1, v1) in itertools.pairwise(line):
                for share in sorted({a / (a - b) for a, b in zip(v0, v1, strict=True) if a * b < 0}):
                    values = [a + share * (b - a) for a, b in zip(v0, v1, strict=True)]
                    cut.append((t0 + share * (t1 - t0), values))
                cut.append((t1, v1))
            line = [(t, [max(v, Fraction(0)) for v in values]) for t, values in cut]
    slopes = [(v1[0] - v0[0]) / (t1 - t0) for (t0, v0), (t1, v1) in itertools.pairwise(line)]
    return [line[i + 1][0] for i in range(len(slopes) - 1) if slopes[i] != slopes[i + 1]]


@pytest.mark.parametrize("depth", range(1, 15))
@pytest.mark.parametrize("margin", [1e-2, 1e-3])
def test_network_of_depth_d_has_two_to_the_d_pieces(depth: int, margin: float) -> None:
    for seed in range(4 if depth < 12 else 2):
        assert count_linear_regions(smooth_net(depth, seed, margin, sign=1.0 if seed % 2 else -1.0)) == 2**depth


def test_extreme_peaks_in_a_row_lose_no_piece() -> None:
    for ends in ([1e-3, 1e-3, 1e-3, 0.3], [1e-3, 0.9, 1e-3, 0.9], [0.9, 0.99, 0.5, 1e-3]):
        peaks = torch.tensor(ends * 3 + [0.5], dtype=F64)
        net = wave_net(peaks[:-1], theorem31_scales(peaks, torch.tensor(1.0, dtype=F64)))
        assert count_linear_regions(net) == 2**12


@settings(max_examples=80, deadline=None)
@given(
    peaks=st.lists(st.floats(1e-2, 1 - 1e-2), min_size=2, max_size=6),
    first=st.floats(1e-3, 1e3),
    alpha=st.floats(-10, 10),
    beta=st.floats(-10, 10),
    sign=st.sampled_from([-1.0, 1.0]),
)
def test_no_choice_of_peaks_sign_or_affine_part_changes_the_count(
    peaks: list[float], first: float, alpha: float, beta: float, sign: float
) -> None:
    a = torch.tensor(peaks, dtype=F64)
    scales = theorem31_scales(a, torch.tensor(first, dtype=F64))
    assert count_linear_regions(wave_net(a[:-1], scales, alpha, beta, sign)) == 2 ** len(scales)


@settings(max_examples=50, deadline=None)
@given(depth=st.integers(1, 9), seed=st.integers(0, 2**32), sign=st.sampled_from([-1.0, 1.0]))
def test_random_scales_do_not_change_the_count(depth: int, seed: int, sign: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    scales = torch.randn(depth, generator=generator, dtype=F64).mul(2).exp()
    assert count_linear_regions(wave_net(random_peaks(depth, seed)[:-1], scales, sign=sign)) == 2**depth


@pytest.mark.parametrize("depth", [1, 4, 8, 11])
def test_breakpoints_are_the_nodes(depth: int) -> None:
    expected = nodes(random_peaks(depth, seed=3, margin=0.05)[:-1])[1:-1]
    found = breakpoints(smooth_net(depth, seed=3, margin=0.05))
    assert found.dtype == F64
    torch.testing.assert_close(found, expected, rtol=1e-13, atol=1e-14)


def test_breakpoints_stay_in_order_where_float64_cannot_tell_them_apart() -> None:
    found = breakpoints(smooth_net(14, seed=0, margin=1e-3))
    assert len(found) == 2**14 - 1
    assert (found.diff() >= 0).all() and found[0] >= 0 and found[-1] <= 1


@pytest.mark.parametrize(("width", "depth"), [(4, 5), (8, 3), (8, 5), (16, 2)])
@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_ordinary_networks_agree_with_rational_arithmetic(width: int, depth: int, dtype: torch.dtype) -> None:
    for seed in range(6):
        net = kaiming_net(width, depth, seed, dtype)
        expected = torch.tensor(
            [float(-4 + 8 * t) for t in rational_kinks(net, [Fraction(-4)], [Fraction(4)])], dtype=F64
        )
        torch.testing.assert_close(breakpoints(net, -4.0, 4.0), expected, rtol=1e-11, atol=1e-11)


def test_trained_networks_agree_with_rational_arithmetic() -> None:
    counts = set()
    for seed in range(8):
        net = smooth_net(4, seed)
        torch.manual_seed(seed)
        with torch.no_grad():
            for parameter in net.parameters():
                parameter.add_(0.02 * torch.randn_like(parameter))
        expected = len(rational_kinks(net, [Fraction(0)], [Fraction(1)])) + 1
        assert count_linear_regions(net) == expected
        counts.add(expected)
    assert len(counts) > 2


def test_segment_between_points_agrees_with_rational_arithmetic() -> None:
    start, end = [-3.0, 1.5], [2.5, -4.0]
    for seed in range(6):
        net = kaiming_net(8, 3, seed, inputs=2)
        exact = rational_kinks(net, [Fraction(v) for v in start], [Fraction(v) for v in end])
        expected = torch.tensor([float(t) for t in exact], dtype=F64)
        torch.testing.assert_close(breakpoints(net, start, torch.tensor(end)), expected, rtol=1e-11, atol=1e-11)
        reverse = breakpoints(net, end, start)
        torch.testing.assert_close(1 - reverse.flip(0), expected, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("depth", [3, 7, 11])
def test_two_networks_side_by_side_have_the_kinks_of_both(depth: int) -> None:
    for seed in range(3):
        difference = side_by_side(smooth_net(depth, seed, sign=-1.0), smooth_net(depth, seed + 100, sign=1.0))
        assert count_linear_regions(difference) == 2 * 2**depth - 1


@pytest.mark.parametrize("depth", [1, 5, 9])
def test_kinks_at_the_same_places_merge(depth: int) -> None:
    f = smooth_net(depth, seed=1)
    assert count_linear_regions(side_by_side(f, f)) == 2**depth


@pytest.mark.parametrize("depth", [1, 5, 9])
def test_kinks_that_cancel_are_not_counted(depth: int) -> None:
    convex, concave = (smooth_net(depth, seed=1, sign=sign) for sign in (-1.0, 1.0))
    assert count_linear_regions(side_by_side(convex, concave)) == 1


def test_two_relus_that_cancel_make_no_kink() -> None:
    hidden = linear(torch.tensor([[1.0], [3.0], [1.0]], dtype=F64), torch.tensor([-0.1, -0.3, -0.7], dtype=F64))
    cancelling = relu_net(hidden, linear(torch.tensor([[3.0, -1.0, 1.0]], dtype=F64), torch.zeros(1, dtype=F64)))
    assert breakpoints(cancelling).tolist() == pytest.approx([0.7])


def test_float32_networks_are_judged_by_the_rounding_of_float32() -> None:
    for seed in range(10):
        peaks = random_peaks(6, seed, margin=0.05)
        scales = theorem31_scales(peaks, torch.tensor(0.3, dtype=F64))
        assert count_linear_regions(wave_net(peaks[:-1], scales, dtype=torch.float32)) == 2**6


def test_linear_constant_and_dead_networks_have_one_piece() -> None:
    assert count_linear_regions(nn.Sequential(nn.Linear(1, 1))) == 1
    assert count_linear_regions(relu_net(nn.Linear(1, 8), nn.Linear(8, 1)), 1e6, 2e6) == 1
    dead, constant = kaiming_net(8, 3, seed=0), kaiming_net(8, 3, seed=0)
    for parameter in dead[2].parameters():
        nn.init.constant_(parameter, -1.0)
    for parameter in constant[-1].parameters():
        nn.init.zeros_(parameter)
    assert count_linear_regions(dead, -4, 4) == count_linear_regions(constant, -4, 4) == 1


def test_interval_limits_the_count() -> None:
    net = smooth_net(6, seed=2)
    found = breakpoints(net)
    middle = (found[20] + found[21]).item() / 2
    assert count_linear_regions(net, 0.0, middle) == 22
    assert count_linear_regions(net, middle, 1.0) == 43
    torch.testing.assert_close(breakpoints(net, middle, 1.0), found[21:], rtol=1e-12, atol=1e-13)


def test_any_module_with_to_sequential_is_counted() -> None:
    class Wrapped(nn.Module):
        def to_sequential(self) -> nn.Sequential:
            return nn.Sequential(smooth_net(3, seed=0), nn.Identity())

    assert count_linear_regions(Wrapped()) == 8


@pytest.mark.parametrize(
    ("net", "ends", "error", "message"),
    [
        (nn.Linear(1, 1), (0.0, 1.0), TypeError, "`f` must be an nn.Sequential or have a method"),
        (
            nn.Sequential(nn.Linear(1, 1), nn.Tanh()),
            (0.0, 1.0),
            TypeError,
            "must be Linear, ReLU or Identity, got Tanh",
        ),
        (nn.Sequential(), (0.0, 1.0), ValueError, "must have a Linear layer"),
        (nn.Sequential(nn.Linear(1, 2)), (0.0, 1.0), ValueError, "one output, got 2"),
        (
            nn.Sequential(nn.Linear(1, 2), nn.Linear(3, 1)),
            (0.0, 1.0),
            ValueError,
            "Linear 1 must have as many inputs as Linear 0 has outputs, 2, got 3",
        ),
        (
            nn.Sequential(nn.Linear(2, 1)),
            (0.0, 1.0),
            ValueError,
            "must have 2 coordinates like the inputs of `f`, got 1",
        ),
        (
            nn.Sequential(nn.Linear(2, 1)),
            ([0.0] * 3, [1.0] * 3),
            ValueError,
            "must have 2 coordinates like the inputs of `f`, got 3",
        ),
        (nn.Sequential(nn.Linear(2, 1)), ([0.0, 1.0], [1.0]), ValueError, r"got \[0.0, 1.0\] and \[1.0\]"),
        (nn.Sequential(nn.Linear(2, 1)), ([0.0, 1.0], 1.0), ValueError, r"got \[0.0, 1.0\] and 1.0"),
        (nn.Sequential(nn.Linear(2, 1)), ([0.0, 1.0], [0.0, 1.0]), ValueError, "`lower` and `upper` must differ"),
        (nn.Sequential(nn.Linear(1, 1)), (1.0, 0.0), ValueError, "`lower` must be below `upper`, got 1.0 and 0.0"),
        (nn.Sequential(nn.Linear(1, 1)), (0.5, 0.5), ValueError, "`lower` must be below `upper`"),
        (nn.Sequential(nn.Linear(1, 1)), (0.0, float("inf")), ValueError, "must be finite"),
    ],
)
def test_what_cannot_be_counted_is_refused(
    net: nn.Module, ends: tuple[float, float], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message) as caught:
        count_linear_regions(net, *ends)
    assert "\n" not in str(caught.value)


def test_weights_that_are_not_finite_are_refused() -> None:
    net = smooth_net(2, seed=0)
    for parameter in net[2].parameters():
        nn.init.constant_(parameter, float("nan"))
    with pytest.raises(ValueError, match="the weights of Linear 1 must be finite"):
        count_linear_regions(net)


@pytest.mark.parametrize("depth", range(1, 15))
@pytest.mark.parametrize("theorem31", [True, False])
def test_a_bank_of_the_default_dtype_has_all_its_pieces(depth: int, theorem31: bool) -> None:
    generator = torch.Generator().manual_seed(depth)
    bank = TriangleBank(1, depth, theorem31=theorem31, generator=generator, dtype=torch.float32)
    assert count_linear_regions(bank) == 2**depth
    assert bank.peak_logits.dtype == torch.float32  # the bank itself is left as it was
