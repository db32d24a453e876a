"""Training, validation and test points of a function given as an expression."""

from __future__ import annotations

import math
from functools import cached_property
from typing import Any, Literal

import numpy as np
import torch
from numpy.polynomial import chebyshev
from torch import Tensor
from torch.quasirandom import SobolEngine

from datamodules.batches import check_batches
from datamodules.batches import seeded_generator as generator
from datamodules.expressions import Expression, ExpressionError, parse_expression
from datamodules.regression import Points, RegressionDataModule, check_domain, first_true
from lit_triwave.errors import check_least, some

_Domain = dict[str, tuple[float, float]]

_MAX_POINTS = 10_000_000  # most points of a split; with two inputs they have 240 MB
_POINTS_OF_ONE, _POINTS_OF_MORE = 2_000, 5_000  # for a stack's layers: more make a fit slower, not more accurate
_POLE_POINTS, _POLE_BOXES = 512, 12  # points in each box around the largest value, and boxes
_MOST_DEGREE = 1024
_FREE_KNOT_CELLS = 100_000  # of the midpoint rule


class FunctionDataModule(RegressionDataModule):
    """Points of y = expression(inputs) on a box, after the paper's protocol (METHOD section 5).

    Dense regime: the test points are a separate grid, with 20 001 points for one input and 201 on each axis for two.
    For more inputs, they are 20 000 random points. Validation points choose the best of many seeds, so they are neither
    training nor test points. They are random, and as many as the training points, but at least 500 and at most 20 000.

    Sparse regime: the test points are the centres of 10 equal cells an axis, which lie between the training points. The
    training points are also the validation points, because no other points of the function may be used.

    Args:
        expression: right-hand side such as "x**3 - x"; see `parse_expression`.
        domain: each variable's lower and upper bound, in the order of the columns of x, e.g. {x: [-1, 1]}.
        regime: "dense" or "sparse"; sets the test and validation points and the default of `points`.
        points: training points, at least 2; points per axis if sampling is "grid". None: 500 if dense, 10 if sparse.
            "auto": as many as the layers need that a stack chooses, 2 000 for one variable and 5 000 for more.
        sampling: "equally_spaced" with both ends (one variable), "grid" (any number of variables), "random" (uniform),
            "sobol": Sobol's sequence scrambled by the seed, random points without gaps and clusters. On each axis 2 %
            of them lie on the boundary. "chebyshev": the same, but denser towards the boundary, half-way between
            uniform points and Chebyshev's; polynomials, and so the limits of stacks, need more points there.
        noise: standard deviation, in units of y, of Gaussian noise on the training targets only; at least 0.
        test_points: overrides the number of test points, at least 2; per axis for grids and cells.
        test_sampling: "regular" as described above, or "random" in the dense regime: uniform points, 20 000 by default.
            A grid gives the boundary more weight than its share.
        batch_size: training points in a global batch, over all ranks together; None for all of them.
        seed: seed of random points, noise and the order of the training points, at least 0.

    Attributes:
        remarks: lines with remarks about the data for the user.

    Raises:
        ValueError: an argument is out of range, or the expression is not finite on the domain.
        ExpressionError: the expression cannot be read.
    """

    def __init__(
        self,
        expression: str,
        domain: dict[str, tuple[float, float]],
        regime: Literal["dense", "sparse"] = "dense",
        points: int | Literal["auto"] | None = None,
        sampling: Literal["equally_spaced", "random", "grid", "sobol", "chebyshev"] = "equally_spaced",
        noise: float = 0.0,
        test_points: int | None = None,
        test_sampling: Literal["regular", "random"] = "regular",
        batch_size: int | None = None,
        seed: int = 0,
    ) -> None:
        check_domain(domain)
        check_batches(batch_size, seed)
        function = _parsed(expression, list(domain))
        unused = [name for name in domain if name not in function.program]
        self.remarks = [f"data.domain has {some(unused)}, which the expression does not use"] if unused else []
        if regime not in ("dense", "sparse"):
            raise ValueError(f"regime must be dense or sparse, got {regime!r}")
        if test_sampling not in ("regular", "random"):
            raise ValueError(f"test_sampling must be regular or random, got {test_sampling!r}")
        if not 0 <= noise < math.inf:
            raise ValueError(f"noise must be a finite standard deviation of at least 0, got {noise}")
        if points == "auto":
            points = _POINTS_OF_ONE if len(domain) == 1 else _POINTS_OF_MORE
        points = (500 if regime == "dense" else 10) if points is None else points
        check_least(2, points=points, test_points=test_points)

        def sample(split: str, x: Tensor) -> Points:
            y = function(x)
            row = first_true(~y.isfinite())
            if row is not None:
                where = ", ".join(f"{name}={value:g}" for name, value in zip(domain, x[row].tolist(), strict=True))
                raise ValueError(
                    f"expression {function.text!r} must be finite on the whole domain, got {y[row]:g} at {where}, a "
                    f"{split} point"
                )
            return Points(x, y)

        train = sample("training", _training_inputs(domain, points, sampling, seed))
        test = sample("test", _test_inputs(domain, regime, test_sampling, test_points, seed))
        if noise > 0:
            deviates = torch.randn(len(train), generator=generator(seed, "noise"), dtype=torch.float64)
            train = Points(train.x, train.y + noise * deviates)
        _check_bounded(function, domain, test if test.y.abs().max() > train.y.abs().max() else train)
        if regime == "sparse":
            val = train
        else:
            count = min(max(len(train), 500), 20_000)
            val = sample("validation", _random(domain, count, generator(seed, "validation")))
        super().__init__(domain, train, val, test, batch_size=batch_size, seed=seed)
        self.expression = function
        self.noise = noise
        self.target_name = function.text

    @cached_property
    def degree(self) -> int | None:
        """Degree of a polynomial that approximates the function to about six digits, at most 1024.

        It is that of the last coefficient of the interpolant in Chebyshev points that is at least 10⁻⁶ of the largest.
        None for several variables, with noise, or if the function is not finite at these points.
        """
        if len(self.domain) != 1 or self.noise:
            return None
        ((lower, upper),) = self.domain.values()

        def on_unit(x: Any) -> Any:
            return self.expression(torch.from_numpy(lower + (upper - lower) * (x[:, None] + 1) / 2)).numpy()

        sizes = np.abs(chebyshev.chebinterpolate(on_unit, _MOST_DEGREE))
        return int(np.flatnonzero(sizes >= 1e-6 * sizes.max()).max()) if np.isfinite(sizes).all() else None

    def free_knot_mse(self, segments: int) -> float | None:
        """Returns the asymptotic limit of METHOD section 6 for this function.

        Args:
            segments: number of linear pieces, at least 1.

        Returns:
            The mean squared error; None for several variables, or if f'' is finite nowhere.
        """
        if len(self.domain) != 1:
            return None
        ((lower, upper),) = self.domain.values()
        x = _cell_centres({"x": (lower, upper)}, _FREE_KNOT_CELLS)
        curvature = self.expression.second_derivative(x)
        curvature = curvature[curvature.isfinite()]
        return free_knot_limit(curvature, upper - lower, segments) if len(curvature) else None


