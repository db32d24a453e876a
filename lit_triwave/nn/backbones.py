"""Backbones that turn images into features: pixels, a small convolutional network, or a model by name."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from lit_triwave.nn.dense_chains import is_linear
from lit_triwave.nn.heads import BlockDiagonalHead, BlockDiagonalLayers, DenseHead
from lit_triwave.nn.named_models import BUILT_IN, NamedModel, output_shape
from lit_triwave.nn.replacement import replace_dense
from lit_triwave.nn.sizes import check_sizes


class Pixels(nn.Flatten):
    """No backbone: the pixels are the features.

    Args:
        image_shape: (C, H, W).

    Attributes:
        out_features: C · H · W.
    """

    def __init__(self, image_shape: Sequence[int]) -> None:
        super().__init__()
        channels, height, width = image_shape
        self.out_features = channels * height * width


class SmallCNN(nn.Sequential):
    """Blocks of 3 × 3 convolutions, batch norm and ReLU, each with 2 × 2 max-pooling at its end. Outputs are flattened.

    Args:
        image_shape: (C, H, W); H and W at least 2^(number of blocks).
        channels: channels of each block, ≥ 1.
        convolutions: convolutions in each block, ≥ 1.

    Attributes:
        out_features: number of features of an image.

    Raises:
        ValueError: an argument is outside its range.
    """

    def __init__(self, image_shape: Sequence[int], channels: Sequence[int] = (32, 64), convolutions: int = 1) -> None:
        fan_in, height, width = image_shape
        if not channels or min(height, width) < 1 << len(channels):
            raise ValueError(
                f"channels must have 1 to {min(height, width).bit_length() - 1} entries for images of "
                f"{height} × {width}, which each block halves, got {list(channels)}"
            )
        check_sizes(convolutions=convolutions, channels=min(channels))
        layers: list[nn.Module] = []
        for out in channels:
            for _ in range(convolutions):
                layers += [nn.Conv2d(fan_in, out, 3, padding=1, bias=False), nn.BatchNorm2d(out), nn.ReLU()]
                fan_in = out
            layers.append(nn.MaxPool2d(2))
        super().__init__(*layers, nn.Flatten())
        self.out_features = fan_in * (height >> len(channels)) * (width >> len(channels))


def build_network(
    image_shape: Sequence[int],
    num_classes: int,
    *,
    backbone: str,
    backbone_options: Mapping[str, Any] | None = None,
    head: str,
    num_nets: int | None,
    depth: int,
    width: int | None,
    batch_norm: bool,
    dropout: float,
    norm_momentum: float,
    bank: Mapping[str, Any],
    channels: Sequence[int],
    convolutions: int,
    weights: str | None,
) -> nn.Module:
    """Builds a backbone with its head; the arguments are those of `ImageClassifier`."""
    nets = 64 if num_nets is None else num_nets
    own_classifier = head in ("replaced", "original")
    features: nn.Module
    if backbone in BUILT_IN:
        if own_classifier:
            raise ValueError(
                f"head must be block_diagonal or dense for backbone {backbone!r}, which has no classifier, got {head!r}"
            )
        for name, value in {"weights": weights, "backbone_options": backbone_options}.items():
            if value is not None:
                raise ValueError(
                    f"{name} must be null for backbone {backbone!r}, got {value}: only other models take them"
                )
        own = Pixels(image_shape) if backbone == "none" else SmallCNN(image_shape, channels, convolutions)
        features, size = own, own.out_features
    else:
        named = NamedModel(backbone, num_classes, image_shape, backbone_options or {})
        if own_classifier and not named.classifies:
            raise ValueError(
                f"head must be block_diagonal or dense for backbone {backbone!r}, whose class takes no "
                f"num_classes, got {head!r}"
            )
        if not own_classifier:
            named.cut()
        if weights is not None:
            named.load(weights)
        if own_classifier:
            model = named.model
            if head == "replaced":
                replace_dense(model, depth, num_nets, norm_momentum=norm_momentum, **bank)
            shape = tuple(output_shape(model, image_shape, backbone))
            if shape != (2, num_classes):
                raise ValueError(f"backbone {backbone!r} must return (2, {num_classes}) for two images, got {shape}")
            return model
        features, size = named.features()
    tail: nn.Module
    common = {"dropout": dropout, "norm_momentum": norm_momentum}
    if head == "block_diagonal":
        tail = BlockDiagonalHead(size, num_classes, nets, depth, **common, **bank)
    else:
        tail = DenseHead(size, num_classes, width or 4 * nets, depth, batch_norm=batch_norm, **common)
    return nn.Sequential(OrderedDict(backbone=features, head=tail))


def backbone_modules(network: nn.Module) -> list[nn.Module]:
    """Returns the modules before the head, or before the dense layers of a model's own classifier.

    Raises:
        ValueError: its classifier has no dense layer.
    """
    if isinstance(network, nn.Sequential) and "backbone" in network._modules:
        return list(network.get_submodule("backbone").modules())
    modules = dict(network.named_modules())
    places = [name for name, module in modules.items() if is_linear(module)]
    if not places:
        raise ValueError(
            f"freeze_backbone must be false for a {type(network).__name__}, which has no dense layer, got true"
        )
    place = places[-1]
    around = modules[place.rpartition(".")[0]]
    same = around.children() if isinstance(around, nn.Sequential) else ()
    heads = [modules[place], *(module for module in same if is_linear(module))]
    heads += [module for module in modules.values() if isinstance(module, BlockDiagonalLayers)]
    inside = {part for head in heads for part in head.modules()}
    return [module for module in modules.values() if module not in inside]
