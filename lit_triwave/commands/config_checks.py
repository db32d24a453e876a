"""Checks of a config that jsonargparse does not do."""

from __future__ import annotations

import dataclasses
import inspect
import types
import typing
from pkgutil import resolve_name
from typing import Any

from jsonargparse import Namespace
from lightning.pytorch import LightningDataModule, LightningModule

from lit_triwave.checkpoints.rebuild import STAGE_KINDS
from lit_triwave.errors import KIND_WORDS, TriwaveError
from lit_triwave.modules.staged import STAGES, StagedModule
from lit_triwave.tracking.flat_config import plain

LINKS = {
    "data.domain": "domain",
    "data.target_range": "target_range",
    "data.curvature": "data_curvature",
    "data.training_points": "data_points",
    "data.degree": "data_degree",
    "data.noise": "data_noise",
    "data.num_classes": "num_classes",
    "data.image_shape": "image_shape",
}
"""Arguments of a module that come from the data: attribute of the data ↦ argument of the module.

jsonargparse leaves out links whose ends the chosen classes do not have."""


def check_links(config: Namespace, model: LightningModule, data: LightningDataModule) -> None:
    """Refuses a value that the user gives for an argument that the model takes from its data.

    Raises:
        TriwaveError: the value differs from the data's, which would replace it silently.
    """
    given = config.model.get("init_args") or {}
    for source, target in LINKS.items():
        name = source.partition(".")[2]
        if target not in given or not (target in model.hparams or hasattr(data, name)):
            continue
        # A module that saves no hyperparameters got the data's value.
        found = plain(dict(model.hparams).get(target, getattr(data, name, None)))
        value = plain(given[target])
        if value not in (plain(_default(type(model), target)), found):
            raise TriwaveError(f"model.{target} must be {found}, which {source} says, got {value}: leave it out")


def _default(kind: type, name: str) -> Any:
    """Returns the default of an argument of a class; `Parameter.empty` without one, or behind **kwargs."""
    parameter = inspect.signature(kind).parameters.get(name)
    return inspect.Parameter.empty if parameter is None else parameter.default


def check_nulls(config: dict[str, Any]) -> None:
    """Refuses null for an argument of the model or of the data whose type does not allow it.

    Args:
        config: config of a run, nested, in plain containers.

    Raises:
        TriwaveError: an argument is null; the message names it and the expected type.
    """
    for part in ("model", "data"):
        content = config.get(part) or {}
        kind = resolve_name(content["class_path"]) if content else object
        given = (content.get("init_args") or {}).items()
        empty = [name for name, value in given if value is None and _default(kind, name) is not None]
        hints = _hints(kind) if empty else {}
        for name in empty:
            hint = hints.get(name, Any)
            if not _takes_null(hint):
                words = getattr(hint, "__name__", str(hint))
                raise TriwaveError(f"{part}.{name} must be {KIND_WORDS.get(words, words)}, got null")


def _hints(kind: type) -> dict[str, Any]:
    """Returns the types of a class's arguments; {} if a type is imported for type checkers only."""
    try:
        return typing.get_type_hints(kind.__init__)  # type: ignore[misc]
    except (NameError, TypeError, AttributeError):
        return {}


def _takes_null(hint: Any) -> bool:
    """Whether a type allows None."""
    parts = typing.get_args(hint)
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return any(map(_takes_null, parts))
    if typing.get_origin(hint) is typing.Literal:
        return None in parts
    return hint in (Any, object, type(None))


def check_stages(config: dict[str, Any]) -> None:
    """Refuses a stage that is no mapping, which jsonargparse accepts, or has a value out of range.

    A `Stage` does not know its name, so its error is raised here with it.

    Args:
        config: config of a run, nested, in plain containers.

    Raises:
        TriwaveError: a stage cannot be used; the message names it.
    """
    model = config.get("model") or {}
    if not model or not issubclass(resolve_name(model["class_path"]), StagedModule):
        return
    for name, value in (model.get("init_args") or {}).items():
        if name in STAGES and not isinstance(value, dict):
            raise TriwaveError(f"model.{name} must be a mapping, such as epochs: 10, got {value}")
        kind = STAGE_KINDS.get(name)
        if kind and {*value} <= {field.name for field in dataclasses.fields(kind)}:
            try:
                kind(**value)
            except ValueError as error:
                raise TriwaveError(f"{name}.{str(error).removeprefix(f'{name}.')}") from error
