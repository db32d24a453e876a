from __future__ import annotations

import copy
import io
import itertools
import math
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from lit_triwave.analysis.regions import count_linear_regions
from lit_triwave.construction.triangle import nodes, theorem31_scales, wave_form
from lit_triwave.nn.bank import _WEIGHT_PARAMETERS, PEAK_PARAMETERS, TriangleBank

F64 = torch.float64
STAGES = [None, "blocks", "dense"]


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def new_bank(shape: Any = (2, 3), depth: int = 4, released: str | None = None, **options: Any) -> TriangleBank:
    """A bank with random peaks, scales and affine part; after a release its weights are changed at random."""
    seed = options.pop("seed", 0)
    bank = TriangleBank(shape, depth, generator=seeded(seed), **{"dtype": F64, **options})
    generator = seeded(seed + 1)
    with torch.no_grad():
        for name in PEAK_PARAMETERS[1:]:
            parameter = getattr(bank, name)
            parameter += 0.3 * torch.randn(parameter.shape, generator=generator, dtype=F64).to(parameter)
        if released is not None:
            bank.release(released)  # type: ignore[arg-type]
            for parameter in bank.parameters():
                parameter += 0.05 * torch.randn(parameter.shape, generator=generator, dtype=F64).to(parameter)
    return bank


def points(bank: TriangleBank, batch: int = 50) -> Tensor:
    return torch.rand(batch, *bank.shape, generator=seeded(7), dtype=F64).to(bank.sign)


def parameter_count(bank: TriangleBank) -> int:
    return sum(parameter.numel() for parameter in bank.parameters())


def train(bank: TriangleBank, steps: int, lr: float, of: Callable[[Tensor], Tensor] = lambda u: u**3) -> list[float]:
    """Losses of full-batch Adam on 100 equally spaced points."""
    u = torch.linspace(0, 1, 100, dtype=bank.sign.dtype).reshape(-1, *[1] * len(bank.shape)).expand(-1, *bank.shape)
    optimizer = torch.optim.Adam(bank.parameters(), lr=lr)
    losses = []
    for _ in range(steps):
        loss = (bank(u) - of(u)).square().mean(0).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def jacobian(bank: TriangleBank, u: Tensor) -> Tensor:
    """∂ output / ∂ input at one point u of shape `shape`, shape (*shape, *shape)."""
    return torch.autograd.functional.jacobian(lambda v: bank(v[None])[0], u)


@pytest.mark.parametrize(
    ("shape", "expected"), [(1, (1,)), (3, (3,)), ((3,), (3,)), ([2, 3], (2, 3)), ((2, 1, 3),) * 2]
)
def test_a_bank_maps_its_shape_to_its_shape(shape: Any, expected: tuple[int, ...]) -> None:
    bank = TriangleBank(shape, 3)
    assert bank.shape == expected
    assert bank.peaks.shape == (*expected, 4)
    assert bank.scales.shape == (*expected, 3)
    for batch in (0, 1, 5):
        assert bank(torch.rand(batch, *expected)).shape == (batch, *expected)
    with pytest.raises(ValueError, match="u must have shape \\(batch, "):
        bank(torch.rand(5, *expected, 2))


@pytest.mark.parametrize("theorem31", [True, False])
def test_a_bank_computes_the_wave_form_of_its_peaks_and_scales(theorem31: bool) -> None:
    bank = new_bank(curvature=["convex", "concave", "concave"], theorem31=theorem31)
    u = points(bank)
    sign = torch.tensor([-1.0, 1.0, 1.0], dtype=F64).expand(2, 3)
    expected = wave_form(u, bank.peaks[..., :-1], bank.scales, bank.alpha, bank.beta, sign)
    torch.testing.assert_close(bank(u), expected, rtol=0, atol=0)


def test_a_new_bank_starts_from_alpha_0_beta_1_and_a_first_scale_of_one_quarter() -> None:
    bank = TriangleBank(3, 4, dtype=F64)
    assert (bank.alpha == 0).all()
    assert (bank.beta == 1).all()
    torch.testing.assert_close(bank.scales[:, 0], torch.full((3,), 0.25, dtype=F64))


