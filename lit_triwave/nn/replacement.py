"""`replace_dense`: replaces the hidden dense layers of a model's classifier by constructed subnetworks."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.nn.utils import parametrize

from lit_triwave.nn.bank import DEEPEST, WIDEST
from lit_triwave.nn.dense_chains import (
    DROPOUTS,
    TRANSFORMER_LAYERS,
    DenseChain,
    find_chain,
)
from lit_triwave.nn.heads import BlockDiagonalLayers, check_options
from lit_triwave.nn.replacement_report import Replacement, added_cost, dense_cost, released_cost
from lit_triwave.nn.sizes import check_sizes


def replace_dense(
    model: nn.Module,
    depth: int,
    num_nets: int | None = None,
    *,
    classifier: str | None = None,
    keep: int = 0,
    **options: Any,
) -> Replacement:
    """Replaces hidden dense layers of a model, in place, by constructed subnetworks (METHOD section 4).

    The dense layers are two or more `nn.Linear`, each applied to the output of the one before. Between them there may
    be only activations, norms and dropouts. They are the children of an `nn.Sequential`, or attributes of a module
    (`fc1`, `fc2`) whose `forward` is traced to find them. All except the last become one `BlockDiagonalLayers`, and a
    new last layer takes `num_nets` inputs. Dropout between the two stays. VGG-16's 25088 → 4096 → 4096 → 1000 becomes
    25088 → 1024 subnetworks, 4096 wide → 1000.

    Layers of tokens (batch, tokens, features) and of images whose channels come last can be replaced too. For these,
    name the block of a transformer or of a ConvNeXt, or give the block as `model`.

    Args:
        model: any model of torchvision, or your own model.
        depth: hidden layers of the subnetworks, 1 to 64.
        num_nets: number of subnetworks K; by default a quarter of the last replaced layer's width, which keeps the
            width.
        classifier: name of the module in the model whose dense layers are replaced ("" is the model itself), such as
            `"encoder.layers.encoder_layer_11.mlp"`; by default the layers at the model's end.
        keep: number of first hidden layers that are not replaced: 1 keeps VGG-16's 25088 → 4096.
        options: further arguments of `BlockDiagonalLayers`.

    Returns:
        A report, which `print` shows.

    Raises:
        TypeError: an argument has a wrong type, or is unknown.
        ValueError: the model has no hidden dense layers (any more), they cannot be replaced, or an argument is outside
            its range.
    """
    check_sizes(most=DEEPEST, depth=depth)
    check_sizes(least=0, keep=keep)
    check_options(options)
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be an nn.Module, got {model!r}")
    if isinstance(model, torch.jit.ScriptModule):
        raise ValueError("model must be an nn.Module, got a ScriptModule: replace before torch.jit.script")
    if classifier is not None and classifier not in dict(model.named_modules()):
        raise ValueError(f"classifier must be the name of a module of the model, got {classifier!r}")
    chain = _found_chain(model, classifier)
    stack: Any = None if chain.stack is None else model.get_submodule(chain.stack)
    if not keep < len(chain.linears) - 1:
        raise ValueError(f"keep must be below the number of hidden layers, {len(chain.linears) - 1}, got {keep}")
    names = chain.linears[keep:]
    linears: list[Any] = [model.get_submodule(place) for place in names]
    _check_exchangeable(model, names, linears)
    width = linears[-2].out_features
    if num_nets is None:
        if width % 4:
            raise ValueError(f"the width of the replaced layer must be a multiple of 4, got {width}: give num_nets")
        num_nets = width // 4
    check_sizes(most=WIDEST, num_nets=num_nets)
    steps = chain.steps[chain.steps.index(names[0]) :]
    inner = {place: model.get_submodule(place) for place in steps if place not in names}
    last_hidden = len(steps) - 1 - steps[::-1].index(names[-2])
    stays = [place for place, one in inner.items() if isinstance(one, DROPOUTS) and place in steps[last_hidden:]]
    gone = {place: type(one).__name__ for place, one in inner.items() if place not in stays}
    _check_no_hooks({place: model.get_submodule(place) for place in (*names, *gone)})
    # For an nn.Sequential the costs include all its modules, for other models only the dense layers.
    whole = nn.ModuleList(map(model.get_submodule, chain.steps)) if stack is None else stack
    before, model_before = dense_cost(whole), sum(p.numel() for p in model.parameters())
    layers, last = _new_layers(linears, num_nets, depth, options)
    _exchange(model, {**dict.fromkeys(gone), **dict.fromkeys(names), names[0]: layers, names[-1]: last})
    if stack is None:
        whole = nn.ModuleList(map(model.get_submodule, chain.steps))
    else:
        _drop(stack, [place.rpartition(".")[2] for place in (*gone, *names[1:-1])])
    others = dense_cost(whole, without=layers)
    return Replacement(
        layers={place: (one.in_features, one.out_features) for place, one in zip(names[:-1], linears, strict=False)},
        name=names[0],
        num_nets=num_nets,
        depth=depth,
        before=before,
        blocks=added_cost(others, released_cost(layers, num_nets, 4, depth, num_nets)),
        dense=added_cost(others, released_cost(layers, 1, 4 * num_nets, depth, num_nets)),
        model_before=model_before,
        gone=list(gone.values()),
        kept=chain.kept,
        frozen=[place for place, one in zip(names, linears, strict=True) if not one.weight.requires_grad],
    )


def _new_layers(
    linears: Sequence[Any], num_nets: int, depth: int, options: dict[str, Any]
) -> tuple[BlockDiagonalLayers, nn.Linear]:
    """Returns subnetworks and a last dense layer, on the device and with the dtype and mode of the layers before."""
    like = linears[0].weight
    layers = BlockDiagonalLayers(linears[0].in_features, num_nets, depth, **options)
    last = nn.Linear(num_nets, linears[-1].out_features, bias=linears[-1].bias is not None)
    for module, old in ((layers, linears[0]), (last, linears[-1])):
        module.to(like.device, like.dtype).train(old.training)
    if like.dtype in (torch.float16, torch.bfloat16):
        layers.bank.float()  # the waves need more than eight bits
    return layers, last


def _exchange(model: nn.Module, places: dict[str, nn.Module | None]) -> None:
    """Replaces modules of a model by others, or by `nn.Identity` where there is no new module."""
    for place, module in places.items():
        parent, _, key = place.rpartition(".")
        owner = model.get_submodule(parent)
        setattr(owner, key, nn.Identity() if module is None else module)
        if isinstance(owner, TRANSFORMER_LAYERS):
            # PyTorch's fast path for evaluation reads the weights of the dense layers, so it is turned off.
            owner.activation, owner.activation_relu_or_gelu = nn.Identity(), 0
    for encoder in model.modules():
        if isinstance(encoder, nn.TransformerEncoder) and _holds(encoder, list(places.values())):
            encoder.use_nested_tensor = False


def _holds(module: nn.Module, parts: list[nn.Module | None]) -> bool:
    return any(part is one for part in parts if part is not None for one in module.modules())


def _drop(stack: nn.Sequential, keys: Sequence[str]) -> None:
    """Removes children of an `nn.Sequential`. If all keys are numbers they are renumbered; other keys stay."""
    is_numbered = list(stack._modules) == [str(i) for i in range(len(stack))]
    for key in keys:
        delattr(stack, key)
    if is_numbered:
        left = list(stack)
        stack._modules.clear()
        stack.extend(left)


def _check_exchangeable(model: nn.Module, names: Sequence[str], linears: Sequence[nn.Linear]) -> None:
    """Raises ValueError for dense layers that have no sizes yet, that do not fit each other,
    are parametrized or complex, or share their parameters."""
    for place, linear in zip(names, linears, strict=True):
        if isinstance(linear, nn.LazyLinear):
            raise ValueError(f"{place!r} is an nn.LazyLinear without weights yet: run the model on a batch first")
        if "weight" not in linear._parameters or parametrize.is_parametrized(linear):
            raise ValueError(f"{place!r} is parametrized, as by a weight norm: parametrized layers cannot be replaced")
        if not linear.weight.is_floating_point():
            raise ValueError(f"{place!r} must have real weights, got {linear.weight.dtype}")
    for place, (one, two) in zip(names[1:], itertools.pairwise(linears), strict=True):
        if one.out_features != two.in_features:
            raise ValueError(f"{place!r} must take the {one.out_features} outputs before it, got {two.in_features}")
    own = {id(parameter): name for name, one in zip(names, linears, strict=True) for parameter in one.parameters()}
    for key, module in model.named_modules():
        if module in linears:
            continue
        for parameter in module.parameters(recurse=False):
            if id(parameter) in own:
                raise ValueError(f"{own[id(parameter)]!r} must not share its weights, {key!r} has them too")


def _check_no_hooks(replaced: Mapping[str, nn.Module]) -> None:
    """Raises ValueError if a module or one of its parameters has hooks, because they would be lost with it."""
    for place, module in replaced.items():
        own = [held for name, held in vars(module).items() if name.endswith("_hooks") and "state_dict" not in name]
        own += [held for one in module.parameters() for held in (one._backward_hooks, one._post_accumulate_grad_hooks)]
        if any(own):
            raise ValueError(f"{place!r} has hooks, which would be lost: register them after the replacement")


def _found_chain(model: nn.Module, classifier: str | None) -> DenseChain:
    """Returns the dense layers at the end of a model, or of the named module in it."""
    place = classifier or ""
    try:
        return find_chain(model.get_submodule(place)).within(place)
    except ValueError as error:
        what = f"classifier {classifier!r}" if classifier else type(model).__name__
        inside = [] if classifier else [(key, part) for key, part in model.named_modules() if key]
        found = next((key for key, part in reversed(inside) if _can_be_replaced(part)), "")
        advice = f"; inside it could be named as classifier: {found!r}" if found else ""
        raise ValueError(f"{what} has no hidden dense layers to replace: {error}{advice}") from error


def _can_be_replaced(module: nn.Module) -> bool:
    try:
        find_chain(module)
    except ValueError:
        return False
    return True
