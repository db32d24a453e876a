"""Stacks against closed forms: the limit is a polynomial, and the build has the error that the formula predicts."""

from __future__ import annotations

import copy
from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lit_triwave.analysis.dead_units import relu_shares
from lit_triwave.analysis.regions import TooManyPieces, count_linear_regions
from lit_triwave.construction.quadratic import (
    quadratic_curvature,
    quadratic_features,
    quadratic_gradient,
    quadratic_jacobian,
)
from lit_triwave.modules.stages import PEAK_OPTIONS
from lit_triwave.nn.scaling import UnitScaling, interval
from lit_triwave.nn.stack import DEEPEST_STACK, StackNetwork
from lit_triwave.nn.stack_layers import check_layers, choose_layers, stack_parameters
from lit_triwave.optim import LeastSquares, LevenbergMarquardt, jacobian
from lit_triwave.optim.limit_problem import LimitProblem
from lit_triwave.optim.variable_projection import VariableProjection

F64 = torch.float64
PLANE = {"x": (-1.0, 1.0), "y": (-1.0, 1.0)}


def new_stack(layers: list[int], domain: Any = None, replicas: int = 2, seed: int = 0, **options: Any) -> StackNetwork:
    """A stack whose limit is a random polynomial of moderate size."""
    generator = torch.Generator().manual_seed(seed)
    network = StackNetwork(
        domain or PLANE, (-1.0, 1.0), layers=layers, replicas=replicas, generator=generator, **options
    )
    with torch.no_grad():
        for parameter in [*network.projection, *network.shift, network.output_weight, network.output_bias]:
            parameter.copy_(0.5 * torch.randn(parameter.shape, generator=generator, dtype=F64))
    return network


def points(count: int = 4000, variables: int = 2) -> Tensor:
    generator = torch.Generator().manual_seed(7)
    return 2 * torch.rand(count, variables, generator=generator, dtype=F64) - 1


def fitted(target: Any, layers: list[int], steps: int = 40, replicas: int = 3) -> tuple[StackNetwork, Tensor]:
    """A stack whose limit was trained on 800 points of a function of two variables, and its errors."""
    x = points(800)
    y = target(x)
    generator = torch.Generator().manual_seed(0)
    bounds = (float(y.min()), float(y.max()))
    network = StackNetwork(PLANE, bounds, layers=layers, replicas=replicas, generator=generator)
    problem = LimitProblem(network, x, y[:, None])
    optimizer = VariableProjection(network.parameters())
    for _ in range(steps):
        errors = optimizer.step(lambda: problem)
    return network, errors


def test_derivatives_along_a_step_are_those_of_differences() -> None:
    network = new_stack([2, 3])
    h, like = points(7).T.contiguous(), torch.Generator().manual_seed(1)
    parameters = [*network.projection, *network.shift, network.output_weight, network.output_bias]
    start = [p.detach() for p in parameters]
    step = [torch.randn(p.shape, generator=like, dtype=F64) for p in start]

    def output(*values: Tensor) -> Tensor:
        features, _ = quadratic_features(h, list(zip(values[:2], values[2:4], strict=True)))
        return torch.bmm(torch.cat([values[4], values[5][:, None]], 1)[:, None], features)[:, 0]

    layers, change = (list(zip(values[:2], values[2:4], strict=True)) for values in (start, step))
    curvature = quadratic_curvature(h, layers, start[4], change, step[4])
    length = 1e-4
    ahead, here, behind = (
        output(*(a + t * b for a, b in zip(start, step, strict=True))) for t in (length, 0.0, -length)
    )
    assert torch.allclose(curvature, (ahead - 2 * here + behind) / length**2, rtol=1e-5, atol=1e-5)
    features, arguments = quadratic_features(h, layers)
    weights = torch.randn(2, 7, generator=like, dtype=F64)
    rows = torch.empty(2, sum(p[0].numel() for p in start), 7, dtype=F64)
    quadratic_jacobian(features, arguments, layers, start[4], rows)
    gradient = quadratic_gradient(features, arguments, layers, start[4], weights)
    assert torch.allclose(gradient, (rows @ weights[..., None])[..., 0], rtol=1e-10)


