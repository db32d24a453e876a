"""Rebuilds the module of a checkpoint from the file alone, with the file's facts about its run."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import torch

from lit_triwave import modules
from lit_triwave.analysis.costs import replicas_of
from lit_triwave.checkpoints.choose import find_checkpoint
from lit_triwave.checkpoints.load import check_buffers, check_weights, load_checkpoint, reading
from lit_triwave.errors import TriwaveError, did_you_mean, reason
from lit_triwave.modules.stages import Limit, Polish, Stage
from lit_triwave.nn.named_models import is_class_path
from lit_triwave.nn.scaling import UnitScaling
from lit_triwave.nn.sizes import bounded_memory
from lit_triwave.tracking.run_files import run_folder_of

STAGE_KINDS: dict[str, Any] = {"limit": Limit, "pretrain": Stage, "train": Stage, "polish": Polish}
"""Name of a stage ↦ class of its options."""
_SPARE_BYTES = 1 << 29
_OTHER_VERSION = "is of another version of lit_triwave"
_COPIES = 10
"""Multiple of a file's size for the memory: the module is built in float64 and filled from a second copy."""


@dataclass
class Saved:
    """A checkpoint, opened.

    Attributes:
        path: path of the checkpoint.
        module: the module on the CPU, in evaluation mode and in the precision of the training; float32 instead of half.
        run: "model", "data" and "seed_everything" of the run (`same_run.identity_of`); {} if the file does not have
            them.
        epoch: epoch of the last step, from 0.
        step: optimizer steps through all stages; earlier versions counted first-order and second-order ones separately.
        columns: the conversion of a table's columns to the network's inputs, as plain data; [] for other data.
        classes: names of the class folders of images; [] for other data.
    """

    path: Path
    module: Any
    run: dict[str, Any]
    epoch: int
    step: int
    columns: list[dict[str, Any]]
    classes: list[str]

    @property
    def run_folder(self) -> Path | None:
        """Folder of the run if the checkpoint is still in it, else None."""
        return self.path.parent.parent if run_folder_of(self.path) else None

    @property
    def dtype(self) -> torch.dtype:
        """Data type of the network."""
        dtype: torch.dtype = next(self.module.network.parameters()).dtype
        return dtype

    @property
    def seeds(self) -> int:
        """Number of networks side by side, for all targets together; 1 for classifiers."""
        return replicas_of(self.module)

    @property
    def targets(self) -> list[str]:
        """Names of the targets of a table; "" for each that the checkpoint does not say."""
        arguments = self.run.get("data", {}).get("init_args", {})
        said = arguments.get("expression") or arguments.get("target") or ""
        count = getattr(self.module, "num_targets", 1)
        return [*said] if isinstance(said, (list, tuple)) and len(said) == count else [str(said)] * count

    def networks(self, asked: int | None = None) -> list[int]:
        """Returns for each target the index of a seed's network among all networks.

        Args:
            asked: the seed, from 0; by default the best one on the validation data.

        Raises:
            TriwaveError: there is no such seed.
        """
        if not self.is_function:
            return [self._checked(asked or 0, 1)]
        if asked is None:
            return list(self.module.best_replicas)
        each = self.seeds // len(self.targets)
        return [self._checked(asked, each) + each * t for t in range(len(self.targets))]

    def seed(self, asked: int | None = None, target: str | None = None) -> int:
        """Returns the network of a seed, see `networks`, and of a target, by default the first.

        Raises:
            TriwaveError: there is no such seed or target.
        """
        if target is not None and target not in self.targets:
            near = did_you_mean(target, self.targets)
            raise TriwaveError(f"--target must be one of {', '.join(self.targets)}, got {target}{near}")
        return self.networks(asked)[0 if target is None else self.targets.index(target)]

    @staticmethod
    def _checked(asked: int, count: int) -> int:
        if not 0 <= asked < count:
            there = f"{count} seeds, 0 to {count - 1}" if count > 1 else "1 seed, 0"
            raise TriwaveError(f"--seed must be one that the checkpoint has ({there}), got {asked}")
        return asked

    @property
    def variables(self) -> list[str]:
        """Names of a function's inputs; [] for images."""
        return list(self.module.hparams.get("domain") or {"x": None}) if self.is_function else []

    @property
    def is_function(self) -> bool:
        """Whether the module is a function of named inputs, not a classifier of images."""
        return bool(self.module.task == "regression")

    @property
    def scaling(self) -> UnitScaling:
        """Scaling of a function's domain and target range."""
        scaling: UnitScaling = self.module.network.scaling
        return scaling

    @property
    def target(self) -> str:
        """Expression of a function, or columns of a table; "" if the checkpoint does not say it."""
        return ", ".join(dict.fromkeys(filter(None, self.targets)))

    @property
    def class_names(self) -> list[str]:
        """Names of a classifier's classes in the order of its outputs; numbers if only the data knows the names."""
        names = self.classes or getattr(self._data_kind(), "class_names", None)
        return list(names) if names else [str(number) for number in range(int(self.module.hparams["num_classes"]))]

    def data(self) -> Any:
        """Returns a new instance of the run's data module.

        Raises:
            TriwaveError: the checkpoint does not say it, or the data no longer exists.
        """
        kind = self._data_kind()
        if kind is None:
            raise TriwaveError(f"checkpoint {self.path} does not say which data it was trained on")
        try:
            return kind(**self.run["data"].get("init_args", {}))
        except Exception as error:
            raise TriwaveError(f"the data of {self.path} cannot be loaded: {' '.join(str(error).split())}") from error

    def _data_kind(self) -> Any:
        """Returns the class of the run's data module; None if it is not one of this project's."""
        name = (self.run.get("data") or {}).get("class_path", "").rpartition(".")[2]
        room = import_module("datamodules")
        return getattr(room, name) if name in room.__all__ else None  # imports nothing else that a file names


