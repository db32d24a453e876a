"""`StackNetwork`: layers of constructed subnetworks that are trained in their limit first (METHOD section 7)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from lit_triwave.construction import dense
from lit_triwave.construction.quadratic import Layers, construction_mse, quadratic_features, quadratic_sensitivities
from lit_triwave.nn.bank import TriangleBank, check_margin
from lit_triwave.nn.constructed import BankLayers, ConstructedNetwork, WiredBank
from lit_triwave.nn.derivatives import Rows, bank_sweep
from lit_triwave.nn.scaling import Domain, TargetRange, UnitScaling
from lit_triwave.nn.sizes import check_sizes
from lit_triwave.nn.stack_layers import check_layers, stack_parameters
from lit_triwave.nn.stack_ranges import argument_ranges, sobol_points

DEEPEST_STACK = 26
"""Hidden layers of a subnetwork, at most: its error is 4^−d of its range, and 4^−26 is the precision of float64."""
FINEST = 1e-20
"""Squared error, as a share of the squared target range, below which more depth is not worth its cost."""
SPREAD = 0.7
"""Standard deviation of each neuron's argument v over the points at the start."""
OUTPUT_MARGIN = 0.1
"""Share of the target range by which the outputs of a bounded network may leave it at each end."""
MOST_PIECES = 1 << 20
"""Largest number of linear pieces that is counted. Layers multiply the pieces, and more do not fit into memory."""


