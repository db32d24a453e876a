"""The stage `limit` of a stack: trains the limit network and builds a ReLU network from it (METHOD section 7)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from lit_triwave.distributed.ranks import say
from lit_triwave.errors import TriwaveError
from lit_triwave.modules.stages import Limit
from lit_triwave.nn.stack import DEEPEST_STACK, StackNetwork
from lit_triwave.nn.stack_layers import stack_parameters

NOISY_SHARE = 1e-3
"""Share of the limit's error that the construction may add if this error is mostly noise."""
_FINE = 1e-12
"""Mean squared error, in units of the squared target range, that is small enough for every use."""


class LimitStage:
    """Trains a stack in its limit, directly or as the mean of members, and builds it at the end.

    Args:
        network: the stack; all its replicas are trained side by side.
        options: options of this stage.
        depth: depth of the subnetworks; None takes the smallest depth that adds less error than the limit has.
        members: number M of stacks; each replica is the mean of M stacks.
        member: arguments of `StackNetwork` for one of these stacks, without `replicas`.

    Attributes:
        late_mse: lowest training error of the replicas after four fifths of the stage; None earlier or after a resume.
    """

    def __init__(
        self,
        network: StackNetwork,
        options: Limit,
        depth: int | None,
        members: int,
        member: Mapping[str, Any],
    ) -> None:
        self._network = network
        self._options = options
        self._depth = depth
        self._members = members
        self._member = member
        self._trained: StackNetwork | None = network if members == 1 else None
        self.late_mse: float | None = None

    @property
    def trained(self) -> StackNetwork:
        """The network that the optimizer trains: the stack itself, or R · M members side by side.

        Members are created at the first call, with equal values on all ranks. A checkpoint does not save them as a
        network: it has their mean, and their weights are in the optimizer's state.
        """
        if self._trained is None:
            generator = torch.Generator().manual_seed(torch.initial_seed())
            replicas = self._members * self._network.replicas
            made = StackNetwork(**self._member, replicas=replicas, generator=generator)
            self._trained = made.to(self._network.output_weight)
        return self._trained

    def depth(self, network: StackNetwork, errors: Tensor, replicas: Sequence[int]) -> int:
        """Returns the depth of the build: the given one, or the smallest that is enough for some replicas' errors.

        Args:
            network: the stack in its limit, or a copy.
            errors: mean squared errors of all replicas' limits, (R,).
            replicas: the replicas whose errors decide.
        """
        if self._depth is not None:
            return self._depth
        # With a regularized limit, its error is mostly noise, and the function itself is known more exactly.
        share = NOISY_SHARE if self._options.regularized else 1.0
        return max(network.sufficient_depth(errors, replica, share) for replica in replicas)

    def build(self, errors: Tensor, replicas: Sequence[int]) -> None:
        """Builds the stack's subnetworks and prints their depth; for the arguments see `depth`."""
        depth = self.depth(self._network, errors, replicas)
        predicted = self._network.predicted_mse(depth)
        shown = max(replicas, key=lambda replica: float(predicted[replica] / errors[replica]))
        self._network.build(depth)
        how = "chosen" if self._depth is None else "as asked for"
        if self._depth is None and predicted[shown] > errors[shown] and depth < DEEPEST_STACK:
            how = (
                f"chosen for an error of 1e-10 of the target range; model.depth up to {DEEPEST_STACK} lowers it further"
            )
        say(
            f"built with depth {depth} ({how}): the construction adds a mean squared error of "
            f"{float(predicted[shown]):.1e} to the limit network's {float(errors[shown]):.1e}"
        )
        found, scale = float(errors[list(replicas)].amin()), float(self._network.scaling.scale.amax())
        falls = self.late_mse is not None and found < self.late_mse / 2 and not self._options.regularized
        if falls and found > _FINE * scale**2:
            say(
                f"the limit was still falling, from {self.late_mse:.1e} to {found:.1e} in its last fifth: more "
                "model.limit.epochs may give a lower error"
            )


def check_points(layers: Sequence[int], inputs: int, points: int | None, limit: Limit, chosen: bool) -> None:
    """Refuses a limit that has more parameters than points.

    Args:
        layers: number of neurons of each layer.
        inputs: number of variables.
        points: number of training points; None if not known.
        limit: the stage that fits the points.
        chosen: whether the layers were chosen, not given.

    Raises:
        TriwaveError: there are more parameters than points, and no regularization.
    """
    known, named = "training points", "more points"
    if limit.max_points is not None and (points is None or limit.max_points < points):
        points, known, named = limit.max_points, "points of limit.max_points", "a larger limit.max_points"
    count = stack_parameters(inputs, layers)
    if points is not None and count > points and not limit.regularized:
        advice = named if chosen else f"fewer or smaller layers, {named}, or null, which chooses"
        raise TriwaveError(
            f"layers must have at most one parameter for each of the {points} {known}, got {layers} with {count}: take "
            f"{advice}"
        )


def refuse_stack_options(
    wiring: str, initialization: str, limit: Limit, layers: Sequence[int] | None, members: int, bounded: bool
) -> None:
    """Refuses options that only a stack has.

    Raises:
        ValueError: an option is set; the message names it.
    """
    network = f"initialization {initialization}" if initialization != "constructed" else f"wiring {wiring}"
    if limit.epochs:
        raise ValueError(f"limit.epochs must be 0 or null for {network}, got {limit.epochs}: only a stack has a limit")
    if layers is not None:
        raise ValueError(f"layers must be null for {network}, got {list(layers)}: only a stack has layers")
    if members > 1:
        raise ValueError(f"members must be 1 for {network}, got {members}: only a stack has members")
    if bounded:
        raise ValueError(f"bounded must be false for {network}, got true: only a stack bounds its predictions")