@pytest.mark.parametrize(("curvature", "sign"), [("convex", 1), ("concave", -1)])
def test_curvature_is_that_of_the_function(curvature: Any, sign: int) -> None:
    bank = TriangleBank(1, 4, curvature=curvature, margin=0.1, generator=seeded(), dtype=F64)
    x = nodes(bank.peaks[..., :-1])[0].detach()
    slopes = bank(x[:, None])[:, 0].diff() / x.diff()
    assert (sign * slopes.diff() > 0).all()


@pytest.mark.parametrize("theorem31", [True, False])
@pytest.mark.parametrize(("curvature", "bend"), [("convex", 1), ("concave", -1)])
def test_a_quadratic_start_is_a_parabola_of_mean_0_and_variance_1_with_all_regions(
    curvature: Any, bend: int, theorem31: bool
) -> None:
    bank = TriangleBank(50, 8, curvature=curvature, theorem31=theorem31, dtype=F64)
    bank.start_quadratic(seeded())
    u = torch.linspace(0, 1, 2**8 + 1, dtype=F64)[:, None].expand(-1, 50)  # the nodes, where F is its limit
    with torch.no_grad():
        y = bank(u)
    assert torch.trapezoid(y, u, dim=0).abs().max() < 1e-12
    torch.testing.assert_close(torch.trapezoid(y.square(), u, dim=0), torch.ones(50, dtype=F64), rtol=1e-3, atol=0)
    torch.testing.assert_close(y.diff(n=3, dim=0), torch.zeros(254, 50, dtype=F64), rtol=0, atol=1e-12)
    assert bool((bend * y.diff(n=2, dim=0) > 0).all())
    vertices = y.argmin(0) if bend > 0 else y.argmax(0)
    assert len(vertices.unique()) > 20  # the subnetworks differ
    assert count_linear_regions(bank.subset(torch.tensor([3]))) == 2**8
    bank.release()
    with pytest.raises(RuntimeError, match="released"):
        bank.start_quadratic()


def test_drawn_peaks_are_uniform_between_the_margins() -> None:
    peaks = TriangleBank(5000, 3, margin=0.1, generator=seeded(), dtype=F64).peaks.detach().flatten().sort().values
    assert peaks[0] > 0.1
    assert peaks[-1] < 0.9
    # Kolmogorov-Smirnov: 1.95 / √n is exceeded once in a thousand.
    steps = (torch.arange(len(peaks), dtype=F64) + 0.5) / len(peaks)
    assert ((peaks - 0.1) / 0.8 - steps).abs().max() < 1.95 / math.sqrt(len(peaks))


def test_the_generator_decides_the_draw() -> None:
    one, same, other = (TriangleBank((2, 3), 4, generator=seeded(seed)).peaks for seed in (3, 3, 4))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    state = torch.random.get_rng_state()
    TriangleBank((2, 3), 4, generator=seeded())
    assert torch.equal(torch.random.get_rng_state(), state)


@settings(deadline=None)
@given(logit=st.floats(-1e30, 1e30), margin=st.floats(1e-3, 0.49))
def test_no_logit_brings_a_peak_past_the_margin(logit: float, margin: float) -> None:
    bank = TriangleBank(1, 2, margin=margin, dtype=F64)
    with torch.no_grad():
        bank.peak_logits.fill_(logit)
    rounding = 1e-15
    assert (bank.peaks >= margin - rounding).all()
    assert (bank.peaks <= 1 - margin + rounding).all()
    assert bank(torch.rand(5, 1, dtype=F64)).isfinite().all()


@pytest.mark.parametrize("theorem31", [True, False])
def test_peaks_can_be_set_and_free_scales_follow(theorem31: bool) -> None:
    bank = TriangleBank((2, 3), 4, theorem31=theorem31, dtype=F64)
    wanted = 0.02 + 0.96 * torch.rand(2, 3, 5, generator=seeded(), dtype=F64)
    bank.peaks = wanted
    torch.testing.assert_close(bank.peaks.detach(), wanted, rtol=0, atol=1e-14)
    expected = theorem31_scales(wanted, torch.full((2, 3), 0.25, dtype=F64))
    torch.testing.assert_close(bank.scales.detach(), expected, rtol=1e-12, atol=0)
    bank.peaks = torch.tensor(0.5)
    torch.testing.assert_close(bank.peaks.detach(), torch.full((2, 3, 5), 0.5, dtype=F64), rtol=0, atol=1e-15)


