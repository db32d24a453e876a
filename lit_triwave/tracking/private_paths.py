"""Keeps the user's name out of saved files: they have `~/data`, and readers replace this by the folder."""

from __future__ import annotations

import getpass
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from jsonargparse import Namespace

_USER = "$USER"


def hidden(value: Any) -> Any:
    """Returns a value without the user's name, for saving.

    Paths in the home folder begin with `~`. In other paths `$USER` replaces a folder with the user's name.

    Args:
        value: a string, or nested containers of strings. Anything else is returned unchanged.
    """
    return _mapped(value, _hidden)


def found(value: Any) -> Any:
    """Reverses `hidden`: returns paths that this user can open on this machine."""
    return _mapped(value, _found)


def _hidden(text: str) -> str:
    for home in _homes():
        if text == home or text.startswith(home + "/"):
            text = "~" + text[len(home) :]
    if text.startswith(("/", "~/")) and _user():
        text = "/".join(_USER if part == _user() else part for part in text.split("/"))
    return text


def _found(text: str) -> str:
    if text.startswith("~/"):  # not "~" alone, which may be a column's name; all that open paths expand it
        text = os.path.expanduser(text)
    if text.startswith("/") and _user():
        text = "/".join(_user() if part == _USER else part for part in text.split("/"))
    return text


def names_home(path: Path) -> bool:
    """Whether a folder of a path has the name of the user or of the home folder."""
    names = {_user(), *(Path(home).name for home in _homes())} - {""}
    return not names.isdisjoint(path.parts)


def _homes() -> list[str]:
    """Returns the home folder, as named and with links resolved, the longer path first; none if it is the root."""
    try:
        home = str(Path.home())
    except RuntimeError:  # the user of a container may have none
        return []
    return sorted({home, os.path.realpath(home)} - {"/"}, key=len, reverse=True)


def _user() -> str:
    """Returns the user's name; "" if there is none, and for root, whose name is no secret."""
    try:
        name = getpass.getuser()
    except (KeyError, OSError):
        return ""
    return "" if name == "root" else name


def _mapped(value: Any, change: Callable[[str], str]) -> Any:
    if isinstance(value, str):
        return change(str.__str__(value))  # Lightning has subclasses of str, which YAML cannot represent
    if isinstance(value, Namespace):
        return Namespace(_mapped(vars(value), change))  # type: ignore[no-untyped-call]
    if isinstance(value, dict):
        return {key: _mapped(item, change) for key, item in value.items()}
    if type(value) in (list, tuple):
        return type(value)(_mapped(item, change) for item in value)
    return value
