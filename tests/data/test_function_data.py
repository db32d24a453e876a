"""Guarantees of `RegressionDataModule` and `FunctionDataModule`: the paper's points, exact shards, clear errors."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lightning.pytorch import LightningModule, Trainer

from datamodules import FunctionDataModule, RegressionDataModule
from datamodules.batches import ShardedBatches
from datamodules.function import free_knot_limit
from datamodules.regression import Points

UNIT = {"x": (0.0, 1.0)}
SQUARE = {"x": (-1.0, 1.0), "y": (-1.0, 1.0)}


def column(points: Points) -> list[float]:
    return points.x[:, 0].tolist()


# Points


def test_dense_training_points_are_500_equally_spaced_with_both_ends():
    data = FunctionDataModule("x**3", UNIT)
    torch.testing.assert_close(data.train_set.x[:, 0], torch.linspace(0, 1, 500, dtype=torch.float64))
    torch.testing.assert_close(data.train_set.y, data.train_set.x[:, 0] ** 3)
    assert len(data.test_set) == 20_001
    assert column(data.test_set)[0] == 0 and column(data.test_set)[-1] == 1


def test_sparse_test_points_are_cell_centres_between_the_training_points():
    data = FunctionDataModule("x", UNIT, regime="sparse")
    assert column(data.train_set) == pytest.approx([i / 9 for i in range(10)])
    assert column(data.test_set) == pytest.approx([0.05 + i / 10 for i in range(10)])
    assert data.val_set is data.train_set


DEGREES = [("7*x**11", 11, 11), ("3", 0, 0), ("1/(1 + 25*x**2)", 60, 75), ("sin(40*x)", 50, 65), ("abs(x)", 900, 1024)]


@pytest.mark.parametrize(("expression", "least", "most"), DEGREES)
def test_the_degree_is_that_of_a_polynomial_with_six_digits(expression: str, least: int, most: int) -> None:
    degree = FunctionDataModule(expression, {"x": (-1.0, 1.0)}).degree
    assert degree is not None and least <= degree <= most  # 1/(1 + 25 x²): ln(10⁶)/ln(ρ) = 70 with ρ = 0.2 + √1.04


def test_no_degree_is_known_of_several_variables_or_with_noise() -> None:
    assert FunctionDataModule("x*y", SQUARE, sampling="random").degree is None
    assert FunctionDataModule("x", UNIT, noise=0.1).degree is None


def test_validation_points_are_neither_training_nor_test_points():
    data = FunctionDataModule("x", UNIT, noise=0.1)
    validation = set(column(data.val_set))
    assert len(validation) == 500
    assert not validation & (set(column(data.train_set)) | set(column(data.test_set)))
    assert torch.equal(data.val_set.y, data.val_set.x[:, 0])


@pytest.mark.parametrize(
    ("variables", "arguments", "train", "test"),
    [
        (1, {"points": 7, "sampling": "grid", "test_points": 5}, 7, 5),
        (2, {"points": 7, "sampling": "grid"}, 49, 201**2),
        (2, {"points": 7, "sampling": "random", "test_points": 5}, 7, 25),
        (2, {"points": 7, "sampling": "grid", "regime": "sparse"}, 49, 100),
        (3, {"points": 7, "sampling": "random"}, 7, 20_000),
        (2, {"points": 7, "sampling": "sobol"}, 7, 201**2),
        (2, {"points": 7, "sampling": "chebyshev"}, 7, 201**2),
        (1, {"points": 7, "test_sampling": "random"}, 7, 20_000),
        (2, {"points": 7, "sampling": "sobol", "test_sampling": "random", "test_points": 30}, 7, 30),
        (3, {"points": 7, "sampling": "grid", "test_points": 30}, 343, 30),
    ],
)
def test_numbers_of_points(variables, arguments, train, test):
    domain = dict.fromkeys("xyz"[:variables], (-1.0, 2.0))
    data = FunctionDataModule("x", domain, **arguments)
    assert (len(data.train_set), len(data.test_set)) == (train, test)
    for points in (data.train_set, data.val_set, data.test_set):
        assert points.x.dtype == points.y.dtype == torch.float64
        assert points.x.shape == (len(points), variables)
        assert points.x.min() >= -1 and points.x.max() <= 2


def test_a_grid_holds_every_combination():
    data = FunctionDataModule("10*x + y", {"x": (0, 1), "y": (0, 2)}, points=3, sampling="grid")
    assert sorted(data.train_set.y.tolist()) == [0, 1, 2, 5, 6, 7, 10, 11, 12]


def test_random_points_depend_on_the_seed_alone_and_differ_between_splits():
    def make(seed: int) -> FunctionDataModule:
        return FunctionDataModule("x", {"x": (0, 1), "y": (0, 1), "z": (0, 1)}, points=50, sampling="random", seed=seed)

    first, again, other = make(0), make(0), make(1)
    splits = ("train_set", "val_set", "test_set")
    for split in splits:
        assert torch.equal(getattr(first, split).x, getattr(again, split).x)
        assert not torch.equal(getattr(first, split).x, getattr(other, split).x)
    assert len({column(getattr(first, split))[0] for split in splits}) == 3


def test_noise_has_the_given_deviation_and_touches_training_targets_only():
    data = FunctionDataModule("0*x", UNIT, points=20_000, noise=0.25)
    assert float(data.train_set.y.std()) == pytest.approx(0.25, rel=0.03)
    assert not data.val_set.y.any() and not data.test_set.y.any()


# What the models are told


@pytest.mark.parametrize(
    ("expression", "domain", "expected"),
    [
        ("x**3", UNIT, ["convex"]),
        ("x**11", UNIT, ["convex"]),
        ("sin(x)", UNIT, ["concave"]),
        ("tanh(3*x)", UNIT, ["concave"]),
        ("2 - 5*x", UNIT, ["convex"]),
        ("1e6", UNIT, ["convex"]),
        ("x**2 - 1000*y**2 + x*y", SQUARE, ["convex", "concave"]),
    ],
)
def test_curvature_is_the_sign_of_the_fitted_square(expression, domain, expected):
    sampling = "grid" if len(domain) > 1 else "equally_spaced"
    assert FunctionDataModule(expression, domain, points=20, sampling=sampling).curvature == expected


def test_curvature_survives_two_points_an_axis():
    # There u and u² are the same column, and the fit is not unique.
    data = FunctionDataModule("x - 2*y", SQUARE, points=2, sampling="grid")
    assert data.curvature == ["convex", "concave"]


def test_target_range_and_domain_are_plain_floats():
    data = FunctionDataModule("2*x", {"x": [-1, 3]})
    assert data.target_range == (-2.0, 6.0)
    assert data.domain == {"x": (-1.0, 3.0)}
    assert all(type(bound) is float for bound in (*data.target_range, *data.domain["x"]))
    assert FunctionDataModule("5", UNIT).target_range == (5.0, 6.0)


@pytest.mark.parametrize(
    ("expression", "domain", "limit"),
    [
        ("x**3", UNIT, 8.87e-9),
        ("x**11", UNIT, 7.78e-9),
        ("sin(x)", UNIT, 2.14e-10),
        ("tanh(3*x)", UNIT, 6.97e-9),
        ("x**3 - x", {"x": (-1, 1)}, 1.42e-7),
    ],
)
def test_free_knot_limit_is_that_of_the_method(expression, domain, limit):
    data = FunctionDataModule(expression, domain)
    assert data.free_knot_mse(32) == pytest.approx(limit, rel=0.01)
    assert data.free_knot_mse(64) == pytest.approx(limit / 16, rel=0.01)


def test_free_knot_limit_of_a_parabola_is_exact_for_every_number_of_segments():
    # x² on a segment of length h is approximated best by a line up to h⁴/180.
    curvature = torch.full((10,), 2.0, dtype=torch.float64)
    assert free_knot_limit(curvature, 3.0, 6) == pytest.approx(0.5**4 / 180)


def test_free_knot_limit_where_it_is_not_defined():
    assert FunctionDataModule("x*y", SQUARE, sampling="random").free_knot_mse(32) is None
    assert FunctionDataModule("abs(x - 0.5)", UNIT).free_knot_mse(32) == 0
    assert 0 < FunctionDataModule("sqrt(x)", UNIT).free_knot_mse(32) < 1
    with pytest.raises(ValueError, match="segments"):
        FunctionDataModule("x", UNIT).free_knot_mse(0)


# Batches and shards


@settings(max_examples=100, deadline=None)
@given(
    size=st.integers(1, 40),
    batch_size=st.none() | st.integers(1, 50),
    world_size=st.integers(1, 5),
    epoch=st.integers(0, 3),
)
def test_shards_of_all_ranks_are_the_global_batch_and_their_loss_its_mean(size, batch_size, world_size, epoch):
    def shards(rank: int, world_size: int) -> list:
        sampler = ShardedBatches(size, batch_size, True, 3, rank, world_size, allow_empty=True)
        sampler.set_epoch(epoch)
        assert len(list(sampler)) == len(sampler)
        return list(sampler)

    losses = torch.rand(size, dtype=torch.float64)
    whole = shards(0, 1)
    assert sorted(torch.cat([shard.indices for shard in whole]).tolist()) == list(range(size))
    ranks = [shards(rank, world_size) for rank in range(world_size)]
    for batch, *parts in zip(whole, *ranks, strict=True):
        assert batch.weight == 1
        assert sorted(torch.cat([part.indices for part in parts]).tolist()) == sorted(batch.indices.tolist())
        local = [part.weight * losses[part.indices].mean() for part in parts if len(part.indices)]
        assert float(sum(local)) / world_size == pytest.approx(float(losses[batch.indices].mean()))


def test_order_depends_on_seed_and_epoch_only():
    def order(seed: int, epoch: int, batch_size: int | None = 7) -> list[int]:
        sampler = ShardedBatches(100, batch_size, True, seed)
        sampler.set_epoch(epoch)
        return torch.cat([shard.indices for shard in sampler]).tolist()

    assert order(0, 1) == order(0, 1)
    assert len({tuple(order(seed, epoch)) for seed in (0, 1) for epoch in (0, 1)}) == 4
    assert order(0, 0, None) == list(range(100))


def test_training_refuses_batches_smaller_than_the_number_of_ranks():
    with pytest.raises(
        ValueError, match="at least one point for each of the 2 ranks, got 4, which leaves a batch of 1"
    ):
        ShardedBatches(9, 4, world_size=2)


def test_loaders_yield_whole_float64_batches():
    data = FunctionDataModule("x", UNIT, points=10, batch_size=4)
    batches = list(data.train_dataloader())
    assert [len(batch.y) for batch in batches] == [4, 4, 2]
    x, y, weight = batches[0]
    assert x.shape == (4, 1) and y.shape == (4,) and weight.shape == ()
    assert x.dtype == y.dtype == weight.dtype == torch.float64
    for loader, points in ((data.val_dataloader(), data.val_set), (data.predict_dataloader(), data.test_set)):
        (batch,) = loader
        assert torch.equal(batch.x, points.x) and torch.equal(batch.y, points.y)


class Line(LightningModule):
    """The smallest model: it records its batches."""

    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(1, 1, dtype=torch.float64)
        self.seen = []

    def training_step(self, batch):
        self.seen.append(tuple(batch.x[:, 0].tolist()))
        return batch.weight * (self.layer(batch.x)[:, 0] - batch.y).square().mean()

    def predict_step(self, batch):
        return batch.x

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.01)


@pytest.mark.filterwarnings("ignore")
def test_a_trainer_permutes_each_epoch_anew_and_predicts_every_point_in_order():
    data, model = FunctionDataModule("x", UNIT, points=10, batch_size=5), Line()
    trainer = Trainer(
        accelerator="cpu",
        max_epochs=2,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
    )
    trainer.fit(model, data)
    assert len(model.seen) == len(set(model.seen)) == 4
    assert sorted(model.seen[0] + model.seen[1]) == sorted(model.seen[2] + model.seen[3])
    assert torch.equal(torch.cat(trainer.predict(model, data)), data.test_set.x)


# Refusals


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"domain": {}}, r"domain must have the bounds of each input, such as \{x: \[0, 1\]\}, got \{\}"),
        ({"domain": {"x": (1, -1)}}, "domain of x must have lower < upper, got 1.0 and -1.0"),
        ({"domain": {"x": (1, 1)}}, "domain of x must have lower < upper, got 1.0 and 1.0"),
        (
            {"domain": {"x": (0, float("inf"))}},
            "domain of x must have finite bounds and a finite length, got 0.0 and inf",
        ),
        ({"domain": {"x": (float("nan"), 1)}}, "domain of x must have finite bounds"),
        ({"domain": {"x": (-1e308, 1e308)}}, "domain of x must have finite bounds"),
        ({"domain": {"x": (0, 1, 2)}}, "domain of x must be two numbers, lower and upper, got"),
        ({"domain": {"t": (0, 1)}}, "unknown symbol 'x'; the symbols are t"),
        ({"expression": "x +"}, "position"),
        ({"regime": "thin"}, "regime must be dense or sparse, got 'thin'"),
        ({"test_sampling": "grid"}, "test_sampling must be regular or random, got 'grid'"),
        ({"sampling": "halton"}, "sampling must be equally_spaced, random, grid, sobol or chebyshev, got 'halton'"),
        ({"domain": SQUARE}, "sampling must be grid, random, sobol or chebyshev for 2 variables, got equally_spaced"),
        ({"points": 1}, "points must be at least 2, got 1"),
        ({"test_points": 0}, "test_points must be at least 2, got 0"),
        ({"domain": SQUARE, "sampling": "grid", "points": 4000}, "points must be at most 3162, got 4000: 16000000"),
        ({"points": 10**8}, "points must be at most 10000000, got 100000000"),
        ({"domain": SQUARE, "sampling": "random", "test_points": 4000}, "test_points must be at most 3162"),
        ({"noise": -0.1}, "noise must be .* got -0.1"),
        ({"noise": float("nan")}, "noise must be"),
        ({"batch_size": 0}, "batch_size must be at least 1, .* got 0"),
        ({"seed": -1}, "seed must be at least 0, got -1"),
        ({"expression": "log(x)", "domain": {"x": (-1, 1)}}, r"'log\(x\)' must be .*, got nan at x=-1, a training"),
        (
            {"expression": "1/x"},
            "expression '1/x' must be finite on the whole domain, got inf at x=0, a training point",
        ),
        ({"expression": "1/(x - 0.5)"}, "got inf at x=0.5, a test point"),
    ],
)
def test_a_bad_argument_is_refused_in_one_line_that_names_it(arguments, message):
    with pytest.raises(ValueError, match=message) as caught:
        FunctionDataModule(**{"expression": "x", "domain": UNIT, **arguments})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("split", ["train", "val", "test", "predict"])
@pytest.mark.parametrize("column", ["input", "target"])
def test_values_that_are_not_finite_are_named(split, column):
    splits = {name: Points(torch.rand(30, 1), torch.rand(30)) for name in ("train", "val", "test", "predict")}
    (splits[split].x[:, 0] if column == "input" else splits[split].y)[17] = float("nan")
    if (split, column) == ("predict", "target"):  # what is predicted need not be known
        assert RegressionDataModule(UNIT, **splits).free_knot_mse(4) is None
    else:
        name = "input x" if column == "input" else column
        with pytest.raises(ValueError, match=f"{name} of the {split} points must be finite, got nan at row 17"):
            RegressionDataModule(UNIT, **splits)


def test_points_must_fit_together():
    with pytest.raises(ValueError, match=r"got \(30, 1\) and \(29,\)"):
        Points(torch.rand(30, 1), torch.rand(29))
    with pytest.raises(ValueError, match="must have the 1 input of domain, got 2"):
        RegressionDataModule(UNIT, *[Points(torch.rand(30, 2), torch.rand(30))] * 3)


def test_sobol_points_fill_the_domain_more_evenly_than_random_ones():
    domain = {"x": (-1, 1), "y": (0, 4)}

    def unit_points(sampling, seed):
        x = FunctionDataModule("x + y", domain, points=256, sampling=sampling, seed=seed).train_set.x
        assert (x >= torch.tensor([-1.0, 0.0])).all() and (x <= torch.tensor([1.0, 4.0])).all()
        return (x - torch.tensor([-1.0, 0.0])) / torch.tensor([2.0, 4.0])

    def empty_cells(sampling, seed):
        cells = (unit_points(sampling, seed) * 12).long().clamp_max(11)
        return int(((cells[:, 0] * 12 + cells[:, 1]).bincount(minlength=144) == 0).sum())

    for seed in range(3):
        # Random points (256) leave 17 % of the 144 cells empty.
        assert empty_cells("sobol", seed) < 10 < 15 < empty_cells("random", seed)
        sobol = unit_points("sobol", seed)
        assert (sobol == 0).any() and (sobol == 1).any()  # some lie on the boundary
    assert torch.equal(unit_points("sobol", 0), unit_points("sobol", 0))
    assert not torch.equal(unit_points("sobol", 0), unit_points("sobol", 1))


def test_chebyshev_points_lie_half_way_between_sobol_points_and_the_arcsine_density():
    uniform, denser = (
        FunctionDataModule("x", UNIT, points=2048, sampling=sampling).train_set.x for sampling in ("sobol", "chebyshev")
    )
    torch.testing.assert_close(denser, (uniform + torch.sin(math.pi / 2 * uniform).square()) / 2)
    assert denser.min() == 0 and denser.max() == 1
    # (u + sin²(π u / 2)) / 2 = 0.05 at u = 0.0831; the uniform points are stretched by a hundredth at both ends.
    outer = (denser <= 0.05) | (denser >= 0.95)
    assert outer.double().mean().item() == pytest.approx(2 * (0.0831 + 0.01) / 1.02, abs=2e-3)


def test_variables_of_the_domain_that_the_expression_does_not_use_are_named() -> None:
    domain = {"x": (0.0, 1.0), "y": (0.0, 1.0), "e": (0.0, 1.0)}
    found = [FunctionDataModule(text, domain, sampling="sobol", points=50).remarks for text in ("x * y + e", "sin(y)")]
    assert found == [[], ["data.domain has x, e, which the expression does not use"]]
