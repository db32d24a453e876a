"""`null` for an argument that is not optional: jsonargparse lets it through, and the class fails in its own words."""

from __future__ import annotations

import typing
from pkgutil import resolve_name
from typing import Any

from lit_triwave.errors import TriwaveError


def check_nulls(config: dict[str, Any]) -> None:
    """Refuses null for an argument of the model or of the data whose type does not have it.

    Args:
        config: of a run, nested, in plain containers.

    Raises:
        TriwaveError: naming the argument and what it takes.
    """
    for part in ("model", "data"):
        content = config.get(part) or {}
        empty = [name for name, value in (content.get("init_args") or {}).items() if value is None]
        if empty:
            hints = typing.get_type_hints(resolve_name(content["class_path"]).__init__)
            for name in empty:
                hint = hints.get(name, Any)
                if hint is not Any and type(None) not in typing.get_args(hint):
                    raise TriwaveError(f"{part}.{name}: null, where {getattr(hint, '__name__', hint)} is expected")
