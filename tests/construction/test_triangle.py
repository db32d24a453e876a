from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor

from lit_triwave.construction.triangle import (
    SUM_SLACK,
    BlockWeights,
    block_weights,
    network_form,
    nodes,
    recruit,
    theorem31_scales,
    triangle,
    wave_form,
    waves,
)
from lit_triwave.construction.wave_kernels import WaveSum

F64 = torch.float64
HALF = torch.tensor(0.5, dtype=F64)
ANY_PEAK = st.floats(1e-2, 1 - 1e-2)
SIGNS = st.sampled_from([-1.0, 1.0])
# Rounding decides some of these, so the examples are not random. They still depend on the modules that are loaded:
# Hypothesis takes constants from those. So bounds have to hold for every example, not only for those of today.
reproducible = settings(max_examples=60, deadline=None, derandomize=True)


def tensor(*values: float) -> Tensor:
    return torch.tensor(values, dtype=F64)


def scalar(value: float) -> Tensor:
    return torch.tensor(value, dtype=F64)


def random_peaks(*shape: int, seed: int = 0, margin: float = 0.1) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return margin + (1 - 2 * margin) * torch.rand(shape, generator=generator, dtype=F64)


def smooth(peaks: Tensor, sign: float = -1.0, depth: int | None = None) -> tuple[Tensor, ...]:
    """Arguments of a form, for d + 1 peaks, s_0 = 1/4, α = 0.3, β = −0.7, with only `depth` waves."""
    first = torch.full(peaks.shape[:-1], 0.25, dtype=peaks.dtype)
    scales = theorem31_scales(peaks, first)[..., :depth]
    return peaks[..., :-1][..., :depth], scales, 0 * first + 0.3, 0 * first - 0.7, sign * torch.ones_like(first)


def piece_slopes(peaks: Tensor, scales: Tensor, alpha: Tensor, beta: Tensor, sign: Tensor) -> tuple[Tensor, Tensor]:
    """Nodes, and the slope of F on each of the pieces between them."""
    x = nodes(peaks)
    return x, wave_form(x, peaks, scales, alpha, beta, sign).diff() / x.diff()


def kinks_at_peaks_of(i: int, peaks: Tensor, depth: int, scales: Tensor) -> Tensor:
    """|jump of the slope| of a truncation after `depth` waves at all peaks of W_i, that of s_i·W_i alone being 1."""
    arguments = peaks[:depth], scales[:depth], scalar(0.0), scalar(1.0), scalar(1.0)
    x, slopes = piece_slopes(*arguments)
    alone = scales[: i + 1] * torch.eye(i + 1, dtype=F64)[i]
    own_x, own_slopes = piece_slopes(peaks[: i + 1], alone, *arguments[2:])
    step = 2 ** (depth - i - 1)
    assert torch.equal(x[::step], own_x)
    places = range(1, 2 ** (i + 1), 2)  # every other node of W_i is a peak
    return torch.stack([slopes.diff()[k * step - 1] / own_slopes.diff()[k - 1] for k in places])


@reproducible
@given(a=ANY_PEAK, t=st.floats(0, 1))
def test_triangle_rises_from_zero_to_its_peak_and_falls_back(a: float, t: float) -> None:
    peak = scalar(a)
    assert triangle(scalar(0.0), peak) == 0
    assert triangle(scalar(1.0), peak) == 0
    assert triangle(peak, peak) == pytest.approx(1, abs=1e-14)
    assert triangle(t * peak, peak) == pytest.approx(t, abs=1e-14)
    assert triangle(1 - t * (1 - peak), peak) == pytest.approx(t, abs=1e-12)


@pytest.mark.parametrize("depth", [1, 2, 6, 10])
def test_peaks_of_one_half_make_telgarskys_saw(depth: int) -> None:
    # 2^(d−1) equal teeth: |distance to the nearest even multiple of 2^−d| · 2^d.
    x = torch.linspace(0, 1, 3001, dtype=F64)
    phase = (x * 2**depth) % 2
    saw = torch.minimum(phase, 2 - phase)
    torch.testing.assert_close(waves(x, HALF.expand(depth))[:, -1], saw, rtol=0, atol=1e-12)


@pytest.mark.parametrize("depth", [1, 4, 9])
def test_half_peaks_and_theorem31_give_yarotskys_scales(depth: int) -> None:
    scales = theorem31_scales(HALF.expand(depth + 1), scalar(0.25))
    assert torch.equal(scales, 0.25 ** torch.arange(1, depth + 1, dtype=F64))


