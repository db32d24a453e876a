"""Exact count of the linear pieces of a ReLU network along a line, without sampling.

The breakpoints are carried through the layers in float64. Pieces of a deep wave can be narrower than 10^-13, which
positions in float64 cannot resolve. Its kinks are far smaller than the slopes beside them. So the count never compares
positions or slopes. Instead it carries two quantities, each with a running error bound (Higham, Accuracy and Stability
of Numerical Algorithms, section 3.3):

- The values of all neurons at both ends of every piece. A value within its error bound is taken as zero, because with
  rounding a wave is not exactly zero at its nodes.
- The jump of every neuron's slope at every breakpoint. Linear layers map jumps as they map values, so the error of a
  jump is relative to the jump itself, also after cancellation.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

# Roundings for each term of a sum, in units of the weights' roundoff: in the weight (three operations compute it from a
# peak), in the product, and in the sum. The bound of values is generous, because a missed zero would add pieces that
# are not there. The bound of jumps is strict, because cancellation can leave 10^-13 of a kink's first term.
_VALUE_ROUNDINGS = 8.0
_JUMP_ROUNDINGS = 3.0
_FLOAT64_ROUNDOFF = torch.finfo(torch.float64).eps / 2


class TooManyPieces(ValueError):
    """The network has more linear pieces than the limit of the count."""


def count_linear_regions(
    f: nn.Module,
    lower: float | Sequence[float] | Tensor = 0.0,
    upper: float | Sequence[float] | Tensor = 1.0,
    *,
    most: int | None = None,
) -> int:
    """Counts the linear pieces of a ReLU network on an interval or along a straight segment.

    Kinks as small as rounding in the weights' dtype are not counted. In a float64 network of waves, these are only the
    kinks of a W_i that Theorem 3.1 multiplies by less than about 10^-13, the product ∏_{i+2 ≤ j ≤ d} (1 − a_j).

    Args:
        f: `nn.Sequential` of `nn.Linear` and `nn.ReLU` with one output, or a module whose `to_sequential()` returns
            one.
        lower, upper: ends of the interval; or ends of the segment, as points of shape (in_features,).
        most: largest number of pieces to count. None takes the network's `most_pieces` (2^20 for a stack), if it has
            this attribute, or else no limit.

    Returns:
        The number of pieces, at least 1, which is `len(breakpoints(f, lower, upper)) + 1`.

    Raises:
        TypeError: `f` or one of its layers has another type.
        ValueError: the layers do not fit each other, there are several outputs, weights are not finite, or the ends are
            equal, reversed or of wrong length.
        TooManyPieces: a layer has more than `most` pieces.
    """
    return len(breakpoints(f, lower, upper, most=most)) + 1


@torch.no_grad()
def breakpoints(
    f: nn.Module,
    lower: float | Sequence[float] | Tensor = 0.0,
    upper: float | Sequence[float] | Tensor = 1.0,
    *,
    most: int | None = None,
) -> Tensor:
    """Returns the points between `lower` and `upper` where the slope of a ReLU network changes.

    Args:
        f, lower, upper, most: see `count_linear_regions`, also for the exceptions.

    Returns:
        The kinks in ascending order, shape (kinks,), float64: inputs if the ends are numbers, or fractions of the way
        from lower to upper if they are points. Kinks closer than float64 resolves are listed with equal positions.
    """
    layers = list(_layers(f))
    start, end, scalar = _ends(lower, upper)
    _check(layers, len(start))
    line = _Line.between(start, end)
    most = most or getattr(f, "most_pieces", None)
    for layer in layers:
        line = _linear(line, layer) if isinstance(layer, nn.Linear) else _relu(line)
        if most is not None and len(line.position) - 1 > most:
            raise TooManyPieces(f"the network has more than {most:,} linear pieces: they are not counted")
    kinks = (line.jump.abs() > line.jump_error)[:, 0]
    fractions = line.position[1:-1][kinks]
    return start + fractions * (end - start) if scalar else fractions


@dataclass
class _Line:
    """A segment with `points` points, its ends included, between which all n neurons of a layer are linear.

    The unit of a jump is the slope that made its breakpoint. This slope is a product over all layers and has the errors
    of all of them. Whether a jump is zero does not depend on it.
    """

    position: Tensor  # (points,) fraction of the segment, ascending
    value: Tensor  # (points, n)
    value_error: Tensor  # (points, n) absolute
    width: Tensor  # (points − 1,) of each piece; a product of fractions, since positions may coincide
    width_error: Tensor  # (points − 1,) relative
    jump: Tensor  # (points − 2, n) change of slope from left to right, divided by `unit`
    jump_error: Tensor  # (points − 2, n) absolute
    unit: Tensor  # (points − 2,) positive slope
    unit_error: Tensor  # (points − 2,) relative
    made: Tensor  # (points − 2, n) bool: this neuron's ReLU makes the breakpoint, and `jump` is the one behind the ReLU
    roundoff: float  # of the coarsest weights so far

    @classmethod
    def between(cls, start: Tensor, end: Tensor) -> _Line:
        value = torch.stack([start, end])
        none, one = value.new_zeros(0), value.new_ones(1)
        no_jump = value.new_zeros(0, len(start))
        return cls(
            position=value.new_tensor([0.0, 1.0]),
            value=value,
            value_error=torch.zeros_like(value),
            width=one,
            width_error=torch.zeros_like(one),
            jump=no_jump,
            jump_error=no_jump,
            unit=none,
            unit_error=none,
            made=no_jump.bool(),
            roundoff=_FLOAT64_ROUNDOFF,
        )


def _linear(line: _Line, layer: nn.Linear) -> _Line:
    weight = layer.weight.detach().to("cpu", torch.float64).T
    bias = layer.bias.detach().to("cpu", torch.float64) if layer.bias is not None else weight.new_zeros(weight.shape[1])
    roundoff = max(line.roundoff, torch.finfo(layer.weight.dtype).eps / 2)
    size = weight.abs()
    jump_terms = line.jump.abs() @ size
    value, value_error = _values(line, torch.cat([weight.T, bias[:, None]], 1), _VALUE_ROUNDINGS * roundoff)
    jump = line.jump @ weight
    return replace(
        line,
        value=value,
        value_error=value_error,
        jump=jump,
        jump_error=line.jump_error @ size + _JUMP_ROUNDINGS * roundoff * jump_terms,
        made=torch.zeros_like(jump, dtype=torch.bool),
        roundoff=roundoff,
    )


def _values(line: _Line, weight: Tensor, roundoff: float) -> tuple[Tensor, Tensor]:
    """Returns the values behind a linear layer and their error bounds; the bias is the last column of the weight."""
    one = line.value.new_ones(len(line.value), 1)
    h, h_error = torch.cat([line.value, one], 1), torch.cat([line.value_error, 0 * one], 1)
    size = weight.abs()
    value, error = _snapped(h @ weight.T, (h_error + roundoff * h.abs()) @ size.T)
    # Where a neuron k is zero, its terms are removed from every neuron j that shares them: v_j ← v_j − λ·v_k. Without
    # this, t2 = t1 − s·a would keep the rounding that t1 has lost, and the bounds would grow like 1 / ∏ a_i.
    zero = (value == 0) & (size @ h.abs().T > 0).T
    for k in zero.any(0).nonzero()[:, 0].tolist():
        at = zero[:, k].nonzero()[:, 0]
        rows = (weight[:, weight[k] != 0] != 0).any(1).nonzero()[:, 0]
        rows = rows[rows != k]
        columns = (weight[rows] != 0).any(0) | (weight[k] != 0)
        shared, own = weight[rows][:, columns], weight[k, columns]
        h_at, h_error_at = h[at][:, None, columns], h_error[at][:, None, columns]
        largest = (own.abs() * h_at[:, 0].abs()).argmax(1)
        taken = (shared[:, largest].T / own[largest][:, None])[..., None] * own  # λ·w_k, shape (points, rows, columns)
        left = shared - taken
        rounded = torch.where(left == 0, 0.0, shared.abs() + taken.abs())
        new_error = (left.abs() * h_error_at + roundoff * rounded * h_at.abs()).sum(-1)
        at, rows = at[:, None], rows[None]
        better = (new_error < error[at, rows]) & (value[at, rows] != 0)
        value[at, rows] = torch.where(better, (left * h_at).sum(-1), value[at, rows])
        error[at, rows] = torch.where(better, new_error, error[at, rows])
    return value, error


def _relu(line: _Line) -> _Line:
    value, value_error = _snapped(line.value, line.value_error)
    line = replace(line, value=value, value_error=value_error)
    # One pass cuts every piece at all of its zeros. Another one is needed only where rounding swaps two close zeros.
    while (zeros := torch.nonzero(line.value[:-1].sign() * line.value[1:].sign() < 0)).numel():
        line = _cut(line, zeros)

    left, here, right = line.value[:-2], line.value[1:-1], line.value[2:]
    # At a zero between a positive and a negative side, the jump is the whole slope of the positive side.
    crossing = (here == 0) & (left.sign() * right.sign() < 0)
    rising = right > 0
    run = torch.where(rising, line.width[1:, None], line.width[:-1, None]) * line.unit[:, None]
    run_error = torch.where(rising, line.width_error[1:, None], line.width_error[:-1, None]) + line.unit_error[:, None]
    slope = torch.where(rising, right, left) / run
    slope_error = torch.where(rising, line.value_error[2:], line.value_error[:-2]) / run + slope.abs() * run_error
    # At other points the ReLU passes both sides (active, a wave that returns to zero, or zero along one side), or none.
    passed = (here > 0) | ((here == 0) & (left >= 0) & (right >= 0) & (left + right > 0)) | line.made
    old = crossing & ~line.made
    return replace(
        line,
        value=line.value.clamp_min(0),
        value_error=torch.where(line.value > 0, line.value_error, 0.0),
        jump=torch.where(old, slope, torch.where(passed, line.jump, 0.0)),
        jump_error=torch.where(old, slope_error, torch.where(passed, line.jump_error, 0.0)),
    )


def _snapped(value: Tensor, error: Tensor) -> tuple[Tensor, Tensor]:
    zero = value.abs() <= error
    return value.masked_fill(zero, 0.0), error.masked_fill(zero, 0.0)


def _cut(line: _Line, zeros: Tensor) -> _Line:
    """Cuts pieces where neurons pass through zero; `zeros`, shape (cuts, 2), holds indices of piece and neuron."""
    piece, neuron = zeros.unbind(1)
    a, b = line.value[piece, neuron].abs(), line.value[piece + 1, neuron].abs()
    from_left, from_right = a / (a + b), b / (a + b)  # both are kept, because 1 − x is inaccurate for the smaller one
    spread = (line.value_error[piece, neuron] * from_right + line.value_error[piece + 1, neuron] * from_left) / (a + b)
    order = torch.from_numpy(np.lexsort([-from_right, from_left, piece]))  # by the piece, then from the left
    piece, neuron, from_left, from_right, spread = (
        t[order] for t in (piece, neuron, from_left, from_right, spread + _VALUE_ROUNDINGS * _FLOAT64_ROUNDOFF)
    )

    # Zeros of several neurons at one position are one breakpoint.
    gap = torch.maximum(from_left.diff(), -from_right.diff())
    apart = (piece.diff() > 0) | (gap > spread[1:] + spread[:-1])
    first = torch.cat([apart.new_ones(1), apart])
    member = first.cumsum(0) - 1
    zero_of = torch.zeros(int(first.sum()), line.value.shape[1], dtype=torch.bool)
    zero_of[member, neuron] = True
    piece, neuron, from_left, from_right, spread = (t[first] for t in (piece, neuron, from_left, from_right, spread))

    left, right = line.value[piece], line.value[piece + 1]
    rise = (right - left).abs()
    near, far = from_left[:, None], from_right[:, None]
    value = far * left + near * right
    error = far * line.value_error[piece] + near * line.value_error[piece + 1] + spread[:, None] * rise
    error += _VALUE_ROUNDINGS * _FLOAT64_ROUNDOFF * (far * left.abs() + near * right.abs())
    value, error = _snapped(value.masked_fill(zero_of, 0.0), error)

    # The slope of one neuron is the unit, and the slopes of the others at the same position are relative to it.
    at = torch.arange(len(piece))
    rise_error = (line.value_error[piece] + line.value_error[piece + 1]) / rise + 2 * _FLOAT64_ROUNDOFF
    unit, unit_error = rise[at, neuron], rise_error[at, neuron]
    jump = torch.where(zero_of, rise / unit[:, None], 0.0)
    jump_error = torch.where(zero_of, jump * (rise_error + unit_error[:, None]), 0.0)
    jump_error[at, neuron] = 0.0

    # The order of old points and, behind them, new ones: a new one follows the left end of its piece.
    points = len(line.position)
    all_points, inner_points = (
        torch.cat([torch.arange(first, points - first), piece]).argsort(stable=True) for first in (0, 1)
    )

    def merge(before: Tensor, added: Tensor, order: Tensor = all_points) -> Tensor:
        return torch.cat([before, added])[order]

    start, stop = line.position[piece], line.position[piece + 1]
    span = stop - start
    position = torch.where(from_left < from_right, start + from_left * span, stop - from_right * span)
    position = position.clamp(start, stop)

    # Every new piece is a fraction of an old one, whose left end is the fraction 0 and whose right end is 1.
    zero, one = torch.zeros(points, dtype=torch.float64), torch.ones(points, dtype=torch.float64)
    fraction = torch.maximum(
        merge(one, from_left)[1:] - merge(zero, from_left)[:-1],
        merge(one, from_right)[:-1] - merge(zero, from_right)[1:],
    )
    shift = merge(zero, spread)
    parent = merge(torch.arange(points), piece)[:-1]
    return replace(
        line,
        position=merge(line.position, position).cummax(0).values,
        value=merge(line.value, value),
        value_error=merge(line.value_error, error),
        width=line.width[parent] * fraction,
        width_error=line.width_error[parent] + (shift[1:] + shift[:-1]) / fraction + 2 * _FLOAT64_ROUNDOFF,
        jump=merge(line.jump, jump, inner_points),
        jump_error=merge(line.jump_error, jump_error, inner_points),
        unit=merge(line.unit, unit / line.width[piece], inner_points),
        unit_error=merge(line.unit_error, unit_error + line.width_error[piece], inner_points),
        made=merge(line.made, zero_of, inner_points),
    )


def _layers(f: nn.Module) -> Iterator[nn.Module]:
    """Yields the Linear and ReLU layers in order."""
    if not isinstance(f, nn.Sequential):
        network: Any = f
        if not hasattr(network, "to_sequential"):
            raise TypeError(f"`f` must be an nn.Sequential or have a method to_sequential(), got {type(f).__name__}")
        if getattr(f, "parameterization", None) == "peaks":
            # Weights computed from the peaks in float64 have all pieces; in float32 they lose some from depth 9 on.
            # Released weights are parameters and keep their dtype.
            network = copy.deepcopy(network).double()
        f = network.to_sequential()
        if not isinstance(f, nn.Sequential):
            raise TypeError(f"to_sequential() must return an nn.Sequential, got {type(f).__name__}")
    for layer in f:
        if isinstance(layer, nn.Sequential):
            yield from _layers(layer)
        elif isinstance(layer, nn.Linear | nn.ReLU):
            yield layer
        elif not isinstance(layer, nn.Identity):
            raise TypeError(f"layers must be Linear, ReLU or Identity, got {type(layer).__name__}")


def _ends(
    lower: float | Sequence[float] | Tensor, upper: float | Sequence[float] | Tensor
) -> tuple[Tensor, Tensor, bool]:
    """Returns both ends, shape (in_features,), and whether they were given as numbers."""
    start, end = (torch.as_tensor(x, dtype=torch.float64).detach().cpu() for x in (lower, upper))
    if start.ndim > 1 or start.shape != end.shape:
        raise ValueError(f"`lower` and `upper` must be numbers or points of one length, got {lower} and {upper}")
    if not (start.isfinite().all() and end.isfinite().all()):
        raise ValueError(f"`lower` and `upper` must be finite, got {lower} and {upper}")
    if start.ndim == 0 and start >= end:
        raise ValueError(f"`lower` must be below `upper`, got {lower} and {upper}")
    if start.equal(end):
        raise ValueError(f"`lower` and `upper` must differ, got {lower} for both")
    return start.reshape(-1), end.reshape(-1), start.ndim == 0


def _check(layers: list[nn.Module], features: int) -> None:
    """Raises ValueError unless the layers map `features` inputs to one output."""
    linear = [layer for layer in layers if isinstance(layer, nn.Linear)]
    if not linear:
        raise ValueError("`f` must have a Linear layer, got none")
    if linear[0].in_features != features:
        raise ValueError(
            f"`lower` and `upper` must have {linear[0].in_features} coordinates like the inputs of `f`, got {features}"
        )
    if linear[-1].out_features != 1:
        raise ValueError(f"`f` must have one output, got {linear[-1].out_features}")
    for i, layer in enumerate(linear):
        if i and layer.in_features != linear[i - 1].out_features:
            before = f"Linear {i - 1} has outputs, {linear[i - 1].out_features}"
            raise ValueError(f"Linear {i} must have as many inputs as {before}, got {layer.in_features}")
        if not all(parameter.isfinite().all() for parameter in (layer.weight, layer.bias) if parameter is not None):
            raise ValueError(f"the weights of Linear {i} must be finite, got NaN or infinity")
