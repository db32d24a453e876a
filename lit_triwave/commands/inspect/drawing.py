"""Which figures a checkpoint has, and what is in them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from datamodules import FunctionDataModule
from lit_triwave.analysis.regions import breakpoints
from lit_triwave.checkpoints.rebuild import Saved
from lit_triwave.commands.inspect import figures
from lit_triwave.commands.inspect.subnetworks import Group, head_layers
from lit_triwave.commands.inspect.units import Activity
from lit_triwave.errors import TriwaveError
from lit_triwave.modules.regressor import FunctionRegressor
from lit_triwave.nn.baselines import DenseNetwork
from lit_triwave.nn.heads import SQUASHES

if TYPE_CHECKING:
    from matplotlib.figure import Figure

POINTS = 2001
CELLS = 10_000  # of the domain, for the optimal density of breakpoints
SHOWN_ROWS, SHOWN_ACTIVATIONS = 4, 16
SCALED = "each as a share of its largest value"
REACH = 3.0  # standard deviations of z

Drawing = tuple[str, "Figure"]


def draw(
    saved: Saved, seed: int, parts: Sequence[Group], counts: Sequence[int], active: Activity | None, remarks: list[str]
) -> Iterator[Drawing]:
    """Names and figures.

    Args:
        saved: the checkpoint.
        seed: which of a function's networks.
        parts: its banks.
        counts: linear pieces of a head's subnetworks that were counted, `chosen` of all.
        active: its hidden neurons.
        remarks: for what could not be drawn, and why.
    """
    if parts:
        yield from layer_figures(saved, seed, parts)
    elif isinstance(saved.module.network, DenseNetwork):
        if len(saved.variables) == 1:
            yield "neurons", baseline_neurons(saved, seed)
        else:
            remarks.append(f"no neurons.png: the network has {len(saved.variables)} inputs, and they need one axis")
    if isinstance(saved.module, FunctionRegressor):
        try:
            yield "breakpoints", breakpoints_against_curvature(saved, seed)
        except TriwaveError as error:
            remarks.append(f"no breakpoints.png: {error}")
    elif parts:
        yield "activations", activation_functions(saved, parts[0], counts)
        when = "" if parts[0].bank.released is None else f" at the release; now {state(parts[0])}"
        title = f"{of_what(saved, seed)}: peaks of the head's subnetworks{when}"
        before = 1 << parts[0].bank.depth
        yield "peaks", figures.peaks_figure(parts[0].peaks, counts, before, title)
    if active is not None and not saved.is_function:
        title = f"{of_what(saved, seed)}: {active.dead} of {active.neurons} hidden neurons dead, "
        title += f"{active.linear} never zero"
        yield "activity", figures.activity_figure(active.layers, active.on, title)


def of_what(saved: Saved, seed: int) -> str:
    """The beginning of a title: the function, the run, the seed and the stage that a figure is of."""
    folder = saved.run_folder and saved.run_folder.resolve()
    parts = [
        saved.target,
        f"run {folder.parent.name}/{folder.name}" if folder else saved.path.name,
        f"seed {seed}" if saved.is_function else "",
        saved.module.place(saved.epoch),
    ]
    return ", ".join(filter(None, parts))


def share_of(shown: int, count: int) -> str:
    """In a title, how many of the subnetworks there are; nothing if all are shown."""
    return "" if shown == count else f" of {shown} of {count} subnetworks"


def state(group: Group) -> str:
    """Of a bank, in words."""
    return "peaks" if group.bank.released is None else f"released as {group.bank.released}"


def chosen(count: int, most: int) -> list[int]:
    """So many numbers of 0 … count − 1, evenly spread."""
    return torch.linspace(0, count - 1, min(count, most)).round().long().tolist()


def layer_figures(saved: Saved, seed: int, parts: Sequence[Group]) -> Iterator[Drawing]:
    """The waves layer by layer, and what the hidden neurons hold once they are released."""
    depth = parts[0].bank.depth
    numbers = figures.shown_layers(depth)
    u = torch.linspace(0, 1, POINTS, dtype=torch.float64)
    waves, neurons = [], []
    most = SHOWN_ROWS if len(parts) == 1 else SHOWN_ROWS - 1
    some = share_of(min(most, len(parts[0].labels)), len(parts[0].labels))
    for part in parts:
        for j in chosen(len(part.labels), most):
            name, low, high = part.axis[j]
            label = part.labels[j] if saved.is_function else f"subnetwork {part.labels[j]}"
            span = high - low
            waves.append(figures.Row(label, name, [(low + span * x, w) for x, w in (part.wave(j, i) for i in numbers)]))
            held = part.neurons(j, u)
            neurons.append(figures.Row(label, name, [(low + span * u, held[i]) for i in numbers]))
    released = parts[0].bank.released is not None
    title = f"{of_what(saved, seed)}: waves of the peaks{' at the release' * released}{some}"
    yield "waves", figures.waves_figure(waves, numbers, title)
    if released:
        others = ", inputs of the others at 1/2" if parts[0].bank.released == "dense" else ""
        title = f"{of_what(saved, seed)}: what the hidden neurons{some} hold, {SCALED} ({state(parts[0])}{others})"
        yield "neurons", figures.neurons_figure(neurons, numbers, title)


@torch.no_grad()
def baseline_neurons(saved: Saved, seed: int) -> Figure:
    """The hidden neurons of a network with a random start."""
    (name,) = saved.variables
    plain = saved.module.network.to_sequential(seed)  # type: ignore[operator]
    low = float(saved.scaling.lower)
    x = torch.linspace(low, low + float(saved.scaling.span), POINTS, dtype=saved.dtype)
    h: Tensor = x[:, None]
    layers = []
    for layer in plain:
        h = layer(h)
        if isinstance(layer, nn.ReLU):
            layers.append(h)
    numbers = figures.shown_layers(len(layers))
    row = figures.Row("", name, [(x, layers[i]) for i in numbers])
    return figures.neurons_figure([row], numbers, f"{of_what(saved, seed)}: what the hidden neurons hold, {SCALED}")


def breakpoints_against_curvature(saved: Saved, seed: int) -> Figure:
    """Where the breakpoints of a function's network sit, and where they would best be.

    Raises:
        TriwaveError: the function has several variables, or only values of it are known.
    """
    if len(saved.variables) != 1:
        raise TriwaveError(f"the target has {len(saved.variables)} variables")
    data = saved.data()
    if not isinstance(data, FunctionDataModule):
        raise TriwaveError("of a table's target the curvature is not known")
    ((name, (low, high)),) = data.domain.items()
    x = low + (high - low) * (torch.arange(CELLS, dtype=torch.float64) + 0.5) / CELLS
    curvature = data.expression.second_derivative(x[:, None])
    plain = saved.module.network.double() if saved.module.network.parameterization == "peaks" else saved.module.network
    kinks = breakpoints(plain.to_sequential(seed), low, high)  # type: ignore[operator]
    if not len(kinks):
        raise TriwaveError(f"seed {seed} has no breakpoint in the domain, where it is linear")
    title = f"{of_what(saved, seed)}: breakpoints against the curvature of the target"
    return figures.breakpoints_figure(x, curvature, kinks, name, title)


@torch.no_grad()
def activation_functions(saved: Saved, part: Group, counts: Sequence[int]) -> Figure:
    """The head's subnetworks as activation functions of their batch-normalised projection."""
    head = head_layers(saved)[0]
    squash = SQUASHES[head.squash]
    pieces = dict(zip(chosen(len(part.labels), COUNTED), counts, strict=True))
    curves = []
    numbers = chosen(len(part.labels), SHOWN_ACTIVATIONS)
    for j in numbers:
        mean, deviation = float(head.norm.bias[j]), abs(float(head.norm.weight[j])) or 1.0
        z = torch.linspace(mean - REACH * deviation, mean + REACH * deviation, POINTS, dtype=torch.float64)
        u = squash(z)
        then = None
        if part.constructed is not None and part.bank.released is not None:
            before = Group(part.constructed, part.name, part.labels, part.axis, part.shares, None)
            then = before.outputs(j, u)
        curves.append(figures.ActivationCurve(j, z, part.outputs(j, u), then, mean, deviation, pieces.get(j)))
    others = "; inputs of the other subnetworks at 1/2" if part.bank.released == "dense" else ""
    which = share_of(len(numbers), len(part.labels)).removeprefix(" of ") or "subnetworks"
    title = f"{of_what(saved, 0)}: activation functions of the head: {head.squash} squash, then {which}"
    title += f" ({state(part)}{others})"
    return figures.activations_figure(curves, title)


COUNTED = 128
"""Subnetworks of a head whose linear pieces are counted, at most."""
