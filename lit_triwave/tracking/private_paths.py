"""Keeps the user's name out of what is saved: files say `~/data`, and readers open the folder itself."""

from __future__ import annotations

import getpass
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from jsonargparse import Namespace

_USER = "$USER"


def hidden(value: Any) -> Any:
    """Returns a value as it may be saved.

    Paths in the home folder begin with `~`; in other paths `$USER` stands for a folder that has the user's name.

    Args:
        value: a string, or nested containers of strings. Anything else is returned unchanged.
    """
    return _mapped(value, _hidden)


def found(value: Any) -> Any:
    """Reverses `hidden`: returns paths as this user can open them on this machine."""
    return _mapped(value, _found)


def _hidden(text: str) -> str:
    for home in _homes():
        if text == home or text.startswith(home + "/"):
            text = "~" + text[len(home) :]
    if text.startswith(("/", "~/")) and _user():
        text = "/".join(_USER if part == _user() else part for part in text.split("/"))
    return text


def _found(text: str) -> str:
    if text == "~" or text.startswith("~/"):
        text = os.path.expanduser(text)
    if text.startswith("/") and _user():
        text = "/".join(_user() if part == _USER else part for part in text.split("/"))
    return text


def names_home(path: Path) -> bool:
    """Whether a folder of a path has the name of the user or of the home folder."""
    names = {_user(), *(Path(home).name for home in _homes())} - {""}
    return not names.isdisjoint(path.parts)


def _homes() -> list[str]:
    """Returns the home folder as it is named and with its links resolved, the longer first; none if it is the root."""
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
        return change(str.__str__(value))  # of Lightning's own kinds of text, which YAML cannot represent
    if isinstance(value, Namespace):
        return Namespace(  # type: ignore[no-untyped-call]
            **{key: _mapped(item, change) for key, item in vars(value).items()}
        )
    if isinstance(value, dict):
        return {key: _mapped(item, change) for key, item in value.items()}
    if type(value) in (list, tuple):
        return type(value)(_mapped(item, change) for item in value)
    return value