@pytest.mark.parametrize("margin", [0.21, 0.29])
def test_half_is_set_exactly_from_any_precision(margin: float) -> None:
    bank = TriangleBank(1, 4, margin=margin, dtype=F64)
    bank.peaks = torch.tensor(0.5)
    torch.testing.assert_close(bank.peaks.detach(), torch.full((1, 5), 0.5, dtype=F64), rtol=0, atol=1e-15)


@pytest.mark.parametrize("value", [0.0, 0.05, 0.95, 1.0, math.nan])
def test_peaks_at_or_beyond_the_margin_are_refused(value: float) -> None:
    bank = TriangleBank(2, 3, margin=0.05, dtype=F64)
    before = bank.peaks.clone()
    with pytest.raises(ValueError, match=r"above 0\.05 and below 0\.95, got"):
        bank.peaks = torch.tensor([0.5, 0.5, value, 0.5], dtype=F64)
    assert torch.equal(bank.peaks, before)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"shape": 0}, "shape .* got 0"),
        ({"shape": ()}, r"shape .* got \(\)"),
        ({"shape": (2, 0)}, r"shape .* got \(2, 0\)"),
        ({"depth": 0}, "depth must be at least 1, got 0"),
        ({"margin": 0.0}, r"margin must be in \[.*, 0.5\), got 0.0"),
        ({"margin": 0.5}, "margin must be .* got 0.5"),
        ({"margin": math.nan}, "margin must be .* got nan"),
        ({"curvature": "flat"}, "curvature must be 'convex' or 'concave', got 'flat'"),
        ({"curvature": ["convex"] * 2}, "curvature must broadcast"),
        ({"curvature": []}, "curvature"),
    ],
)
def test_an_argument_outside_its_range_is_named_in_one_line(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as raised:
        TriangleBank(**{"shape": 3, "depth": 2, **arguments})
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("theorem31", [True, False])
def test_free_scales_start_at_those_of_theorem31_and_are_parameters(theorem31: bool) -> None:
    bank = TriangleBank((2, 3), 4, theorem31=theorem31, generator=seeded(), dtype=F64)
    expected = theorem31_scales(bank.peaks, torch.full((2, 3), 0.25, dtype=F64))
    torch.testing.assert_close(bank.scales, expected, rtol=1e-12, atol=0)
    # Five peaks, α, β and one scale or four.
    assert parameter_count(bank) == 6 * (5 + 2 + (1 if theorem31 else 4))
    if not theorem31:
        (gradient,) = torch.autograd.grad(bank.scales.sum(), bank.log_scales)
        torch.testing.assert_close(gradient, bank.scales.detach())


def test_training_the_peaks_goes_through_the_scales_that_they_fix() -> None:
    # log s_1 − log s_0 = log(1 − a_1) + log a_2, and da/d logit = (a − m)·(1 − m − a) / (1 − 2m).
    bank = TriangleBank(1, 2, margin=0.1, generator=seeded(), dtype=F64)
    (gradient,) = torch.autograd.grad(bank.scales.log().diff().sum(), bank.peak_logits)
    a = bank.peaks.detach()[0]
    slope = (a - 0.1) * (0.9 - a) / 0.8
    torch.testing.assert_close(gradient[0], slope * torch.stack([0 * a[0], -1 / (1 - a[1]), 1 / a[2]]))


@pytest.mark.parametrize("depth", range(1, 15))
def test_every_depth_has_two_to_the_d_regions_before_and_after_training_the_peaks(depth: int) -> None:
    bank = TriangleBank(1, depth, curvature="concave" if depth % 2 else "convex", generator=seeded(depth), dtype=F64)
    assert count_linear_regions(bank) == 2**depth
    start = bank.peaks.clone()
    train(bank, steps=5, lr=0.1)
    assert (bank.peaks[..., 0] - start[..., 0]).abs() > 1e-3
    assert count_linear_regions(bank) == 2**depth


@pytest.mark.parametrize("theorem31", [True, False])
def test_pretraining_keeps_every_region_and_lowers_the_loss(theorem31: bool) -> None:
    bank = TriangleBank(1, 5, theorem31=theorem31, generator=seeded(), dtype=F64)
    losses = train(bank, steps=150, lr=0.05)
    assert losses[-1] < 0.01 * losses[0]
    assert count_linear_regions(bank) == 2**5


@pytest.mark.parametrize("kind", ["blocks", "dense"])
@pytest.mark.parametrize("theorem31", [True, False])
@pytest.mark.parametrize("shape", [1, 3, (2, 3), (2, 1, 2)])
@pytest.mark.parametrize("recruited", [False, True])
def test_release_keeps_the_function(kind: Any, theorem31: bool, shape: Any, recruited: bool) -> None:
    last = shape if isinstance(shape, int) else shape[-1]
    bank = new_bank(shape, 6, theorem31=theorem31, curvature=["convex", "concave", "convex"][:last])
    u = torch.cat([points(bank), torch.zeros(1, *bank.shape), torch.ones(1, *bank.shape)])
    before, peaks = bank(u), bank.peaks
    assert (bank.released, bank.parameterization) == (None, "peaks")
    bank.release(kind, recruited)
    assert (bank.released, bank.parameterization) == (kind, "weights")
    torch.testing.assert_close(bank(u), before, rtol=0, atol=1e-12)
    assert torch.equal(bank.peaks, peaks)
    assert [name for name, _ in bank.named_parameters()] == list(_WEIGHT_PARAMETERS)
    assert all(parameter.requires_grad and parameter.is_leaf for parameter in bank.parameters())


@pytest.mark.parametrize("recruited", [False, True])
@pytest.mark.parametrize("kind", ["blocks", "dense"])
def test_a_released_depth_one_bank_is_the_same_function(kind: Any, recruited: bool) -> None:
    bank = new_bank(3, 1)
    u = points(bank)
    before = bank(u)
    bank.release(kind, recruited)
    torch.testing.assert_close(bank(u), before, rtol=0, atol=1e-13)


@pytest.mark.parametrize("depth", [1, 2, 5])
def test_recruited_neurons_add_kinks_as_soon_as_they_are_trained(depth: int) -> None:
    bank = TriangleBank(1, depth, margin=0.1, generator=seeded(depth), dtype=F64)
    bank.release(recruited=True)
    assert count_linear_regions(bank) == 2**depth  # nothing passes on what they make
    bank(torch.linspace(0, 1, 200, dtype=F64)[:, None]).square().mean().backward()
    # One more neuron in every layer, and in the first also `sum`: what they pass on has a gradient.
    gradients = [bank.output_weight.grad[0, 3].abs()]
    if depth == 1:
        gradients.append(bank.output_weight.grad[0, 0].abs())
    else:
        gradients += [*bank.hidden_weight.grad[0, :, :3, 3].abs().amax(-1), bank.hidden_weight.grad[0, 0, 1, 0].abs()]
    assert min(gradients) > 0
    with torch.no_grad():
        bank.output_weight[0, 3] += 0.1
    assert count_linear_regions(bank) > 2**depth


@settings(max_examples=20, deadline=None)
@given(n=st.integers(1, 4), replicas=st.integers(1, 3), depth=st.integers(1, 5))
def test_released_parameters_are_those_of_the_layers(n: int, replicas: int, depth: int) -> None:
    def linear(fan_in: int, fan_out: int) -> int:
        return fan_out * (fan_in + 1)

    for kind, nets, width in (("blocks", n, 4), ("dense", 1, 4 * n)):
        bank = TriangleBank((replicas, n), depth)
        bank.release(kind)  # type: ignore[arg-type]
        ends = width // 4
        one = linear(ends, width) + (depth - 1) * linear(width, width) + linear(width, ends)
        assert parameter_count(bank) == replicas * nets * one


def test_one_released_subnetwork_of_depth_five_has_93_parameters() -> None:
    bank = TriangleBank(1, 5)
    bank.release()
    assert parameter_count(bank) == 93


@pytest.mark.parametrize("kind", ["blocks", "dense"])
def test_released_weights_can_be_trained(kind: Any) -> None:
    bank = TriangleBank((2, 3), 4, generator=seeded(), dtype=F64)
    bank.release(kind)
    losses = train(bank, steps=60, lr=3e-3)
    assert losses[-1] < 0.2 * losses[0]


def test_a_released_bank_is_not_released_again_and_has_no_scales_or_peaks_to_set() -> None:
    bank = TriangleBank(2, 3)
    with pytest.raises(ValueError, match="release must be 'blocks' or 'dense', got 'all'"):
        bank.release("all")  # type: ignore[arg-type]
    assert bank.released is None
    bank.release("dense")
    with pytest.raises(RuntimeError, match="already released as 'dense'"):
        bank.release("blocks")
    with pytest.raises(RuntimeError, match="released"):
        bank.peaks = torch.tensor(0.5)
    with pytest.raises(RuntimeError, match="released"):
        _ = bank.scales


@pytest.mark.parametrize("released", STAGES)
def test_only_dense_release_lets_subnetworks_interact_and_never_replicas(released: str | None) -> None:
    bank = new_bank((2, 3), 3, released)
    # One point may lie where the ReLUs of a subnetwork are off; together these do not.
    total = sum(jacobian(bank, u).abs() for u in points(bank, 10))
    assert isinstance(total, Tensor)
    for r, other in itertools.product(range(2), range(2)):
        block = total[r, :, other]
        if r != other:
            assert (block == 0).all()
        elif released == "dense":
            assert (block > 0).all()
        else:
            assert (block.diagonal() > 0).all()
            assert (block - torch.diag(block.diagonal()) == 0).all()


def test_an_off_diagonal_weight_couples_just_the_two_subnetworks_it_joins() -> None:
    bank = new_bank((2, 3), 3)
    bank.release("dense")
    u = points(bank, 10)
    before = sum(jacobian(bank, v).abs() for v in u)
    with torch.no_grad():
        bank.hidden_weight[1, 0, 4 * 2, 4 * 0 + 1] = (
            0.1  # replica 1, from `t1` of subnetwork 0 to `sum` of subnetwork 2
        )
    changed = (sum(jacobian(bank, v).abs() for v in u) - before).abs() > 1e-9
    assert changed.nonzero().tolist() == [[1, 2, 1, 0]]


@pytest.mark.parametrize("theorem31", [True, False])
@pytest.mark.parametrize(("saved", "present"), list(itertools.product(STAGES, STAGES)))
def test_loading_brings_any_bank_into_the_saved_stage(saved: Any, present: Any, theorem31: bool) -> None:
    source = new_bank(released=saved, theorem31=theorem31)
    model = nn.ModuleDict({"bank": new_bank(released=present, theorem31=theorem31, seed=5)})
    file = io.BytesIO()
    torch.save(nn.ModuleDict({"bank": source}).state_dict(), file)
    file.seek(0)
    model.load_state_dict(torch.load(file, weights_only=True))
    bank = model["bank"]
    assert isinstance(bank, TriangleBank)
    assert bank.released == saved
    assert torch.equal(bank(points(bank)), source(points(source)))
    assert torch.equal(bank.peaks, source.peaks)
    names = dict(source.named_parameters())
    assert {name for name, _ in bank.named_parameters()} == set(names)
    assert all(parameter.requires_grad and parameter.grad is None for parameter in bank.parameters())
    if saved is None:
        bank.release()
    losses = train(bank, steps=20, lr=1e-3)
    assert losses[-1] < losses[0]


def test_a_state_dict_of_another_shape_is_refused() -> None:
    for released in STAGES:
        with pytest.raises(RuntimeError, match="size mismatch"):
            new_bank((2, 3), 4).load_state_dict(new_bank((2, 4), 4, released).state_dict())
        with pytest.raises(RuntimeError, match="size mismatch"):
            new_bank((2, 3), 4).load_state_dict(new_bank((2, 3), 5, released).state_dict())


@pytest.mark.parametrize("released", ["blocks", "dense"])
def test_a_partial_state_dict_leaves_the_bank_as_it_is(released: str) -> None:
    bank = new_bank(released=released)
    before = bank(points(bank))
    bank.load_state_dict({}, strict=False)
    assert bank.released == released
    assert torch.equal(bank(points(bank)), before)


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda bank: pickle.loads(pickle.dumps(bank))])
@pytest.mark.parametrize("released", STAGES)
def test_copies_are_equal_and_independent(duplicate: Callable[[TriangleBank], TriangleBank], released: Any) -> None:
    bank = new_bank(released=released, curvature=["convex", "concave", "convex"])
    u = points(bank)
    before, twin = bank(u), duplicate(bank)
    assert twin.released == released
    assert torch.equal(twin(u), before)
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter += 0.1
    assert not torch.equal(twin(u), before)
    assert torch.equal(bank(u), before)


