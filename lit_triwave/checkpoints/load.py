"""Loads the content of a checkpoint, and refuses files that are damaged, forged or not checkpoints.

All readers of checkpoints use `load_checkpoint`.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from io import BytesIO
from pathlib import Path
from pickle import UnpicklingError
from textwrap import shorten
from traceback import walk_tb
from typing import Any
from zipfile import ZIP_STORED, ZipFile, is_zipfile

import torch
from torch import Tensor

from lit_triwave.checkpoints.kinds import is_count, require, short
from lit_triwave.checkpoints.position import check_position
from lit_triwave.errors import KIND_WORDS, TriwaveError, out_of_memory, reason
from lit_triwave.modules.replicas import BEST_NOW
from lit_triwave.modules.staged import NUMBERS
from lit_triwave.tracking.run_files import CONFIG_YAML, run_folder_of

_KINDS = {"state_dict": dict, "epoch": int, "global_step": int, "loops": dict, "pytorch-lightning_version": str}
_NEEDED = (*_KINDS,)
_KINDS |= {"hyper_parameters": dict, "callbacks": dict, "optimizer_states": list, "lr_schedulers": list, "run": dict}
_KINDS |= {"stage_epochs": dict, "epoch_history": dict, BEST_NOW: list}
_RUN_KINDS = {"model": dict, "data": dict, "rows": list, "wandb_id": str, "trainer": dict, "arithmetic": dict}
"""Parts of a checkpoint, and of its "run" ↦ their kind."""
_NO_RUN = "its content is not what a run saves"
_SHARED = 10  # most values for each byte of a pickle; references to one object are few, so there are hardly more


def load_checkpoint(path: Path, fits: bool = False) -> dict[str, Any]:
    """Returns a checkpoint's content on the CPU, without unpickling arbitrary objects.

    The file's checksums find every damage that changes its content. The file's size limits the memory that is needed.

    Args:
        path: path of the checkpoint.
        fits: whether it is read to resume a run, for the advice in an error.

    Raises:
        TriwaveError: the file cannot be read, is damaged, or is not what a run saves. The message names an undamaged
            checkpoint in the same folder.
    """
    try:
        return _whole_content(path)
    except TriwaveError as error:
        raise TriwaveError(f"checkpoint {path} cannot be read ({error}){_offer(path, fits)}") from error


def _whole_content(path: Path) -> dict[str, Any]:
    """Returns a checkpoint's content; for the errors see `load_checkpoint`."""
    try:
        nodes = _SHARED * _verify(path)
        content: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        _check_content(content, nodes)
    except TriwaveError:
        raise
    except Exception as error:
        # PyTorch's messages are pages of advice.
        known = {UnpicklingError: "it contains other objects than tensors", RuntimeError: "it is damaged"}
        raise TriwaveError(known.get(type(error)) or _in_words(error)) from error
    return content


def check_saved(path: Path, content: Mapping[str, Any]) -> None:
    """Refuses a checkpoint that was just written but could not be opened again.

    Args:
        path: path of the file.
        content: the content that was written.

    Raises:
        TriwaveError: a part needs its own code to be read, such as a NumPy array; the message names it.
    """
    try:
        saved = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        _check_content(saved, _SHARED * path.stat().st_size)
    except UnpicklingError as error:
        name, value = _unreadable("", content)
        raise TriwaveError(
            f"{name} of the checkpoint must be tensors, numbers, texts, or lists and mappings of these, got "
            f"{type(value).__module__}.{type(value).__qualname__}: convert it, or do not save it"
        ) from error


def _unreadable(name: str, value: Any) -> tuple[str, Any]:
    """Returns the innermost part of a content that `weights_only` refuses, and its name."""
    value_of = dict(enumerate(value)) if isinstance(value, (list, tuple)) else value
    for key, item in value_of.items() if isinstance(value_of, Mapping) else ():
        file = BytesIO()
        torch.save(item, file)
        file.seek(0)
        try:
            torch.load(file, map_location="cpu", weights_only=True)
        except UnpicklingError:
            return _unreadable(f"{name}.{key}".lstrip("."), item)
    return name, value


