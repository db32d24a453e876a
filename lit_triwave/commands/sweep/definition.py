"""A sweep file in W&B's format: read, checked, and expanded into the values of its runs."""

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

KEYS = ["apiVersion", "command", "controller", "description", "early_terminate", "entity", "imageuri", "image_uri"]
KEYS += ["job", "method", "metric", "name", "parameters", "program", "project", "run_cap", "settings"]
"""Of W&B's format, at the top."""
ARGUMENTS = "${args}"
COMMAND = 'command: ["${env}", "${interpreter}", "-m", "lit_triwave", "fit", "--config=…", "${args}"]'


@dataclass(frozen=True)
class Sweep:
    """What a sweep file says.

    Attributes:
        path: of the file.
        method: `grid` or `random`.
        parameters: that are swept, in the file's order.
        before: arguments of `fit` before those of a run.
        after: and those after them.
        metric: key of the summary that matters; None if none is named.
        goal: `minimize` or `maximize`.
        run_cap: how many runs there are at most; None for no limit.
        left_out: keys that only W&B's server can follow.
    """

    path: Path
    method: str
    parameters: list[Parameter]
    before: list[str]
    after: list[str]
    metric: str | None
    goal: str
    run_cap: int | None
    left_out: list[str]

    def values(self, count: int | None) -> Iterator[dict[str, Any]]:
        """The values of each run, name ↦ value: the same runs in the same order each time.

        Args:
            count: how many runs at most, besides `run_cap`.

        Raises:
            TriwaveError: a grid over what has no end, or random draws without a number of runs.
        """
        limits = [limit for limit in (count, self.run_cap) if limit is not None]
        names = [parameter.name for parameter in self.parameters]
        if self.method == "grid":
            grid = itertools.product(*(parameter.grid() for parameter in self.parameters))
            yield from (
                dict(zip(names, point, strict=True)) for point in itertools.islice(grid, min(limits, default=None))
            )
            return
        if not limits:
            raise TriwaveError(f"{self.path}: method: random has no end; give --count N, or run_cap in the file")
        for number in range(min(limits)):
            generator = np.random.default_rng([0, number])  # more runs later leave these as they are
            yield {parameter.name: parameter.draw(generator) for parameter in self.parameters}

    @property
    def size(self) -> float:
        """How many runs the method has without limits."""
        if self.method == "random":
            return math.inf
        return math.prod(len(parameter.grid()) for parameter in self.parameters)


def read_sweep(path: Path) -> Sweep:
    """Reads a sweep file.

    Raises:
        TriwaveError: it is none, or one that can't be followed without W&B's server.
    """
    if not path.is_file():
        what = "a folder; a sweep's YAML file is expected, as in configs/sweeps/" if path.is_dir() else "no such file"
        raise TriwaveError(f"{path}: {what}")
    try:
        content = yaml.safe_load(path.read_text())
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise TriwaveError(f"{path} is no YAML: {reason(error)}") from error
    if not isinstance(content, dict) or "parameters" not in content or "method" not in content:
        raise TriwaveError(f"{path} is no sweep file: method and parameters are expected, as in configs/sweeps/")
    try:
        return checked(path, content)
    except TriwaveError as error:
        raise error if str(error).startswith(str(path)) else TriwaveError(f"{path}: {error}") from error


def checked(path: Path, content: dict[str, Any]) -> Sweep:
    """The sweep of a file's content.

    Raises:
        TriwaveError: see `read_sweep`.
    """
    for key in content:
        if key not in KEYS:
            raise TriwaveError(f"unknown key {key!r}{did_you_mean(str(key), KEYS)}")
    method = content["method"]
    if method == "bayes":
        raise TriwaveError("method: bayes needs W&B's server (wandb sweep FILE, wandb agent ID); here grid or random")
    if method not in ("grid", "random"):
        raise TriwaveError(f"method {method!r}: grid or random{did_you_mean(str(method), ('grid', 'random'))}")
    metric = content.get("metric") or {}
    goal = metric.get("goal", "minimize") if isinstance(metric, dict) else None
    if goal not in ("minimize", "maximize"):
        raise TriwaveError(f"metric {metric!r}: {{name: test/mse, goal: minimize}}, or goal: maximize")
    cap = content.get("run_cap")
    if cap is not None and (isinstance(cap, bool) or not isinstance(cap, int) or cap < 1):
        raise TriwaveError(f"run_cap {cap!r}: a whole number, at least 1")
    before, after = fit_arguments(content.get("command"))
    swept = parameters(content["parameters"])
    left_out = [key for key in ("early_terminate",) if content.get(key)]
    return Sweep(path, method, swept, before, after, metric.get("name"), goal, cap, left_out)


def fit_arguments(command: Any) -> tuple[list[str], list[str]]:
    """The words of a sweep's command between `fit` and `${args}`, and those after them; `${envvar:X}` is replaced.

    Raises:
        TriwaveError: the command is none of ours.
    """
    words = [str(word) for word in command] if isinstance(command, list) else []
    if "fit" not in words or "lit_triwave" not in words[: words.index("fit")]:
        raise TriwaveError(f"the command is to run our fit: {COMMAND}")
    words = [
        re.sub(r"\$\{envvar:(\w+)\}", lambda m: os.environ.get(m[1], m[1]), w) for w in words[words.index("fit") + 1 :]
    ]
    unknown = [word for word in words if word.startswith("${") and word != ARGUMENTS]
    if unknown or words.count(ARGUMENTS) != 1:
        raise TriwaveError(f"the command needs ${{args}} once{f', not {unknown[0]}' if unknown else ''}: {COMMAND}")
    place = words.index(ARGUMENTS)
    return words[:place], words[place + 1 :]