@pytest.mark.parametrize("released", STAGES)
@pytest.mark.parametrize("index", [0, 1, -1])
def test_select_takes_out_one_replica(released: Any, index: int) -> None:
    bank = new_bank((3, 2), released=released, curvature=["convex", "concave"], theorem31=False)
    u = points(bank)
    before, one = bank(u), bank.select(index)
    assert (one.shape, one.released) == ((2,), released)
    torch.testing.assert_close(one(u[:, index]), before[:, index], rtol=0, atol=1e-15)
    with torch.no_grad():
        for parameter in one.parameters():
            parameter.zero_()
    assert torch.equal(bank(u), before)


def test_select_needs_a_dimension_of_replicas() -> None:
    with pytest.raises(ValueError, match=r"shape \(3,\)"):
        TriangleBank(3, 2).select(0)


def test_select_leaves_the_random_numbers_alone() -> None:
    bank, state = new_bank(), torch.random.get_rng_state()
    bank.select(0)
    assert torch.equal(torch.random.get_rng_state(), state)


@pytest.mark.parametrize("released", STAGES)
@pytest.mark.parametrize("shape", [1, 3, (2, 3)])
@pytest.mark.parametrize("depth", [1, 4])
def test_to_sequential_is_the_bank_in_plain_layers(released: Any, shape: Any, depth: int) -> None:
    bank = new_bank(shape, depth, released)
    u = points(bank)
    plain = bank.to_sequential()
    assert [type(layer) for layer in plain] == [nn.Linear, nn.ReLU] * depth + [nn.Linear]
    expected = bank(u)
    torch.testing.assert_close(plain(u.flatten(1)), expected.flatten(1), rtol=0, atol=1e-12)
    with torch.no_grad():
        for parameter in plain.parameters():
            parameter.zero_()
    assert torch.equal(bank(u), expected)
    for parameter in bank.parameters():
        assert parameter.grad is None


