"""An argument parser for commands that need no Lightning, with errors in one line."""

from __future__ import annotations

import argparse
import re
from typing import Any, NoReturn

from lit_triwave.errors import did_you_mean, printable


class QuickParser(argparse.ArgumentParser):
    """Parser for commands that need no Lightning, which takes seconds to import."""

    def __init__(self, **options: Any) -> None:
        super().__init__(allow_abbrev=False, **options)

    def error(self, message: str) -> NoReturn:
        """Prints the error in one line and exits with code 2."""
        text = message.removeprefix("argument ")
        choice = re.fullmatch(r"(--\S+): invalid choice: '(.*)' \(choose from (.*)\)", text)
        unknown = re.search(r"unrecognized arguments: (--[\w-]+)", text)
        if choice:
            choices = choice[3].replace("'", "")
            text = (
                f"{choice[1]} must be one of {choices}, got {choice[2]}{did_you_mean(choice[2], choices.split(', '))}"
            )
        elif unknown:
            text += did_you_mean(unknown[1], self._option_string_actions)
        self.exit(2, f"error: {printable(text)}\n")
