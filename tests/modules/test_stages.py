from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from lit_triwave import FunctionRegressor
from lit_triwave.modules.stages import Stage

# What a warm-up starts from instead of zero.
FLOOR = 1e-3


def rates(stage: Stage, steps: int) -> list[float]:
    """The learning rate of each optimizer step of a stage, and the one after the last."""
    optimizer, schedule = stage.configure([nn.Parameter(torch.zeros(1))], steps)
    seen = []
    for _ in range(steps + 1):
        seen.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return seen


@settings(deadline=None)
@given(progress=st.floats(0, 1), warmup=st.floats(0, 1))
def test_constant_schedule_rises_linearly_and_stays(progress: float, warmup: float) -> None:
    factor = Stage(schedule="constant", warmup=warmup).factor(progress)
    expected = 1.0 if progress >= warmup else max(progress / warmup, FLOOR)
    assert factor == pytest.approx(expected, rel=1e-12)


@settings(deadline=None)
@given(progress=st.floats(0, 1), warmup=st.floats(0, 1))
def test_cosine_schedule_is_the_warm_up_times_half_a_cosine(progress: float, warmup: float) -> None:
    rise = Stage(schedule="constant", warmup=warmup).factor(progress)
    factor = Stage(schedule="cosine", warmup=warmup).factor(progress)
    assert factor == pytest.approx(rise * math.cos(math.pi * progress / 2) ** 2, rel=1e-9, abs=1e-15)


def test_cosine_falls_to_zero_and_does_not_rise_again() -> None:
    stage = Stage(schedule="cosine", warmup=0.0)
    values = [stage.factor(i / 100) for i in range(101)]
    assert values[0] == 1
    assert values[-1] == pytest.approx(0, abs=1e-15)
    assert values == sorted(values, reverse=True)
    assert stage.factor(1.5) == values[-1]


def test_the_optimizer_sees_the_schedule_step_by_step() -> None:
    seen = rates(Stage(lr=0.5, warmup=0.2, schedule="constant"), steps=10)
    assert seen == pytest.approx([0.5 * FLOOR, 0.25, *[0.5] * 9])
    seen = rates(Stage(lr=0.5, warmup=0.0), steps=4)
    assert seen == pytest.approx([0.5, 0.5 * math.cos(math.pi / 8) ** 2, 0.25, 0.5 * math.sin(math.pi / 8) ** 2, 0.0])


def test_the_first_step_moves() -> None:
    parameter = nn.Parameter(torch.ones(1))
    optimizer, _ = Stage(optimizer="SGD", lr=1.0).configure([parameter], steps=10)
    parameter.grad = torch.ones(1)
    optimizer.step()
    assert parameter.item() == pytest.approx(1 - FLOOR)


def test_a_stage_without_steps_can_be_configured() -> None:
    assert len(rates(Stage(epochs=0), steps=0)) == 1


@pytest.mark.parametrize("name", ["Adam", "AdamW", "SGD", "RMSprop", "NAdam"])
def test_any_optimizer_of_torch_is_found_by_its_name(name: str) -> None:
    optimizer, _ = Stage(optimizer=name, options={"weight_decay": 0.125}).configure([nn.Parameter(torch.zeros(1))], 5)
    assert type(optimizer) is getattr(torch.optim, name)
    assert optimizer.param_groups[0]["weight_decay"] == 0.125


