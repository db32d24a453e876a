"""`replace_dense`: constructed subnetworks in place of the hidden dense layers of a model's classifier."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from lit_triwave.nn.bank import DEEPEST, WIDEST
from lit_triwave.nn.heads import BlockDiagonalLayers, check_options
from lit_triwave.nn.sizes import check_sizes

_BETWEEN = (
    nn.ReLU,
    nn.ReLU6,
    nn.LeakyReLU,
    nn.GELU,
    nn.SiLU,
    nn.Hardswish,
    nn.Tanh,
    nn.Sigmoid,
    nn.Dropout,
    nn.BatchNorm1d,
    nn.LayerNorm,
    nn.Identity,
)
"""Modules that may stand between dense layers: they belong to the layer before and are removed with it."""


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
            as many as the classifier's do.
        gone: kinds of the activations, norms and dropouts that were removed with the layers.
        frozen: names of dense layers that were frozen, the last one included; their replacements are trained.
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
        if self.frozen:
            lines.insert(1, f"{', '.join(self.frozen)} did not require gradients; the new layers do")
        for name, cost in self.costs.items():
            whole = self.model_parameters[name]
            lines.append(f"{name:16}{cost.parameters:14,}{cost.multiply_adds:16,}{whole:16,}")
        return "\n".join(lines)


def replace_dense(
    model: nn.Module,
    depth: int,
    num_nets: int | None = None,
    *,
    classifier: str | None = None,
    keep: int = 0,
    **options: Any,
) -> Replacement:
    """Replaces the hidden dense layers of a classifier, in place, by constructed subnetworks (METHOD section 4).

    The classifier is an `nn.Sequential` with at least two `nn.Linear`. Its hidden layers, all but the last
    `nn.Linear`, become one `BlockDiagonalLayers`. Dropout after them stays, and a new last layer takes `num_nets`
    inputs. VGG-16's 25088 → 4096 → 4096 → 1000 becomes 25088 → 1024 subnetworks, 4096 wide → 1000.

    Args:
        model: any model of torchvision, or one's own.
        depth: hidden layers of the subnetworks, 1 to 64.
        num_nets: number of subnetworks K; by default a quarter of the last replaced layer's width, which keeps the
            width.
        classifier: name of the `nn.Sequential` in the model ("" is the model itself); by default the model's last one.
        keep: number of first hidden layers that stay as they are: 1 keeps VGG-16's 25088 → 4096.
        options: further arguments of `BlockDiagonalLayers`.

    Returns:
        A report, which `print` shows.

    Raises:
        TypeError: an argument is of another type, or unknown.
        ValueError: the model has no hidden dense layers (left), or an argument is out of its range.
    """
    check_sizes(most=DEEPEST, depth=depth)
    check_sizes(least=0, keep=keep)
    check_options(options)
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be an nn.Module, got {model!r}")
    name, stack = _find_classifier(model, classifier)
    held = list(stack)
    places = [i for i, layer in enumerate(held) if isinstance(layer, nn.Linear)]
    if not 0 <= keep < len(places) - 1:
        raise ValueError(f"keep must be below the number of hidden layers, {len(places) - 1}, got {keep}")
    places = places[keep:]
    first, end = places[0], places[-1]
    strange = [type(layer).__name__ for layer in held[first:end] if not isinstance(layer, (nn.Linear, *_BETWEEN))]
    if BlockDiagonalLayers.__name__ in strange:
        raise ValueError(f"classifier {name!r}: its dense layers are already replaced by subnetworks")
    if strange:
        raise ValueError(f"classifier {name!r} holds {', '.join(strange)} between its dense layers: can't be replaced")
    linears: list[Any] = [held[i] for i in places]
    width = linears[-2].out_features
    if num_nets is None:
        if width % 4:
            raise ValueError(f"the width of the replaced layer must be a multiple of 4, got {width}: give num_nets")
        num_nets = width // 4
    check_sizes(most=WIDEST, num_nets=num_nets)
    before, model_before = _dense_cost(stack), sum(p.numel() for p in model.parameters())
    like = linears[0].weight
    layers = BlockDiagonalLayers(linears[0].in_features, num_nets, depth, **options)
    last = nn.Linear(num_nets, linears[-1].out_features)
    dropout = [layer for layer in held[places[-2] : end] if isinstance(layer, nn.Dropout)]
    new = [*held[:first], layers, *dropout, last, *held[end + 1 :]]
    gone = [type(layer).__name__ for layer in held[first:end] if layer not in dropout and layer not in linears]
    for module, old in ((layers, linears[0]), (last, linears[-1])):
        module.to(like.device, like.dtype).train(old.training)
    frozen = [place for place, linear in zip(places, linears, strict=True) if not linear.weight.requires_grad]
    for key in list(stack._modules):
        del stack._modules[key]
    for i, part in enumerate(new):
        stack.add_module(str(i), part)
    others = _dense_cost(stack, without=layers)
    prefix = f"{name}." if name else ""
    return Replacement(
        layers={
            f"{prefix}{i}": (linear.in_features, linear.out_features)
            for i, linear in zip(places[:-1], linears, strict=False)
        },
        name=f"{prefix}{first}",
        num_nets=num_nets,
        depth=depth,
        before=before,
        blocks=_added(others, _released_cost(layers, num_nets, 4, depth, num_nets)),
        dense=_added(others, _released_cost(layers, 1, 4 * num_nets, depth, num_nets)),
        model_before=model_before,
        gone=gone,
        frozen=[f"{prefix}{place}" for place in frozen],
    )


def _released_cost(layers: BlockDiagonalLayers, networks: int, width: int, depth: int, inputs: int) -> Cost:
    """Returns the cost of layers released as `networks` networks of a width, which share the `inputs` evenly."""
    each = inputs // networks
    weights = networks * (2 * each * width + (depth - 1) * width * width)
    biases = networks * (depth * width + each)
    projection, norm = layers.projection.weight.numel(), 2 * inputs
    return Cost(projection + norm + weights + biases, projection + weights)


def _added(a: Cost, b: Cost) -> Cost:
    """Returns the sum of two costs."""
    return Cost(a.parameters + b.parameters, a.multiply_adds + b.multiply_adds)


def _dense_cost(stack: nn.Module, without: nn.Module | None = None) -> Cost:
    """Returns the cost of a classifier's layers, except one."""
    skipped = set(without.modules()) if without is not None else set()
    kept = [module for module in stack.modules() if module not in skipped]
    parameters = sum(p.numel() for module in kept for p in module.parameters(recurse=False))
    # A layer at several places is applied at each, with the same parameters.
    applied = [module for _, module in stack.named_modules(remove_duplicate=False) if module not in skipped]
    return Cost(parameters, sum(m.weight.numel() for m in applied if isinstance(m, nn.Linear)))


