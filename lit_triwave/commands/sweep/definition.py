"""Reads and checks a sweep file in W&B's format, and expands it into the values of its runs."""

from __future__ import annotations

import itertools
import math
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from lit_triwave.commands.sweep.parameters import Parameter, parameters
from lit_triwave.errors import TriwaveError, did_you_mean, reason

_KEYS = ["apiVersion", "command", "controller", "description", "early_terminate", "entity", "imageuri", "image_uri"]
_KEYS += ["job", "method", "metric", "name", "parameters", "program", "project", "run_cap", "settings"]
"""The top-level keys of W&B's format."""
_ARGUMENTS = "${args}"
_COMMAND = 'command: ["${env}", "${interpreter}", "-m", "lit_triwave", "fit", "--config=…", "${args}"]'


@dataclass(frozen=True)
class Sweep:
    """The content of a sweep file.

    Attributes:
        path: the file.
        method: `grid` or `random`.
        parameters: the swept parameters, in the file's order.
        before: arguments of `fit` before the arguments of a run.
        after: arguments of `fit` after the arguments of a run.
        metric: key of the summary to compare runs by; None if the file names none.
        goal: `minimize` or `maximize`.
        run_cap: most runs to make; None for no limit.
        early_terminate: whether the file says which runs to stop early, which only W&B's server can do.
    """

    path: Path
    method: str
    parameters: list[Parameter]
    before: list[str]
    after: list[str]
    metric: str | None
    goal: str
    run_cap: int | None
    early_terminate: bool

    def values(self, count: int | None) -> Iterator[dict[str, Any]]:
        """Yields the values of each run, name ↦ value: the same runs in the same order every time.

        Args:
            count: most runs to make, besides `run_cap`.

        Raises:
            TriwaveError: a grid over an unlimited range, or random draws without a number of runs.
        """
        limits = [limit for limit in (count, self.run_cap) if limit is not None]
        names = [parameter.name for parameter in self.parameters]
        if self.method == "grid":
            grid = itertools.product(*(parameter.grid() for parameter in self.parameters))
            for point in itertools.islice(grid, min(limits, default=None)):
                yield dict(zip(names, point, strict=True))
            return
        if not limits:
            advice = "give --count N, or set run_cap in the file"
            raise TriwaveError(f"{self.path}: method: random needs a number of runs; {advice}")
        for number in range(min(limits)):
            generator = np.random.default_rng([0, number])  # further runs do not change these
            yield {parameter.name: parameter.draw(generator) for parameter in self.parameters}

    @property
    def size(self) -> float:
        """Number of runs without limits; infinite for random draws."""
        if self.method == "random":
            return math.inf
        return math.prod(len(parameter.grid()) for parameter in self.parameters)


def read_sweep(path: Path) -> Sweep:
    """Reads a sweep file.

    Raises:
        TriwaveError: the file is not a sweep file, or needs W&B's server.
    """
    if path.is_dir():
        raise TriwaveError(f"{path}: a folder, where a sweep's YAML file is expected, as in configs/sweeps/")
    if not path.is_file():
        raise TriwaveError(f"{path}: no such file")
    try:
        content = yaml.safe_load(path.read_text())
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise TriwaveError(f"{path} is no YAML: {reason(error)}") from error
    if not isinstance(content, dict) or "parameters" not in content or "method" not in content:
        raise TriwaveError(f"{path} is no sweep file: method and parameters are expected, as in configs/sweeps/")
    try:
        return _checked(path, content)
    except TriwaveError as error:
        raise error if str(error).startswith(str(path)) else TriwaveError(f"{path}: {error}") from error


def _checked(path: Path, content: dict[str, Any]) -> Sweep:
    """Returns the sweep of a file's content."""
    for key in content:
        if key not in _KEYS:
            raise TriwaveError(f"unknown key {key!r}{did_you_mean(str(key), _KEYS)}")
    method, methods = content["method"], ("grid", "random")
    if method == "bayes":
        raise TriwaveError("`method` must be grid or random, got bayes, which needs W&B's server (wandb sweep FILE)")
    if method not in methods:
        raise TriwaveError(f"`method` must be grid or random, got {method!r}{did_you_mean(str(method), methods)}")
    metric = content.get("metric") or {}
    goal = metric.get("goal", "minimize") if isinstance(metric, dict) else None
    if goal not in ("minimize", "maximize"):
        needed = "{name: test/mse, goal: minimize}, or with goal: maximize"
        raise TriwaveError(f"`metric` must be {needed}, got {metric!r}")
    cap = content.get("run_cap")
    if cap is not None and (isinstance(cap, bool) or not isinstance(cap, int) or cap < 1):
        raise TriwaveError(f"`run_cap` must be a whole number, at least 1, got {cap!r}")
    before, after = _fit_arguments(content.get("command"))
    swept = parameters(content["parameters"])
    stops = bool(content.get("early_terminate"))
    return Sweep(path, method, swept, before, after, metric.get("name"), goal, cap, stops)


def _fit_arguments(command: Any) -> tuple[list[str], list[str]]:
    """Returns the words between `fit` and `${args}`, and the words after it, with `${envvar:X}` replaced."""
    words = [str(word) for word in command] if isinstance(command, list) else []
    if "fit" not in words or "lit_triwave" not in words[: words.index("fit")]:
        raise TriwaveError(f"`command` must run lit_triwave fit: {_COMMAND}")
    words = words[words.index("fit") + 1 :]
    words = [re.sub(r"\$\{envvar:(\w+)\}", lambda found: os.environ.get(found[1], found[1]), word) for word in words]
    unknown = [word for word in words if word.startswith("${") and word != _ARGUMENTS]
    if unknown or words.count(_ARGUMENTS) != 1:
        raise TriwaveError(f"`command` must have ${{args}} once{f', got {unknown[0]}' if unknown else ''}: {_COMMAND}")
    place = words.index(_ARGUMENTS)
    return words[:place], words[place + 1 :]
