"""Configs as plain containers and as flat fields; needs neither torch nor Lightning."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jsonargparse import Namespace

NOT_THE_RUN = ("run", "config", "ckpt_path", "weights_only")
"""Parts of a config for the place and the name of a run. They do not describe what it computes."""
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
"""Arguments of data modules for the path of the data and the way they are read. They do not describe the data.

A resumed run may change them (but not the number of workers inside an epoch), and `compare` does not distinguish runs
by them. `on_device` is not one of them, because it changes the random numbers of the augmentation.
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
    """Whether a dotted field of a config describes what a run computes, not where it is kept."""
    return name.partition(".")[0] not in NOT_THE_RUN


def plain(value: Any) -> Any:
    """Returns nested containers as dicts and lists, so that a saved value compares equal to a parsed one."""
    if isinstance(value, (dict, Namespace)):
        return {key: plain(item) for key, item in (value if isinstance(value, dict) else vars(value)).items()}
    return [plain(item) for item in value] if isinstance(value, (list, tuple)) else value
