"""Writes `run.json`: a run's config, tags, git commit, versions and hardware, and how it ended."""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from jsonargparse import Namespace
from lightning.pytorch import Trainer

from lit_triwave.files import finite, read_json, write_json
from lit_triwave.tracking.flat_config import describes_run, flat, plain, short_names
from lit_triwave.tracking.private_paths import hidden
from lit_triwave.tracking.run import LONGEST_TAG, Run
from lit_triwave.tracking.run_files import RUN_JSON, SCHEMA, TRACKED_FIELDS, State

_PACKAGES = ("lit_triwave", "torch", "lightning", "torchvision", "torchmetrics", "numpy", "wandb")
_GIT_SECONDS = 5.0


def flat_config(config: Namespace) -> dict[str, Any]:
    """Returns a command's config as flat fields such as `seed_everything` and `model.depth`.

    Returns:
        Name, without `init_args` ↦ number, string, bool, None or list; paths do not contain the user's name.
    """
    content = {name: value for name, value in plain(config).items() if describes_run(name)}
    typed: dict[str, Any] = hidden(finite(flat(content)))
    return {name: _simple(value) for name, value in short_names(typed).items()}


def _simple(value: Any) -> Any:
    """Returns a value of a config as it is if JSON has this type, else as text."""
    if isinstance(value, list):
        return [_simple(item) for item in value]
    if isinstance(value, dict):
        return {str(key): _simple(item) for key, item in value.items()}
    return value if value is None or isinstance(value, (bool, int, float, str)) else hidden(str(value))


def tags(run: Run, config: dict[str, Any]) -> list[str]:
    """Returns a run's tags: method, function or data set, depth, number of seeds, and the tags of the user.

    The method is the initialization of a function's networks or the head of a classifier.

    Args:
        run: settings, with the user's tags.
        config: flat config.
    """
    method = config.get("model.initialization") or config.get("model.head") or _last_name(config, "model.class_path")
    file = config.get("data.path")
    data = config.get("data.expression") or (Path(file).name if isinstance(file, str) else "")
    data = data or _last_name(config, "data.class_path").removesuffix("DataModule").lower()
    depth, seeds = config.get("model.depth"), config.get("model.replicas") or 1
    found = [method, data, f"depth {depth}" if depth else "", f"{seeds} seed{'s' if seeds > 1 else ''}"]
    return list(dict.fromkeys(tag[:LONGEST_TAG].strip() for tag in [*found, *run.tags] if tag))


def _last_name(config: dict[str, Any], key: str) -> str:
    """Returns the name of a class without its module's."""
    return str(config.get(key, "")).rpartition(".")[2]


def _git_state() -> dict[str, Any] | None:
    """Returns the code's `commit`, 40 hexadecimal digits, and whether tracked files differ from it, `dirty`.

    An installed package is in no repository, so the repository of the current folder is used. None if there is none.
    """
    here = Path(__file__).parent
    folder = Path.cwd() if "site-packages" in here.parts else here
    command = ["git", "status", "--porcelain=v2", "--branch", "--untracked-files=no"]
    environment = os.environ | {"GIT_OPTIONAL_LOCKS": "0"}
    try:
        done = subprocess.run(
            command, cwd=folder, env=environment, capture_output=True, text=True, timeout=_GIT_SECONDS, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    lines = done.stdout.splitlines()
    commit = next((line.split()[-1] for line in lines if line.startswith("# branch.oid ")), "")
    if len(commit) < 40:  # "(initial)": no commit yet
        return None
    return {"commit": commit, "dirty": any(not line.startswith("#") for line in lines)}


def _versions() -> dict[str, str | None]:
    """Returns the versions of Python, this package and its main dependencies; None for those not installed."""
    found: dict[str, str | None] = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = None
    return found


def hardware(trainer: Trainer, devices: str) -> dict[str, Any]:
    """Returns the hardware of a run, without names of machines.

    Args:
        trainer: trainer of the run.
        devices: devices in words, such as `8 × NVIDIA H100`.
    """
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return {
        "processor": processor(),
        "cores": cores(),
        "memory_gb": round(memory / 2**30) or None,
        "devices": devices,
        "ranks": trainer.world_size,
        "nodes": trainer.num_nodes,
    }


def cores() -> int:
    """Returns the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def processor() -> str:
    """Returns the processor's name from Linux, or on other systems from Python."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, "") or platform.processor() or platform.machine()


class RunFile:
    """`run.json` of a run folder, written at once whenever the run's state changes.

    Args:
        run: the run that the file describes.
        config: flat config.
        wandb_id: id of the run in Weights & Biases; None without it.
        hardware: see `hardware`.
        branched_from: checkpoint of another run from which this run started, see `Origin.record`; None keeps the value
            in the file.

    Attributes:
        void: whether this process must no longer write the file.
    """

    def __init__(
        self,
        run: Run,
        config: dict[str, Any],
        wandb_id: str | None,
        hardware: dict[str, Any],
        branched_from: dict[str, Any] | None = None,
    ) -> None:
        self.path = run.folder / RUN_JSON
        self.void = False
        self.content: dict[str, Any] = {
            "schema": SCHEMA,
            "experiment": run.experiment,
            "id": run.id,
            "group": run.group or run.experiment,
            "job_type": run.job_type,
            "tags": tags(run, config),
            "state": "running",
            "started": _now(),
            "ended": None,
            "wandb_id": wandb_id,
            "git": _git_state(),
            "versions": _versions(),
            "hardware": hardware,
            "branched_from": branched_from or read_json(self.path).get("branched_from"),
            "cut_short": None,
            "config": config,
        }

    @contextmanager
    def kept(self, ended: Callable[[], tuple[State, str]]) -> Iterator[None]:
        """Writes `running` inside the block, and after it how the run ended, if its folder still exists.

        Args:
            ended: called at the end; returns the state and what cut the run short. If the process leaves at once, the
                state is `stopped`.
        """
        write_json(self.path, self.content)
        try:
            yield
        except BaseException as error:
            with suppress(OSError):  # the error before this one says more
                self.end("stopped" if isinstance(error, (KeyboardInterrupt, SystemExit)) else "failed")
            raise
        self.end(*ended())

    def end(self, state: State, why: str = "") -> None:
        """Writes how the run ended, and what cut it short, if its folder still exists."""
        if self.path.is_file() and not self.void:
            write_json(self.path, self.content | {"state": state, "ended": _now(), "cut_short": why or None})

    @property
    def tracked(self) -> dict[str, Any]:
        """The run's config for Weights & Biases: flat, with the same details."""
        about = {name: self.content[name] for name in TRACKED_FIELDS if self.content[name]}
        return {**self.content["config"], **flat(about)}


def _now() -> str:
    """Returns the time in UTC, to the second: `2026-11-25T10:00:00Z`."""
    return datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
