"""What a module learns from its data."""

from __future__ import annotations

import inspect

from jsonargparse import Namespace
from lightning.pytorch import LightningModule

from lit_triwave.errors import TriwaveError
from lit_triwave.tracking.flat_config import plain

LINKS = {
    "data.domain": "domain",
    "data.target_range": "target_range",
    "data.curvature": "data_curvature",
    "data.num_classes": "num_classes",
    "data.image_shape": "image_shape",
}
"""What a module learns from its data: attribute of the data ↦ argument of the module. jsonargparse leaves out the links
whose ends the chosen classes do not have."""


def check_links(config: Namespace, model: LightningModule) -> None:
    """Refuses a value of the user's for what the model learns from its data: it would be passed over.

    Raises:
        TriwaveError: it is another than the data's.
    """
    given = config.model.get("init_args") or {}
    defaults = inspect.signature(type(model)).parameters
    for source, target in LINKS.items():
        if target not in model.hparams or target not in given:
            continue
        value, found = plain(given[target]), plain(dict(model.hparams)[target])
        if value not in (plain(defaults[target].default), found):
            raise TriwaveError(f"model.{target} {value}: it follows from {source}, which is {found}; leave it out")