def _parsed(expression: str, variables: list[str]) -> Expression:
    """Parses the expression; an error names the option."""
    try:
        return parse_expression(expression, variables)
    except ExpressionError as error:
        said = str(error)
        raise ExpressionError(
            said if said.startswith(("expression ", "variable")) else f"expression: {said}"
        ) from error


def _check_bounded(function: Any, domain: _Domain, points: Points) -> None:
    """Refuses a function that has a pole between the points.

    It looks at boxes around the point with the largest value, each ten times smaller than the one before. Near a pole
    the largest value grows as fast as the boxes shrink. For a bounded function it soon stops growing.
    """
    lower, upper = torch.tensor(list(domain.values()), dtype=torch.float64).unbind(-1)
    at = points.x[points.y.abs().argmax()]
    largest = first = float(points.y.abs().max())
    reach = (upper - lower) * min(0.1, 2 * len(points) ** (-1 / len(domain)))
    engine = SobolEngine(len(domain), scramble=True, seed=0)  # type: ignore[no-untyped-call]
    cube = 2 * engine.draw(_POLE_POINTS, dtype=torch.float64) - 1
    growing = False
    for _ in range(_POLE_BOXES):
        x = torch.minimum(torch.maximum(at + reach * cube, lower), upper)
        y = function(x).abs()
        value, row = y.nan_to_num(nan=torch.inf).max(0)
        if value > largest:
            growing = growing or bool(value > 2 * largest)
            largest, at = float(value), x[row]
        reach = reach / 10
    # A point may be so near to a pole that the values around it cannot grow further.
    usual = max(float(points.y.abs().quantile(0.9)) if len(points) < 1_000_000 else first, 1.0)
    grows = growing and largest > 1e6 * max(first, 1e-300)
    if grows or largest > 1e12 * usual:
        where = ", ".join(f"{name}={place:.6g}" for name, place in zip(domain, at.tolist(), strict=True))
        what = "grows without bound" if grows else f"reaches {largest:.1e}, 1e12 times its usual values,"
        raise ValueError(
            f"expression {function.text!r} must be bounded on the whole domain, but it {what} near {where}: choose a "
            "domain without this place"
        )


