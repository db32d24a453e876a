"""Chooses the figures of a checkpoint and computes what they show."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch
from matplotlib.figure import Figure
from torch import Tensor

from datamodules import FunctionDataModule
from lit_triwave.analysis.dead_units import relu_outputs
from lit_triwave.analysis.regions import TooManyPieces, breakpoints
from lit_triwave.checkpoints.rebuild import Saved
from lit_triwave.commands.inspect import figures
from lit_triwave.commands.inspect.subnetworks import Group, chosen, head_layers
from lit_triwave.commands.inspect.units import Activity
from lit_triwave.errors import TriwaveError
from lit_triwave.modules.regressor import FunctionRegressor
from lit_triwave.nn.baselines import DenseNetwork
from lit_triwave.nn.heads import SQUASHES

_POINTS = 2001  # of each curve
_CELLS = 10_000  # of the domain, for the optimal density of breakpoints
_SHOWN_ROWS, _SHOWN_ACTIVATIONS = 4, 16  # most subnetworks in a figure
_SCALED = "each as a share of its largest value"
_REACH = 3.0  # range of z to either side of its mean, in standard deviations

_Drawing = tuple[str, Figure]


def draw(
    saved: Saved, seed: int, parts: Sequence[Group], active: Activity | None, remarks: list[str]
) -> Iterator[_Drawing]:
    """Yields the figures of a checkpoint with their names.

    Args:
        saved: the checkpoint.
        seed: seed of a function's network.
        parts: the checkpoint's banks.
        active: the hidden neurons; None if they are unknown.
        remarks: a list to which reasons for missing figures are added.
    """
    if parts:
        yield from _layer_figures(saved, seed, parts)
    elif isinstance(saved.module.network, DenseNetwork):
        if len(saved.variables) == 1:
            yield "neurons", _baseline_neurons(saved, seed)
        else:
            remarks.append(f"no neurons.png: the network has {len(saved.variables)} inputs, and they need one axis")
    if isinstance(saved.module, FunctionRegressor):
        try:
            yield "breakpoints", _breakpoints_against_curvature(saved, seed)
        except (TriwaveError, TooManyPieces) as error:
            remarks.append(f"no breakpoints.png: {error}")
    elif parts:
        yield "activations", _activation_functions(saved, parts[0])
        when = "" if parts[0].bank.released is None else f" at the release; now {state(parts[0])}"
        title = f"{_title_start(saved, seed)}: peaks of the head's subnetworks{when}"
        yield (
            "peaks",
            figures.peaks_figure(parts[0].peaks, [*parts[0].counts.values()], 1 << parts[0].bank.depth, title),
        )
    if active is not None and not saved.is_function:
        title = f"{_title_start(saved, seed)}: {active.dead} of {active.neurons} hidden neurons dead, "
        title += f"{active.linear} never zero"
        yield "activity", figures.activity_figure(active.layers, active.on, title)


def _title_start(saved: Saved, seed: int) -> str:
    """Returns the beginning of a title: function, run, seed and stage."""
    folder = saved.run_folder and saved.run_folder.resolve()
    parts = [
        saved.target,
        f"run {folder.parent.name}/{folder.name}" if folder else saved.path.name,
        f"seed {seed}" if saved.is_function else "",
        saved.module.place(saved.epoch),
    ]
    return ", ".join(filter(None, parts))


def _share_of(shown: int, count: int) -> str:
    """Returns, for a title, how many of the subnetworks are shown; an empty string if all are."""
    return "" if shown == count else f" of {shown} of {count} subnetworks"


def state(group: Group) -> str:
    """Returns the state of a bank in words."""
    return "peaks" if group.bank.released is None else f"released as {group.bank.released}"


def _state_shown(group: Group) -> str:
    """Returns the end of a title that says in which state of a bank its subnetworks are drawn."""
    return f" ({state(group)}{', inputs of the others at 1/2' * (group.bank.released == 'dense')})"


def _layer_figures(saved: Saved, seed: int, parts: Sequence[Group]) -> Iterator[_Drawing]:
    """Yields the waves layer by layer and, once the weights are released, the values of the hidden neurons.

    For a stack these are the functions of one variable instead of the waves, because its subnetworks have equal waves.
    """
    depth = parts[0].bank.depth
    numbers = figures.shown_layers(depth)
    u = torch.linspace(0, 1, _POINTS, dtype=torch.float64)
    most = _SHOWN_ROWS if len(parts) == 1 else _SHOWN_ROWS - 1
    some = _share_of(min(most, len(parts[0].labels)), len(parts[0].labels))
    shown = [(part, j) for part in parts for j in chosen(len(part.labels), most)]
    if parts[0].squares:
        yield "functions", _layer_functions(saved, seed, parts)
    else:
        waves = [_row(part, j, [part.wave(j, i) for i in numbers]) for part, j in shown]
        then = "" if parts[0].bank.released is None else " at the release"
        yield (
            "waves",
            figures.waves_figure(waves, numbers, f"{_title_start(saved, seed)}: waves of the peaks{then}{some}"),
        )
    if parts[0].bank.released is not None:
        values = [(part, j, part.neurons(j, u)) for part, j in shown]
        neurons = [_row(part, j, [(u, layers[i]) for i in numbers]) for part, j, layers in values]
        title = f"{_title_start(saved, seed)}: values of the hidden neurons{some}, {_SCALED}{_state_shown(parts[0])}"
        yield "neurons", figures.neurons_figure(neurons, numbers, title)


def _row(part: Group, j: int, curves: Sequence[tuple[Tensor, Tensor]]) -> figures.Row:
    """Returns a subnetwork as a row of a figure, from inputs in [0, 1] and values in each layer."""
    name, low, high = part.axis[j]
    return figures.Row(part.labels[j], name, [(low + (high - low) * u, values) for u, values in curves])


@torch.no_grad()
def _layer_functions(saved: Saved, seed: int, parts: Sequence[Group]) -> Figure:
    """Draws the functions of one variable that a stack's layers have learned, each on the range of its argument."""
    u = torch.linspace(0, 1, _POINTS, dtype=torch.float64)
    rows = []
    for part in parts:
        numbers = chosen(len(part.labels), figures.MAX_COLUMNS)
        rows.append([_row(part, j, [(u, part.outputs(j, u))]) for j in numbers])
    title = f"{_title_start(saved, seed)}: functions of one variable in each layer, on the range of their argument"
    if any(len(row) < len(part.labels) for row, part in zip(rows, parts, strict=True)):
        title += f", at most {figures.MAX_COLUMNS} of a layer"
    if parts[0].bank.released:
        title += _state_shown(parts[0])
    return figures.functions_figure(rows, title)


