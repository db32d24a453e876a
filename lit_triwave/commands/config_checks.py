"""Checks of a config that jsonargparse does not make."""

from __future__ import annotations

import inspect
import typing
from pkgutil import resolve_name
from typing import Any

from jsonargparse import Namespace
from lightning.pytorch import LightningModule

from lit_triwave.errors import KIND_WORDS, TriwaveError
from lit_triwave.modules.staged import STAGES
from lit_triwave.tracking.flat_config import plain

LINKS = {
    "data.domain": "domain",
    "data.target_range": "target_range",
    "data.curvature": "data_curvature",
    "data.training_points": "data_points",
    "data.num_classes": "num_classes",
    "data.image_shape": "image_shape",
}
"""What a module learns from its data: attribute of the data ↦ argument of the module.

jsonargparse leaves out links whose ends the chosen classes do not have."""


def check_links(config: Namespace, model: LightningModule) -> None:
    """Refuses a value of the user's for an argument that the model takes from its data.

    Raises:
        TriwaveError: the value differs from the data's, which would replace it silently.
    """
    given = config.model.get("init_args") or {}
    defaults = inspect.signature(type(model)).parameters
    for source, target in LINKS.items():
        if target not in model.hparams or target not in given:
            continue
        value, found = plain(given[target]), plain(dict(model.hparams)[target])
        if value not in (plain(defaults[target].default), found):
            raise TriwaveError(f"model.{target} must be {found}, which {source} says, got {value}: leave it out")


def check_nulls(config: dict[str, Any]) -> None:
    """Refuses null for an argument of the model or of the data whose type does not allow it.

    Args:
        config: of a run, nested, in plain containers.

    Raises:
        TriwaveError: naming the argument and the type that is expected.
    """
    for part in ("model", "data"):
        content = config.get(part) or {}
        empty = [name for name, value in (content.get("init_args") or {}).items() if value is None]
        hints = typing.get_type_hints(resolve_name(content["class_path"]).__init__) if empty else {}
        for name in empty:
            hint = hints.get(name, Any)
            if hint is not Any and type(None) not in typing.get_args(hint):
                kind = getattr(hint, "__name__", str(hint))
                raise TriwaveError(f"{part}.{name} must be {KIND_WORDS.get(kind, kind)}, got null")


def check_stages(config: dict[str, Any]) -> None:
    """Refuses a stage that is no mapping, which jsonargparse lets pass.

    Args:
        config: of a run, nested, in plain containers.

    Raises:
        TriwaveError: naming the stage.
    """
    for name, value in ((config.get("model") or {}).get("init_args") or {}).items():
        if name in STAGES and not isinstance(value, dict):
            raise TriwaveError(f"model.{name} must be a mapping, such as epochs: 10, got {value}")
