from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor

from lit_triwave.nn.networks import TriangleNetwork
from lit_triwave.nn.stack import StackNetwork
from lit_triwave.optim import LeastSquares, LevenbergMarquardt
from lit_triwave.optim.limit_problem import LimitProblem
from lit_triwave.optim.variable_projection import VariableProjection
from tests.gpu.devices import on_each_device

F64 = torch.float64


def points(inputs: int, count: int = 60) -> Tensor:
    return 2 * torch.rand(count, inputs, generator=torch.Generator().manual_seed(1), dtype=F64) - 1


def polished(network: TriangleNetwork, device: str, **options: Any) -> Tensor:
    """Losses after each step of the polish, (steps, replicas)."""
    network = copy.deepcopy(network).to(device)
    x = points(1).to(device)
    problem = LeastSquares(network, x, x[:, 0] ** 3 - x[:, 0], chunk=25)
    optimizer = LevenbergMarquardt(network.parameters(), **options)
    return torch.stack([optimizer.step(problem) for _ in range(6)]).cpu()


@on_each_device
@pytest.mark.parametrize("life", ["peaks", "blocks", "dense"])
def test_the_polish_takes_the_steps_of_the_cpu_kicks_and_exchange_included(device: str, life: Any) -> None:
    network = TriangleNetwork(
        {"x": (-1.0, 1.0)},
        (-0.4, 0.4),
        wiring="difference",
        depth=2,
        margin=0.1,
        replicas=4,
        generator=torch.Generator().manual_seed(0),
    )
    options: dict[str, Any] = {"warmup": 1, "round_length": 1, "exchange": 0.5, "groups": 2}
    if life == "peaks":
        options |= {"damping": 1e-2, "diagonal_floor": 1.0}
    else:
        network.release(life)
    losses = polished(network, device, **options)
    assert (losses[-1] < 0.5 * losses[0]).any()
    assert (losses.diff(dim=0) <= 0).all()
    torch.testing.assert_close(losses, polished(network, "cpu", **options), rtol=1e-4, atol=0)


@on_each_device
def test_the_limit_of_a_stack_is_fitted_and_built_as_on_the_cpu(device: str) -> None:
    network = StackNetwork(
        {"x": (-1.0, 1.0), "y": (-1.0, 1.0)},
        (-1.0, 1.0),
        layers=[3, 3],
        replicas=4,
        generator=torch.Generator().manual_seed(0),
    ).to(device)
    x = points(2, 300).to(device)
    y = x.prod(1, keepdim=True)
    problem = LimitProblem(network, x, y, chunk=128, validation=lambda: (network(x) - y).square().mean(0))
    optimizer = VariableProjection(network.parameters(), halving=3)
    for _ in range(20):
        loss = optimizer.step(lambda: problem)
    best = int(loss.argmin())
    assert float(loss[best]) < 1e-12  # a product is a difference of squares: the fit is exact
    depth = network.sufficient_depth(loss, best)
    predicted = float(network.predicted_mse(depth)[best])
    network.build(depth)
    assert {p.device.type for p in network.parameters()} == {device}
    assert float((network(x) - y).detach().square().mean(0)[best]) < 10 * (predicted + float(loss[best]))
