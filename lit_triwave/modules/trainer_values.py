"""Checks the values of options of Lightning's `Trainer`, with errors in this project's form.

`trainer_support` says what an option does here, and which values are refused although Lightning accepts them.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from typing import Any

from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.accelerators import AcceleratorRegistry, CPUAccelerator
from lightning.pytorch.strategies import StrategyRegistry

from lit_triwave.errors import TriwaveError, did_you_mean, is_number

_UNFIT = {"spawn", "fork", "notebook", "single"}
"""Words of strategies whose processes begin inside this one, with its open run, or that need an argument."""
_STRATEGIES = [name for name in StrategyRegistry.available_strategies() if not _UNFIT & {*name.split("_")}]
_NAMES = {
    "strategy": ["auto", *_STRATEGIES, "single_device"],
    "profiler": ["simple", "advanced", "pytorch", "xla"],  # which Lightning keeps in a function
    "gradient_clip_algorithm": ["norm", "value"],
}
_FEW_RANKS, _RANKS_PER_CORE = 64, 4  # more would only wait for each other, each with its own 500 MB
_TIME = re.compile(r"\d+:\d+:\d+:\d+")
_TIME_WORDS = "a time such as 00:01:30:00 (days, hours, minutes, seconds)"
_Check = Callable[[Any], str]
"""A function of a value that returns what the value must be; "" for an accepted value."""


def _at_least(least: float) -> _Check:
    return lambda value: f"at least {least}" if is_number(value) and not value >= least else ""


def _share_or_batches(value: Any) -> str:
    if not is_number(value) or (value >= 0 and isinstance(value, int)) or 0 <= value <= 1:
        return ""
    return "a share between 0.0 and 1.0, or a number of batches"


def _interval(value: Any) -> str:
    fits = value > 0 and not _share_or_batches(value) if is_number(value) else not _time(value)
    return "" if fits else f"a share above 0 and up to 1.0, a number of batches, or {_TIME_WORDS}"


def _time(value: Any) -> str:
    if value is None or (isinstance(value, str) and _TIME.fullmatch(value)):
        return ""
    if isinstance(value, dict):
        try:
            value = timedelta(**value)
        except TypeError:
            return f"{_TIME_WORDS}, or a mapping such as hours: 2"
    return "" if isinstance(value, timedelta) and value >= timedelta() else _TIME_WORDS


def _one_of(names: Sequence[str]) -> _Check:
    # Lightning also accepts names in capitals, and has 26 strategies, whose variants have longer names.
    needed = f"one of {', '.join(name for name in names if '_' not in name)}"
    return lambda value: needed if isinstance(value, str) and value.lower() not in names else ""


def _strategy(value: Any) -> str:
    if getattr(value, "_start_method", "popen") not in ("popen", None):
        return "ddp with start_method popen"
    return _one_of(_NAMES["strategy"])(value)


def _accelerator(value: Any) -> str:
    if not isinstance(value, str) or value == "auto":
        return ""
    named = _accelerators_here()
    return "" if value in named else f"auto or one that this machine has ({', '.join(named)})"


def _accelerators_here() -> list[str]:
    """Returns the names of this machine's accelerators, among all that Lightning knows."""
    known = sorted(AcceleratorRegistry.available_accelerators())
    here = [name for name in known if AcceleratorRegistry[name]["accelerator"].is_available()]
    return [*here, *["gpu"] * bool({"cuda", "mps"}.intersection(here))]


def _devices(value: Any, accelerator: Any) -> str:
    """Checks the value with the accelerator that the trainer would use."""
    if not isinstance(accelerator, str) or value == "auto":
        return ""
    others = [name for name in _accelerators_here() if name not in ("cpu", "gpu")]
    name = others[0] if others and accelerator in ("auto", "gpu") else accelerator
    kind = CPUAccelerator if name == "auto" else AcceleratorRegistry[name]["accelerator"]
    try:
        devices = kind.parse_devices(value)
        most = max(_FEW_RANKS, _RANKS_PER_CORE * (os.cpu_count() or 1))
        if kind is CPUAccelerator and isinstance(devices, int) and devices > most:
            return f"at most {most} processes on this machine's {os.cpu_count()} cores"
        if devices:
            return ""
    except (MisconfigurationException, TypeError, ValueError):
        pass
    if kind is CPUAccelerator:
        return "auto or a number of processes, at least 1, on CPUs"
    return f"auto, a number of at least 1, or a list of different indices below {kind.auto_device_count()}"


_VALUES: dict[str, _Check] = {
    **{name: _one_of(names) for name, names in _NAMES.items()},
    "strategy": _strategy,
    "accelerator": _accelerator,
    "num_nodes": _at_least(1),
    "fast_dev_run": _at_least(0),
    "max_epochs": _at_least(-1),
    "min_epochs": _at_least(0),
    "max_steps": _at_least(-1),
    "min_steps": _at_least(0),
    "max_time": _time,
    **{f"limit_{part}_batches": _share_or_batches for part in ("train", "val", "test", "predict")},
    "overfit_batches": _share_or_batches,
    "val_check_interval": _interval,
    "check_val_every_n_epoch": _at_least(1),
    "num_sanity_val_steps": _at_least(-1),
    "log_every_n_steps": _at_least(0),
    "accumulate_grad_batches": _at_least(1),
    "gradient_clip_val": _at_least(0),
    "reload_dataloaders_every_n_epochs": _at_least(0),
}


def check_values(options: Mapping[str, Any]) -> None:
    """Refuses values that Lightning would refuse, in some cases much later.

    Args:
        options: options of the trainer, name ↦ value.

    Raises:
        TriwaveError: an option is refused; the message names it.
    """
    for name, value in options.items():
        needed = _VALUES[name](value) if name in _VALUES else ""
        if name == "devices":
            needed = _devices(value, options.get("accelerator", "auto"))
        if name == "val_check_interval" and isinstance(value, float) and not options.get("check_val_every_n_epoch", 1):
            needed = f"a number of batches or {_TIME_WORDS} where check_val_every_n_epoch is null"
        if needed:
            near = did_you_mean(str(value), _NAMES.get(name, ()))
            raise TriwaveError(f"trainer.{name} must be {needed}, got {value}{near}")
