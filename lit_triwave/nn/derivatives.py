"""Derivatives of each sample by each parameter of layered networks, by one forward and one backward sweep.

The derivative by an entry (i, j) of a weight matrix is the sensitivity of neuron i times the activation of neuron j.
All replicas are computed at once, and samples are the last dimension.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from lit_triwave.construction.triangle import triangle
from lit_triwave.nn.bank import PEAK_PARAMETERS, TriangleBank

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
        to_input: False leaves out the last product, which is not needed if the layers' input is the data.

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


def bank_sweep(bank: TriangleBank, prefix: str, rows: Rows) -> WaveSweep | LayerSweep:
    """Returns a forward and a backward sweep through the subnetworks of a bank, before or after its release.

    Args:
        bank: a bank of shape (R, n), with peaks or released weights.
        prefix: beginning of the names of the bank's parameters in the network, such as "bank.".
        rows: derivatives by the network's parameters.
    """
    return WaveSweep(bank, prefix, rows) if bank.released is None else LayerSweep(bank, prefix, rows)


class WaveSweep:
    """The sweep while the peaks are the parameters; arguments as in `bank_sweep`.

    T_a has the slope t = 1/a or −1/(1 − a), and dT_a/da = −t·T_a on both sides of the peak. By Theorem 3.1 the scales
    s_i, s_{i+1}, … hold the factor (1 − a_i)·a_{i+1}, so these peaks also scale all those waves.
    """

    def __init__(self, bank: TriangleBank, prefix: str, rows: Rows) -> None:
        self._bank = bank
        self._rows = {name: rows[prefix + name] for name in PEAK_PARAMETERS}
        self._peaks = bank.peaks[..., None].unbind(2)  # d + 1 times (R, n, 1)
        self._coefficients = (bank.sign[..., None] * bank.scales)[..., None].unbind(2)
        self._waves: list[Tensor] = []

    def forward(self, u: Tensor) -> Tensor:
        """u, shape (R, n, B) in [0, 1] ↦ the subnetworks' outputs, (R, n, B)."""
        y = torch.addcmul(self._bank.alpha[..., None], self._bank.beta[..., None], u)
        self._waves = [u]
        for peak, coefficient in zip(self._peaks[:-1], self._coefficients, strict=True):
            self._waves.append(triangle(self._waves[-1], peak))
            y.addcmul_(coefficient, self._waves[-1])
        return y

    def backward(self, g: Tensor, *, to_input: bool = True) -> Tensor:
        """Writes the derivatives, after `forward`; arguments and result as in `backward_sweep`, shapes (R, n, B)."""
        bank, peaks, waves = self._bank, self._peaks, self._waves
        of_peaks, of_scales = self._rows["peak_logits"], self._rows["log_scales"]
        self._rows["alpha"].copy_(g)
        torch.mul(g, waves[0], out=self._rows["beta"])
        of_peaks[:, :, bank.depth] = 0
        through = torch.zeros_like(g)  # derivative by the current wave
        tail = torch.zeros_like(g)  # the part of the output from the current and all later waves, times g
        for i in range(bank.depth - 1, -1, -1):
            direct = g * self._coefficients[i]
            slope = torch.where(waves[i] < peaks[i], 1 / peaks[i], -1 / (1 - peaks[i]))
            through = (through + direct).mul_(slope)
            torch.mul(through, waves[i + 1], out=of_peaks[:, :, i]).neg_()
            share = direct.mul_(waves[i + 1])
            if not bank.theorem31:
                of_scales[:, :, i] = share
                continue
            tail += share
            if i:
                of_peaks[:, :, i] -= tail / (1 - peaks[i])
                of_peaks[:, :, i + 1] += tail / peaks[i + 1]
        if bank.theorem31:
            of_scales[:, :, 0] = tail
        # The peaks are a logistic function of the parameters: a = m + (1 − 2m)·p, dp/dlogit = p·(1 − p).
        p = bank.peak_logits.sigmoid()
        of_peaks.mul_(((1 - 2 * bank.margin) * p * (1 - p))[..., None])
        return through.addcmul_(g, bank.beta[..., None])


class LayerSweep:
    """The sweep through released weights, as blocks or as dense matrices; arguments as in `bank_sweep`."""

    def __init__(self, bank: TriangleBank, prefix: str, rows: Rows) -> None:
        self._blocks = bank.released == "blocks"

        def get(name: str) -> tuple[Tensor, Tensor]:
            return getattr(bank, name), rows[prefix + name]

        (w, w_rows), (b, b_rows) = get("input_weight"), get("input_bias")
        (hw, hw_rows), (hb, hb_rows) = get("hidden_weight"), get("hidden_bias")
        (v, v_rows), (c, c_rows) = get("output_weight"), get("output_bias")
        if self._blocks:  # input and output have one neuron, and the bank has no dimension for it
            w, w_rows, v, v_rows = w[..., None], w_rows[..., None, :], v[..., None, :], v_rows[..., None, :, :]
            c, c_rows = c[..., None], c_rows[..., None, :]
        depth = b.ndim - 1  # the dimension of the hidden layers
        hidden = zip(hw.unbind(depth), hb.unbind(depth), hw_rows.unbind(depth), hb_rows.unbind(depth), strict=True)
        self._layers = [Layer(w, b, w_rows, b_rows), *(Layer(*layer) for layer in hidden), Layer(v, c, v_rows, c_rows)]
        self._activations: list[Tensor] = []

    def forward(self, u: Tensor) -> Tensor:
        """See `WaveSweep`."""
        self._activations = forward_sweep(self._layers, u[:, :, None] if self._blocks else u)
        y = self._activations[-1]
        return y[:, :, 0] if self._blocks else y

    def backward(self, g: Tensor, *, to_input: bool = True) -> Tensor:
        """See `WaveSweep`."""
        g = backward_sweep(self._layers, self._activations, g[:, :, None] if self._blocks else g, to_input=to_input)
        return g[:, :, 0] if self._blocks and to_input else g