def test_steps_that_follow_the_curve_end_lower() -> None:
    x = points(200, 1)
    errors = []
    for accelerated in (False, True):
        generator = torch.Generator().manual_seed(0)
        network = StackNetwork({"x": (-1.0, 1.0)}, (-1.0, 1.0), layers=[2] * 4, replicas=3, generator=generator)
        problem = LimitProblem(network, x, (6 * x).sin())
        optimizer = VariableProjection(network.parameters(), accelerated=accelerated)
        for _ in range(40):
            mse = optimizer.step(lambda problem=problem: problem)
        errors.append(float(mse.min()))
    assert errors[1] < 0.01 * errors[0]  # 7e-13 and 1e-8


def test_the_limit_is_quadratic_neurons_read_by_all_later_layers() -> None:
    network, x = new_stack([2, 3], replicas=1), points(50)
    h = x.T
    for weight, bias in zip(network.projection, network.shift, strict=True):
        h = torch.cat([h, (weight[0] @ h + bias[0][:, None]).square()])
    expected = network.output_weight[0] @ h + network.output_bias[0]
    scale, offset = network.scaling.scale, network.scaling.offset
    torch.testing.assert_close(network(x)[:, 0], expected * scale + offset)


@settings(max_examples=15)
@given(st.integers(0, 10_000), st.lists(st.integers(1, 4), min_size=1, max_size=3), st.integers(4, 12))
def test_the_built_network_is_off_by_the_predicted_error(seed: int, layers: list[int], depth: int) -> None:
    network = new_stack(layers, replicas=1, seed=seed)
    built = copy.deepcopy(network)
    built.build(depth)
    x = points(20_000)
    with torch.no_grad():
        error = (built(x) - network(x)).square().mean()
    predicted = network.predicted_mse(depth)[0]
    assert predicted / 2 < error < 2 * predicted


def test_each_layer_of_depth_divides_the_error_by_sixteen() -> None:
    network, x, errors = new_stack([3, 3], replicas=1), points(20_000), []
    for depth in range(2, 13):
        built = copy.deepcopy(network)
        built.build(depth)
        with torch.no_grad():
            errors.append(float((built(x) - network(x)).square().mean()))
    assert all(14 < before / after < 18 for before, after in pairwise(errors))


def test_a_product_is_learned_to_the_end_of_float64() -> None:
    network, errors = fitted(lambda x: x[:, 0] * x[:, 1], [2, 2])
    assert errors.min() < 1e-28
    best = int(errors.argmin())
    network.build(network.sufficient_depth(errors, best))
    x = points(2000)
    with torch.no_grad():
        assert (network(x)[:, best] - x[:, 0] * x[:, 1]).square().mean() < 1e-15


@pytest.mark.parametrize("bounded", [False, True])
@pytest.mark.parametrize("released", [False, True])
def test_plain_layers_compute_the_same_function(released: bool, bounded: bool) -> None:
    network = new_stack([2, 2], replicas=2, bounded=bounded)
    network.build(5)
    if released:
        network.release("blocks")
    x = points(500)
    with torch.no_grad():
        for replica in range(2):
            expected = network(x)[:, [replica]]
            torch.testing.assert_close(network.to_sequential(replica)(x), expected, rtol=0, atol=1e-12)


def test_release_keeps_the_function() -> None:
    network = new_stack([3, 2])
    network.build(6)
    x = points(500)
    with torch.no_grad():
        before = network(x)
        network.release("blocks")
        torch.testing.assert_close(network(x), before, rtol=0, atol=1e-12)


def test_outside_the_domain_the_function_stays_bounded_and_continuous() -> None:
    network = new_stack([2, 2])
    network.build(4)
    with torch.no_grad():
        far = network(torch.tensor([[1e6, -1e6]], dtype=F64))
        corner = network(torch.tensor([[1.0, -1.0]], dtype=F64))
    torch.testing.assert_close(far, corner)


