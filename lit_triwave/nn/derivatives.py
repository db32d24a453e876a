"""Derivatives of each sample by each parameter of layered networks, by one forward and one backward sweep.

The derivative by an entry (i, j) of a weight matrix is the sensitivity of neuron i times the activation of neuron j.
All replicas are computed at once, and samples are the last dimension.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from lit_triwave.nn.bank import TriangleBank

Rows = Mapping[str, Tensor]
"""Parameter name ↦ the place in the Jacobian for its derivatives, shape (*parameter, B)."""


class Layer(NamedTuple):
    """An affine map and the places in the Jacobian for its derivatives; B samples, which come last."""

    weight: Tensor  # (*lead, out, in)
    bias: Tensor  # (*lead, out)
    weight_rows: Tensor  # (*lead, out, in, B)
    bias_rows: Tensor  # (*lead, out, B)


def forward_sweep(layers: Sequence[Layer], h: Tensor) -> list[Tensor]:
    """Returns the input, the activations of each hidden layer, and the output; each (*lead, neurons, B)."""
    activations = [h]
    for i, layer in enumerate(layers):
        h = (layer.weight @ h).add_(layer.bias[..., None])
        activations.append(h.relu_() if i < len(layers) - 1 else h)
    return activations


def backward_sweep(
    layers: Sequence[Layer], activations: Sequence[Tensor], g: Tensor, *, to_input: bool = True
) -> Tensor:
    """Writes the derivatives of all layers.

    Args:
        layers: see `forward_sweep`.
        activations: what `forward_sweep` returned.
        g: derivative of the network's output by the layers' output, (*lead, outputs, B).
        to_input: False saves the last product where the layers' input is the data.

    Returns:
        The derivative by the layers' input, (*lead, inputs, B), if `to_input`.
    """
    for i in range(len(layers) - 1, -1, -1):
        layer, h = layers[i], activations[i]
        torch.mul(g[..., :, None, :], h[..., None, :, :], out=layer.weight_rows)
        layer.bias_rows.copy_(g)
        if i or to_input:
            g = layer.weight.mT @ g
        if i:
            g = g.mul_(h > 0)
    return g


class BankSweep:
    """The layers of a released bank of shape (R, n) with the places for their derivatives.

    Args:
        bank: released as blocks or as dense matrices.
        prefix: of the bank's parameters in the network, such as "bank.".
        rows: of the network's parameters.

    Raises:
        ValueError: the bank's parameters are still its peaks.
    """

    def __init__(self, bank: TriangleBank, prefix: str, rows: Rows) -> None:
        if bank.released is None:
            raise ValueError("the network's parameters are still its peaks: call release() first")
        self._blocks = bank.released == "blocks"

        def get(name: str) -> tuple[Tensor, Tensor]:
            return getattr(bank, name), rows[prefix + name]

        (w, w_rows), (b, b_rows) = get("input_weight"), get("input_bias")
        (hw, hw_rows), (hb, hb_rows) = get("hidden_weight"), get("hidden_bias")
        (v, v_rows), (c, c_rows) = get("output_weight"), get("output_bias")
        if self._blocks:  # one neuron at either end, whose dimension the bank leaves out
            w, w_rows, v, v_rows = w[..., None], w_rows[..., None, :], v[..., None, :], v_rows[..., None, :, :]
            c, c_rows = c[..., None], c_rows[..., None, :]
        depth = b.ndim - 1  # the dimension of the hidden layers
        hidden = zip(hw.unbind(depth), hb.unbind(depth), hw_rows.unbind(depth), hb_rows.unbind(depth), strict=True)
        self._layers = [Layer(w, b, w_rows, b_rows), *(Layer(*layer) for layer in hidden), Layer(v, c, v_rows, c_rows)]
        self._activations: list[Tensor] = []

    def forward(self, u: Tensor) -> Tensor:
        """u, shape (R, n, B) in [0, 1] ↦ the subnetworks' outputs, (R, n, B)."""
        self._activations = forward_sweep(self._layers, u[:, :, None] if self._blocks else u)
        y = self._activations[-1]
        return y[:, :, 0] if self._blocks else y

    def backward(self, g: Tensor, *, to_input: bool = True) -> Tensor:
        """Writes the derivatives, after `forward`; arguments and result as in `backward_sweep`, shapes (R, n, B)."""
        g = backward_sweep(self._layers, self._activations, g[:, :, None] if self._blocks else g, to_input=to_input)
        return g[:, :, 0] if self._blocks and to_input else g
