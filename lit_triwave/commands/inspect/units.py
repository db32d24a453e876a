"""Activity of the hidden neurons. A neuron that is always zero is dead; a neuron that is never zero is linear."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from datamodules import DigitsDataModule
from lit_triwave.analysis.dead_units import hidden_shares, relu_shares
from lit_triwave.checkpoints.rebuild import Saved
from lit_triwave.errors import TriwaveError, reason
from lit_triwave.modules.regressor import FunctionRegressor
from lit_triwave.nn.bank import TriangleBank
from lit_triwave.nn.heads import DenseHead

_DOMAIN_POINTS = 20_001
_IMAGES = 2000  # most images taken from the data


@dataclass
class Activity:
    """The hidden ReLU neurons of a network on some inputs.

    Attributes:
        layers: for each hidden layer, the share of the inputs on which each neuron is above zero, shape (neurons,).
        on: name of the inputs.
    """

    layers: list[Tensor]
    on: str

    @property
    def neurons(self) -> int:
        return sum(len(layer) for layer in self.layers)

    @property
    def dead(self) -> int:
        """Number of neurons that are zero on all inputs."""
        return sum(int((layer == 0).sum()) for layer in self.layers)

    @property
    def linear(self) -> int:
        """Number of neurons that are above zero on all inputs."""
        return sum(int((layer == 1).sum()) for layer in self.layers)


@torch.no_grad()
def activity(saved: Saved, seed: int) -> Activity:
    """Returns the activity of a function's network on its domain, or of a classifier's head on its data.

    Raises:
        TriwaveError: a classifier's data cannot be loaded, or its head has no ReLU.
    """
    if isinstance(saved.module, FunctionRegressor):
        x, on = _domain_points(saved)
        plain = saved.module.plain(seed)
        return Activity(hidden_shares(saved.module.network, plain, x.to(next(plain.parameters()))), on)
    images, on = _some_images(saved)
    head: Any = next((m for m in saved.module.modules() if isinstance(m, TriangleBank | DenseHead)), None)
    if head is None:
        raise TriwaveError("the head is torchvision's own, without ReLUs of this project")
    inputs: list[Tensor] = []
    hook = head.register_forward_pre_hook(lambda module, args: inputs.append(args[0]))
    for batch in torch.split(images.to(saved.dtype), 100):
        saved.module(batch)
    hook.remove()
    plain = head if isinstance(head, DenseHead) else head.to_sequential()
    return Activity(relu_shares(plain, torch.cat(inputs)), on)


def _domain_points(saved: Saved) -> tuple[Tensor, str]:
    """Returns many points of a function's domain, shape (points, in_features), and their name."""
    scaling = saved.scaling
    m = scaling.in_features
    if m == 1:
        u = torch.linspace(0, 1, _DOMAIN_POINTS, dtype=saved.dtype)[:, None]
    else:
        engine = torch.quasirandom.SobolEngine(m, scramble=False)  # type: ignore[no-untyped-call]
        u = engine.draw(_DOMAIN_POINTS, dtype=saved.dtype)
    return scaling.lower + scaling.span * u, f"{_DOMAIN_POINTS:,} points of the domain"


def _some_images(saved: Saved) -> tuple[Tensor, str]:
    """Returns normalised images of a classifier's data, shape (images, C, H, W), and their name.

    Raises:
        TriwaveError: the data cannot be loaded.
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
            if sum(map(len, found)) >= _IMAGES:
                break
    except Exception as error:
        raise TriwaveError(reason(error, 350)) from error
    images = torch.cat(found)[:_IMAGES]
    return images, f"{len(images):,} validation images"
