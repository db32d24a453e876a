"""Finds dense layers that are applied one after another, from the operations that a model's `forward` makes."""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear

from lit_triwave.errors import reason
from lit_triwave.nn.heads import BlockDiagonalLayers

DROPOUTS = (nn.Dropout, nn.AlphaDropout)
"""Modules between dense layers that are kept if they come after the last hidden layer."""
BETWEEN = (*DROPOUTS, nn.RReLU, nn.PReLU, nn.BatchNorm1d, nn.SyncBatchNorm, nn.LayerNorm, nn.RMSNorm)
"""Modules that may be between dense layers, although they are random, have parameters or are not elementwise. They
belong to the layer before them and are removed with it."""
TRANSFORMER_LAYERS = (nn.TransformerEncoderLayer, nn.TransformerDecoderLayer)
"""PyTorch's own layers, whose `forward` cannot be traced: `linear2(dropout(activation(linear1(x))))`."""
_MOST_QUESTIONS = 100
"""Largest number of conditions on its inputs for which a `forward` is traced."""
_MOST_TRACES = 16
"""Largest number of combinations of answers to these conditions."""
_RANDOM = (functional.dropout, functional.alpha_dropout, torch.dropout)


@dataclass
class DenseChain:
    """Dense layers, each applied to the output of the one before.

    Attributes:
        steps: names of the layers, and of the modules between them that have no other use, in the order of their use.
        linears: the dense layers among the steps.
        kept: names of the functions between the layers, which stay in the model's `forward`.
        stack: name of the `nn.Sequential` of which the steps are children; None for any other module.
    """

    steps: list[str]
    linears: list[str]
    kept: list[str] = field(default_factory=list)
    stack: str | None = None

    def within(self, prefix: str) -> DenseChain:
        """Returns the chain with its names in the outer module, where its own module is at `prefix`."""
        start = f"{prefix}." if prefix else ""
        steps, linears = ([start + name for name in names] for names in (self.steps, self.linears))
        stack = None if self.stack is None else (start + self.stack).removesuffix(".")
        return DenseChain(steps, linears, self.kept, stack)


def is_linear(module: nn.Module) -> bool:
    """Whether a module is a dense layer that is called. Attention only reads the weights of its output layer."""
    return isinstance(module, nn.Linear) and not isinstance(module, NonDynamicallyQuantizableLinear)


def elementwise(apply: Callable[[Tensor], Any]) -> bool:
    """Whether a function is elementwise; tested on one tensor (2, 3, 4) and a permutation of it."""
    x = torch.linspace(-2, 2, 24, device="cpu").reshape(2, 3, 4)
    order = torch.tensor([(7 * i + 5) % 24 for i in range(24)], device="cpu")
    try:
        with torch.no_grad():
            y, z = apply(x.clone()), apply(x.flatten()[order].reshape(x.shape))  # some work in place
        return y.shape == x.shape and torch.allclose(z.flatten(), y.flatten()[order])
    except Exception:  # the function does not take one tensor of any shape
        return False


def may_stand_between(module: nn.Module) -> bool:
    """Whether a module may be between dense layers: an activation, norm or dropout, of PyTorch or of the user."""
    return isinstance(module, BETWEEN) or (not _has_tensors(module) and elementwise(module))


def _has_tensors(module: nn.Module) -> bool:
    return bool([*module.parameters(), *module.buffers()])


def find_chain(model: nn.Module) -> DenseChain:
    """Finds the dense layers at the end of a model: in an `nn.Sequential`, or by tracing the `forward` methods.

    Args:
        model: a model of any class. Its `forward` must not decide by values or shapes of its inputs.

    Returns:
        At least two dense layers, with names in `model`.

    Raises:
        ValueError: there are no such layers, or they cannot be replaced, because their outputs are also used elsewhere
            or because they are applied at several places.
    """
    names = [name for name, module in model.named_modules() if is_linear(module)]
    if not names:
        raise ValueError("it has no dense layer")
    place = names[-1]
    parent = place.rpartition(".")[0]
    listed = _listed(model.get_submodule(parent), parent)
    if listed is not None:
        return listed.within(parent)
    why = "it only contains modules, without a forward"
    while True:
        place = place.rpartition(".")[0]
        owner = model.get_submodule(place)
        if isinstance(owner, TRANSFORMER_LAYERS):
            return DenseChain(["linear1", "dropout", "linear2"], ["linear1", "linear2"]).within(place)
        if not isinstance(owner, (nn.ModuleList, nn.ModuleDict)):
            found, why, is_whole = _traced(owner, place)
            if found is not None:
                return found.within(place)
            if is_whole:
                break
        if not place:
            break
    raise ValueError(why)