@pytest.mark.parametrize("depth", [1, 3, 5, 10])
@pytest.mark.parametrize("form", ["waves", "network"])
def test_yarotskys_square_is_exact_at_the_dyadic_nodes_and_4_to_the_minus_d_minus_1_between(
    depth: int, form: str
) -> None:
    peaks, scales = HALF.expand(depth), 0.25 ** torch.arange(1, depth + 1, dtype=F64)
    arguments = peaks, scales, scalar(0.0), scalar(1.0), scalar(-1.0)
    dyadic = torch.arange(2**depth + 1, dtype=F64) / 2**depth
    middle = (dyadic[1:] + dyadic[:-1]) / 2

    def f(x: Tensor) -> Tensor:
        return wave_form(x, *arguments) if form == "waves" else network_form(x, block_weights(*arguments))

    torch.testing.assert_close(f(dyadic), dyadic**2, rtol=0, atol=1e-15)
    # A chord of x² over a width h lies h²/4 above its middle.
    torch.testing.assert_close(f(middle) - middle**2, torch.full_like(middle, 0.25 ** (depth + 1)), rtol=0, atol=1e-15)


@reproducible
@given(peaks=st.lists(ANY_PEAK, min_size=2, max_size=8), first=st.floats(1e-3, 1e3))
def test_scales_follow_theorem31(peaks: list[float], first: float) -> None:
    scales = theorem31_scales(tensor(*peaks), scalar(first)).tolist()
    assert scales[0] == first
    assert len(scales) == len(peaks) - 1
    for i, (s, following) in enumerate(itertools.pairwise(scales)):
        assert following == pytest.approx(s * (1 - peaks[i + 1]) * peaks[i + 2], rel=1e-12)


@pytest.mark.parametrize("i", [0, 1, 2])
def test_theorem31_closes_the_kinks_at_the_peaks_of_every_wave(i: int) -> None:
    # By hand: of the kink of s_i·W_i, the waves up to W_{d−1} leave the share ∏_{i+2 ≤ j ≤ d} (1 − a_j), at each peak.
    peaks = random_peaks(13, seed=i)
    scales = theorem31_scales(peaks, scalar(0.25))
    for depth in range(i + 1, 12):
        left = kinks_at_peaks_of(i, peaks, depth, scales)
        expected = (1 - peaks[i + 2 : depth + 1]).prod().expand_as(left)
        torch.testing.assert_close(left, expected, rtol=1e-6, atol=1e-9)
    assert (left < 0.02).all()


@pytest.mark.parametrize("factor", [0.9, 1.1])
def test_a_scale_off_theorem31_leaves_a_kink(factor: float) -> None:
    # The tail beyond W_0 cancels its kink; changed by a factor, it leaves 1 − factor of it.
    peaks = random_peaks(13, seed=1)
    scales = theorem31_scales(peaks, scalar(0.25))
    scales = torch.cat([scales[:1], factor * scales[1:]])
    left = kinks_at_peaks_of(0, peaks, 12, scales)
    assert left.item() == pytest.approx(1 - factor, abs=0.02)


@reproducible
@given(seed=st.integers(0, 2**32), depth=st.integers(1, 6), sign=SIGNS)
def test_theorem31_makes_every_truncation_strictly_convex_or_concave(seed: int, depth: int, sign: float) -> None:
    _, slopes = piece_slopes(*smooth(random_peaks(depth + 1, seed=seed), sign))
    assert (-sign * slopes.diff() > 0).all()


@pytest.mark.parametrize(("margin", "value_error", "gradient_error"), [(0.1, 1e-12, 1e-9), (0.01, 1e-11, 1e-7)])
@reproducible
@given(
    where=st.lists(st.floats(0, 1), min_size=2, max_size=13),
    first=st.floats(1e-2, 1e2),
    alpha=st.floats(-10, 10),
    beta=st.floats(-10, 10),
    sign=SIGNS,
    seed=st.integers(0, 2**32),
)
@example(where=[0.0] * 13, first=1.0, alpha=0.0, beta=0.0, sign=-1.0, seed=0)  # slopes up to 1 / margin¹²
def test_network_and_waves_are_one_function_with_one_gradient(
    margin: float,
    value_error: float,
    gradient_error: float,
    where: list[float],
    first: float,
    alpha: float,
    beta: float,
    sign: float,
    seed: int,
) -> None:
    # Depths 1 to 12; both ends and 200 random points; errors relative to the size of the function and of its gradient.
    generator = torch.Generator().manual_seed(seed)
    x = torch.cat([tensor(0.0, 1.0), torch.rand(200, generator=generator, dtype=F64)])
    direction = torch.randn(len(x), generator=generator, dtype=F64)
    peaks = margin + (1 - 2 * margin) * tensor(*where)
    leaves = [peaks[:-1], theorem31_scales(peaks, scalar(first)), scalar(alpha), scalar(beta)]
    values, gradients = [], []
    for form in (wave_form, lambda x, *arguments: network_form(x, block_weights(*arguments))):
        inputs = [leaf.clone().requires_grad_() for leaf in leaves]
        values.append(form(x, *inputs, scalar(sign)))
        gradients.append(torch.autograd.grad(values[-1] @ direction, inputs))
    size = 1 + abs(alpha) + abs(beta) + 2 * first
    torch.testing.assert_close(values[1], values[0], rtol=0, atol=value_error * size)
    # The derivative by a scale is a wave itself. It is as uncertain as x, times the slope of the wave: up to margin^−d.
    x.requires_grad_()
    (slopes,) = torch.autograd.grad(waves(x, peaks[:-1])[:, -1].sum(), x)
    of_scales = 100 * torch.finfo(F64).eps * float(direction.abs() @ slopes.abs())
    for uncertain, waves_gradient, network_gradient in zip((0.0, of_scales, 0.0, 0.0), *gradients, strict=True):
        bound = gradient_error * max(size, waves_gradient.abs().max().item()) + uncertain
        torch.testing.assert_close(network_gradient, waves_gradient, rtol=0, atol=bound)


