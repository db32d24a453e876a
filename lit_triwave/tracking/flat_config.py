"""Nested configs as plain containers and as flat fields; needs neither torch nor Lightning."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jsonargparse import Namespace


def flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested dicts as one, with dotted keys."""
    leaves: dict[str, Any] = {}
    for key, value in tree.items():
        leaves |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) and value else {f"{prefix}{key}": value}
    return leaves


def short_names(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Flat fields without the `init_args` of their names: `model.depth` for `model.init_args.depth`."""
    return {name.replace(".init_args", ""): value for name, value in fields.items()}


def plain(value: Any) -> Any:
    """Containers as dicts and lists, so that a saved value compares equal to a parsed one."""
    if isinstance(value, (dict, Namespace)):
        return {key: plain(item) for key, item in (value if isinstance(value, dict) else vars(value)).items()}
    return [plain(item) for item in value] if isinstance(value, (list, tuple)) else value
