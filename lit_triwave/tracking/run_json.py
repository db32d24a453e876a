"""What a run is, for `run.json` and for Weights & Biases: config, tags, code, versions, hardware; and how it ended."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

from jsonargparse import Namespace
from lightning.pytorch import Trainer

from lit_triwave.files import finite, write_json
from lit_triwave.tracking.flat_config import describes_run, flat, plain, short_names
from lit_triwave.tracking.private_paths import hidden
from lit_triwave.tracking.run import MOST_LETTERS, Run
from lit_triwave.tracking.run_files import RUN_JSON, SCHEMA, TRACKED_FIELDS

State = Literal["running", "finished", "stopped", "failed"]
"""Of a run: `stopped` by a signal, to go on; one that was killed is `running` for ever."""

PACKAGES = ("lit_triwave", "torch", "lightning", "torchvision", "torchmetrics", "numpy", "wandb")
GIT_SECONDS = 5.0


def flat_config(config: Namespace) -> dict[str, Any]:
    """A command's config with dotted names, without `.init_args`, the paths as they may be shown.

    Returns:
        Name ↦ number, string, bool, None or list, `seed_everything` and `model.depth` among them.
    """
    content = {name: value for name, value in plain(config).items() if describes_run(name)}
    typed: dict[str, Any] = hidden(finite(flat(content)))
    return {name: simple(value) for name, value in short_names(typed).items()}


def simple(value: Any) -> Any:
    """A leaf of a config as JSON has it; of what it has not, the words."""
    if isinstance(value, list):
        return [simple(item) for item in value]
    if isinstance(value, dict):
        return {str(key): simple(item) for key, item in value.items()}
    return value if value is None or isinstance(value, (bool, int, float, str)) else hidden(str(value))


def tags(run: Run, config: dict[str, Any]) -> list[str]:
    """The method (the start of a function's networks, the head of a classifier), the function or data set, the depth,
    the number of seeds, and the user's own.

    Args:
        run: with the user's.
        config: flat.
    """
    method = config.get("model.initialization") or config.get("model.head") or last_name(config, "model.class_path")
    file = config.get("data.path")
    data = config.get("data.expression") or (Path(file).name if isinstance(file, str) else "")
    data = data or last_name(config, "data.class_path").removesuffix("DataModule").lower()
    depth, seeds = config.get("model.depth"), config.get("model.replicas") or 1
    found = [method, data, f"depth {depth}" if depth else "", f"{seeds} seed{'s' if seeds > 1 else ''}"]
    return list(dict.fromkeys(tag[:MOST_LETTERS].strip() for tag in [*found, *run.tags] if tag))


def last_name(config: dict[str, Any], key: str) -> str:
    """A class's name without its module's."""
    return str(config.get(key, "")).rpartition(".")[2]


def git_state() -> dict[str, Any] | None:
    """The commit of this code, and whether tracked files differ from it: `commit`, 40 hexadecimal digits, and `dirty`.

    An installed package has no repository of its own; then it is that of the current folder. None outside of any.
    """
    here = Path(__file__).parent
    folder = Path.cwd() if "site-packages" in here.parts else here
    command = ["git", "status", "--porcelain=v2", "--branch", "--untracked-files=no"]
    environment = os.environ | {"GIT_OPTIONAL_LOCKS": "0"}
    try:
        done = subprocess.run(
            command, cwd=folder, env=environment, capture_output=True, text=True, timeout=GIT_SECONDS, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    lines = done.stdout.splitlines()
    commit = next((line.split()[-1] for line in lines if line.startswith("# branch.oid ")), "")
    if len(commit) < 40:  # "(initial)": no commit yet
        return None
    return {"commit": commit, "dirty": any(not line.startswith("#") for line in lines)}


def versions() -> dict[str, str | None]:
    """Of Python, this package, and what it stands on; None for what is not installed."""
    found: dict[str, str | None] = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = None
    return found


def hardware(trainer: Trainer, devices: str) -> dict[str, Any]:
    """What a run runs on, without names of machines.

    Args:
        trainer: of the run.
        devices: in words, such as `8 × NVIDIA H100`.
    """
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 0
    return {
        "processor": processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_gb": round(pages / 2**30) or None,
        "devices": devices,
        "ranks": trainer.world_size,
        "nodes": trainer.num_nodes,
    }


def processor() -> str:
    """The processor's name; what Python knows of it where Linux does not say it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, "") or platform.processor() or platform.machine()


class RunFile:
    """`run.json` of a run folder, written whole whenever the run's state changes.

    Args:
        run: whose it is.
        config: flat.
        costs: parameters and multiply-adds of the network, see `analysis.costs`.
        wandb_id: of its Weights & Biases run, if it has one.
        hardware: see `hardware`.
        branched_from: the checkpoint of another run that this one has begun from, see `Origin.record`; None says what
            the file has said before.

    Attributes:
        void: whether the file is no more this process's to write.
    """

    def __init__(
        self,
        run: Run,
        config: dict[str, Any],
        costs: dict[str, Any],
        wandb_id: str | None,
        hardware: dict[str, Any],
        branched_from: dict[str, Any] | None = None,
    ) -> None:
        self.path = run.folder / RUN_JSON
        self.void = False
        self.costs = costs
        self.content: dict[str, Any] = {
            "schema": SCHEMA,
            "experiment": run.experiment,
            "id": run.id,
            "group": run.group or run.experiment,
            "job_type": run.job_type,
            "tags": tags(run, config),
            "state": "running",
            "started": now(),
            "ended": None,
            "wandb_id": wandb_id,
            "git": git_state(),
            "versions": versions(),
            "hardware": hardware,
            "branched_from": branched_from or earlier(self.path).get("branched_from"),
            "config": config,
        }

    @contextmanager
    def kept(self, stopped: Callable[[], bool]) -> Iterator[None]:
        """The run is `running` within; afterwards the file says how it ended, if the folder is still there.

        Args:
            stopped: whether it has been stopped by a signal, asked at the end; one that leaves at once counts, too.
        """
        write_json(self.path, self.content)
        try:
            yield
        except BaseException as error:
            with suppress(OSError):  # what went wrong before says more
                self.end("stopped" if isinstance(error, (KeyboardInterrupt, SystemExit)) else "failed")
            raise
        self.end("stopped" if stopped() else "finished")

    def end(self, state: State) -> None:
        """Writes how the run ended, if its folder is still there."""
        if self.path.is_file() and not self.void:
            write_json(self.path, self.content | {"state": state, "ended": now()})

    @property
    def tracked(self) -> dict[str, Any]:
        """What Weights & Biases gets as the run's config: the same, flat, with the costs, as summary.json has them."""
        about = {name: self.content[name] for name in TRACKED_FIELDS if self.content[name]}
        return {**self.content["config"], **self.costs, **flat(about)}


def earlier(path: Path) -> dict[str, Any]:
    """What a run.json says; nothing where there is none that can be read."""
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def now() -> str:
    """The time, in seconds, UTC: `2026-11-25T10:00:00Z`."""
    return datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