def test_a_bounded_stack_stays_within_a_tenth_of_the_target_range_and_is_the_same_inside() -> None:
    free, bounded = new_stack([2, 2]), new_stack([2, 2], bounded=True)
    x = points(2000)
    for built in (False, True):
        if built:
            free.build(4)
            bounded.build(4)
        with torch.no_grad():
            before, after = free(x), bounded(x)
        assert (before.abs() > 1.2).any()  # the target range is [−1, 1]
        torch.testing.assert_close(after, before.clamp(-1.2, 1.2))
    shares = relu_shares(bounded.to_sequential(), x)
    assert len(bounded.carriers) == len(shares) == len(free.carriers) + 1
    assert bounded.clamps[-1] == len(shares) - 1


def test_ranges_hold_every_argument_that_the_domain_reaches() -> None:
    network, x = new_stack([3, 3, 3], seed=3), points(50_000)
    h = x.T.expand(2, -1, -1)
    for (weight, bias), (low, high) in zip(network.limit_layers, network.ranges(), strict=True):
        v = torch.baddbmm(bias[..., None], weight, h)
        assert (v.amin(-1) >= low).all() and (v.amax(-1) <= high).all()
        h = torch.cat([h, v * v], 1)


@pytest.mark.parametrize("bounded", [False, True])
@pytest.mark.parametrize("released", [False, True])
def test_the_jacobian_is_that_of_autograd_also_of_targets_with_units_of_their_own(
    released: bool, bounded: bool
) -> None:
    network = new_stack([2, 1], replicas=2, bounded=bounded)
    network.scaling = UnitScaling(PLANE, [(-1.0, 1.0), (3.0, 7.0)], replicas=2)
    network.build(3)
    if released:
        network.release("blocks")
    x = points(8)
    values, rows = jacobian(network, x)
    torch.testing.assert_close(values, network(x).T)
    parameters = list(network.parameters())
    for sample in range(len(x)):
        total = network(x[[sample]]).sum()  # replicas share no parameters
        gradients = torch.autograd.grad(total, parameters)
        expected = torch.cat(
            [gradient.flatten(1) if gradient.ndim > 1 else gradient[:, None] for gradient in gradients], 1
        )
        torch.testing.assert_close(rows[..., sample], expected, rtol=1e-9, atol=1e-9)


def test_second_order_steps_go_on_from_the_built_peaks() -> None:
    x = points(400)
    y = (x[:, 0] + 0.5 * x[:, 1]).sin()
    network, _ = fitted(lambda x: (x[:, 0] + 0.5 * x[:, 1]).sin(), [2], steps=15, replicas=1)
    network.build(4)
    problem = LeastSquares(network, x, y)
    optimizer = LevenbergMarquardt(network.parameters(), round_length=0, **PEAK_OPTIONS)  # type: ignore[arg-type]
    before = problem.loss()
    for _ in range(10):
        after = optimizer.step(problem)
    assert (after < before).all()


def test_a_state_brings_a_new_network_into_its_life() -> None:
    network, x = new_stack([2, 2]), points(50)
    for change in (lambda: None, lambda: network.build(4), lambda: network.release("blocks")):
        change()
        other = new_stack([2, 2], seed=1)
        other.load_state_dict(network.state_dict())
        assert other.parameterization == network.parameterization
        with torch.no_grad():
            torch.testing.assert_close(other(x), network(x), rtol=0, atol=0)


def test_linear_regions_of_one_variable_are_counted_up_to_a_bound() -> None:
    network = new_stack([1], {"x": (0.0, 1.0)}, replicas=1)
    network.build(3)
    assert count_linear_regions(network) <= 2**3 + 2  # and at most two ends of the range inside the domain
    with pytest.raises(TooManyPieces):
        count_linear_regions(network.to_sequential(), most=2)


@given(st.integers(1, 12), st.integers(2, 100_000), st.booleans())
def test_chosen_layers_leave_points_for_each_parameter(inputs: int, count: int, exact: bool) -> None:
    layers = choose_layers(inputs, count, exact=exact)
    check_layers(layers)
    assert layers == [1] or (1.2 if exact else 4) * stack_parameters(inputs, layers) <= count


def test_data_with_noise_get_three_layers_of_four_or_two_of_three_for_fewer_points_than_parameters() -> None:
    assert stack_parameters(10, [4, 4, 4]) == 203
    assert choose_layers(10, 203, noisy=True) == choose_layers(10, None, noisy=True) == [4, 4, 4]
    assert choose_layers(10, 202, noisy=True) == [3, 3]