def _listed(owner: nn.Module, place: str) -> DenseChain | None:
    """Returns the dense layers of an `nn.Sequential` and what is between them; None if it has fewer than two."""
    if type(owner).forward is not nn.Sequential.forward:
        return None
    held = {key: layer for key, layer in owner._modules.items() if layer is not None}
    keys = [key for key, layer in held.items() if isinstance(layer, nn.Linear)]
    steps = list(held)[list(held).index(keys[0]) : list(held).index(keys[-1]) + 1]
    between = [held[key] for key in steps if key not in keys]
    name = repr(place) if place else "the model"
    if any(isinstance(layer, BlockDiagonalLayers) for layer in (between if len(keys) > 1 else held.values())):
        raise ValueError(f"the dense layers of {name} are already replaced by subnetworks")
    strange = [type(layer).__name__ for layer in between if not may_stand_between(layer)]
    if strange:
        raise ValueError(f"{name} has {', '.join(strange)} between its dense layers")
    return DenseChain(steps, keys, stack="") if len(keys) > 1 else None


class _Tracer(fx.Tracer):
    """Follows `forward` into modules that contain dense layers; all others are single operations.

    Args:
        answers: assumed values of the first conditions on the inputs; all further conditions are assumed true.

    Attributes:
        questions: number of such conditions.
    """

    def __init__(self, answers: tuple[bool, ...]) -> None:
        super().__init__()
        self.answers, self.questions = answers, 0

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        own = isinstance(m, BlockDiagonalLayers) or not any(is_linear(part) for part in m.modules())
        return own or super().is_leaf_module(m, module_qualified_name)

    def proxy(self, node: fx.Node) -> fx.Proxy:
        return _Proxy(node, self)

    def to_bool(self, obj: fx.Proxy) -> bool:
        self.questions += 1
        if self.questions > _MOST_QUESTIONS:  # such as a loop until something has converged
            return super().to_bool(obj)
        return self.answers[self.questions - 1] if self.questions <= len(self.answers) else True


class _Proxy(fx.Proxy):
    """A traced value that has a length, for `x.view(len(x), -1)`. The value does not matter: the graph is never run."""

    def __len__(self) -> int:
        return 2


_Found = tuple[DenseChain | None, str, bool]


def _traced(owner: nn.Module, place: str) -> _Found:
    """Traces one module and looks for the chain that ends in the dense layer that it applies last.

    If `forward` has conditions on values or shapes of its inputs, it is traced with both answers. Some of these traces
    may fail, for example after an `assert`.

    Args:
        owner: the module.
        place: its name in the model, for messages.

    Returns:
        The chain or None, why it is None, and whether the modules around this one cannot make it longer.
    """
    given = inspect.signature(owner.forward).parameters.values()
    defaults = {one.name: one.default for one in given if one.default is not inspect.Parameter.empty}
    found: list[_Found] = []
    ways: list[tuple[bool, ...]] = [()]  # assumed values of the first conditions, one tuple for each trace
    fault = ""
    for _ in range(_MOST_TRACES):
        tracer = _Tracer(way := ways.pop())
        try:
            graph = tracer.trace(owner, concrete_args=defaults)
        except Exception as error:  # any: user code runs on traced values instead of tensors
            fault = fault or f"its forward cannot be traced ({reason(error, 100)})"
        else:
            found.append(_chain_in(graph, owner, place))
        ways += [(*way, *[True] * (n - len(way)), False) for n in range(len(way), min(tracer.questions, _MOST_TRACES))]
        if not ways:
            break
    if not found:
        return None, fault, False
    if any(one[0] != found[0][0] for one in found):
        raise ValueError("its forward decides by its inputs which dense layers it applies")
    return found[0]


