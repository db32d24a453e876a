"""The interface of a wiring of constructed subnetworks, used by the stages of training, analysis and the commands."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn

from lit_triwave.construction import dense
from lit_triwave.nn.bank import Release, TriangleBank
from lit_triwave.nn.scaling import UnitScaling

BankLayers = Callable[[TriangleBank], list[dense.Affine]]
"""Returns a bank of shape (n,) as affine maps."""


@dataclass(frozen=True)
class WiredBank:
    """One bank of a wiring, with the meaning of its subnetworks' inputs.

    Attributes:
        bank: shape (R, n).
        name: name of the bank in reports, such as "subnetworks" or "outer network".
        labels: name of each of the n subnetworks.
        inputs: for each subnetwork, the quantity that its input in [0, 1] represents, as (name, lower, upper).
        sources: for each subnetwork, the index of its input; subnetworks with equal indices share their input.
        squares: whether each subnetwork was built as the square of the quantity that its input represents.
    """

    bank: TriangleBank
    name: str
    labels: list[str]
    inputs: list[tuple[str, float, float]]
    sources: list[int]
    squares: bool = False


class ConstructedNetwork(nn.Module, ABC):
    """Functions of one or several variables, wired from banks of constructed subnetworks; R replicas (seeds) at once.

    A wiring is a subclass that implements the abstract members. Training, analysis, `inspect` and `export` use only
    these members, not the wiring's name. A subclass may also have a method `jacobian_rows`, see `optim.jacobian`;
    Levenberg–Marquardt steps on peaks need it.

    Attributes:
        wiring: name of the wiring in configs.
        scaling: maps inputs to [0, 1] and outputs to the targets' units.
    """

    wiring: str
    scaling: UnitScaling

    @property
    @abstractmethod
    def banks(self) -> list[TriangleBank]:
        """All banks, each of shape (R, n), in the order of the forward pass."""

    @property
    @abstractmethod
    def segments(self) -> int | None:
        """Number of linear pieces in one variable, for comparison with the free-knot limit.

        None if layers multiply their pieces, as in a stack."""

    @property
    def clamps(self) -> tuple[int, ...]:
        """Indices of the hidden layers of `to_sequential` that only clamp values to [0, 1] and have no parameters."""
        return ()

    @property
    def carriers(self) -> tuple[int, ...]:
        """For each hidden layer of `to_sequential`, the number of neurons at its beginning that only carry values."""
        return ()

    @abstractmethod
    def wired_banks(self, variables: Sequence[str], replica: int = 0) -> list[WiredBank]:
        """The banks with the meaning of their inputs, in the order of `banks`.

        Args:
            variables: names of the network's inputs.
            replica: the seed whose ranges of the inputs are returned, if they differ between seeds.
        """

    @abstractmethod
    def affine_layers(
        self, replica: int, bank_layers: BankLayers = TriangleBank.affine_layers, clamped: bool = False
    ) -> list[dense.Affine]:
        """One replica as affine maps with a ReLU between, from (batch, in_features) to (batch, 1).

        Args:
            replica: 0 to R − 1.
            bank_layers: computes the affine maps of a bank.
            clamped: clamp inputs to the domain, as `forward` does.
        """

    @property
    def replicas(self) -> int:
        return self.banks[0].shape[0]

    @property
    def parameterization(self) -> Literal["limit", "peaks", "weights"]:
        return self.banks[0].parameterization

    def release(self, kind: Release = "blocks", recruited: bool = False) -> None:
        """See `TriangleBank.release`."""
        for bank in self.banks:
            bank.release(kind, recruited)

    def to_sequential(self, replica: int = 0) -> nn.Sequential:
        """One replica as plain `nn.Linear` and `nn.ReLU` layers, from (batch, in_features) to (batch, 1).

        The outputs are those of `forward` on the domain; inputs outside the domain are not clamped.
        """
        return dense.sequential(self.affine_layers(replica))

    def input_parts(self, clamped: bool) -> list[dense.Affine]:
        """The affine maps from the domain's units to [0, 1], with or without the clamp to the domain."""
        return self.scaling.clamped_layers() if clamped else [self.scaling.input_layer()]

    @abstractmethod
    def forward(self, x: Tensor) -> Tensor:
        """x, shape (batch, in_features) in the domain's units ↦ (batch, R) in the targets' units."""
