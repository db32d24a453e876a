"""The report of `replace_dense`: the replaced layers, and the costs of the classifier before and after."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from lit_triwave.nn.heads import BlockDiagonalLayers


@dataclass
class Cost:
    """Costs of a classifier.

    Attributes:
        parameters: number of trained parameters.
        multiply_adds: multiply-adds of the matrix products for one image; zeros between blocks are not included.
    """

    parameters: int
    multiply_adds: int


@dataclass
class Replacement:
    """Report of `replace_dense`.

    Attributes:
        layers: names of the replaced layers ↦ their sizes (in, out).
        name: name of the module that replaces them.
        num_nets: number of subnetworks.
        depth: hidden layers of the subnetworks.
        before: costs of the whole classifier before.
        blocks: its costs after, released as blocks.
        dense: its costs after, released dense.
        model_before: parameters of the whole model before. Its multiply-adds depend on the images' size; they change by
            the same number as those of the classifier.
        gone: kinds of the activations, norms and dropouts that were removed with the layers.
        kept: functions that the model's own `forward` still applies to the outputs of the new layers.
        frozen: names of dense layers that were frozen, also the last one; their replacements are trained.
    """

    layers: dict[str, tuple[int, int]]
    name: str
    num_nets: int
    depth: int
    before: Cost
    blocks: Cost
    dense: Cost
    model_before: int
    gone: list[str]
    kept: list[str]
    frozen: list[str]

    @property
    def model_parameters(self) -> dict[str, int]:
        """Parameters of the whole model, before and after in either release."""
        rest = self.model_before - self.before.parameters
        return {name: rest + cost.parameters for name, cost in self.costs.items()}

    @property
    def costs(self) -> dict[str, Cost]:
        """Name ↦ costs of the classifier, before and after in either release."""
        return {"before": self.before, "released blocks": self.blocks, "released dense": self.dense}

    def __str__(self) -> str:
        gone = ", ".join(f"{name} ({fan_in} → {fan_out})" for name, (fan_in, fan_out) in self.layers.items())
        lines = [
            f"{gone} → {self.name}: {self.num_nets} subnetworks, {4 * self.num_nets} neurons wide, {self.depth} deep",
            f"{'':16}{'classifier':>14}{'classifier':>16}{'whole model':>16}",
            f"{'':16}{'parameters':>14}{'multiply-adds':>16}{'parameters':>16}",
        ]
        if self.gone:
            lines.insert(1, f"removed with them: {', '.join(self.gone)}")
        if self.kept:
            lines.insert(1, f"still applied to the new layers' outputs: {', '.join(self.kept)}")
        if self.frozen:
            lines.insert(1, f"{', '.join(self.frozen)} did not require gradients; the new layers do")
        for name, cost in self.costs.items():
            whole = self.model_parameters[name]
            lines.append(f"{name:16}{cost.parameters:14,}{cost.multiply_adds:16,}{whole:16,}")
        return "\n".join(lines)


def released_cost(layers: BlockDiagonalLayers, networks: int, width: int, depth: int, inputs: int) -> Cost:
    """Returns the cost of layers released as `networks` networks of a width, which share the `inputs` evenly."""
    each = inputs // networks
    weights = networks * (2 * each * width + (depth - 1) * width * width)
    biases = networks * (depth * width + each)
    projection, norm = layers.projection.weight.numel(), 2 * inputs
    return Cost(projection + norm + weights + biases, projection + weights)


def added_cost(a: Cost, b: Cost) -> Cost:
    """Returns the sum of two costs."""
    return Cost(a.parameters + b.parameters, a.multiply_adds + b.multiply_adds)


def dense_cost(stack: nn.Module, without: nn.Module | None = None) -> Cost:
    """Returns the cost of a classifier's layers, except one."""
    skipped = set(without.modules()) if without is not None else set()
    kept = [module for module in stack.modules() if module not in skipped]
    # Tied weights are one parameter.
    parameters = sum(p.numel() for p in {p for module in kept for p in module.parameters(recurse=False)})
    # A layer at several places is applied at each, with the same parameters.
    applied = [module for _, module in stack.named_modules(remove_duplicate=False) if module not in skipped]
    return Cost(parameters, sum(m.weight.numel() for m in applied if isinstance(m, nn.Linear)))
