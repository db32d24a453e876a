"""Refuses a checkpoint that does not belong to the given config."""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterable, Sequence, Set
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

import torch
from jsonargparse import Namespace
from lightning.pytorch import Callback, LightningModule, Trainer

from lit_triwave.checkpoints.kinds import require
from lit_triwave.checkpoints.load import check_buffers, check_weights, logged_steps
from lit_triwave.checkpoints.position import optimizer_steps
from lit_triwave.errors import TriwaveError, some
from lit_triwave.modules.staged import NUMBERS, STAGES, StagedModule, stage_name
from lit_triwave.tracking.flat_config import DATA_ACCESS, flat, plain
from lit_triwave.tracking.private_paths import hidden

_MAY_DIFFER = (*STAGES, "weights", "compile", "channels_last", "_class_path", "_instantiator")
"""Hyperparameters that a resumed run may change."""

_TRAINER = (
    "accumulate_grad_batches",
    "gradient_clip_algorithm",
    "gradient_clip_val",
    "limit_train_batches",
    "overfit_batches",
)
"""Options of the trainer that a resumed run may not change: they define a step and the length of a schedule."""

_TRAINING_ONLY = ("label_smoothing", "mixup", "cutmix")
"""Hyperparameters that an evaluation does not use."""

_Difference = tuple[str, Any, Any]
"""Field, its value in the checkpoint, and its value here."""
_ROOM = 350  # characters of a line that says what differs, with the checkpoint's path


def check_same_run(
    path: Path,
    checkpoint: dict[str, Any],
    model: LightningModule,
    identity: dict[str, Any] | None,
    linked: Iterable[str],
) -> None:
    """Refuses a checkpoint of another model and, for a resumed run, of other data or other training.

    Args:
        path: path of the checkpoint.
        checkpoint: its content.
        model: the model into which it is loaded.
        identity: identity of the run, see `identity_of`; None for an evaluation.
        linked: arguments of the model that follow from the data. They are compared last, because the user's own
            arguments explain more.

    Raises:
        TriwaveError: fields differ; the message names them.
        ValueError: the checkpoint is forged; the message names the field.
    """
    _check_kind(path, checkpoint, model)
    check_weights(checkpoint["state_dict"], model.state_dict())
    if identity is None or isinstance(model, StagedModule):  # a module of the user may resume with any weights
        _check_finite(checkpoint["state_dict"], {name for name, _ in model.named_parameters()})
    differing = _run_differences(checkpoint, identity) if identity is not None else []
    free = () if identity is not None else _TRAINING_ONLY
    differing += _model_differences(checkpoint, model, (*free, *linked))
    what = "another config" if differing else "other data"  # such as a table with a row more
    differing = differing or _model_differences(checkpoint, model, free)
    if differing:
        raise TriwaveError(f"checkpoint {path} is of {what}: {_in_words(differing, _ROOM - len(str(path)))}")
    if identity is not None:
        _check_optimizers(checkpoint, model)
        _check_steps(checkpoint, model)
    if isinstance(model, StagedModule):
        check_buffers(checkpoint["state_dict"], model.state_dict())


def _check_kind(path: Path, checkpoint: dict[str, Any], model: LightningModule) -> None:
    """Refuses hyperparameters of another class, because none could be compared."""
    saved, kind = checkpoint.get("hyper_parameters") or {}, type(model).__name__
    there = str(saved.get("_class_path", kind)).rpartition(".")[2]
    named = {name for name in model.hparams if not name.startswith("_")}  # empty if a module of the user saves none
    if there != kind or (named and not saved.keys() & named):
        got = there if there != kind else f"hyperparameters {some([*map(repr, saved)]) or 'of nothing'}"
        raise TriwaveError(f"checkpoint {path} must be of a {kind}, got {got}")


def _check_finite(state: dict[str, torch.Tensor], parameters: Set[str]) -> None:
    """Refuses weights that are not finite, because they cannot be evaluated. Buffers of the user may be infinite."""
    weights = [name for name in state if name.startswith("network.") or name in parameters]
    lost = [name for name in weights if not state[name].isfinite().all()]
    require(not lost, "weights of the checkpoint", "be finite", f"NaN or infinity in {some(lost)}")


def _check_optimizers(checkpoint: dict[str, Any], model: LightningModule) -> None:
    """Refuses a checkpoint without the state of an optimizer, because training would start with a new optimizer."""
    staged = isinstance(model, StagedModule)
    if isinstance(model, StagedModule) and model.ends_stage(checkpoint["epoch"]) and not model.continuous:
        return  # the next stage has an optimizer of its own
    kept = []  # for each optimizer with a state, whether it is there
    for state in checkpoint.get("optimizer_states") or [{"state": {}, "param_groups": [{"betas": ()}]}] * staged:
        if any({"betas", "damping"} & group.keys() or group.get("momentum") for group in state["param_groups"]):
            kept.append(bool(state["state"]))
    # In a module of the user, one of several optimizers may not have made a step yet.
    fits = all(kept) if staged else any(kept) or not kept or not checkpoint["global_step"]
    require(fits, "optimizer_states of the checkpoint", "have the state of each optimizer", "none")