def _verify(path: Path) -> int:
    """Checks a file's checksums, which PyTorch itself ignores; returns the size of its pickle in bytes.

    Raises:
        TriwaveError: it is not a zip file, which `torch.save` writes, or a part of it is damaged or compressed.
            `torch.save` does not compress, so a checkpoint never needs more memory than it has bytes.
    """
    try:
        with ZipFile(path) as file:
            parts = file.infolist()
            packed = any(part.compress_type != ZIP_STORED or part.file_size != part.compress_size for part in parts)
            if packed or sum(part.file_size for part in parts) > path.stat().st_size:
                raise TriwaveError("it is damaged or forged: its parts are compressed, which no run does")
            broken = file.testzip()
            if broken is not None:
                raise TriwaveError(f"it is damaged: the checksum of {broken} differs")
            return sum(part.file_size for part in parts if part.filename.endswith(".pkl"))
    except TriwaveError:
        raise
    except Exception as error:  # zipfile has many kinds
        whole = is_zipfile(path)
        raise TriwaveError("it is damaged" if whole else "it is incomplete or not a checkpoint") from error


def _check_content(content: Any, nodes: int) -> None:
    """Refuses a content that a run would not save.

    Args:
        content: content of a file.
        nodes: most values that it may have; references in a small file can expand to billions.

    Raises:
        TriwaveError: the content is wrong; the message names the part if it has a name.
    """
    if not isinstance(content, dict) or "state_dict" not in content:
        raise TriwaveError("it is a file of torch without a module")
    pending: list[tuple[str, Any]] = [*content.items()]
    while pending:  # not recursive: it may be nested deeply
        nodes -= 1
        if nodes < 0:
            raise TriwaveError(_NO_RUN)
        name, value = pending.pop()
        part = str(name).partition(".")[0]
        if isinstance(value, dict):
            pending += [(f"{part}.{key}", item) for key, item in value.items()]
        elif isinstance(value, (list, tuple)):
            pending += [(name, item) for item in value]
        elif isinstance(value, Tensor):
            require(value.layout == torch.strided and not value.is_meta, name, "be a dense tensor", value.layout)
            if value.numel() * value.element_size() > value.untyped_storage().nbytes():
                raise TriwaveError(f"{name} must have all of its {value.numel()} values in the file")
        else:
            require(part != "state_dict", name, "be a tensor", short(value))
    run = content["run"] if isinstance(content.get("run"), dict) else {}
    for section, kinds in ((content, _KINDS), (run, _RUN_KINDS)):
        for name, kind in kinds.items():
            value = section.get(name)
            if name in _NEEDED or (name in section and (name, value) != ("wandb_id", None)):
                fits = isinstance(value, kind) and not isinstance(value, bool)
                require(fits, name, f"be {KIND_WORDS[kind.__name__]}", short(value))
            require(not isinstance(value, int) or value >= 0, name, "be at least 0", value)
    number = content["state_dict"].get("stage_number", torch.tensor(0)).tolist()
    known = ", ".join(f"{n} ({name})" for name, n in NUMBERS.items())
    require(number in NUMBERS.values(), "stage_number", f"be one of {known}", shorten(str(number), 40))
    check_position(content)
    for name, epochs in content.get("stage_epochs", {}).items():
        fits = name in NUMBERS and is_count(epochs) and epochs <= content["epoch"] + 1
        require(fits, "stage_epochs", "be of stages that have ended", f"{name!r}: {short(epochs)}")
    for row in run.get("rows", []):
        pair = isinstance(row, (list, tuple)) and len(row) == 2 and isinstance(row[1], dict)
        if not pair or not is_count(row[0]) or not all(isinstance(name, str) for name in row[1]):
            raise TriwaveError(f"run.rows must be steps and metrics, got {short(row)}")
        for name, value in row[1].items():
            if not isinstance(value, (int, float, str)):
                raise TriwaveError(f"run.rows must have a number for {name}, got {short(value)}")