def load_module(place: str | Path) -> Saved:
    """Opens a checkpoint: builds its module and loads its parameters.

    Args:
        place: a checkpoint, or the folder of a run or an experiment, see `find_checkpoint`.

    Raises:
        TriwaveError: there is none, it cannot be read, or it was saved from another class or version.
    """
    path = find_checkpoint(place)
    content = load_checkpoint(path)
    # A forged file may have any number of neurons.
    with reading(path), bounded_memory(_SPARE_BYTES + _COPIES * path.stat().st_size):
        return _rebuilt(path, content)


def _rebuilt(path: Path, content: dict[str, Any]) -> Saved:
    arguments = dict(content.get("hyper_parameters", {}))
    kind = _module_class(path, arguments)
    run = dict(content.get("run") or {})
    run.pop("rows", None)  # of metrics.csv
    known = inspect.signature(kind).parameters
    foreign = [name for name in arguments if name not in known and not name.startswith("_")]
    if foreign:
        raise TriwaveError(f"checkpoint {path} {_OTHER_VERSION}: {kind.__name__} has no {foreign[0]} here")
    options = {name: value for name, value in arguments.items() if name in known} | _stages(run)
    if "weights" in options:
        options["weights"] = None  # the file may no longer exist, and the checkpoint replaces its weights
    if is_class_path(str(options.get("backbone", ""))):
        name = options["backbone"]
        raise TriwaveError(f"checkpoint {path} has the backbone {name}: only code of lit_triwave is imported here")
    state = content["state_dict"]
    with torch.random.fork_rng(devices=[]):  # the random start is overwritten
        try:
            module = kind(**options)
        except TypeError as error:
            raise ValueError(f"hyper_parameters are of other kinds than a {kind.__name__} takes") from error
    module.on_load_checkpoint(content)
    double = any(value.dtype == torch.float64 for name, value in state.items() if name.startswith("network."))
    module.to(torch.float64 if double else torch.float32)
    check_weights(state, module.state_dict())
    check_buffers(state, module.state_dict())
    try:
        module.load_state_dict(state)
    except RuntimeError as error:
        raise TriwaveError(f"checkpoint {path} {_OTHER_VERSION}: {reason(error, 200)}") from error
    module.finish()
    data = content.get((run.get("data") or {}).get("class_path", "").rpartition(".")[2], {})
    columns, classes = (data.get(key, []) if isinstance(data, dict) else [] for key in ("columns", "classes"))
    network = module.eval().requires_grad_(False)
    return Saved(path, network, run, content["epoch"], content["global_step"], columns, classes)


def _module_class(path: Path, arguments: dict[str, Any]) -> Any:
    """Returns the class in `lit_triwave.modules` of a checkpoint's module."""
    kinds = {name: kind for name in modules.__all__ if (kind := getattr(modules, name)).task}
    saved = str(arguments.get("_class_path", ""))
    if saved:
        name = saved.rpartition(".")[2]
    else:  # trained by a Trainer from Python, without the command line: the class that has all these arguments
        named = {argument for argument in arguments if not argument.startswith("_")}
        fitting = [name for name, kind in kinds.items() if named <= {*inspect.signature(kind).parameters}]
        name = fitting[0] if named and fitting else ""
    if name not in kinds:
        what = saved or "another class"
        raise TriwaveError(f"checkpoint {path} must be of {' or '.join(kinds)}, got {what}")
    return kinds[name]


def _stages(run: dict[str, Any]) -> dict[str, Any]:
    """Returns the stages of a run as arguments of its module; stages of no epochs if the run is not recorded."""
    said = run.get("model", {})
    found: dict[str, Any] = {"pretrain": Stage(epochs=0), "train": Stage(epochs=0)}
    return found | {name: kind(**said[name]) for name, kind in STAGE_KINDS.items() if said.get(name)}
