"""The fields of models and data in the help of `fit`, `validate`, `test` and `predict`."""

from __future__ import annotations

from argparse import SUPPRESS
from collections.abc import Sequence
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

import yaml
from jsonargparse import ArgumentParser

import datamodules
from lit_triwave import modules
from lit_triwave.commands.config_checks import LINKS
from lit_triwave.commands.config_files import given_options
from lit_triwave.modules.trainer_support import OPTIONS

_BASES = ("RegressionDataModule", "StagedModule")
"""Base classes, which no config names."""


def describe_options(parser: ArgumentParser) -> None:
    """Adds to the help of each trainer option what it does here, if this is more than Lightning's text says."""
    for action in parser._actions:
        part, _, name = action.dest.partition(".")
        if part == "trainer" and name in OPTIONS:
            action.help = f"{action.help} Here: {OPTIONS[name].here}."


def fields_help(words: Sequence[str]) -> str:
    """Returns the fields of the model and the data that a command line names, with what their docstrings say.

    Args:
        words: words of the command line. If they name no model or no data, those of this project are described.
    """
    parts = {"model": modules, "data": datamodules}
    named = {part: _named(words, part, room) for part, room in parts.items()}
    found = []
    for part, room in parts.items():
        names = [name for name in room.__all__ if name not in _BASES]
        shipped = {f"{room.__name__}.{name}": getattr(room, name) for name in names}
        found += [_fields(part, path, kind) for path, kind in (named[part] or shipped).items()]
    if not any(named.values()):
        found.append("With --config FILE before --help, only the model and the data of that config are described.\n")
    return "\n".join([*found, "--print_config after all other arguments shows the value of every field.\n"])


def _named(words: Sequence[str], part: str, room: Any) -> dict[str, Any]:
    """Returns the class of the model or the data that a command line names last, by its path; {} if it names none."""
    found: Any = None
    for option, value in given_options(words):
        if option == "--config" and Path(value).is_file():
            content = yaml.safe_load(Path(value).read_text())
            asked = content.get(part) if isinstance(content, dict) else None
            found = (asked.get("class_path") if isinstance(asked, dict) else asked) or found
        elif option in (f"--{part}", f"--{part}.class_path"):
            found = value
    if not isinstance(found, str) or not found:
        return {}
    path = f"{room.__name__}.{found}" if found in room.__all__ else found
    return {path: resolve_name(path)}


def _fields(part: str, path: str, kind: Any) -> str:
    """Returns the help of a class, without what a model takes from its data."""
    parser = ArgumentParser(usage=SUPPRESS, add_help=False)
    parser.add_class_arguments(kind, part, skip={*LINKS.values()} if part == "model" else set(), fail_untyped=False)
    text: str = parser.format_help()
    return f"--{part} {path}\n{text}"