def check_weights(state: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> None:
    """Refuses whole numbers instead of weights, and single weights of another precision, which a module would load
    without an error.

    Args:
        state: state dict of a checkpoint.
        own: state dict of the module into which it is loaded, perhaps in another stage. Only buffers that are whole
            numbers here may be whole numbers in the checkpoint.

    Raises:
        ValueError: a tensor has a wrong dtype; the message names it.
    """
    for name, value in state.items():
        fits = value.is_floating_point() == (name not in own or own[name].is_floating_point())
        kind = "whole" if value.is_floating_point() else "floating-point"
        require(fits, f"{name} of the checkpoint", f"be {kind} numbers", value.dtype)
    floats = (name for name, value in state.items() if name.startswith("network.") and value.is_floating_point())
    weights = {name: state[name].dtype for name in floats}
    usual = max([*weights.values()], key=[*weights.values()].count, default=None)
    for name, dtype in weights.items():
        require(dtype == usual, f"{name} of the checkpoint", f"be of {usual} as the others", dtype)


def check_buffers(state: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> None:
    """Refuses scalings that differ from the module's own, and signs and variances that no training can produce.

    Args:
        state: state dict of a checkpoint.
        own: state dict of the module that was built with the same arguments.

    Raises:
        ValueError: a tensor has a wrong value; the message names it.
    """
    for name, value in state.items():
        if name.startswith("network.scaling.") and name in own:
            fits = value.shape == own[name].shape and torch.allclose(value, own[name].to(value), atol=0)
            require(fits, name, f"be {own[name].tolist()}", value.tolist())
        elif name.endswith(".sign"):
            require((value.abs() == 1).all(), name, "be 1 or -1", value.flatten()[0])
        elif name.endswith(".running_var"):
            require((value >= 0).all(), name, "be at least 0", value.amin())


@contextmanager
def reading(path: Path | None, within: str = "", fits: bool = False) -> Iterator[None]:
    """Rewrites an error of Python, PyTorch or Lightning that the content of a checkpoint causes in the block.

    Args:
        path: path of the checkpoint; None if there is none.
        within: only errors in functions whose names begin with this.
        fits: see `load_checkpoint`.

    Raises:
        TriwaveError: there was an error; the message names the checkpoint.
    """
    try:
        yield
    except Exception as error:
        names = [frame.f_code.co_name.lstrip("_") for frame, _ in walk_tb(error.__traceback__)]
        if path is None or isinstance(error, TriwaveError) or not any(name.startswith(within) for name in names):
            raise
        raise TriwaveError(f"checkpoint {path} cannot be used ({_in_words(error)}){_offer(path, fits)}") from error


def _in_words(error: Exception) -> str:
    """Returns the meaning of an error that a content caused, without Python's internal words."""
    if isinstance(error, KeyError):
        return f"{_NO_RUN}: it has no {error}"
    if out_of_memory(error):
        return "it asks for more memory than its weights need, or than there is"
    kinds = (AttributeError, TypeError, LookupError, ArithmeticError, RecursionError, AssertionError)
    why = re.sub(r"^Error\(s\) in loading state_dict for \w+: ", "", reason(error))  # PyTorch's
    return _NO_RUN if isinstance(error, kinds) else why


def _offer(path: Path, fits: bool) -> str:
    """Returns the end of an error: the newest whole checkpoint beside that of a run, and how to resume from it."""
    run = run_folder_of(path)
    for other in [] if run is None else sorted(path.parent.glob("*.ckpt"), key=lambda file: -file.stat().st_mtime):
        with suppress(TriwaveError):
            if other != path and _whole_content(other):
                start = ["python", "-m", "lit_triwave", "fit", "--config", str(path.parent.parent / CONFIG_YAML)]
                how = f", resume from it with: {shlex.join([*start, '--ckpt_path', str(other)])}" if fits else ""
                return f"; {other} beside it is whole{how}"
    return ""


def logged_steps(checkpoint: Mapping[str, Any]) -> int:
    """Returns the steps up to a checkpoint through all stages, as metrics.csv and Weights & Biases count them.

    Lightning's own count restarted at second-order stages in earlier versions.
    """
    loop = checkpoint.get("loops", {}).get("fit_loop", {}).get("epoch_loop.state_dict", {})
    return int(loop.get("_batches_that_stepped", checkpoint.get("global_step", 0)))
