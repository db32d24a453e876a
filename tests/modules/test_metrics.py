from __future__ import annotations

import math

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lit_triwave.modules.metrics import MaxAbsoluteError, regression_metrics


def random_pair(samples: int, replicas: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    return generator.normal(size=(samples, replicas)), generator.normal(size=(samples, replicas))


@settings(deadline=None, max_examples=30)
@given(
    sizes=st.lists(st.integers(1, 20), min_size=1, max_size=5),
    replicas=st.integers(2, 4),
    seed=st.integers(0, 2**32 - 1),
)
def test_metrics_of_parts_are_those_of_the_whole(sizes: list[int], replicas: int, seed: int) -> None:
    prediction, target = random_pair(sum(sizes), replicas, seed)
    metrics = regression_metrics(replicas, "val/")
    parts = zip(torch.tensor(prediction).split(sizes), torch.tensor(target).split(sizes), strict=True)
    for part in parts:
        metrics.update(*part)
    error = prediction - target
    expected = {"mse": (error**2).mean(0), "mae": np.abs(error).mean(0), "max_error": np.abs(error).max(0)}
    results = metrics.compute()
    assert set(results) == {f"val/{name}" for name in expected}
    for name, values in expected.items():
        assert results[f"val/{name}"].shape == (replicas,)
        np.testing.assert_allclose(results[f"val/{name}"].numpy(), values, rtol=1e-13)


def test_one_replica_has_one_value_of_each_metric() -> None:
    metrics = regression_metrics(1, "val/")
    metrics.update(torch.zeros(3, 1), torch.ones(3, 1))
    assert {tuple(value.shape) for value in metrics.compute().values()} == {(1,)}


def test_the_largest_error_of_each_replica_is_its_own() -> None:
    metric = MaxAbsoluteError(3)
    metric.update(torch.tensor([[1.0, -5.0, 0.0], [2.0, 0.0, 0.0]]), torch.zeros(2, 3))
    metric.update(torch.tensor([[-3.0, 1.0, 0.0]]), torch.zeros(1, 3))
    assert metric.compute().tolist() == [3.0, 5.0, 0.0]
    metric.reset()
    metric.update(torch.tensor([[0.5, 0.0, 0.0]]), torch.zeros(1, 3))
    assert metric.compute().tolist() == [0.5, 0.0, 0.0]


def test_an_empty_batch_changes_nothing() -> None:
    metric = MaxAbsoluteError(2)
    metric.update(torch.tensor([[1.0, 2.0]]), torch.zeros(1, 2))
    metric.update(torch.zeros(0, 2), torch.zeros(0, 2))
    assert metric.compute().tolist() == [1.0, 2.0]


def test_a_prediction_that_is_not_a_number_is_not_hidden() -> None:
    metrics = regression_metrics(2, "")
    metrics.update(torch.tensor([[0.0, math.nan]]), torch.zeros(1, 2))
    metrics.update(torch.zeros(1, 2), torch.zeros(1, 2))
    for value in metrics.compute().values():
        assert value.isnan().tolist() == [False, True]


def test_the_largest_error_over_processes_is_the_largest_of_theirs() -> None:
    assert MaxAbsoluteError(2)._reductions["largest"](torch.tensor([[1.0, 5.0], [3.0, 2.0]])).tolist() == [3.0, 5.0]


def test_errors_add_up_in_float64_also_in_a_model_cast_to_float32() -> None:
    metrics = regression_metrics(2, "")
    torch.nn.ModuleDict({"metrics": metrics}).float()
    for _ in range(2):
        # Float32 has no number between 2^24 and 2^24 + 2.
        metrics.update(torch.tensor([[2.0**12, 0.0]]), torch.zeros(1, 2))
        metrics.update(torch.tensor([[1.0, 0.0]]), torch.zeros(1, 2))
        results = metrics.compute()
        assert results["mse"][0].item() == (2**24 + 1) / 2
        assert {value.dtype for value in results.values()} == {torch.float64}
        metrics.reset()
