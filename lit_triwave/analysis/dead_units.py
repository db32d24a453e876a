"""Dead units: hidden ReLU neurons that are zero for all inputs of a set."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from lit_triwave.construction.triangle import BlockWeights
from lit_triwave.nn.bank import TriangleBank
from lit_triwave.nn.constructed import ConstructedNetwork
from lit_triwave.nn.heads import DenseHead

SAMPLES = 65_536
"""Inputs that are evaluated at a time. This limits the memory and has no other effect."""


@torch.no_grad()
def dead_share(network: nn.Module, plain: nn.Sequential, x: Tensor) -> float:
    """Returns the share of the hidden neurons of one replica that are zero for all inputs.

    Args:
        network, plain, x: see `hidden_shares`.

    Returns:
        0 to 1.
    """
    shares = torch.cat(hidden_shares(network, plain, x))
    return float((shares == 0).double().mean())


def hidden_shares(network: nn.Module, plain: nn.Sequential, x: Tensor) -> list[Tensor]:
    """Returns, for each hidden neuron of one replica, the share of the inputs on which it is above zero.

    Neurons that only carry values to later layers are left out. So are layers that only clamp values between
    subnetworks: they have no parameters, and one of the two neurons of a clamp is only active for values above 1.

    Args:
        network: the network with all replicas.
        plain: the replica as `nn.Linear` and `nn.ReLU` layers, see `to_sequential`.
        x: inputs, shape (n, in_features), in the dtype of `plain`.

    Returns:
        One tensor for each hidden layer, shape (neurons,), float64, 0 to 1.
    """
    shares = relu_shares(plain, x)
    clamps: tuple[int, ...] = ()
    if isinstance(network, ConstructedNetwork):
        clamps, carriers = network.clamps, network.carriers or (0,) * len(shares)
        shares = [share[carried:] for share, carried in zip(shares, carriers, strict=True)]
    return [share for i, share in enumerate(shares) if i not in clamps]


def relu_shares(network: nn.Sequential, x: Tensor) -> list[Tensor]:
    """Returns, for each neuron of each ReLU layer, the share of the inputs on which it is above zero.

    Args:
        network: layers of any kind.
        x: inputs, shape (n, in_features).

    Returns:
        One tensor for each ReLU layer, shape (neurons,), float64, 0 to 1.
    """
    parts = x.split(SAMPLES)  # type: ignore[no-untyped-call]
    counts = [[(h > 0).double().sum(0) for h in relu_outputs(network, part)] for part in parts]
    return [torch.stack(of_layer).sum(0) / len(x) for of_layer in zip(*counts, strict=True)]


def relu_outputs(network: nn.Sequential, x: Tensor) -> Iterator[Tensor]:
    """Yields the output of each ReLU layer, shape (n, neurons), for inputs x, shape (n, in_features)."""
    for layer in network:
        x = layer(x)
        if isinstance(layer, nn.ReLU):
            yield x


@torch.no_grad()
def active_units(bank: TriangleBank, u: Tensor) -> Tensor:
    """Returns which hidden neurons of a bank's subnetworks are above zero for at least one of the inputs.

    Args:
        bank: a bank in any stage. Before the release, the neurons are those of the weights computed from the peaks.
        u: inputs, shape (batch, *shape); they are clamped to [0, 1], as in the bank.

    Returns:
        Shape (depth, 4 · subnetworks), bool.
    """
    u = u.clamp(0, 1).movedim(0, -1)  # samples come last, as in `network_form`
    weights = bank.weights()
    blocks = isinstance(weights, BlockWeights)
    h = weights.input_weight[..., None] * u[..., None, :] if blocks else weights.input_weight @ u
    h = (h + weights.input_bias[..., None]).relu()
    active = [h]
    for layer, bias in zip(weights.hidden_weight.unbind(-3), weights.hidden_bias.unbind(-2), strict=True):
        h = (layer @ h + bias[..., None]).relu()
        active.append(h)
    return torch.stack([(h > 0).any(-1).flatten() for h in active])


class HeadWatch:
    """Records, until `stop`, which hidden neurons of a classifier's head are above zero while it is evaluated.

    The neurons are those of the constructed subnetworks, or the ReLUs of a `DenseHead`. Other heads have none.

    Args:
        network: the classifier.
    """

    def __init__(self, network: nn.Module) -> None:
        neurons: dict[nn.Module, int] = {}
        for module in network.modules():
            if isinstance(module, TriangleBank):
                neurons[module] = 4 * module.depth * module.shape.numel()
            elif isinstance(module, DenseHead):
                width: Any = module[0].out_features  # of all hidden layers
                neurons |= dict.fromkeys((layer for layer in module if isinstance(layer, nn.ReLU)), width)
        device = next(network.parameters()).device
        self._active = {one: torch.zeros(count, dtype=torch.bool, device=device) for one, count in neurons.items()}
        self._handles = [module.register_forward_hook(self._called) for module in neurons]

    def _called(self, module: nn.Module, inputs: tuple[Tensor], output: Tensor) -> None:
        if isinstance(module, TriangleBank):
            self._active[module] |= active_units(module, inputs[0]).flatten()
        else:
            self._active[module] |= (output > 0).any(0)

    def stop(self) -> None:
        """Stops recording."""
        for handle in self._handles:
            handle.remove()

    def share(self, over_ranks: Callable[[Tensor], Tensor]) -> float | None:
        """Returns the share of the neurons that have always been zero, 0 to 1; None without any neuron.

        Args:
            over_ranks: sums a tensor over all ranks; all ranks have to call this method.
        """
        if not self._active:
            return None
        active = over_ranks(torch.cat(list(self._active.values())).float()) > 0
        return float((~active).double().mean())
