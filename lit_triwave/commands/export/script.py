"""Writes a network of PyTorch's own modules as the Python code that builds it."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lit_triwave.commands.export.plain import InFloat64, NormalCDF
from lit_triwave.errors import TriwaveError

_SCRIPT = '''\
"""{title}

Written by lit_triwave. It needs only PyTorch{needs}.

    from {module} import load

    network = load()  # in evaluation mode
    {example}
"""

from collections import OrderedDict
from pathlib import Path

import torch
from torch import nn
{imports}
WEIGHTS = Path(__file__).with_name({weights!r})
ABOUT = {about}

{classes}
def build() -> nn.Module:
    """The network with random weights."""
{body}


def load(weights: str | Path = WEIGHTS) -> nn.Module:
    """The trained network, in evaluation mode."""
    network = build().to({dtype})
    network.load_state_dict(torch.load(weights, map_location="cpu", weights_only=True))
    return network.eval()


if __name__ == "__main__":
    print(load())
'''


def script(
    network: nn.Module, weights: Path, backbone: Mapping[str, Any] | None, about: Mapping[str, Any], example: str
) -> str:
    """Returns a Python file that builds a network and loads its weights, with torch (and torchvision) alone.

    Args:
        network: made of PyTorch's own modules.
        weights: file with the state dict, beside the script.
        backbone: "name", "num_classes" and "options" of the torchvision model that is the network, or its `backbone`.
        about: further facts about the network, in plain containers.
        example: a line of Python that calls the network.

    Raises:
        TriwaveError: a module of the network is not PyTorch's.
    """
    lines = [f"    return {_expression(network, 1)}"] if backbone is None else list(_with_backbone(network, backbone))
    body = "\n".join(lines)
    own = [kind for kind in (InFloat64, NormalCDF) if f"{kind.__name__}(" in body]
    return _SCRIPT.format(
        title=about["title"],
        needs=" with torchvision" if backbone else "",
        module=weights.stem if weights.stem.isidentifier() else "this_file",
        example=example,
        imports="from torchvision import models\n" if backbone else "",
        weights=weights.name,
        about="{\n" + "".join(f"    {key!r}: {value!r},\n" for key, value in about.items()) + "}",
        classes="".join(f"\n{inspect.getsource(kind)}\n" for kind in own),
        body=body,
        dtype=next(network.parameters()).dtype,
    )


def _with_backbone(network: nn.Module, backbone: Mapping[str, Any]) -> Iterator[str]:
    """Yields the lines of `build` for a network that is a torchvision model, or has one as `backbone`."""
    name, classes = backbone["name"], backbone["num_classes"]
    from torchvision import models

    if name not in models.list_models(models):
        why = "its code is not torchvision's"
        raise TriwaveError(f"--format must be program or onnx for backbone {name}, got torch: {why}")
    options = {"weights": None, "num_classes": classes} | backbone["options"]
    with torch.device("meta"):  # only its structure is needed
        fresh = models.get_model(name, **options)
    whole = type(network) is type(fresh)
    arguments = ", ".join(f"{key}={value!r}" for key, value in options.items())
    yield f"    backbone = models.get_model({name!r}, {arguments})"
    for path, module in _changes(fresh, network if whole else network.get_submodule("backbone")):
        yield f"    backbone.{path} = {_expression(module, 1)}"
    if whole:
        yield "    return backbone"
    else:
        head = _expression(network.get_submodule("head"), 1)
        yield f'    return nn.Sequential(OrderedDict([("backbone", backbone), ("head", {head})]))'


def _changes(fresh: nn.Module, module: nn.Module, path: str = "") -> Iterator[tuple[str, nn.Module]]:
    """Yields the dotted attributes of a model that differ from those of a fresh one, with their modules."""
    one, two = dict(fresh.named_children()), dict(module.named_children())
    if type(fresh) is not type(module) or one.keys() != two.keys() or (not one and repr(fresh) != repr(module)):
        yield path, module
        return
    for name, child in one.items():
        step = f"[{name}]" if name.isdigit() else f".{name}"
        yield from _changes(child, two[name], (path + step).lstrip("."))


def _expression(module: nn.Module, depth: int = 0) -> str:
    """Returns the Python expression that builds a module with random weights."""
    kind = type(module).__name__
    if isinstance(module, NormalCDF):
        return "NormalCDF()"
    if isinstance(module, InFloat64):
        return f"InFloat64({_expression(module.layers, depth)})"
    if type(module) is not getattr(nn, kind, None):
        raise TriwaveError(f"modules must be PyTorch's own, got {kind}: use --format program or onnx")
    inner, end = "    " * (depth + 1), "    " * depth
    if isinstance(module, nn.Sequential):
        names = [name for name, _ in module.named_children()]
        parts = [_expression(child, depth + 1) for child in module.children()]
        if names == [str(number) for number in range(len(names))]:
            return "nn.Sequential(\n" + "".join(f"{inner}{part},\n" for part in parts) + f"{end})"
        pairs = "".join(f"{inner}({name!r}, {part}),\n" for name, part in zip(names, parts, strict=True))
        return f"nn.Sequential(OrderedDict([\n{pairs}{end}]))"
    if next(module.children(), None) is not None:
        raise TriwaveError(f"modules must not contain others, got {kind}: use --format program or onnx")
    if isinstance(module, nn.modules.batchnorm._BatchNorm):  # repr has arguments that older versions lack
        return f"nn.{kind}({module.num_features}, eps={module.eps}, momentum={module.momentum})"
    return f"nn.{kind}({module.extra_repr()})"
