"""The command lines that Lightning and jsonargparse parse: an error of theirs is one clear line."""

from __future__ import annotations

import inspect
import re
import signal
import time
from collections.abc import Iterable
from typing import Any, NoReturn

from lightning.pytorch.cli import LightningArgumentParser
from lightning.pytorch.utilities import rank_zero_only

from lit_triwave.errors import did_you_mean
from lit_triwave.launcher import outlive_launcher
from lit_triwave.one_line import condense

SAME_ERROR_SECONDS = 10.0  # the first rank may have a Weights & Biases run to end
PARTS = ("model", "data", "run", "trainer")
"""Of a config."""


class OneLineParser(LightningArgumentParser):
    """Lightning's parser, with errors in one line instead of a page of usage.

    Attributes:
        classes: whose arguments are the known keys, for near matches.
    """

    classes: Iterable[type] = ()

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, allow_abbrev=False, **options)

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Exits with code 2."""
        text = condense(message)
        if "expected one argument" in text:
            text += "; a value that begins with - needs an equals sign, as in --data.expression=-x**2"
        unknown = re.search(
            r"Option '([\w.]+)' is not accepted|unrecognized arguments: --([\w.]+)|key '([\w.]+)'", text
        )
        if unknown:
            text += self._near_match(next(group for group in unknown.groups() if group))
        if re.search(r"required: \w+\.(data|model)", text):
            text = "a config is needed: --config FILE, for example configs/x3_minus_x.yaml"
        leave_it_to_the_first_rank()
        self.exit(2, f"error: {text}\n")
        raise SystemExit(2)  # `exit` does not return; its annotation does not say so

    def _near_match(self, key: str) -> str:
        known = {name for kind in self.classes for name in inspect.signature(kind).parameters}
        first, last = key.partition(".")[0], key.rpartition(".")[2]
        if "." in key and first not in {*PARTS, *known}:
            return did_you_mean(first, PARTS)
        return "" if last in known else did_you_mean(last, known)


def leave_it_to_the_first_rank() -> int:
    """Gives the first rank the time to say an error, which mostly all have, and to end the others with its own end.

    Returns:
        The rank of this process.
    """
    rank = int(getattr(rank_zero_only, "rank", None) or 0)
    if rank > 0:
        outlive_launcher()
        signal.signal(signal.SIGTERM, signal.SIG_DFL)  # by which srun ends the ranks that are left
        time.sleep(SAME_ERROR_SECONDS)
    return rank


def known_classes(*classes: Any) -> type[OneLineParser]:
    """A parser class whose near matches come from the arguments of `classes`."""
    return type("Parser", (OneLineParser,), {"classes": classes})