def test_steep_functions_of_one_variable_get_more_layers() -> None:
    assert choose_layers(1, 2000, degree=20) == choose_layers(1, 2000) == [2] * 6
    assert choose_layers(1, 2000, degree=200) == [3] * 8
    assert choose_layers(2, 5000, degree=200) == choose_layers(2, 5000)
    assert choose_layers(1, 500, noisy=True, degree=200) == choose_layers(1, 500, noisy=True)


@pytest.mark.parametrize("layers", [[], [2, 0], [-1], [5000]])
def test_layers_that_cannot_be_are_refused(layers: list[int]) -> None:
    with pytest.raises(ValueError, match="layers must be numbers from 1 to 4096"):
        StackNetwork(PLANE, layers=layers)


@pytest.mark.parametrize("depth", [0, DEEPEST_STACK + 1])
def test_a_depth_beyond_float64_is_refused(depth: int) -> None:
    with pytest.raises(ValueError, match="depth of a stack must be 1 to 26"):
        new_stack([2]).build(depth)


def test_a_margin_is_refused_before_the_limit_is_trained() -> None:
    with pytest.raises(ValueError, match=r"margin must be in \[2e-16, 0.5\), got 0.7"):
        StackNetwork({"x": (0.0, 1.0)}, margin=0.7)


def test_the_average_of_members_is_their_mean() -> None:
    members, mean = new_stack([2, 3], replicas=6), new_stack([6, 9], replicas=2)
    torch.nn.init.normal_(members.output_weight)
    mean.average(members)
    x = points(50)
    torch.testing.assert_close(mean(x), members(x).view(50, 2, 3).mean(2))


def test_relevance_keeps_noise_out_of_what_the_data_do_not_determine() -> None:
    generator = torch.Generator().manual_seed(0)
    domain = {f"x{i}": (0.0, 1.0) for i in range(6)}
    x = torch.rand(150, 6, generator=generator, dtype=torch.float64)
    y = x[:, :1] + 0.3 * torch.randn(150, 1, generator=generator, dtype=torch.float64)
    unseen = torch.rand(500, 6, generator=generator, dtype=torch.float64)
    errors = {}
    for relevance in (False, True):
        network = StackNetwork(domain, (-1.0, 2.0), layers=[3, 3], generator=torch.Generator().manual_seed(1))
        problem = LimitProblem(network, x, y)
        optimizer = VariableProjection(network.parameters(), relevance=relevance)
        for _ in range(20):
            optimizer.step(lambda problem=problem: problem)
        errors[relevance] = float((network(unseen).detach() - unseen[:, :1]).square().mean())
    assert errors[True] < 0.2 * errors[False]


def test_members_resume_from_the_state_of_their_optimizer_alone() -> None:
    x = points(100)
    y = x.prod(1, keepdim=True) + 0.1 * torch.sin(99 * x[:, :1])

    def train(mean: StackNetwork, seed: int, steps: int, state: Any = None) -> dict[str, Any]:
        members = new_stack([2, 2], replicas=3, seed=seed)
        problem = LimitProblem(
            members, x[:80], y[:80], validation=lambda: (members(x[80:]) - y[80:]).square().mean(0), average=mean
        )
        optimizer = VariableProjection(mean.parameters(), relevance=True)
        if state:
            optimizer.load_state_dict(state)
        for _ in range(steps):
            optimizer.step(lambda: problem)
        return optimizer.state_dict()

    whole, resumed = new_stack([6, 6], replicas=1), new_stack([6, 6], replicas=1)
    train(whole, seed=1, steps=7)
    train(resumed, seed=2, steps=4, state=train(resumed, seed=1, steps=3))
    assert torch.equal(whole(x), resumed(x))


def test_the_ends_of_an_interval_are_told_apart() -> None:
    assert interval(1e6, 1e6 + 3) == "[1000000, 1000003]"
    assert interval(-1.0, 1 / 3) == "[-1, 0.333333]"
    assert interval(0.1, 0.10000000000000002) == "[0.10000000000000001, 0.10000000000000002]"
