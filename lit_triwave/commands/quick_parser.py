"""The parser of the commands that do not train by a config, with errors in one line."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable
from typing import Any, NoReturn

from lit_triwave.errors import did_you_mean, printable


class QuickParser(argparse.ArgumentParser):
    """Parser that needs no Lightning, which takes seconds to import."""

    def __init__(self, **options: Any) -> None:
        super().__init__(allow_abbrev=False, **options)

    def error(self, message: str) -> NoReturn:
        """Prints the error in one line and exits with code 2."""
        text = message.removeprefix("argument ").replace(": must be", " must be")
        choice = re.fullmatch(r"(--\S+): invalid choice: '(.*)' \(choose from (.*)\)", text)
        unknown = re.search(r"unrecognized arguments: (--[\w-]+)", text)
        if choice:
            choices = choice[3].replace("'", "")
            near = did_you_mean(choice[2], choices.split(", "))
            text = f"{choice[1]} must be one of {choices}, got {choice[2]}{near}"
        elif unknown:
            text += did_you_mean(unknown[1], [name for name in self._option_string_actions if name != "--help"])
        self.exit(2, f"error: {printable(text)}\n")


def at_least(least: int) -> Callable[[str], int]:
    """Returns the `type` of an argument that is a whole number, and not below another one."""

    def number(text: str) -> int:
        if not re.fullmatch(r"[+-]?\d+", text):
            raise argparse.ArgumentTypeError(f"must be a whole number, got {text}")
        if int(text) < least:
            raise argparse.ArgumentTypeError(f"must be at least {least}, got {text}")
        return int(text)

    return number


def _true_or_false(text: str) -> bool:
    """The `type` of an argument that is true or false."""
    if text.lower() not in ("true", "false"):
        raise argparse.ArgumentTypeError(f"must be true or false, got {text}")
    return text.lower() == "true"


SWITCH: dict[str, Any] = {"type": _true_or_false, "metavar": "{true,false}"}
"""Options of `add_argument` for an argument that is given with true or false."""
FLAG = SWITCH | {"nargs": "?", "const": True, "default": False}
"""The same for an argument that can also be given alone, which means true; without it, it is false."""