@pytest.mark.parametrize("released", STAGES)
def test_inputs_outside_the_unit_interval_are_clamped(released: Any) -> None:
    bank = new_bank(released=released)
    u = torch.tensor([-3.0, -1e-9, 0.0, 1.0, 1 + 1e-9, 40.0], dtype=F64)[:, None, None].expand(-1, 2, 3)
    torch.testing.assert_close(bank(u), bank(u.clamp(0, 1)), rtol=0, atol=0)
    assert bank(torch.full((1, 2, 3), math.nan, dtype=F64)).isnan().all()


@pytest.mark.parametrize("released", STAGES)
def test_float32_gives_the_function_to_its_precision(released: Any) -> None:
    bank = new_bank(released=released)
    u = points(bank)
    expected = bank(u)
    single = copy.deepcopy(bank).float()
    assert single(u.float()).dtype == torch.float32
    torch.testing.assert_close(single(u.float()).double(), expected, rtol=0, atol=2e-5)
    assert {t.dtype for t in single.state_dict().values()} == {torch.float32}
    assert TriangleBank(2, 3, dtype=torch.float32).peaks.dtype == torch.float32
    single.load_state_dict(bank.state_dict())
    assert single.sign.dtype == single(u.float()).dtype == torch.float32


@pytest.mark.parametrize("kind", ["blocks", "dense"])
@pytest.mark.parametrize("depth", [1, 2])
def test_every_trainable_parameter_of_a_released_bank_has_a_gradient(depth: int, kind: str) -> None:
    bank = TriangleBank(2, depth)
    bank.release(kind)  # type: ignore[arg-type]
    bank(torch.rand(5, 2)).sum().backward()
    for name, parameter in bank.named_parameters():
        assert (parameter.grad is not None) == parameter.requires_grad == (parameter.numel() > 0), name


@pytest.mark.parametrize("recruited", [False, True])
def test_rounding_does_not_decide_the_gradient_at_the_end_of_the_domain(recruited: bool) -> None:
    end = torch.ones(1, 50, dtype=torch.float64)
    gradients = []
    for shift in (0.0, 1e-15):
        bank = TriangleBank([50], 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        with torch.no_grad():
            bank.peak_logits += shift
        bank.release("blocks", recruited)
        bank(end).sum().backward()
        gradients.append(bank.hidden_weight.grad)
    torch.testing.assert_close(*gradients, rtol=0, atol=1e-9)
