"""`TriangleBank`: constructed subnetworks side by side, and the switch from trained peaks to trained weights."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from lit_triwave.construction import dense
from lit_triwave.construction.triangle import (
    BlockWeights,
    block_weights,
    network_form,
    recruit,
    theorem31_scales,
    wave_form,
)
from lit_triwave.nn.sizes import check_sizes

Curvature = Literal["convex", "concave"]
Curvatures = Curvature | Sequence["Curvatures"]
"""One curvature for all subnetworks, or nested sequences that broadcast against their shape as tensors do."""
Release = Literal["blocks", "dense"]
DEEPEST = 64
"""Most hidden layers: scales shrink by powers of four, and 4^64 exhausts single precision."""
WIDEST = 1 << 20
"""Most subnetworks of a head: four million neurons in a layer."""
END_ROUNDOFFS = 8
"""Roundoffs of the dtype by which the released first wave stays above zero at u = 1, in units of 1/a_0."""

PEAK_PARAMETERS = ("peak_logits", "log_scales", "alpha", "beta")
_WEIGHT_PARAMETERS = BlockWeights._fields


class TriangleBank(nn.Module):
    """Constructed ReLU networks, four neurons wide and `depth` hidden layers deep, evaluated side by side.

    While `parameterization` is `"peaks"`, the peaks, the scales and the affine part are the parameters. With the scales
    of Theorem 3.1 each subnetwork then has exactly 2^depth linear regions on [0, 1], for all peaks. `release`
    makes the weights of the same function the parameters. Inputs are clamped to [0, 1], where the construction
    is valid.

    `torch.nn.utils.parametrize`, PyTorch's mechanism for weights computed from other parameters, is not used for two
    reasons. First, the wave form that is trained here never computes the weights and is several times faster. With
    `parametrize` the peaks would be evaluated again for each of the six weight tensors. Second,
    `remove_parametrizations` changes the keys of the state dict, so a new module could not see which kind of parameters
    a checkpoint has. Here `load_state_dict` accepts both kinds and puts the module into the state of the checkpoint.

    Args:
        shape: shape of the group of subnetworks, n or (…, n), each ≥ 1. `release("dense")` connects the subnetworks of
            the last dimension; the dimensions before it (replicas) stay independent of each other.
        depth: hidden layers d, 1 to 64.
        curvature: `"convex"` or `"concave"`, or (nested) sequences of them that broadcast against `shape`.
        theorem31: True ties all scales but the first to the peaks (Theorem 3.1); False makes each scale a parameter,
            with the values of Theorem 3.1 as a start.
        margin: peaks stay in [margin, 1 − margin], 0 < margin < 1/2. They are drawn from U(margin, 1 − margin) and
            stored as logits of that interval.
        generator: random generator of the peaks; None uses PyTorch's global one.
        dtype: dtype of the parameters; None uses PyTorch's default.
        device: device of the parameters.

    Attributes:
        parameterization: `"peaks"` or `"weights"`.
        released: None, `"blocks"` or `"dense"`.
        alpha: offset of the affine part, shape (*shape,), 0 at the start; only before release.
        beta: slope of the affine part, shape (*shape,), 1 at the start; only before release.

    Raises:
        ValueError: an argument is outside its range.
    """

    sign: Tensor
    released_peaks: Tensor
    peak_logits: nn.Parameter
    log_scales: nn.Parameter
    alpha: nn.Parameter
    beta: nn.Parameter

    def __init__(
        self,
        shape: int | Sequence[int],
        depth: int,
        *,
        curvature: Curvatures = "convex",
        theorem31: bool = True,
        margin: float = 1e-2,
        generator: torch.Generator | None = None,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__()
        check_sizes(most=DEEPEST, depth=depth)
        self.shape = torch.Size(shape if isinstance(shape, Sequence) else [shape])
        if not self.shape or min(self.shape) < 1:
            raise ValueError(f"shape must have at least one dimension, each ≥ 1, got {shape}")
        check_margin(margin, dtype or torch.get_default_dtype())
        self.depth = depth
        self.theorem31 = theorem31
        self.margin = margin
        self.released: Release | None = None

        factory: dict[str, Any] = {"dtype": dtype or torch.get_default_dtype(), "device": device}
        signs = wave_signs(curvature)
        try:
            self.register_buffer("sign", torch.tensor(signs, **factory).expand(self.shape).clone())
        except (ValueError, RuntimeError) as error:
            raise ValueError(f"curvature must broadcast to shape {tuple(self.shape)}, got {curvature!r}") from error
        uniform = torch.rand(*self.shape, depth + 1, generator=generator, **factory)
        self._register_peaks(**factory)
        with torch.no_grad():
            # Uniform peaks have the logits of uniform numbers; eps because rand can return 0, whose logit is infinite.
            self.peak_logits.copy_(torch.logit(uniform, eps=torch.finfo(uniform.dtype).eps))
            self._reset_scales()

    def _register_peaks(self, **factory: Any) -> None:
        """Registers the parameters before the release, with α = 0, β = 1 and s_0 = 1/4 (Yarotsky's x²)."""
        self.peak_logits = nn.Parameter(torch.zeros(*self.shape, self.depth + 1, **factory))
        scales = 1 if self.theorem31 else self.depth
        self.log_scales = nn.Parameter(torch.full((*self.shape, scales), -math.log(4), **factory))
        self.alpha = nn.Parameter(torch.zeros(self.shape, **factory))
        self.beta = nn.Parameter(torch.ones(self.shape, **factory))

    def _reset_scales(self) -> None:
        """Gives free scales the values of Theorem 3.1 for the current peaks."""
        if not self.theorem31:
            self.log_scales.copy_(theorem31_scales(self.peaks, self.log_scales[..., 0].exp()).log())

    @property
    def parameterization(self) -> Literal["peaks", "weights"]:
        return "peaks" if self.released is None else "weights"

    @property
    def peaks(self) -> Tensor:
        """The peaks a_0 … a_d, shape (*shape, depth + 1), in [margin, 1 − margin]; fixed after the release."""
        if self.released is not None:
            return self.released_peaks
        return self.margin + (1 - 2 * self.margin) * self.peak_logits.sigmoid()

    @peaks.setter
    def peaks(self, value: Tensor | float) -> None:
        """Sets the peaks (any shape that broadcasts); free scales get the values of Theorem 3.1."""
        if self.released is not None:
            raise RuntimeError("the bank is released: its weights, not its peaks, are the parameters")
        value = torch.as_tensor(value).to(self.peak_logits)  # the logit in the bank's precision, not in the value's
        if not bool(((value > self.margin) & (value < 1 - self.margin)).all()):
            ends = f"{float(value.min()):g} to {float(value.max()):g}"
            raise ValueError(f"peaks must be above {self.margin} and below {1 - self.margin}, got {ends}")
        with torch.no_grad():
            self.peak_logits.copy_(torch.logit((value - self.margin) / (1 - 2 * self.margin)))
            self._reset_scales()

    @property
    def scales(self) -> Tensor:
        """The scales s_0 … s_{d−1}, positive, shape (*shape, depth). Only before release."""
        if self.released is not None:
            raise RuntimeError("the bank is released: its scales are part of the weights")
        first = self.log_scales.exp()
        return theorem31_scales(self.peaks, first[..., 0]) if self.theorem31 else first

    @torch.no_grad()
    def start_quadratic(self, generator: torch.Generator | None = None) -> None:
        """Makes each subnetwork a parabola with a random vertex, of mean 0 and variance about 1 on inputs in [0, 1].

        All peaks become 1/2, and F approaches c·P_1 ± √(1 − c²)·P_2 as the depth grows. P_1(u) = √3·(2u − 1) and
        P_2(u) = √5·(6u² − 6u + 1) are Legendre's polynomials, orthonormal on [0, 1]. c is drawn from U(−1/2, 1/2).

        Args:
            generator: generator of the draw; None uses PyTorch's global one.

        Raises:
            RuntimeError: the bank is already released.
        """
        if self.released is not None:
            raise RuntimeError("the bank is released: its weights, not its peaks, are the parameters")
        uniform = torch.rand(self.shape, generator=generator, dtype=self.alpha.dtype, device=self.alpha.device)
        linear = uniform - 0.5
        first = 1.5 * math.sqrt(5) * (1 - linear.square()).sqrt()  # s_0: the waves approach 4·s_0·(u − u²)
        self.beta.copy_(2 * math.sqrt(3) * linear)
        waves = first * (1 - 4.0**-self.depth) / (1 - 1 / 4)  # the sum of all scales; each wave has the mean 1/2
        self.alpha.copy_(-(self.beta + self.sign * waves) / 2)
        self.log_scales.copy_(first.log()[..., None].expand_as(self.log_scales))
        self.peak_logits.zero_()  # peaks 1/2
        self._reset_scales()

    def weights(self) -> BlockWeights | dense.DenseWeights:
        """Returns the network's weights: computed from the peaks, or the released parameters themselves."""
        if self.released is None:
            return block_weights(self.peaks[..., :-1], self.scales, self.alpha, self.beta, self.sign)
        kind = BlockWeights if self.released == "blocks" else dense.DenseWeights
        return kind(*(getattr(self, name) for name in _WEIGHT_PARAMETERS))

    def forward(self, u: Tensor) -> Tensor:
        """Evaluates every subnetwork on its own input.

        Args:
            u: inputs of shape (batch, *shape), clamped to [0, 1].

        Returns:
            Outputs of shape (batch, *shape).
        """
        if u.shape[1:] != self.shape:
            raise ValueError(f"u must have shape (batch, {', '.join(map(str, self.shape))}), got {tuple(u.shape)}")
        u = u.clamp(0, 1)
        if self.released is None:
            return wave_form(u, self.peaks[..., :-1], self.scales, self.alpha, self.beta, self.sign)
        weights = self.weights()
        return network_form(u, weights) if isinstance(weights, BlockWeights) else dense.dense_form(u, weights)

    def release(self, kind: Release = "blocks", recruited: bool = False) -> None:
        """Makes the weights the parameters, in place, keeping the function.

        The parameters of the peaks are removed, so optimizers and wrappers such as DDP must be created again.

        Args:
            kind: `"blocks"` trains the 4×4 blocks and keeps the zeros between subnetworks; `"dense"` trains the whole
                matrices of each group (last dimension of `shape`).
            recruited: turn neurons that carry constants into further breakpoints, see `triangle.recruit`.

        Raises:
            RuntimeError: the bank is already released.
            ValueError: `kind` is neither `"blocks"` nor `"dense"`.
        """
        if kind not in ("blocks", "dense"):
            raise ValueError(f"release must be 'blocks' or 'dense', got {kind!r}")
        if self.released is not None:
            raise RuntimeError(f"the bank is already released as {self.released!r}")
        with torch.no_grad():
            peaks, weights = self.peaks.clone(), self.weights()
            assert isinstance(weights, BlockWeights)
            # All waves are zero at u = 1. There rounding would decide on which side of a ReLU's kink a sample lies, and
            # so the gradient would differ between ranks and between devices.
            inset = 1 - END_ROUNDOFFS * torch.finfo(peaks.dtype).eps
            weights.hidden_weight[..., :1, :3, 2] *= inset  # an empty slice if there is one hidden layer
            if recruited:
                weights = recruit(weights, peaks[..., :-1])
            new = weights if kind == "blocks" else dense.as_dense(weights)
        for name in PEAK_PARAMETERS:
            delattr(self, name)
        self.register_buffer("released_peaks", peaks)
        for name, value in zip(_WEIGHT_PARAMETERS, new, strict=True):
            # Depth 1 has no hidden matrices, and DDP would wait for the gradient of an empty parameter.
            self.register_parameter(name, nn.Parameter(value.clone(), requires_grad=value.numel() > 0))
        self.released = kind

    def _unrelease(self) -> None:
        factory = {"dtype": self.released_peaks.dtype, "device": self.released_peaks.device}
        for name in ("released_peaks", *_WEIGHT_PARAMETERS):
            delattr(self, name)
        self.released = None
        self._register_peaks(**factory)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        """Puts the bank into the state in which the checkpoint was saved, then loads it."""
        weight = state_dict.get(prefix + "input_weight")
        saved = self.released  # for a partial state dict without this bank
        if weight is not None:
            saved = "blocks" if weight.shape == (*self.shape, 4) else "dense"
        elif prefix + "peak_logits" in state_dict:
            saved = None
        if saved != self.released:
            if self.released is not None:
                self._unrelease()
            if saved is not None:
                self.release(saved)
        super()._load_from_state_dict(state_dict, prefix, *args)

    def select(self, index: int) -> TriangleBank:
        """Returns the subnetworks at `index` of the first dimension as a bank with copied parameters.

        Raises:
            ValueError: the bank has only one dimension.
        """
        if len(self.shape) < 2:
            raise ValueError(f"the bank must have a dimension of replicas, got shape {tuple(self.shape)}")
        return self._part(self.shape[1:], index)

    def subset(self, indices: Tensor) -> TriangleBank:
        """Returns some subnetworks of a bank of one dimension as a smaller bank, with copied parameters.

        Args:
            indices: indices of the subnetworks, (k,) int64.

        Raises:
            ValueError: the bank has replicas, or is released as a dense network, which cannot be split.
        """
        if len(self.shape) > 1 or self.released == "dense":
            got = f"shape {tuple(self.shape)}, released as {self.released}"
            raise ValueError(f"the bank must have one dimension, and no weights between its subnetworks, got {got}")
        return self._part([len(indices)], indices)

    def _part(self, shape: Sequence[int], index: int | Tensor) -> TriangleBank:
        """Returns the subnetworks at `index` of the first dimension as a separate bank."""
        bank = TriangleBank(
            shape,
            self.depth,
            theorem31=self.theorem31,
            margin=self.margin,
            generator=torch.Generator(self.sign.device),  # the drawn peaks are overwritten
            dtype=self.sign.dtype,
            device=self.sign.device,
        )
        bank.load_state_dict({name: value[index] for name, value in self.state_dict().items()})
        return bank

    def affine_layers(self) -> list[dense.Affine]:
        """Returns the bank as depth + 1 affine maps with a ReLU between, on flattened inputs and outputs in [0, 1]."""
        weights = self.weights()
        return dense.affine_layers(weights if isinstance(weights, dense.DenseWeights) else dense.as_dense(weights))

    def to_sequential(self) -> nn.Sequential:
        """Returns the bank as plain `nn.Linear` and `nn.ReLU` layers, with the same outputs on [0, 1].

        Returns:
            A network from (batch, n) to (batch, n), where n is the number of subnetworks (`shape` flattened). It has
            copied weights. Unlike the bank, it does not clamp inputs outside [0, 1].
        """
        return dense.sequential(self.affine_layers())

    def extra_repr(self) -> str:
        return f"{tuple(self.shape)}, depth={self.depth}, parameterization={self.parameterization!r}"


def check_margin(margin: float, dtype: torch.dtype) -> None:
    """Checks the margin of peaks that are stored in a dtype.

    Raises:
        ValueError: it is below the dtype's roundoff, or not below 1/2.
    """
    eps = torch.finfo(dtype).eps
    if not eps <= margin < 0.5:
        raise ValueError(f"margin must be in [{eps:.1g}, 0.5), got {margin}")


def wave_signs(curvature: Curvatures) -> Any:
    """Returns the signs of the waves, −1 for convex and +1 for concave, nested as the argument.

    Raises:
        ValueError: a word is neither `"convex"` nor `"concave"`, or a list is empty.
    """
    if isinstance(curvature, str):
        if curvature not in ("convex", "concave"):
            raise ValueError(f"curvature must be 'convex' or 'concave', got {curvature!r}")
        return -1.0 if curvature == "convex" else 1.0
    if not curvature:
        raise ValueError("curvature must be 'convex' or 'concave' for each subnetwork, got []")
    return [wave_signs(part) for part in curvature]