def free_knot_limit(second_derivative: Tensor, length: float, segments: int) -> float:
    """Computes (∫ |f''|^(2/5) dx)^5 / (720 N^4 l), the error of the best N free segments for large N.

    The formula is that of METHOD section 6.

    Args:
        second_derivative: f'' at the centres of equal cells of the interval, (n,).
        length: length l of the interval.
        segments: number N of linear pieces, at least 1.

    Returns:
        The mean squared error.

    Raises:
        ValueError: segments is below 1.
    """
    check_least(1, segments=segments)
    # In NumPy: the last digit of PyTorch's sum depends on the number of threads.
    integral = length * float((second_derivative.abs().double().numpy() ** (2 / 5)).mean())
    return integral**5 / (720 * segments**4 * length)


def _training_inputs(domain: _Domain, points: int, sampling: str, seed: int) -> Tensor:
    if sampling == "random":
        return _random(domain, points, generator(seed, "training"))
    if sampling in ("sobol", "chebyshev"):
        return _sobol(domain, points, seed, denser=sampling == "chebyshev")
    if sampling == "equally_spaced" and len(domain) > 1:
        kinds = "grid, random, sobol or chebyshev"
        raise ValueError(f"sampling must be {kinds} for {len(domain)} variables, got equally_spaced")
    if sampling not in ("equally_spaced", "grid"):
        raise ValueError(f"sampling must be equally_spaced, random, grid, sobol or chebyshev, got {sampling!r}")
    return _grid(domain, points)


def _test_inputs(domain: _Domain, regime: str, sampling: str, count: int | None, seed: int) -> Tensor:
    if regime == "sparse":
        return _cell_centres(domain, count or 10, "test_points")
    if len(domain) <= 2 and sampling == "regular":
        return _grid(domain, count or (20_001 if len(domain) == 1 else 201), "test_points")
    return _random(domain, count or 20_000, generator(seed, "test"), "test_points")


def _grid(domain: _Domain, points: int, key: str = "points") -> Tensor:
    """Returns a grid of `points` per axis with both ends, (points ** len(domain), len(domain)) float64."""
    _check_total(points, len(domain), key)
    return _tensor_grid([torch.linspace(lo, hi, points, dtype=torch.float64) for lo, hi in domain.values()])


def _cell_centres(domain: _Domain, cells: int, key: str = "points") -> Tensor:
    """Returns the centres lower + (i + 1/2) h of `cells` equal cells per axis, (cells ** axes, axes) float64."""
    _check_total(cells, len(domain), key)
    fraction = (torch.arange(cells, dtype=torch.float64) + 0.5) / cells
    return _tensor_grid([lower + (upper - lower) * fraction for lower, upper in domain.values()])


def _random(domain: _Domain, points: int, source: torch.Generator, key: str = "points") -> Tensor:
    """Returns uniform points of the box, (points, len(domain)) float64."""
    _check_total(points, 1, key)
    return _in_box(domain, torch.rand(points, len(domain), generator=source, dtype=torch.float64))


def _sobol(domain: _Domain, points: int, seed: int, denser: bool) -> Tensor:
    """Returns a scrambled Sobol sequence in the box, (points, len(domain)) float64, some of it on the boundary.

    It is stretched by a hundredth at both ends and clamped. Otherwise there would be no data between the outermost
    points and the boundary, and a close fit could be wrong there.

    Args:
        domain, points, seed: see `FunctionDataModule`.
        denser: on each axis, take the mean of each point and of the point that Chebyshev's (arcsine) density has there.
    """
    _check_total(points, 1, "points")
    engine = SobolEngine(len(domain), scramble=True, seed=seed)  # type: ignore[no-untyped-call]
    fraction = engine.draw(points, dtype=torch.float64)
    fraction = torch.lerp(fraction.new_tensor(-0.01), fraction.new_tensor(1.01), fraction).clamp(0, 1)
    if denser:
        fraction = (fraction + (1 - (math.pi * fraction).cos()) / 2) / 2
    return _in_box(domain, fraction)


def _in_box(domain: _Domain, fraction: Tensor) -> Tensor:
    """Maps the unit cube to the domain; never outside, unlike lower + fraction * (upper - lower)."""
    lower, upper = torch.tensor(list(domain.values()), dtype=torch.float64).unbind(-1)
    return torch.lerp(lower, upper, fraction)


def _tensor_grid(axes: list[Tensor]) -> Tensor:
    return torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1).flatten(0, -2)


def _check_total(points: int, axes: int, key: str) -> None:
    total = points**axes
    if total > _MAX_POINTS:
        most = math.floor(_MAX_POINTS ** (1 / axes) + 1e-9)
        why = f": {total} points on {axes} axes are more than {_MAX_POINTS}" if axes > 1 else ""
        raise ValueError(f"{key} must be at most {most}, got {points}{why}")
