"""Configs as plain containers and as flat fields; needs neither torch nor Lightning."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jsonargparse import Namespace

NOT_THE_RUN = ("run", "config", "ckpt_path", "weights_only")
"""Parts of a config that say where a run is kept and what it is called, not what it is."""
DATA_ACCESS = (
    "root",
    "path",
    "download",
    "checksums",
    "allow_empty_classes",
    "skip_corrupt",
    "workers",
    "eval_batch_size",
    "channels_last",
)
"""Arguments of data modules that say where the data lie and how they are read, not what they are.

A resumed run may change them (inside an epoch the number of workers must stay), and `compare` does not tell runs apart
by them. `on_device` is not among them: it changes the random numbers of the augmentation.
"""


def flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Returns nested dicts as one dict with dotted keys."""
    leaves: dict[str, Any] = {}
    for key, value in tree.items():
        leaves |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) and value else {f"{prefix}{key}": value}
    return leaves


def short_names(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Returns flat fields with `init_args` left out of their names: `model.depth` for `model.init_args.depth`."""
    return {name.replace(".init_args", ""): value for name, value in fields.items()}


def describes_run(name: str) -> bool:
    """Whether a dotted field of a config says what a run is, not where it is kept."""
    return name.partition(".")[0] not in NOT_THE_RUN


def plain(value: Any) -> Any:
    """Returns nested containers as dicts and lists, so that a saved value compares equal to a parsed one."""
    if isinstance(value, (dict, Namespace)):
        return {key: plain(item) for key, item in (value if isinstance(value, dict) else vars(value)).items()}
    return [plain(item) for item in value] if isinstance(value, (list, tuple)) else value
