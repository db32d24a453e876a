"""How a run of a sweep is called and asked for: its id and its arguments follow from its values alone."""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

LONGEST = 80  # characters of an id; `Run` takes up to 100


def run_ids(runs: Sequence[dict[str, Any]]) -> list[str]:
    """A readable id for each run, such as `depth=5-width=8`.

    Fields go by the last part of their names where that is not ambiguous; fields with only one value are named too, so
    that more values later leave the ids as they are. Ids that are too long or alike end in a digest of the values.

    Args:
        runs: name ↦ value of each, all with the same names.
    """
    last = Counter(name.rpartition(".")[2] for name in (runs[0] if runs else {}))
    ids = []
    for run in runs:
        parts = []
        for name, value in run.items():
            short = name.rpartition(".")[2]
            parts.append(f"{short if last[short] == 1 else name}={readable(value)}")
        ids.append("-".join(parts))
    alike = Counter(ids)
    return [
        name if alike[name] == 1 and len(name) <= LONGEST else f"{name[: LONGEST - 9]}-{digest(run)}"
        for name, run in zip(ids, runs, strict=True)
    ]


def readable(value: Any) -> str:
    """A value in characters that a run's id may have; of a config file its place in configs/."""
    text = value if isinstance(value, str) else argument_value(value)
    text = re.sub(r"^(\./)?configs/|\.ya?ml$", "", text)
    return re.sub(r"[^\w.+-]+", "_", text.replace('"', "")).strip("_") or "_"


def digest(values: dict[str, Any]) -> str:
    """Eight hexadecimal digits that tell values apart."""
    return hashlib.sha256(json.dumps(values, sort_keys=True, default=str).encode()).hexdigest()[:8]


def arguments(values: dict[str, Any]) -> list[str]:
    """`--KEY=VALUE` for each value, as `wandb agent` gives them."""
    return [f"--{name}={argument_value(value)}" for name, value in values.items()]


def argument_value(value: Any) -> str:
    """A value as the command line takes it: strings as they are, else JSON, which is YAML."""
    return value if isinstance(value, str) else json.dumps(value, default=str)


def configs_first(words: Sequence[str]) -> list[str]:
    """The words of a command line with its config files in front: a field can't be set before there is a config."""
    front: list[str] = []
    rest: list[str] = []
    pending = list(words)
    while pending:
        word = pending.pop(0)
        if word == "--config" and pending:
            front.append(f"--config={pending.pop(0)}")
        else:
            (front if word.startswith("--config=") else rest).append(word)
    return [*front, *rest]