def test_options_are_not_shared_between_stages() -> None:
    one, other = Stage(), Stage()
    one.options["eps"] = 1.0
    assert other.options == {}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"epochs": -1}, "epochs must be at least 0, got -1"),
        ({"lr": 0.0}, "lr must be above 0 and finite, got 0.0"),
        ({"lr": -1e-3}, "got -0.001"),
        ({"lr": math.inf}, "lr must be above 0 and finite, got inf"),
        ({"lr": math.nan}, "lr must be above 0 and finite, got nan"),
        ({"warmup": -0.1}, r"warmup must be in \[0, 1\], got -0.1"),
        ({"warmup": 1.1}, "got 1.1"),
        ({"warmup": math.nan}, r"warmup must be in \[0, 1\], got nan"),
        ({"schedule": "linear"}, "schedule must be one of constant, cosine.* got 'linear'"),
        ({"optimizer": "Adan"}, "optimizer must be LevenbergMarquardt, or .* got 'Adan'"),
        ({"optimizer": "LevenbergMarquardt", "options": {"dampings": 1}}, "options must suit LevenbergMarquardt, got"),
        (
            {"optimizer": "LevenbergMarquardt", "options": {"diagonal_floor": 2.0}},
            "diagonal_floor must be at most 1, got 2.0",
        ),
        ({"optimizer": "lr_scheduler"}, "got 'lr_scheduler'"),
        ({"optimizer": "Optimizer"}, "got 'Optimizer'"),
        ({"optimizer": "SparseAdam"}, "got torch.optim.SparseAdam: SparseAdam does not support dense gradients"),
        ({"optimizer": "Muon"}, "got torch.optim.Muon: Muon only supports 2D parameters"),
        ({"optimizer": "LBFGS", "options": {"line_search_fn": "armijo"}}, "LBFGS, got .*: only 'strong_wolfe'"),
        ({"options": {"betas": [0.9]}}, "torch.optim.Adam, got .*: a list is too short"),
        ({"options": {"eps": "tiny"}}, "torch.optim.Adam, got .*: a value must be a number, got text"),
        ({"options": {"betas": 1}}, "torch.optim.Adam, got .*: a value is of the wrong kind"),
    ],
)
def test_a_value_outside_its_range_is_named_with_its_key_in_one_line(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as raised:
        Stage(**arguments)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    "options",
    [
        {"bets": [0.9, 0.99]},
        {"lr": 1.0},
        {"betas": "high"},
        pytest.param({"betas": [2.0, 0.99]}),
        pytest.param({"eps": -1.0}),
        pytest.param({"fused": True, "foreach": True}),
        pytest.param({"differentiable": True}),
    ],
)
def test_options_that_the_optimizer_refuses_are_named_in_one_line(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"options must suit torch\.optim\.Adam, got \{") as raised:
        Stage(options=options).configure([nn.Parameter(torch.zeros(1))], 5)
    assert "\n" not in str(raised.value)


FIRST_ORDER = ["ASGD", "Adadelta", "Adafactor", "Adagrad", "Adam", "AdamW", "Adamax", "NAdam", "RAdam", "RMSprop"]
FIRST_ORDER += ["Rprop", "SGD"]


@pytest.mark.parametrize("name", FIRST_ORDER)
def test_a_resumed_optimizer_makes_the_same_steps(name: str) -> None:
    def step(weights: nn.Parameter, optimizer: torch.optim.Optimizer) -> None:
        weights.grad = weights.detach().sin()
        optimizer.step()

    stage = Stage(optimizer=name, lr=0.01, options={})
    whole = nn.Parameter(torch.linspace(0.1, 1, 7, dtype=torch.float64))
    first, _ = stage.configure([whole], steps=9)
    for _ in range(4):
        step(whole, first)
    resumed = nn.Parameter(whole.detach().clone())
    second, _ = stage.configure([resumed], steps=9)
    second.load_state_dict(copy.deepcopy(first.state_dict()))  # as from a file: no shared tensors
    for _ in range(5):
        step(whole, first)
        step(resumed, second)
    assert torch.equal(whole, resumed)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pretrain": {"epochs": 2}}, "pretrain must be a Stage, such as Stage(epochs=100), got {'epochs': 2}"),
        ({"train": 3}, "train must be a Stage, such as Stage(epochs=100), got 3"),
        ({"polish": {"epochs": 2}}, "polish must be a Polish, such as Polish(epochs=10), got {'epochs': 2}"),
        ({"limit": {}}, "limit must be a Limit, such as Limit(epochs=10), got {}"),
        ({"domain": [0, 1]}, "domain must have (lower, upper) for each input, such as [(0, 1)], got [0, 1]"),
    ],
)
def test_an_argument_of_another_kind_is_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises((TypeError, ValueError)) as raised:
        FunctionRegressor(**options)
    assert str(raised.value) == message
