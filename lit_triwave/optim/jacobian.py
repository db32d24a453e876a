"""Per-sample derivatives of small networks, all replicas at once, and the sums that least squares makes of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from lit_triwave.nn.bank import TriangleBank
from lit_triwave.nn.baselines import DenseNetwork
from lit_triwave.nn.networks import TriangleNetwork


class _Layer(NamedTuple):
    """An affine map and the places in the Jacobian where its derivatives go; B samples, which come last."""

    weight: Tensor  # (*lead, out, in)
    bias: Tensor  # (*lead, out)
    weight_rows: Tensor  # (*lead, out, in, B)
    bias_rows: Tensor  # (*lead, out, B)


def parameter_count(network: nn.Module) -> int:
    """P, the number of parameters of one replica."""
    return sum(p[0].numel() for p in network.parameters())


def jacobian(
    network: nn.Module, x: Tensor, out: Tensor | None = None, *, analytic: bool = True
) -> tuple[Tensor, Tensor]:
    """The outputs of all replicas and their derivatives by all parameters.

    Replicas share no parameters, so one derivative of the *sum* of their outputs holds the rows of all of them. For
    this project's networks the rows are written by a single backward sweep over the samples: the derivative by an entry
    (i, j) of a weight matrix is the sensitivity of neuron i times the activation of neuron j. Other modules go through
    `torch.func`.

    Args:
        network: a module from (B, …) to (B, R) all of whose parameters have a leading dimension R. Parameters that
            do not require gradients count too.
        x: shape (B, …).
        out: memory for the derivatives, contiguous, at least R · P · B elements; new if None.
        analytic: False takes `torch.func` for every module.

    Returns:
        The outputs, shape (R, B), and the derivatives, shape (R, P, B); P runs over `network.parameters()`, each
        flattened.

    Raises:
        ValueError: for a `TriangleNetwork` whose parameters are still the peaks.
    """
    parameters = dict(network.named_parameters())
    replicas = len(next(iter(parameters.values())))
    sizes = [p[0].numel() for p in parameters.values()]
    shape = torch.Size((replicas, sum(sizes), len(x)))
    like = next(iter(parameters.values()))
    rows = like.new_empty(shape) if out is None else out.view(-1)[: shape.numel()].view(shape)
    views = {
        name: torch.unflatten(part, 1, p.shape[1:]) if p.ndim > 1 else part[:, 0]
        for (name, p), part in zip(parameters.items(), torch.split(rows, sizes, 1), strict=True)
    }
    with torch.no_grad():
        if analytic and isinstance(network, TriangleNetwork):
            return _triangle(network, x, views), rows
        if analytic and isinstance(network, DenseNetwork):
            return _dense_baseline(network, x, views), rows
        return _generic(network, x, views), rows


def _generic(network: nn.Module, x: Tensor, rows: dict[str, Tensor]) -> Tensor:
    parameters = {name: p.detach() for name, p in network.named_parameters()}

    def total(parameters: dict[str, Tensor], sample: Tensor) -> tuple[Tensor, Tensor]:
        values = torch.func.functional_call(network, parameters, (sample[None],))[0]
        return values.sum(), values

    derivative = torch.func.grad(total, has_aux=True)
    with torch.enable_grad():
        gradients, values = torch.func.vmap(derivative, in_dims=(None, 0))(parameters, x)
    for name, gradient in gradients.items():
        rows[name].copy_(gradient.movedim(0, -1))
    result: Tensor = values.T
    return result


def _triangle(network: TriangleNetwork, x: Tensor, rows: dict[str, Tensor]) -> Tensor:
    if network.parameterization != "weights":
        raise ValueError("the network's parameters are still its peaks: call release() first")
    u = network.scaling.inputs(x).clamp(0, 1).T[network.coordinate]  # (n, B)
    inner = _bank_layers(network.bank, "bank.", rows)
    activations = _forward(inner, _to_bank(network.bank, u.expand(network.replicas, *u.shape)))
    sign = network.output_sign[:, None]
    y = (_from_bank(network.bank, activations[-1]) * sign).sum(-2)  # (R, B)
    sensitivity = network.scaling.scale.expand_as(y)
    if network.outer is not None:
        gain, shift = network.outer_gain[:, None], network.outer_shift[:, None]
        v = gain * y + shift
        outer = _bank_layers(network.outer, "outer.", rows)
        outer_activations = _forward(outer, _to_bank(network.outer, v.clamp(0, 1)[:, None]))
        g = _backward(outer, outer_activations, _to_bank(network.outer, sensitivity[:, None]))
        g = _from_bank(network.outer, g)[:, 0] * ((v >= 0) & (v <= 1))
        torch.mul(g, y, out=rows["outer_gain"])
        rows["outer_shift"].copy_(g)
        sensitivity = g * gain
        y = _from_bank(network.outer, outer_activations[-1])[:, 0]
    _backward(inner, activations, _to_bank(network.bank, sensitivity[:, None] * sign), to_input=False)
    return network.scaling.outputs(y)


def _dense_baseline(network: DenseNetwork, x: Tensor, rows: dict[str, Tensor]) -> Tensor:
    layers = [
        _Layer(w, b[:, 0], rows[f"weight.{i}"], rows[f"bias.{i}"][:, 0])
        for i, (w, b) in enumerate(zip(network.weight, network.bias, strict=True))
    ]
    activations = _forward(layers, x.T.expand(network.replicas, *x.T.shape))
    _backward(layers, activations, torch.ones_like(activations[-1]), to_input=False)
    return activations[-1][:, 0]


def _to_bank(bank: TriangleBank, values: Tensor) -> Tensor:
    """(R, n, B) ↦ inputs or outputs of the bank's layers: (R, n, 1, B) for blocks, as it is for dense layers."""
    return values[:, :, None] if bank.released == "blocks" else values


