"""How many neurons the layers of a stack have."""

from __future__ import annotations

from collections.abc import Sequence

WIDEST_STACK = 4096
"""Neurons of a layer, at most."""
PREFERRED_LAYERS = {1: (2, 6), 2: (4, 7), 3: (5, 6)}
"""Width and number of layers for each number of variables, the best of those in docs/results/benchmarks.md."""
LAYERS_OF_MORE = (6, 5)
"""The same for four and more variables."""
STEEP_LAYERS = (3, 8)
"""The same for steep functions of one variable."""
_EASY_DEGREE = 32
"""Degree of a polynomial that the preferred layers for one variable still replace."""
NOISY_LAYERS, SMALL_NOISY_LAYERS = (4, 3), (3, 2)
"""Width and number of layers for data with noise, and for fewer points than parameters (benchmarks/tables.py)."""
POINTS_PER_PARAMETER = 4
"""Least points for each parameter. With fewer, a stack fits their noise."""
EXACT_POINTS = 1.2
"""The same for points without noise. On 30 to 300 points, the largest layers that leave this many were the best."""


def check_layers(layers: Sequence[int]) -> None:
    """Checks the number of neurons of each layer.

    Raises:
        ValueError: there is no layer, or a layer has no neurons or too many.
    """
    if not layers or not all(1 <= neurons <= WIDEST_STACK for neurons in layers):
        raise ValueError(f"layers must be numbers from 1 to {WIDEST_STACK}, at least one, got {list(layers)}")


def choose_layers(
    inputs: int, points: int | None, noisy: bool = False, degree: int | None = None, exact: bool = False
) -> list[int]:
    """Returns layers that suit a smooth function.

    Few neurons in many layers do best: a layer doubles the degree of the polynomials that are within reach. One
    variable needs few; more variables need wider layers. There are at least four points for each parameter, except
    for data with noise.

    Args:
        inputs: number of variables.
        points: number of training points; None for as many as are needed.
        noisy: whether the points have noise. If so, something else must prevent the network from fitting it.
        degree: degree of a polynomial that approximates a function of one variable to about six digits; None if not
            known. Steep and oscillating functions need a high degree.
        exact: whether it is known that the points have no noise; then 1.2 points for each parameter are enough.
    """
    if noisy:
        width, length = NOISY_LAYERS
        if points is not None and stack_parameters(inputs, [width] * length) > points:
            width, length = SMALL_NOISY_LAYERS
        return [width] * length
    width, length = STEEP_LAYERS if is_steep(inputs, degree) else PREFERRED_LAYERS.get(inputs, LAYERS_OF_MORE)
    share = EXACT_POINTS if exact else POINTS_PER_PARAMETER
    while max(width, length) > 1 and points is not None and stack_parameters(inputs, [width] * length) * share > points:
        width, length = (width - 1, length) if width > length else (width, length - 1)
    return [width] * length


def is_steep(inputs: int, degree: int | None) -> bool:
    """Returns whether a function needs the layers for steep functions; for the arguments see `choose_layers`."""
    return inputs == 1 and degree is not None and degree > _EASY_DEGREE


def stack_parameters(inputs: int, layers: Sequence[int]) -> int:
    """Returns the number of parameters of one replica's limit network."""
    width, count = inputs, 0
    for neurons in layers:
        count += neurons * (width + 1)
        width += neurons
    return count + width + 1