def _chain_in(graph: fx.Graph, owner: nn.Module, place: str) -> _Found:
    """Looks for the chain in the traced `forward` of a module; arguments and result are those of `_traced`."""
    modules = dict(owner.named_modules(remove_duplicate=False))
    calls = [node for node in graph.nodes if node.op == "call_module" and is_linear(modules[str(node.target)])]
    if not calls:
        return None, "it applies no dense layer", False
    paths, start = [], None
    for last in [node for node in calls if node.target == calls[-1].target]:
        path, start = _path(last, modules)
        paths.append(path)
    linears = [[str(node.target) for node in path if node in calls] for path in paths]
    if len(linears[0]) < 2:
        last_name = f"{place}.{linears[0][0]}" if place else linears[0][0]
        open_end = start is not None and start.op == "placeholder"
        before = "" if start is None or open_end else f", {_called(start, modules)} comes before it"
        return (None, f"its last dense layer, {last_name!r}, has no other one directly before it{before}", not open_end)
    _check_uses(graph, paths, linears, modules)
    inside = {node for path in paths for node in path}
    shared = {str(node.target) for node in graph.nodes if node.op == "call_module" and node not in inside}
    own = [node for node in paths[0] if node.op == "call_module" and str(node.target) not in shared]
    for node in paths[0]:
        if node.op == "call_module" and node not in own and _has_tensors(modules[str(node.target)]):
            raise ValueError(f"{node.target!r}, between its dense layers, is applied at several places")
    kept = dict.fromkeys(_called(node, modules) for node in paths[0] if node not in own)
    return DenseChain([str(node.target) for node in own], linears[0], list(kept)), "", True


def _path(last: fx.Node, modules: dict[str, nn.Module]) -> tuple[list[fx.Node], fx.Node | None]:
    """Walks back from a dense layer through activations, norms and dropouts to the first dense layer.

    Returns:
        The operations from the first dense layer to the last one, and the operation before the first.
    """
    path, taken, node = [last], 1, _input_of(last)
    while node is not None:
        if node.op == "call_module":
            module = modules[str(node.target)]
            if not is_linear(module) and not may_stand_between(module):
                break
            path.append(node)
            taken = len(path) if is_linear(module) else taken
        elif node.op in ("call_function", "call_method") and _is_elementwise_call(node):
            path.append(node)
        else:
            break
        node = _input_of(node)
    return path[:taken][::-1], node


def _input_of(node: fx.Node) -> fx.Node | None:
    """Returns the only input of an operation; None for several or none."""
    inputs = node.all_input_nodes
    return inputs[0] if len(inputs) == 1 else None


def _is_elementwise_call(node: fx.Node) -> bool:
    """Whether a function or method is elementwise on its only tensor."""
    if node.target in _RANDOM:
        return True
    if not node.args or not isinstance(node.args[0], fx.Node):
        return False
    if node.op == "call_method":
        return elementwise(lambda x: getattr(x, str(node.target))(*node.args[1:], **node.kwargs))
    function: Any = node.target
    return elementwise(lambda x: function(x, *node.args[1:], **node.kwargs))


def _called(node: fx.Node, modules: dict[str, nn.Module]) -> str:
    """Returns what an operation is called, for a message."""
    if node.op == "call_module":
        return type(modules[str(node.target)]).__name__
    return str(node.target) if node.op == "call_method" else str(getattr(node.target, "__name__", node.target))


def _check_uses(
    graph: fx.Graph, paths: list[list[fx.Node]], linears: list[list[str]], modules: dict[str, nn.Module]
) -> None:
    """Raises ValueError if replacing the dense layers would change the inputs of other operations."""
    if any(other != linears[0] for other in linears) or len(set(linears[0])) < len(linears[0]):
        raise ValueError(f"{linears[0][-1]!r} is applied at several places, not always after the same dense layers")
    for path in paths:
        for node, following in itertools.pairwise(path):
            others = [user for user in node.users if user is not following]
            if others:
                name = node.target if node.op == "call_module" else _called(node, modules)
                raise ValueError(f"the output of {name!r} is also used by {_called(others[0], modules)}")
    inside = {node for path in paths for node in path}
    for node in graph.nodes:
        if node.op == "call_module" and str(node.target) in linears[0] and node not in inside:
            raise ValueError(f"{node.target!r} is applied at several places")
        if node.op == "get_attr" and any(str(node.target).startswith(f"{name}.") for name in linears[0]):
            raise ValueError(f"{node.target} is read by the model's forward")
