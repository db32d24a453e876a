"""What turns images into features: nothing, a small convolutional network, or a torchvision model."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from lit_triwave.heads import BlockDiagonalHead, DenseHead, check_sizes


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
    """Blocks of convolutions 3 × 3, batch norm and ReLU, each block closed by a max-pooling 2 × 2; then flattened.

    Args:
        image_shape: (C, H, W); H and W at least 2^(number of blocks).
        channels: of each block, ≥ 1.
        convolutions: in each block, ≥ 1.

    Attributes:
        out_features: features of an image.

    Raises:
        ValueError: for an argument outside its range.
    """

    def __init__(self, image_shape: Sequence[int], channels: Sequence[int] = (32, 64), convolutions: int = 1) -> None:
        fan_in, height, width = image_shape
        if not channels or min(height, width) < 1 << len(channels):
            raise ValueError(
                f"channels {list(channels)}: one to {min(height, width).bit_length() - 1} blocks for images of "
                f"{height} × {width}, each of which halves them"
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
    head: str,
    num_nets: int | None,
    depth: int,
    width: int | None,
    batch_norm: bool,
    dropout: float,
    bank: Mapping[str, Any],
    channels: Sequence[int],
    convolutions: int,
    weights: str | None,
) -> nn.Module:
    """A backbone with its head, as the arguments of `ImageClassifier` say."""
    features = Pixels(image_shape) if backbone == "none" else SmallCNN(image_shape, channels, convolutions)
    nets = 64 if num_nets is None else num_nets
    tail: nn.Module
    if head == "block_diagonal":
        tail = BlockDiagonalHead(features.out_features, num_classes, nets, depth, dropout=dropout, **bank)
    else:
        tail = DenseHead(
            features.out_features, num_classes, width or 4 * nets, depth, batch_norm=batch_norm, dropout=dropout
        )
    return nn.Sequential(OrderedDict(backbone=features, head=tail))
