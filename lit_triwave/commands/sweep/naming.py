"""Names and arguments of a sweep's runs; they depend only on the values of each run."""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

_LONGEST = 80  # characters of an id; `Run` accepts up to 100


def run_ids(runs: Sequence[dict[str, Any]]) -> list[str]:
    """Returns a readable id for each run, such as `depth=5-width=8`.

    A field is named by the last part of its name if that is unambiguous. Fields with only one value are named too, so
    that the ids do not change when values are added later. Ids that are too long or equal end in a hash of the values.

    Args:
        runs: field name ↦ value for each run, all with the same names.
    """
    last = Counter(name.rpartition(".")[2] for name in (runs[0] if runs else {}))
    ids = []
    for run in runs:
        shorts = {name: name.rpartition(".")[2] for name in run}
        names = {name: short if last[short] == 1 else name for name, short in shorts.items()}
        ids.append("-".join(f"{names[name]}={_readable(value)}" for name, value in run.items()))
    alike = Counter(ids)
    for number, (name, run) in enumerate(zip(ids, runs, strict=True)):
        if alike[name] > 1 or len(name) > _LONGEST:
            digest = hashlib.sha256(json.dumps(run, sort_keys=True, default=str).encode()).hexdigest()[:8]
            ids[number] = f"{name[: _LONGEST - 9]}-{digest}"
    return ids


def _readable(value: Any) -> str:
    """Returns a value in characters that a run's id may have; for a config file, its path in configs/."""
    text = value if isinstance(value, str) else _argument_value(value)
    text = re.sub(r"^(\./)?configs/|\.ya?ml$", "", text)
    return re.sub(r"[^\w.+-]+", "_", text.replace('"', "")).strip("_") or "_"


def arguments(values: dict[str, Any]) -> list[str]:
    """Returns `--KEY=VALUE` for each value, as `wandb agent` does."""
    return [f"--{name}={_argument_value(value)}" for name, value in values.items()]


def _argument_value(value: Any) -> str:
    """Returns a value for the command line: a string as it is, any other value as JSON, which is YAML."""
    return value if isinstance(value, str) else json.dumps(value, default=str)


def configs_first(words: Sequence[str]) -> list[str]:
    """Moves the config files of a command line to the front, because fields can only be set after them."""
    joined: list[str] = []
    for word in words:
        if joined and joined[-1] == "--config":
            joined[-1] = f"--config={word}"
        else:
            joined.append(word)
    return sorted(joined, key=lambda word: not word.startswith("--config="))