@reproducible
@given(
    peaks=st.lists(ANY_PEAK, min_size=2, max_size=9),
    log_scales=st.lists(st.floats(-5, 5), min_size=9, max_size=9),
    beta=st.floats(-10, 10),
    sign=SIGNS,
)
def test_sum_neuron_stays_above_zero_in_every_layer(
    peaks: list[float], log_scales: list[float], beta: float, sign: float
) -> None:
    a, scales = tensor(*peaks), tensor(*log_scales[: len(peaks)]).exp()
    w = block_weights(a, scales, scalar(0.0), scalar(beta), scalar(sign))
    x = torch.linspace(0, 1, 501, dtype=F64)
    h = x[:, None] * w.input_weight + w.input_bias
    sums = [h[:, 0]]
    for layer, bias in zip(w.hidden_weight, w.hidden_bias, strict=True):
        h = h.relu() @ layer.T + bias
        sums.append(h[:, 0])
    assert min(s.min().item() for s in sums) >= SUM_SLACK * (1 - 1e-6)


def test_gradient_of_the_kernel_is_that_of_finite_differences() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(3, 7, generator=generator, dtype=F64, requires_grad=True)
    peaks = random_peaks(3, 4).requires_grad_()
    coefficients = torch.randn(3, 5, generator=generator, dtype=F64, requires_grad=True)
    alpha = torch.randn(3, generator=generator, dtype=F64, requires_grad=True)
    assert torch.autograd.gradcheck(WaveSum.apply, (x, peaks, coefficients, alpha))


def test_kernel_has_the_value_and_the_gradient_of_the_formula_left_to_autograd() -> None:
    x = torch.rand(50, 3, generator=torch.Generator().manual_seed(0), dtype=F64)
    leaves = [leaf.requires_grad_() for leaf in smooth(random_peaks(3, 6))[:4]]
    peaks, scales, alpha, beta = leaves
    formula = alpha + beta * x - (waves(x, peaks) * scales).sum(-1)
    kernel = wave_form(x, *leaves, torch.tensor([-1.0, -1.0, -1.0], dtype=F64))
    torch.testing.assert_close(kernel, formula, rtol=0, atol=1e-14)
    both = (torch.autograd.grad(y.square().sum(), leaves) for y in (formula, kernel))
    for expected, gradient in zip(*both, strict=True):
        torch.testing.assert_close(gradient, expected, rtol=1e-10, atol=1e-10)


