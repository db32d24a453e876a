"""Checks of the files that are given as configs, before they are parsed."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import yaml

from lit_triwave.cli import shipped_configs
from lit_triwave.errors import TriwaveError, did_you_mean, reason
from lit_triwave.tracking.run_files import CONFIG_YAML

_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_TABLES = (".csv", ".tsv", ".txt", ".dat", ".parquet", ".pq", ".xls", ".xlsx", ".ods", ".gz", ".bz2", ".xz", ".zip")
_IMAGES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".ppm", ".pgm", ".tif", ".tiff", ".webp")
_CHECKPOINTS = (".ckpt", ".pt", ".pth", ".safetensors", ".bin")
_MOST_BYTES = 1_000_000
"""Most bytes of a config; this project's largest config has 5 000."""


def check_configs(words: Sequence[str]) -> None:
    """Refuses files that are not YAML configs.

    Args:
        words: words of a command line.

    Raises:
        TriwaveError: a file is of another kind; the message names it and says what to do with files of known kinds.
    """
    for path in config_paths(words):
        check_config(path)


def given_options(words: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Yields the options of a command line, `--config` also for `-c`, with their values."""
    for word, following in zip(words, [*words[1:], ""], strict=True):
        option, equals, value = word.partition("=")
        yield "--config" if option == "-c" else option, value if equals else following


def config_paths(words: Sequence[str]) -> list[Path]:
    """Returns the files that a command line gives as configs."""
    return [Path(value).expanduser() for option, value in given_options(words) if option == "--config" and value]


def check_config(path: Path) -> None:
    """Refuses a file that is not a YAML config. Text instead of a file is left to the parser.

    Raises:
        TriwaveError: a file is of another kind; the message names it and says what to do with files of known kinds.
    """
    must = f"--config must be a YAML config, got {path}"
    try:
        if not path.exists():
            if path.suffix in (".yaml", ".yml"):
                shipped = {Path(name).name: name for name in shipped_configs()}
                near = re.sub("'(.*)'", lambda found: repr(shipped[found[1]]), did_you_mean(path.name, shipped))
                raise TriwaveError(f"{must}: there is no such file{near}")
            return
        if path.is_dir():
            own = path / CONFIG_YAML
            advice = f"use {own}" if own.is_file() else _as_data(path)
            raise TriwaveError(f"{must}, a folder: {advice}")
        with path.open("rb") as file:
            start = file.read(_MOST_BYTES + 1)
    except ValueError:  # a text with a null byte is not a path
        return
    advice = _as_data(path)
    try:
        if len(start) > _MOST_BYTES:
            raise TriwaveError(f"{must}, which is larger than {_MOST_BYTES / 1e6:g} MB{advice and f': {advice}'}")
        content = yaml.load(start.decode(), _LOADER)
    except UnicodeDecodeError:
        raise TriwaveError(f"{must}, which is no text in UTF-8{advice and f': {advice}'}") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        problem = getattr(error, "problem", None) or reason(error)
        place = f"line {mark.line + 1}: {problem}" if mark else problem
        raise TriwaveError(f"{must}: {advice or place}") from None
    if not isinstance(content, dict):
        found = "an empty file" if content is None else "which has no fields such as `model:`"
        raise TriwaveError(f"{must}, {found}{advice and f': {advice}'}")


def _as_data(path: Path) -> str:
    """Returns the option for a file or a folder that is not a config; "" if its kind is not known."""
    suffix = path.suffix.lower()
    if path.is_dir() or suffix in _IMAGES:
        folder = path if path.is_dir() else "FOLDER"
        return f"for a folder of images use --config image_folder.yaml --data.root {folder}"
    if suffix in _TABLES:
        return f"for a table use --config table.yaml --data.path {path}"
    if suffix in _CHECKPOINTS:
        return f"for a checkpoint use --ckpt_path {path}"
    return ""