@torch.no_grad()
def _baseline_neurons(saved: Saved, seed: int) -> Figure:
    """Draws the hidden neurons of a network with a random start."""
    (name,) = saved.variables
    plain = saved.module.network.to_sequential(seed)  # type: ignore[operator]
    low = float(saved.scaling.lower)
    x = torch.linspace(low, low + float(saved.scaling.span), _POINTS, dtype=saved.dtype)
    layers = list(relu_outputs(plain, x[:, None]))
    numbers = figures.shown_layers(len(layers))
    row = figures.Row("", name, [(x, layers[i]) for i in numbers])
    title = f"{_title_start(saved, seed)}: values of the hidden neurons, {_SCALED}"
    return figures.neurons_figure([row], numbers, title)


def _breakpoints_against_curvature(saved: Saved, seed: int) -> Figure:
    """Draws the breakpoints of a function's network against the optimal ones.

    Raises:
        TriwaveError: the function has several variables, or its formula is unknown.
        TooManyPieces: see `breakpoints`.
    """
    if len(saved.variables) != 1:
        raise TriwaveError(f"the target has {len(saved.variables)} variables")
    data = saved.data()
    if not isinstance(data, FunctionDataModule):
        raise TriwaveError("the curvature of a table's target is unknown")
    ((name, (low, high)),) = data.domain.items()
    x = low + (high - low) * (torch.arange(_CELLS, dtype=torch.float64) + 0.5) / _CELLS
    curvature = data.expression.second_derivative(x[:, None])
    plain = saved.module.plain(seed)
    kinks = breakpoints(plain, low, high, most=saved.module.most_pieces(plain))
    if not len(kinks):
        raise TriwaveError(f"seed {seed} has no breakpoint in the domain, where it is linear")
    title = f"{_title_start(saved, seed)}: breakpoints against the curvature of the target"
    return figures.breakpoints_figure(x, curvature, kinks, name, title)


@torch.no_grad()
def _activation_functions(saved: Saved, part: Group) -> Figure:
    """Draws the head's subnetworks as activation functions of their batch-normalised projection."""
    head = head_layers(saved)[0]
    squash = SQUASHES[head.squash]
    curves = []
    numbers = chosen(len(part.labels), _SHOWN_ACTIVATIONS)
    for j in numbers:
        mean, deviation = float(head.norm.bias[j]), abs(float(head.norm.weight[j])) or 1.0
        reach = torch.linspace(-_REACH, _REACH, _POINTS, dtype=torch.float64)
        z = mean + deviation * reach
        u = squash(z)
        then = None
        if part.constructed is not None and part.bank.released is not None:
            then = replace(part, bank=part.constructed).outputs(j, u)
        title = part.labels[j] + (f", {part.counts[j]} pieces" if j in part.counts else "")
        curves.append(figures.ActivationCurve(title, z, (-reach.square() / 2).exp(), part.outputs(j, u), then))
    which = _share_of(len(numbers), len(part.labels)).removeprefix(" of ") or "subnetworks"
    title = f"{_title_start(saved, 0)}: activation functions of the head: {head.squash} squash, then {which}"
    return figures.activations_figure(curves, title + _state_shown(part))