def test_kernel_refuses_a_second_derivative_instead_of_returning_a_wrong_one() -> None:
    peaks = random_peaks(1, 3).requires_grad_()
    y = WaveSum.apply(torch.rand(1, 5, dtype=F64), peaks, torch.ones(1, 4, dtype=F64), torch.zeros(1, dtype=F64))
    (gradient,) = torch.autograd.grad(y.square().sum(), peaks, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()


@pytest.mark.parametrize("sign", [-1.0, 1.0])
def test_float32_gives_the_function_to_its_precision(sign: float) -> None:
    arguments = smooth(random_peaks(5, 7, margin=0.01), sign)
    x = torch.rand(300, 5, generator=torch.Generator().manual_seed(0), dtype=F64)
    single = [t.float() for t in arguments]
    for y in (wave_form(x.float(), *single), network_form(x.float(), block_weights(*single))):
        assert y.dtype == torch.float32
        torch.testing.assert_close(y.double(), wave_form(x, *arguments), rtol=0, atol=2e-5)


@pytest.mark.parametrize("shape", [(), (3,), (2, 3), (2, 1, 3)])
@pytest.mark.parametrize("batch", [0, 1, 11])
def test_any_leading_shape_is_the_same_as_one_subnetwork_after_another(shape: tuple[int, ...], batch: int) -> None:
    depth = 3
    peaks, scales, alpha, beta, _ = smooth(random_peaks(*shape, depth + 1))
    alpha, beta = alpha + random_peaks(*shape, seed=1), beta + random_peaks(*shape, seed=2)
    sign = 2.0 * (random_peaks(*shape, seed=3) > 0.5) - 1
    x = torch.rand(batch, *shape, generator=torch.Generator().manual_seed(0), dtype=F64)
    weights = block_weights(peaks, scales, alpha, beta, sign)
    expected_shapes = [(4,), (4,), (depth - 1, 4, 4), (depth - 1, 4), (4,), ()]
    assert [tuple(w.shape) for w in weights] == [(*shape, *rest) for rest in expected_shapes]
    together, network = wave_form(x, peaks, scales, alpha, beta, sign), network_form(x, weights)
    assert together.shape == network.shape == (batch, *shape)
    assert waves(x, peaks).shape == (batch, *shape, depth)
    assert nodes(peaks).shape == (*shape, 2**depth + 1)
    for i in itertools.product(*map(range, shape)):
        at = (slice(None), *i)
        alone = alpha[i] + beta[i] * x[at] + sign[i] * (waves(x[at], peaks[i]) @ scales[i])
        torch.testing.assert_close(together[at], alone, rtol=0, atol=1e-14)
        torch.testing.assert_close(network[at], alone, rtol=0, atol=1e-13)
        single = network_form(x[at], BlockWeights(*(w[i] for w in weights)))
        torch.testing.assert_close(network[at], single, rtol=0, atol=1e-14)


@reproducible
@given(peaks=st.lists(st.floats(0.05, 0.95), min_size=1, max_size=8))
def test_nodes_are_the_places_where_the_last_wave_is_zero_and_one_in_turn(peaks: list[float]) -> None:
    a = tensor(*peaks)
    x = nodes(a)
    assert x.shape == (2 ** len(peaks) + 1,)
    assert x[0] == 0
    assert x[-1] == 1
    assert (x.diff() > 0).all()
    expected = torch.arange(len(x), dtype=F64) % 2
    # A node known to 1e-16 has a value known to that times the slope there, 1 / (width of the piece) at most.
    torch.testing.assert_close(waves(x, a)[:, -1], expected, rtol=0, atol=1e-14 / x.diff().min().item())


def test_nodes_are_differentiable_in_the_peaks() -> None:
    assert torch.autograd.gradcheck(nodes, random_peaks(2, 4).requires_grad_())
    # The first piece ends at a_0·a_1·…·a_{d−1}.
    peaks = random_peaks(5).requires_grad_()
    (gradient,) = torch.autograd.grad(nodes(peaks)[1], peaks)
    torch.testing.assert_close(gradient, (peaks.prod() / peaks).detach())


@reproducible
@given(seed=st.integers(0, 2**32), depth=st.integers(1, 6), more=st.integers(1, 4), sign=SIGNS)
def test_deeper_waves_leave_the_function_at_the_nodes_as_it_is(seed: int, depth: int, more: int, sign: float) -> None:
    peaks = random_peaks(depth + more + 1, seed=seed)
    x = nodes(peaks[:depth])
    shallow, deep = (wave_form(x, *smooth(peaks, sign, d)) for d in (depth, depth + more))
    torch.testing.assert_close(deep, shallow, rtol=0, atol=1e-12)
    middle = (x[1:] + x[:-1]) / 2
    shallow, deep = (wave_form(middle, *smooth(peaks, sign, d)) for d in (depth, depth + more))
    assert (sign * (deep - shallow) > 0).all()


@settings(max_examples=60, deadline=None)
@given(
    peaks=st.lists(st.floats(0.05, 0.95), min_size=2, max_size=9),
    beta=st.floats(-2, 2),
    sign=st.sampled_from([-1.0, 1.0]),
)
def test_recruiting_neurons_changes_nothing_at_first(peaks: list[float], beta: float, sign: float) -> None:
    a = tensor(*peaks)
    scales = theorem31_scales(a, scalar(0.25))
    weights = block_weights(a[:-1], scales, scalar(0.3), scalar(beta), scalar(sign))
    recruited = recruit(weights, a[:-1])
    x = torch.linspace(0, 1, 501, dtype=torch.float64)
    torch.testing.assert_close(network_form(x, recruited), network_form(x, weights), rtol=0, atol=1e-12)
    assert [t.shape for t in recruited] == [t.shape for t in weights]
    assert not recruited.hidden_weight[..., 3].any() and not recruited.output_weight[..., 3].any()