class StackNetwork(ConstructedNetwork):
    """Functions of any number of variables as layers of one-variable functions, for many replicas (seeds) at once.

    Layer l has K_l neurons. Each applies a function of one variable to v = w·h + b, where h are the inputs and the
    outputs of all earlier layers. The network's output is linear in the inputs and the outputs of all layers.

    The one-variable functions have three forms, see `parameterization`:

    - `"limit"`: v², which a constructed subnetwork with peaks 1/2 approaches as its depth grows. This network is a
      polynomial of degree 2^L with few parameters, and smooth.
    - `"peaks"`: after `build`, constructed subnetworks of depth d on the range that v takes over the domain. Arguments
      that leave the range are clamped to it, so the function is continuous and bounded everywhere.
    - `"weights"`: after `release`, the weights of those subnetworks.

    Args:
        domain: name ↦ (lower, upper) of each input. Inputs outside are clamped to it.
        target_range: (lowest, highest) target; inside the network this range is [0, 1].
        layers: neurons K_l of each layer, each ≥ 1.
        bounded: clamp outputs to the target range, widened by a tenth at both ends.
        theorem31: see `TriangleBank`.
        replicas: number R of independent networks.
        margin: see `TriangleBank`.
        generator: random generator of the start.

    Attributes:
        projection, shift: W_l, (R, K_l, width of h), and b_l, (R, K_l), of each layer. After `build` they map to
            [0, 1] instead of to v.
        output_weight, output_bias: (R, inputs + Σ K_l) and (R,).
        bank: one bank of shape (R, K_l) for each layer; empty before `build`.
        depth: hidden layers of each subnetwork, None before `build`.

    Raises:
        ValueError: an argument is outside its range.
    """

    # The linear pieces of the depth are not comparable with free knots, because layers multiply them.
    segments = None
    wiring = "stack"
    most_pieces = MOST_PIECES

    def __init__(
        self,
        domain: Domain,
        target_range: TargetRange = (0.0, 1.0),
        *,
        layers: Sequence[int] = (4, 4, 4),
        bounded: bool = False,
        theorem31: bool = True,
        replicas: int = 1,
        margin: float = 1e-2,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        check_layers(layers)
        check_sizes(replicas=replicas)
        check_margin(margin, torch.float64)  # not only in `build`, after the limit is trained
        self.scaling = UnitScaling(domain, target_range, replicas)
        self.layers = list(layers)
        self.bounded = bounded
        self.depth: int | None = None
        self._bank_options: dict[str, Any] = {"theorem31": theorem31, "margin": margin}
        self.projection, self.shift, self.bank = nn.ParameterList(), nn.ParameterList(), nn.ModuleList()
        width, dtype = self.scaling.in_features, torch.float64
        for neurons in self.layers:
            start = torch.randn(replicas, neurons, width, generator=generator, dtype=dtype)
            self.projection.append(nn.Parameter(start))
            self.shift.append(nn.Parameter(torch.zeros(replicas, neurons, dtype=dtype)))
            width += neurons
        self.output_weight = nn.Parameter(torch.zeros(replicas, width, dtype=dtype))
        self.output_bias = nn.Parameter(torch.zeros(replicas, dtype=dtype))

    @property
    def replicas(self) -> int:
        return len(self.output_bias)

    @property
    def banks(self) -> list[TriangleBank]:
        return list(self.bank)  # type: ignore[arg-type]

    @property
    def parameterization(self) -> Literal["limit", "peaks", "weights"]:
        return self.banks[0].parameterization if len(self.bank) else "limit"

    @property
    def limit_parameters(self) -> int:
        """Number of parameters of one replica's limit network."""
        return stack_parameters(self.scaling.in_features, self.layers)

    @property
    def limit_layers(self) -> Layers:
        """(W_l, b_l) of each layer."""
        return [(w.detach(), b.detach()) for w, b in zip(self.projection, self.shift, strict=True)]

    def inputs(self, x: Tensor) -> Tensor:
        """x (batch, in_features) in the domain's units ↦ h_0 in [−1, 1], (in_features, batch)."""
        return (2 * self.scaling.inputs(x) - 1).clamp(-1, 1).T

    def forward(self, x: Tensor) -> Tensor:
        """Evaluates all replicas.

        Args:
            x: shape (batch, in_features), in the domain's units.

        Returns:
            Shape (batch, replicas), in the targets' units.
        """
        h = self.inputs(x).expand(self.replicas, -1, -1)
        for i, (weight, bias) in enumerate(zip(self.projection, self.shift, strict=True)):
            v = torch.baddbmm(bias[..., None], weight, h)
            q = self.banks[i](v.movedim(-1, 0)).movedim(0, -1) if len(self.bank) else v * v
            h = torch.cat([h, q], 1)
        y = torch.baddbmm(self.output_bias[:, None, None], self.output_weight[:, None], h)[:, 0]
        return self.scaling.outputs(self._bounds(y).T)

    def _bounds(self, y: Tensor) -> Tensor:
        """Clamps outputs, in units of the target range, of a bounded network."""
        return y.clamp(-OUTPUT_MARGIN, 1 + OUTPUT_MARGIN) if self.bounded else y

    @torch.no_grad()
    def average(self, members: StackNetwork) -> None:
        """Makes this network the mean of other networks: their neurons side by side, without weights between them.

        Args:
            members: R · M replicas in their limit, with 1/M of this network's neurons in each layer. This network's
                replica r is the mean of the members r · M to r · M + M − 1.
        """
        inputs, each = self.scaling.in_features, members.replicas // self.replicas
        for r in range(self.replicas):
            mine = slice(r * each, (r + 1) * each)
            for i, (wide, narrow) in enumerate(zip(self.projection, members.projection, strict=True)):
                parts = torch.split(narrow[mine], [inputs, *members.layers[:i]], 2)
                blocks = [torch.block_diag(*part) for part in parts[1:]]  # type: ignore[no-untyped-call]
                wide[r] = torch.cat([parts[0].flatten(0, 1), *blocks], 1)
                self.shift[i][r] = members.shift[i][mine].flatten()
            linear, *neurons = torch.split(members.output_weight[mine] / each, [inputs, *members.layers], 1)
            self.output_weight[r] = torch.cat([linear.sum(0), *(part.flatten() for part in neurons)])
            self.output_bias[r] = members.output_bias[mine].mean()

    def ranges(self) -> list[tuple[Tensor, Tensor]]:
        """Bounds of every neuron's argument v over the domain: (lowest, highest) of each layer, (R, K_l) each."""
        return argument_ranges(self.scaling.in_features, self.limit_layers)

    @torch.no_grad()
    def predicted_mse(self, depth: int) -> Tensor:
        """Mean squared error over the domain that `build(depth)` adds to the error of the limit network.

        Returns:
            Shape (R,), in squared units of the targets.
        """
        return self._construction_mse()(depth)

    def _construction_mse(self) -> Callable[[int], Tensor]:
        """Returns `predicted_mse` as a function of the depth; ranges and derivatives are the same for all depths."""
        ranges = self.ranges()
        _, arguments = quadratic_features(sobol_points(self.scaling.in_features, self.output_weight), self.limit_layers)
        g = quadratic_sensitivities(self.output_weight.detach(), self.limit_layers, arguments)
        return lambda depth: construction_mse(g, arguments, ranges, depth) * self.scaling.scale.square()

    @torch.no_grad()
    def sufficient_depth(self, errors: Tensor, best: int = 0, share: float = 1.0) -> int:
        """Smallest depth for which the construction adds less than a share of the limit network's error.

        Args:
            errors: mean squared errors of the replicas, (R,), in squared units of the targets; NaN if not known.
            best: the replica that decides.
            share: above 0, at most 1.
        """
        finest = FINEST * float(self.scaling.scale.expand(self.replicas)[best]) ** 2
        aim = max(share * float(errors[best].nan_to_num(nan=0.0)), finest)
        mse, depth = self._construction_mse(), 1
        while depth < DEEPEST_STACK and not float(mse(depth)[best]) < aim:
            depth += 1
        return depth

    @torch.no_grad()
    def build(self, depth: int) -> None:
        """Replaces every quadratic neuron by a constructed subnetwork with peaks 1/2, in place.

        On [lo, hi], with u = (v − lo) / (hi − lo), v² = lo² + (hi² − lo²)·u − (hi − lo)²·Σ 4^{−(i+1)}·W_i(u).

        Args:
            depth: hidden layers of each subnetwork, 1 to 26.

        Raises:
            ValueError: the depth is outside its range.
            RuntimeError: the network is already built.
        """
        check_depth(depth)
        if len(self.bank):
            raise RuntimeError(f"the network is already built, with depth {self.depth}")
        ranges = self.ranges()
        self._add_banks(depth)
        for i, (low, high) in enumerate(ranges):
            width = high - low
            self.projection[i].div_(width[..., None])
            self.shift[i].sub_(low).div_(width)
            bank = self.banks[i]
            bank.log_scales[..., 0] = (width.square() / 4).log()
            bank.peaks = torch.tensor(0.5)
            bank.alpha.copy_(low.square())
            bank.beta.copy_((high - low) * (high + low))
            self.get_buffer(f"lowest_{i}").copy_(low)
            self.get_buffer(f"highest_{i}").copy_(high)

    def _add_banks(self, depth: int) -> None:
        self.depth = depth
        for i, neurons in enumerate(self.layers):
            # A separate generator, because the peaks drawn here are overwritten.
            like: dict[str, Any] = {"dtype": self.output_weight.dtype, "device": self.output_weight.device}
            generator = torch.Generator(self.output_weight.device)
            bank = TriangleBank((self.replicas, neurons), depth, generator=generator, **like, **self._bank_options)
            self.bank.append(bank)
            for name in ("lowest", "highest"):
                self.register_buffer(f"{name}_{i}", torch.zeros(self.replicas, neurons, **like))

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        """Puts the network into the form in which the checkpoint was saved, then loads it."""
        names = [f"{prefix}bank.0.{name}" for name in ("peak_logits", "released_peaks")]
        peaks = [state_dict[name] for name in names if name in state_dict]
        if peaks or f"{prefix}output_weight" in state_dict:
            self._remove_banks()
        if peaks:
            self._add_banks(peaks[0].shape[-1] - 1)
        super()._load_from_state_dict(state_dict, prefix, *args)

    def _remove_banks(self) -> None:
        for i in range(len(self.bank)):
            del self._buffers[f"lowest_{i}"], self._buffers[f"highest_{i}"]
        self.bank, self.depth = nn.ModuleList(), None

    def affine_layers(
        self, replica: int, bank_layers: BankLayers = TriangleBank.affine_layers, clamped: bool = False
    ) -> list[dense.Affine]:
        """See `ConstructedNetwork`.

        Two neurons for each value, relu(h) and relu(−h), carry it past a layer's subnetworks to later layers.

        Raises:
            RuntimeError: when the network is still its limit.
        """
        if not len(self.bank):
            raise RuntimeError("the network is still its limit: call build() first")
        width, like = self.scaling.in_features, self.output_weight.detach()
        eye = torch.eye(width, dtype=like.dtype, device=like.device)
        parts: list[Sequence[dense.Affine]] = [self.input_parts(clamped), [(2 * eye, -like.new_ones(width))]]
        for i, bank in enumerate(self.banks):
            weight, bias = self.projection[i][replica].detach(), self.shift[i][replica].detach()
            eye = torch.eye(width, dtype=like.dtype, device=like.device)
            parts.append([(torch.cat([eye, weight]), torch.cat([bias.new_zeros(width), bias]))])
            for block in (dense.clamp_layers(len(bias), like=weight), bank_layers(bank.select(replica))):
                parts.append(dense.beside(dense.carry_layers(width, len(block), like=weight), block))
            width += len(bias)
        parts.append([(self.output_weight[replica].detach()[None], self.output_bias[replica].detach()[None])])
        if self.bounded:
            one, span = like.new_ones(1), 1 + 2 * OUTPUT_MARGIN
            parts.append([(one[None] / span, one * OUTPUT_MARGIN / span)])
            parts += [dense.clamp_layers(1, like=like), [(one[None] * span, -one * OUTPUT_MARGIN)]]
        return dense.chain(*parts, [self.scaling.output_layer(replica)])

    @property
    def clamps(self) -> tuple[int, ...]:
        return tuple(i * ((self.depth or 0) + 1) for i in range(len(self.bank) + self.bounded))

    @property
    def carriers(self) -> tuple[int, ...]:
        if not len(self.bank):
            return ()
        widths = [self.scaling.in_features + sum(self.layers[:i]) for i in range(len(self.layers))]
        return tuple(2 * width for width in widths for _ in range((self.depth or 0) + 1)) + (0,) * self.bounded

    def wired_banks(self, variables: Sequence[str], replica: int = 0) -> list[WiredBank]:
        found = []
        for i, bank in enumerate(self.banks):
            numbers = [f"{i + 1}.{k + 1}" for k in range(self.layers[i])]
            ends = (self.get_buffer(f"{name}_{i}")[replica].tolist() for name in ("lowest", "highest"))
            inputs = [(f"v{number}", low, high) for number, low, high in zip(numbers, *ends, strict=True)]
            labels, sources = [f"q{number}" for number in numbers], list(range(len(numbers)))
            found.append(WiredBank(bank, f"layer {i + 1}", labels, inputs, sources, squares=True))
        return found

    def jacobian_rows(self, x: Tensor, rows: Rows) -> Tensor:
        """Writes the derivatives of all replicas by all parameters, see `optim.jacobian`; returns the values, (R, B).

        Raises:
            ValueError: the network is still its limit.
        """
        if not len(self.bank):
            raise ValueError("the network is still its limit: call build() first")
        h = self.inputs(x).expand(self.replicas, -1, -1)
        sweeps, inside, widths = [], [], []
        for i, (weight, bias) in enumerate(zip(self.projection, self.shift, strict=True)):
            sweeps.append(bank_sweep(self.banks[i], f"bank.{i}.", rows))
            u = torch.baddbmm(bias[..., None], weight, h)
            inside.append((u >= 0) & (u <= 1))
            widths.append(h.shape[1])
            h = torch.cat([h, sweeps[i].forward(u.clamp(0, 1))], 1)
        y = torch.baddbmm(self.output_bias[:, None, None], self.output_weight[:, None], h)[:, 0]
        bounded = self._bounds(y)
        scale = self.scaling.scale.reshape(-1, 1) * (bounded == y)  # no derivative where an output is clamped
        torch.mul(h, scale[:, None], out=rows["output_weight"])
        rows["output_bias"].copy_(scale)
        g = scale[:, None] * self.output_weight[..., None]
        for i in reversed(range(len(sweeps))):
            start = widths[i]
            delta = sweeps[i].backward(g[:, start:].contiguous()) * inside[i]
            rows[f"shift.{i}"].copy_(delta)
            torch.mul(delta[:, :, None], h[:, None, :start], out=rows[f"projection.{i}"])
            g = g[:, :start] + self.projection[i].mT @ delta
        return self.scaling.outputs(bounded.T).T


def check_depth(depth: int) -> None:
    """Checks the depth of a stack's subnetworks.

    Raises:
        ValueError: it is not in 1 … 26.
    """
    if not 1 <= depth <= DEEPEST_STACK:
        raise ValueError(
            f"depth of a stack must be 1 to {DEEPEST_STACK}, got {depth}: the error is 4^-depth, and float64 "
            f"has no more than 4^-{DEEPEST_STACK}; null chooses"
        )
