"""Paths without the user's name: what is saved says `~/data`, what is opened is the folder itself."""

from __future__ import annotations

import getpass
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from jsonargparse import Namespace

USER = "$USER"


def hidden(value: Any) -> Any:
    """A value as it may be saved: paths in the home folder begin with `~`, and the user's name as a folder of another
    path is `$USER`.

    Args:
        value: a string, or containers of them; everything else stays as it is.
    """
    return _mapped(value, _hidden)


def found(value: Any) -> Any:
    """The opposite of `hidden`: paths as they can be opened on this machine by this user."""
    return _mapped(value, _found)


def _hidden(text: str) -> str:
    for home in homes():
        if text == home or text.startswith(home + "/"):
            text = "~" + text[len(home) :]
    if text.startswith(("/", "~/")) and user():
        text = "/".join(USER if part == user() else part for part in text.split("/"))
    return text


def _found(text: str) -> str:
    if text == "~" or text.startswith("~/"):
        text = os.path.expanduser(text)
    if text.startswith("/") and user():
        text = "/".join(user() if part == USER else part for part in text.split("/"))
    return text


def names_home(path: Path) -> bool:
    """Whether a path has a folder in it that is called as the home folder or the user is."""
    names = {user(), *(Path(home).name for home in homes())} - {""}
    return not names.isdisjoint(path.parts)


def homes() -> list[str]:
    """The home folder as the user names it and as it really is, the longer one first; none where it is the root."""
    try:
        home = str(Path.home())
    except RuntimeError:  # a container whose user has none
        return []
    return sorted({home, os.path.realpath(home)} - {"/"}, key=len, reverse=True)


def user() -> str:
    """The user's name; "" where there is none, and for root, which says nothing."""
    try:
        name = getpass.getuser()
    except (KeyError, OSError):
        return ""
    return "" if name == "root" else name


def _mapped(value: Any, change: Callable[[str], str]) -> Any:
    if isinstance(value, str):
        return change(value)
    if isinstance(value, Namespace):
        return Namespace(  # type: ignore[no-untyped-call]
            **{key: _mapped(item, change) for key, item in vars(value).items()}
        )
    if isinstance(value, dict):
        return {key: _mapped(item, change) for key, item in value.items()}
    if type(value) in (list, tuple):
        return type(value)(_mapped(item, change) for item in value)
    return value