def _check_steps(checkpoint: dict[str, Any], model: LightningModule) -> None:
    """Refuses a number of steps that contradicts the optimizers, and rows of later steps.

    A module of the user may make several steps in a batch, or count rows in another way.
    """
    if not type(model).__module__.startswith("lit_triwave."):
        return
    steps, made = logged_steps(checkpoint), optimizer_steps(checkpoint)
    # Inside an epoch the loop has not counted the last one yet; earlier versions counted second-order steps from 0.
    fits = any(0 <= known - steps <= 1 for known in (max(made), sum(made)))
    require(fits, "loops", f"be of the {max(made)} steps of the optimizers", steps)
    last = max((step for step, _ in checkpoint.get("run", {}).get("rows", [])), default=0)
    require(last <= steps, "run.rows", f"be of the {steps} steps in loops", f"step {last}")


def _in_words(differing: Sequence[_Difference], room: int) -> str:
    """Returns all fields that differ, with as many of their values as fit into `room` characters."""
    words = [f"{name} is {there!r} there and {here!r} here" for name, there, here in differing]
    if len("; ".join(words)) <= room:
        return "; ".join(words)
    names = ", ".join(name for name, _, _ in differing) + (" differ" if len(differing) > 1 else " differs")
    rest = max(room - len(names), 0)
    said = [word for n, word in enumerate(words) if len("; ".join(words[: n + 1])) <= rest]
    return "; ".join([names, *said])


def _model_differences(
    checkpoint: dict[str, Any], model: LightningModule, leave_out: Sequence[str] = ()
) -> list[_Difference]:
    """Returns the hyperparameters that differ, except those that may differ."""
    saved = checkpoint.get("hyper_parameters", {})
    domains = [there.get("domain") for there in (saved, model.hparams)]
    there, here = ([*domain] if isinstance(domain, dict) else [] for domain in domains)
    if "domain" not in leave_out and there and here and there != here:  # what follows from them differs, too
        return [("inputs", there, here)]
    return [
        (name, saved[name], value)
        for name, value in hidden(plain(dict(model.hparams))).items()
        if name not in (*_MAY_DIFFER, *leave_out) and name in saved and hidden(plain(saved[name])) != value
    ]


def identity_of(config: Namespace) -> dict[str, Any]:
    """Returns the facts that define a run besides the model's hyperparameters, in containers for a checkpoint."""
    arguments = config.model.get("init_args") or {}
    model = {"class_path": config.model.class_path.rpartition(".")[2]} | {name: arguments.get(name) for name in STAGES}
    trainer = {name: config.trainer[name] for name in _TRAINER if name in config.trainer}
    identity = {"model": model, "seed_everything": config.seed_everything, "data": config.data, "trainer": trainer}
    text = json.dumps(identity, default=lambda value: vars(value) if hasattr(value, "__dict__") else str(value))
    content: dict[str, Any] = hidden(json.loads(text))
    return content


def _run_differences(checkpoint: dict[str, Any], here: dict[str, Any]) -> list[_Difference]:
    """Returns the fields that differ in the data and in the stages trained so far.

    Later stages may differ in everything, and the current stage in its length.
    """
    there = checkpoint.get("run")
    if there is None:
        return []
    number = int(checkpoint["state_dict"].get("stage_number", NUMBERS["pretrain"]))
    reached = STAGES.index(stage_name(number))
    free = {f"data.init_args.{name}" for name in DATA_ACCESS} | {f"model.{STAGES[reached]}.epochs"}
    later = tuple(f"model.{name}" for name in STAGES[reached + 1 :])
    if "limit" not in there["model"]:  # saved by a version without this stage and its data fields
        later += ("model.limit",)
    known = [key for key in here if key in there]  # earlier versions saved less
    one, two = (hidden(flat({key: run[key] for key in known})) for run in (there, here))
    one |= {name: value for name, value in _defaults(here["data"]).items() if name not in one}
    return [
        (name.replace(".init_args", ""), one.get(name), two.get(name))
        for name in {**one, **two}
        if one.get(name) != two.get(name) and name not in free and not name.startswith(later)
    ]


def _defaults(data: dict[str, Any]) -> dict[str, Any]:
    """Returns the defaults of the data's options: an earlier version that has saved no value knew no other."""
    parameters = inspect.signature(resolve_name(data["class_path"])).parameters.values()
    known = {one.name: one.default for one in parameters if one.name in (data.get("init_args") or {})}
    given = {name: plain(value) for name, value in known.items() if value is not inspect.Parameter.empty}
    return flat(given, "data.init_args.")


class RunRecord(Callback):
    """Saves the facts that a resumed run needs besides Lightning's state in every checkpoint, under "run".

    Args:
        identity: see `identity_of`, with the run's id in Weights & Biases.
        rows: rows of metrics.csv, (step, metrics); the list grows during training.
    """

    def __init__(self, identity: dict[str, Any], rows: list[tuple[int, dict[str, float]]]) -> None:
        self.identity = identity
        self.rows = rows

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        checkpoint["run"] = {**self.identity, "rows": self.rows, "arithmetic": _arithmetic(trainer)}


def _arithmetic(trainer: Trainer) -> dict[str, Any]:
    """Returns the settings, besides the machine, that change the last bits of a sum."""
    return {
        "threads": torch.get_num_threads(),
        "default dtype": str(torch.get_default_dtype()),
        "precision": trainer.precision,
    }


def other_arithmetic(checkpoint: dict[str, Any], trainer: Trainer) -> str:
    """Returns a line that says why a resumed run will differ in its last bits from an uninterrupted one; "" if not."""
    there, here = checkpoint.get("run", {}).get("arithmetic", {}), _arithmetic(trainer)
    differing = [f"{name} {there[name]} before, {now} now" for name, now in here.items() if there.get(name, now) != now]
    return f"last bits will differ from those of an uninterrupted run: {'; '.join(differing)}" if differing else ""