def _find_classifier(model: nn.Module, name: str | None = None) -> tuple[str, nn.Sequential]:
    """Finds the classifier: the `nn.Sequential` with the model's last `nn.Linear` and one or more before it.

    Returns:
        Its name and the module.

    Raises:
        ValueError: there is none, or the named one has no hidden dense layer.
    """
    modules = dict(model.named_modules())
    if name is not None and name not in modules:
        raise ValueError(f"classifier must be the name of a module of the model, got {name!r}")
    candidates = modules if name is None else {name: modules[name]}
    found = [(key, module) for key, module in candidates.items() if _hidden_linears(module) > 0]
    if name is None:  # blocks of a transformer hold dense layers too, but not the model's last one
        last = [module for module in modules.values() if isinstance(module, nn.Linear)][-1:]
        found = [(key, module) for key, module in found if set(last) & set(module.children())]
    done = [
        key for key, module in candidates.items() if any(isinstance(c, BlockDiagonalLayers) for c in module.children())
    ]
    if not found and done:
        raise ValueError(f"classifier {done[-1]!r}: its dense layers are already replaced by subnetworks")
    if not found:
        what = type(model).__name__ if name is None else f"classifier {name!r}"
        raise ValueError(
            f"{what} has no hidden dense layers to replace: its end must be an nn.Sequential with at least two "
            "nn.Linear, as in VGG or AlexNet"
        )
    key, module = found[-1]
    assert isinstance(module, nn.Sequential)
    return key, module


def _hidden_linears(module: nn.Module) -> int:
    """Returns the number of dense layers that an `nn.Sequential` holds before its last one."""
    children = module.children() if isinstance(module, nn.Sequential) else ()
    return sum(isinstance(child, nn.Linear) for child in children) - 1


def cut_classifier(model: nn.Module) -> tuple[nn.Module, int]:
    """Removes the dense layers at a model's end, in place, and returns the model and its number of features.

    Raises:
        ValueError: the model does not end in a dense layer.
    """
    linears = [(name, module) for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    if not linears or not _ends_in(model, linears[-1][0]):
        raise ValueError(f"{type(model).__name__} does not end in a dense layer: no head can take its place")
    parent, _, key = linears[-1][0].rpartition(".")
    owner = model.get_submodule(parent)
    if not isinstance(owner, nn.Sequential) or owner is model:
        features = linears[-1][1].in_features
        setattr(owner, key, nn.Identity())
        return model, features
    places: Sequence[int] = [i for i, layer in enumerate(owner) if isinstance(layer, nn.Linear)]
    features = owner[places[0]].in_features  # type: ignore[assignment]
    del owner[places[0] :]
    return model, features


def _ends_in(model: nn.Module, name: str) -> bool:
    """Whether no module with parameters comes after the named one."""
    names = [key for key, module in model.named_modules() if next(module.parameters(recurse=False), None) is not None]
    return bool(names) and names[-1] == name
