"""The wirings single, difference, sum and composition: how inputs reach subnetworks, and outputs one function."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from lit_triwave.construction import dense
from lit_triwave.errors import check_choice
from lit_triwave.nn.bank import Curvatures, TriangleBank, wave_signs
from lit_triwave.nn.constructed import BankLayers, ConstructedNetwork, WiredBank
from lit_triwave.nn.derivatives import Rows, bank_sweep
from lit_triwave.nn.scaling import Domain, TargetRange, UnitScaling
from lit_triwave.nn.sizes import check_sizes

Wiring = Literal["single", "difference", "sum", "composition"]


class TriangleNetwork(ConstructedNetwork):
    """Functions of one or several variables as a wiring of constructed subnetworks, for many replicas (seeds) at once.

    | wiring | subnetworks | function |
    |---|---|---|
    | `single` | 1 | N(x), one variable, convex or concave |
    | `difference` | 2 for each input, both convex | Σ_j N_j(x_j) − M_j(x_j) |
    | `sum` | 1 for each input | Σ_j N_j(x_j) |
    | `composition` | 1 for each input, x_j² at the start, and an outer one | N(clamp(g · Σ_j N_j(x_j) + h)) |

    Any function of one variable with bounded second derivative is a difference of two convex ones. A composition can
    represent functions of r² = Σ x_j², but a sum over coordinates cannot (METHOD section 4).

    Args:
        domain: name ↦ (lower, upper) of each input. Inputs outside are clamped to it.
        target_range: (lowest, highest) target; inside the network this range is [0, 1].
        wiring: see above.
        depth: hidden layers of each subnetwork.
        curvature: curvature of the subnetworks of `single` and `sum`: one for all, one for each input, or nested
            sequences that broadcast against (R, inputs). For `composition`, the curvature of the outer network.
        theorem31: see `TriangleBank`.
        replicas: number R of independent networks.
        margin: see `TriangleBank`.
        generator: random generator of the peaks.

    Attributes:
        bank: the subnetworks, shape (R, subnetworks).
        outer: the outer subnetwork, shape (R, 1), or None.

    Raises:
        ValueError: an argument is outside its range, or the wiring does not suit the number of inputs.
    """

    coordinate: Tensor
    output_sign: Tensor

    def __init__(
        self,
        domain: Domain,
        target_range: TargetRange = (0.0, 1.0),
        *,
        wiring: Wiring = "single",
        depth: int = 5,
        curvature: Curvatures = "convex",
        theorem31: bool = True,
        replicas: int = 1,
        margin: float = 1e-2,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        check_choice(Wiring, wiring=wiring)
        check_sizes(replicas=replicas)
        wave_signs(curvature)  # refuses a wrong curvature even if the wiring does not use it
        self.wiring = wiring
        self.scaling = UnitScaling(domain, target_range, replicas)
        m = self.scaling.in_features
        if wiring == "single" and m > 1:
            named = ", ".join(domain)
            raise ValueError(f"wiring must be difference, sum or composition for the inputs {named}, got 'single'")
        bank_options: dict[str, Any] = {
            "theorem31": theorem31,
            "margin": margin,
            "generator": generator,
            "dtype": torch.float64,
        }
        nets = 2 * m if wiring == "difference" else m
        inner_curvature = curvature if wiring in ("single", "sum") else "convex"
        self.bank = TriangleBank((replicas, nets), depth, curvature=inner_curvature, **bank_options)
        self.register_buffer("coordinate", torch.arange(nets) % m, persistent=False)
        signs = torch.ones(nets, dtype=torch.float64)
        if wiring == "difference":
            signs[m:] = -1
        self.register_buffer("output_sign", signs, persistent=False)
        self.outer: TriangleBank | None = None
        if wiring == "composition":
            # With one curvature for each input, the outer network gets that of the first input.
            outer: Curvatures = curvature if isinstance(curvature, str) else curvature[0]
            if not isinstance(outer, str):
                outer = [[of_one if isinstance(of_one, str) else of_one[0]] for of_one in curvature]
            self.outer = TriangleBank((replicas, 1), depth, curvature=outer, **bank_options)
            self._start_squares()

    def _start_squares(self) -> None:
        """Sets inner subnetwork j to x_j², and the outer input to Σ x_j² scaled to [0, 1] over the domain."""
        low, span = self.scaling.lower, self.scaling.span
        high = low + span
        # x² = (low + span·t)² and t² = t − Σ 4^{−(i+1)} W_i for peaks 1/2 (Yarotsky).
        self.bank.peaks = torch.tensor(0.5)
        with torch.no_grad():
            self.bank.alpha.copy_((low**2).expand_as(self.bank.alpha))
            self.bank.beta.copy_((high**2 - low**2).expand_as(self.bank.beta))
            self.bank.log_scales.add_((span**2).log()[:, None])
        top = torch.maximum(low**2, high**2).sum()
        bottom = torch.where((low < 0) & (high > 0), 0, torch.minimum(low**2, high**2)).sum()
        replicas = self.bank.shape[0]
        self.outer_gain = nn.Parameter((1 / (top - bottom)).expand(replicas).clone())
        self.outer_shift = nn.Parameter((-bottom / (top - bottom)).expand(replicas).clone())

    @property
    def banks(self) -> list[TriangleBank]:
        return [self.bank] if self.outer is None else [self.bank, self.outer]

    @property
    def segments(self) -> int:
        """Number of linear pieces in one variable: 2^depth for each subnetwork that has this variable as its input."""
        return (1 << self.bank.depth) * (2 if self.wiring == "difference" else 1)

    @property
    def clamps(self) -> tuple[int, ...]:
        return () if self.outer is None else (self.bank.depth,)

    def wired_banks(self, variables: Sequence[str], replica: int = 0) -> list[WiredBank]:
        low, high = self.scaling.lower.tolist(), (self.scaling.lower + self.scaling.span).tolist()
        sources = self.coordinate.tolist()
        labels = [
            f"{'N' if sign > 0 else '−M'}({variables[j]})"
            for j, sign in zip(sources, self.output_sign.tolist(), strict=True)
        ]
        found = [
            WiredBank(self.bank, "subnetworks", labels, [(variables[j], low[j], high[j]) for j in sources], sources)
        ]
        if self.outer is not None:
            found.append(WiredBank(self.outer, "outer network", ["outer"], [("inner sum, in [0, 1]", 0.0, 1.0)], [0]))
        return found

    def forward(self, x: Tensor) -> Tensor:
        """Evaluates all replicas.

        Args:
            x: shape (batch, in_features), in the domain's units.

        Returns:
            Shape (batch, replicas), in the targets' units.
        """
        u = self.scaling.inputs(x)[:, None, self.coordinate].expand(-1, self.replicas, -1)
        y = (self.bank(u) * self.output_sign).sum(-1)
        if self.outer is not None:
            y = self.outer((self.outer_gain * y + self.outer_shift)[..., None])[..., 0]
        return self.scaling.outputs(y)

    def affine_layers(
        self, replica: int, bank_layers: BankLayers = TriangleBank.affine_layers, clamped: bool = False
    ) -> list[dense.Affine]:
        picks = torch.eye(self.scaling.in_features).to(self.output_sign)[self.coordinate]
        none, combine = picks.new_zeros(len(picks)), self.output_sign[None]
        parts = [self.input_parts(clamped), [(picks, none)], bank_layers(self.bank.select(replica))]
        if self.outer is None:
            parts.append([(combine, none[:1])])
        else:
            gain, shift = self.outer_gain[replica].detach(), self.outer_shift[replica].detach()
            parts.append([(gain * combine, shift[None])])
            # The clamp's first affine map has to follow its input without a ReLU between: `chain` merges the two.
            parts += [dense.clamp_layers(1, like=picks), bank_layers(self.outer.select(replica))]
        return dense.chain(*parts, [self.scaling.output_layer(replica)])

    def jacobian_rows(self, x: Tensor, rows: Rows) -> Tensor:
        """Writes the derivatives of all replicas by all parameters and returns the values, (R, B)."""
        u = self.scaling.inputs(x).clamp(0, 1).T[self.coordinate]  # (n, B)
        inner = bank_sweep(self.bank, "bank.", rows)
        sign = self.output_sign[:, None]
        y = (inner.forward(u.expand(self.replicas, *u.shape)) * sign).sum(-2)  # (R, B)
        sensitivity = self.scaling.scale.reshape(-1, 1).expand_as(y)
        if self.outer is not None:
            gain, shift = self.outer_gain[:, None], self.outer_shift[:, None]
            v = gain * y + shift
            outer = bank_sweep(self.outer, "outer.", rows)
            value = outer.forward(v.clamp(0, 1)[:, None])[:, 0]
            g = outer.backward(sensitivity[:, None])[:, 0] * ((v >= 0) & (v <= 1))
            torch.mul(g, y, out=rows["outer_gain"])
            rows["outer_shift"].copy_(g)
            sensitivity, y = g * gain, value
        inner.backward(sensitivity[:, None] * sign, to_input=False)
        return self.scaling.outputs(y.T).T