def _from_bank(bank: TriangleBank, values: Tensor) -> Tensor:
    return values[:, :, 0] if bank.released == "blocks" else values


def _bank_layers(bank: TriangleBank, prefix: str, rows: dict[str, Tensor]) -> list[_Layer]:
    """The affine maps of a released bank of shape (R, n)."""

    def get(name: str) -> tuple[Tensor, Tensor]:
        return getattr(bank, name), rows[prefix + name]

    (w, w_rows), (b, b_rows) = get("input_weight"), get("input_bias")
    (hw, hw_rows), (hb, hb_rows) = get("hidden_weight"), get("hidden_bias")
    (v, v_rows), (c, c_rows) = get("output_weight"), get("output_bias")
    if bank.released == "blocks":  # one neuron at either end, whose dimension the bank leaves out
        w, w_rows, v, v_rows = w[..., None], w_rows[..., None, :], v[..., None, :], v_rows[..., None, :, :]
        c, c_rows = c[..., None], c_rows[..., None, :]
    depth = b.ndim - 1  # the dimension of the hidden layers
    hidden = zip(hw.unbind(depth), hb.unbind(depth), hw_rows.unbind(depth), hb_rows.unbind(depth), strict=True)
    return [_Layer(w, b, w_rows, b_rows), *(_Layer(*layer) for layer in hidden), _Layer(v, c, v_rows, c_rows)]


def _forward(layers: list[_Layer], h: Tensor) -> list[Tensor]:
    """The input, what each hidden layer passes on, and the output; each (*lead, neurons, B)."""
    activations = [h]
    for i, layer in enumerate(layers):
        h = (layer.weight @ h).add_(layer.bias[..., None])
        activations.append(h.relu_() if i < len(layers) - 1 else h)
    return activations


def _backward(layers: list[_Layer], activations: list[Tensor], g: Tensor, *, to_input: bool = True) -> Tensor:
    """Writes the rows of all layers, given the output's sensitivity g, (*lead, outputs, B); returns the input's."""
    for i in range(len(layers) - 1, -1, -1):
        layer, h = layers[i], activations[i]
        torch.mul(g[..., :, None, :], h[..., None, :, :], out=layer.weight_rows)
        layer.bias_rows.copy_(g)
        if i or to_input:
            g = layer.weight.mT @ g
        if i:
            g = g.mul_(h > 0)
    return g


