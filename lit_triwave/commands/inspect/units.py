"""Which hidden neurons still bend: those that are zero everywhere are dead, those that never are have become linear."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from datamodules import DigitsDataModule
from lit_triwave.analysis.dead_units import hidden_shares, relu_shares
from lit_triwave.checkpoints.rebuild import Saved
from lit_triwave.commands.inspect.subnetworks import head_layers
from lit_triwave.errors import TriwaveError
from lit_triwave.modules.regressor import FunctionRegressor
from lit_triwave.nn.heads import DenseHead

DOMAIN_POINTS = 20_001
IMAGES = 2000  # at most, of the data


@dataclass
class Activity:
    """The hidden ReLU neurons of a network on some inputs.

    Attributes:
        layers: for each hidden layer the share of the inputs on which each neuron is above zero, (neurons,).
        on: what the inputs are.
    """

    layers: list[Tensor]
    on: str

    @property
    def neurons(self) -> int:
        return sum(len(layer) for layer in self.layers)

    @property
    def dead(self) -> int:
        """Neurons that are zero on all inputs."""
        return sum(int((layer == 0).sum()) for layer in self.layers)

    @property
    def linear(self) -> int:
        """Neurons that are above zero on all inputs."""
        return sum(int((layer == 1).sum()) for layer in self.layers)


@torch.no_grad()
def activity(saved: Saved, seed: int) -> Activity:
    """The hidden neurons of a function's network on its domain, or of a classifier's head on its data.

    Raises:
        TriwaveError: the data of a classifier cannot be had, or its head has no ReLU.
    """
    if isinstance(saved.module, FunctionRegressor):
        x, on = domain_points(saved)
        plain = saved.module.plain(seed)
        return Activity(hidden_shares(saved.module.network, plain, x.to(next(plain.parameters()))), on)
    images, on = some_images(saved)
    heads = head_layers(saved)
    if heads:
        inputs: list[Tensor] = []
        hook = heads[0].bank.register_forward_pre_hook(lambda bank, args: inputs.append(args[0]))
        forward(saved, images)
        hook.remove()
        return Activity(relu_shares(heads[0].bank.to_sequential(), torch.cat(inputs)), on)
    dense = [module for module in saved.module.modules() if isinstance(module, DenseHead)]
    if not dense:
        raise TriwaveError("its head is torchvision's own")
    features: list[Tensor] = []
    hook = dense[0].register_forward_pre_hook(lambda head, args: features.append(args[0]))
    forward(saved, images)
    hook.remove()
    return Activity(relu_shares(dense[0], torch.cat(features)), on)


def forward(saved: Saved, images: Tensor) -> None:
    """Runs a classifier on images, some at a time."""
    for batch in torch.split(images.to(saved.dtype), 100):
        saved.module(batch)


def domain_points(saved: Saved) -> tuple[Tensor, str]:
    """Many points of a function's domain, (points, in_features), and what they are called."""
    scaling = saved.scaling
    m = scaling.in_features
    if m == 1:
        u = torch.linspace(0, 1, DOMAIN_POINTS, dtype=saved.dtype)[:, None]
    else:
        engine = torch.quasirandom.SobolEngine(m, scramble=False)  # type: ignore[no-untyped-call]
        u = engine.draw(DOMAIN_POINTS, dtype=saved.dtype)
    return scaling.lower + scaling.span * u, f"{DOMAIN_POINTS:,} points of the domain"


def some_images(saved: Saved) -> tuple[Tensor, str]:
    """Images of a classifier's data, normalised, (images, C, H, W), and what they are called.

    Raises:
        TriwaveError: they can't be had.
    """
    data = saved.data()
    try:
        if isinstance(data, DigitsDataModule):
            data.setup("fit")
            images: Tensor = data.train_set.images
            return images, f"{len(images):,} training images"
        found: list[Tensor] = []
        data.prepare_data()
        data.setup("validate")
        for batch in data.val_dataloader():
            values: Any = data.on_after_batch_transfer(batch, 0)
            found.append(values[0])
            if sum(map(len, found)) >= IMAGES:
                break
    except Exception as error:
        raise TriwaveError(" ".join(str(error).split())) from error
    images = torch.cat(found)[:IMAGES]
    return images, f"{len(images):,} validation images"
