"""Backbones that turn images into features: pixels, a small convolutional network, or a torchvision model."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lit_triwave.errors import did_you_mean, reason
from lit_triwave.nn.heads import BlockDiagonalHead, DenseHead
from lit_triwave.nn.replacement import cut_classifier, replace_dense
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
    """Blocks of convolutions 3 × 3, batch norm and ReLU, each block closed by a max-pooling 2 × 2; then flattened.

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
                f"channels must name one to {min(height, width).bit_length() - 1} blocks for images of "
                f"{height} × {width}, each of which halves them, got {list(channels)}"
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
    """Builds a backbone with its head; the arguments are those of `ImageClassifier`."""
    nets = 64 if num_nets is None else num_nets
    features: nn.Module
    if backbone in ("none", "cnn"):
        if head in ("replaced", "original"):
            raise ValueError(
                f"head must be block_diagonal or dense for backbone {backbone!r}, which has no classifier, got {head!r}"
            )
        if weights is not None:
            raise ValueError(
                f"weights must be null for backbone {backbone!r}, got {weights}: only models of torchvision take them"
            )
        own = Pixels(image_shape) if backbone == "none" else SmallCNN(image_shape, channels, convolutions)
        features, size = own, own.out_features
    else:
        model = _torchvision_model(backbone, num_classes, image_shape, weights, head in ("block_diagonal", "dense"))
        if head == "original":
            return model
        if head == "replaced":
            replace_dense(model, depth, num_nets, **bank)
            return model
        features, size = cut_classifier(model)
    tail: nn.Module
    if head == "block_diagonal":
        tail = BlockDiagonalHead(size, num_classes, nets, depth, dropout=dropout, **bank)
    else:
        tail = DenseHead(size, num_classes, width or 4 * nets, depth, batch_norm=batch_norm, dropout=dropout)
    return nn.Sequential(OrderedDict(backbone=features, head=tail))


def _torchvision_model(
    name: str, num_classes: int, image_shape: Sequence[int], weights: str | None, any_classes: bool
) -> nn.Module:
    """Builds a classification model of torchvision, with the weights of a local file if one is given.

    Args:
        name: name of the model, such as `"vgg16_bn"`.
        num_classes: number of classes.
        image_shape: (3, H, W).
        weights: file with its state dict.
        any_classes: whether the file may have another number of classes, since the classifier will be cut off.

    Raises:
        ValueError: there is no such model, images do not have three channels, or the file does not fit.
    """
    from torchvision import models  # takes seconds

    known = models.list_models(models)
    if name not in known:
        near = did_you_mean(name, [*known, "cnn", "none"], most=3)
        raise ValueError(f"backbone must be cnn, none, or a model of torchvision such as vgg16_bn, got {name!r}{near}")
    if image_shape[0] != 3:
        raise ValueError(f"backbone {name!r} takes images of 3 channels, these have {image_shape[0]}: take cnn or none")
    state = {} if weights is None else _read_weights(weights)
    last = next((value for value in reversed(state.values()) if value.ndim == 2), None)
    classes = len(last) if any_classes and last is not None else num_classes
    model: nn.Module = models.get_model(name, weights=None, num_classes=classes, **model_options(name))
    if weights is not None:
        own = model.state_dict()
        unfit = [key for key in own.keys() | state.keys() if key not in own or key not in state]
        if unfit:
            raise ValueError(f"weights {weights} are not of {name}: {unfit[0]} is only in one of the two")
        for key, value in own.items():
            if value.shape != state[key].shape:
                raise ValueError(
                    f"weights {weights}: {key} is {tuple(state[key].shape)} there and {tuple(value.shape)} here; the "
                    f"data has {num_classes} classes"
                )
        model.load_state_dict(state)
    return model


def model_options(name: str) -> dict[str, Any]:
    """Returns further options to build a torchvision model with: no auxiliary classifiers."""
    return {"aux_logits": False, "init_weights": True} if name in ("googlenet", "inception_v3") else {}


def _read_weights(path: str) -> dict[str, Any]:
    """Reads a state dict from a file, without unpickling arbitrary objects.

    Raises:
        ValueError: the file does not exist, or holds something else.
    """
    file = Path(path).expanduser()
    if not file.is_file():
        raise ValueError(f"weights {path}: no such file")
    try:
        state = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:
        raise ValueError(f"weights {path} cannot be read: {reason(error, 100)}") from error
    if not isinstance(state, dict) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise ValueError(f"weights {path} must hold a state dict, name ↦ tensor")
    return state