class NormalEquations(NamedTuple):
    """What least squares needs of a data set; r are the residuals, J their derivatives, M the number of samples."""

    loss: Tensor  # (R,), Σ r² / M
    gradient: Tensor  # (R, P), Jᵀr / M
    gram: Tensor  # (R, P, P), JᵀJ / M


class LeastSquares:
    """The mean squared error of every replica of a network on a data set, as the closure of `LevenbergMarquardt.step`.

    Calling it returns the `NormalEquations` where gradients are enabled and the losses alone, shape (R,), where they
    are not. (No argument says which, since Lightning wraps closures and calls them without any.) Samples are taken in
    chunks and summed, so memory does not grow with their number.

    Args:
        network: a module from (B, …) to (B, R) all of whose parameters have a leading dimension R.
        inputs: shape (M, …).
        targets: shape (M,), the same for all replicas, or (M, R).
        chunk: samples that are differentiated at a time; the Jacobian takes R · P · chunk numbers.
        reduce: sums a tensor over the processes, each of which holds its own samples, for example
            `lambda t: trainer.strategy.reduce(t, reduce_op="sum")`; None for one process.
        analytic: see `jacobian`.

    Raises:
        ValueError: for inputs and targets of different length, or no samples.
    """

    def __init__(
        self,
        network: nn.Module,
        inputs: Tensor,
        targets: Tensor,
        *,
        chunk: int = 512,
        reduce: Callable[[Tensor], Tensor] | None = None,
        analytic: bool = True,
    ) -> None:
        if len(inputs) != len(targets) or not len(inputs):
            raise ValueError(
                f"{len(inputs)} inputs and {len(targets)} targets: as many of one as of the other, at least 1"
            )
        if chunk < 1:
            raise ValueError(f"chunk {chunk}: at least 1")
        self.network = network
        self.inputs = inputs
        self.targets = targets.T.contiguous() if targets.ndim > 1 else targets[None]  # (R or 1, M)
        self.chunk = chunk
        self.reduce = reduce
        self.analytic = analytic
        self._memory: Tensor | None = None  # of the Jacobian: fresh pages every time would cost as much as filling them

    def __call__(self) -> NormalEquations | Tensor:
        """The normal equations, or without gradients the losses (R,)."""
        return self.normal_equations() if torch.is_grad_enabled() else self.loss()

    @torch.no_grad()
    def loss(self) -> Tensor:
        """The mean squared error of each replica, shape (R,)."""
        total = torch.zeros((), dtype=self.targets.dtype, device=self.targets.device)
        for x, y in self._chunks():
            total = total + (self.network(x).T - y).square().sum(1)
        return self._mean(total)[0]

    @torch.no_grad()
    def normal_equations(self) -> NormalEquations:
        """The mean squared error of each replica with what a Gauss–Newton step needs."""
        first = next(self.network.parameters())
        replicas, parameters = len(first), parameter_count(self.network)
        size = min(self.chunk, len(self.inputs))
        if self._memory is None:
            self._memory = first.new_empty(replicas * parameters * size)
        loss = first.new_zeros(replicas)
        gradient = first.new_zeros(replicas, parameters)
        gram = first.new_zeros(replicas, parameters, parameters)
        for x, y in self._chunks():
            values, rows = jacobian(self.network, x, self._memory, analytic=self.analytic)
            residuals = values - y
            loss += residuals.square().sum(1)
            gradient += (rows @ residuals[..., None])[..., 0]
            gram.baddbmm_(rows, rows.mT)
        return NormalEquations(*self._mean(loss, gradient, gram))

    def _chunks(self) -> zip[tuple[Tensor, Tensor]]:
        return zip(torch.split(self.inputs, self.chunk), torch.split(self.targets, self.chunk, 1), strict=True)

    def _mean(self, *sums: Tensor) -> list[Tensor]:
        count = sums[0].new_tensor(len(self.inputs))
        if self.reduce is not None:
            count = self.reduce(count)
            sums = tuple(self.reduce(t) for t in sums)
        return [t / count for t in sums]
