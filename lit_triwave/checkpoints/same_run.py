"""Checkpoints of earlier runs: read, and refused where they are not of the run that is asked for."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from jsonargparse import Namespace
from lightning.pytorch import Callback, LightningModule, Trainer

from lit_triwave.errors import TriwaveError
from lit_triwave.modules.staged import STAGES
from lit_triwave.tracking.flat_config import DATA_ACCESS, flat, plain
from lit_triwave.tracking.private_paths import hidden

MAY_DIFFER = ("pretrain", "train", "polish", "weights", "compile", "channels_last", "_class_path", "_instantiator")
"""Hyperparameters that a resumed run may change."""

TRAINING_ONLY = ("label_smoothing", "mixup", "cutmix")
"""Hyperparameters that an evaluation does not look at."""

Difference = tuple[str, Any, Any]
"""A field, and its values there and here."""
ROOM = 300  # characters of a line that says what differs


def check_same_run(
    checkpoint: dict[str, Any], model: LightningModule, course: dict[str, Any] | None, linked: Sequence[str]
) -> None:
    """Refuses a checkpoint of another model, or of a run of another course.

    Args:
        checkpoint: the content of one.
        model: to be filled from it.
        course: of this run, if it goes on with the checkpoint's.
        linked: arguments of the model that follow from the data, which are looked at last: the user's own words say
            more.

    Raises:
        TriwaveError: naming the fields that differ.
    """
    differing = course_differences(checkpoint, course) if course is not None else []
    free = () if course is not None else TRAINING_ONLY
    differing += model_differences(checkpoint, model, (*free, *linked))
    differing = differing or model_differences(checkpoint, model, free)
    if differing:
        raise TriwaveError(f"the checkpoint is of another config: {in_words(differing)}")


def in_words(differing: Sequence[Difference]) -> str:
    """All fields, and what they are there and here as far as a line has room."""
    words = [f"{name} is {there!r} there and {here!r} here" for name, there, here in differing]
    if len("; ".join(words)) <= ROOM:
        return "; ".join(words)
    names = ", ".join(name for name, _, _ in differing) + (" differ" if len(differing) > 1 else " differs")
    rest = max(ROOM - len(names), 0)
    said = [word for n, word in enumerate(words) if len("; ".join(words[: n + 1])) <= rest]
    return "; ".join([names, *said])


def model_differences(
    checkpoint: dict[str, Any], model: LightningModule, leave_out: Sequence[str] = ()
) -> list[Difference]:
    """The hyperparameters that are others there and here, but for some that are left out."""
    saved = checkpoint.get("hyper_parameters", {})
    return [
        (name, saved[name], value)
        for name, value in hidden(plain(dict(model.hparams))).items()
        if name not in (*MAY_DIFFER, *leave_out) and name in saved and hidden(plain(saved[name])) != value
    ]


def identity_of(config: Namespace) -> dict[str, Any]:
    """What decides the course of a run besides the model, in containers that a checkpoint can hold."""
    arguments = config.model.get("init_args") or {}
    model = {"class_path": config.model.class_path.rpartition(".")[2]} | {name: arguments.get(name) for name in STAGES}
    course = {"model": model, "seed_everything": config.seed_everything, "data": config.data}
    text = json.dumps(course, default=lambda value: vars(value) if hasattr(value, "__dict__") else str(value))
    content: dict[str, Any] = hidden(json.loads(text))
    return content


def course_differences(checkpoint: dict[str, Any], here: dict[str, Any]) -> list[Difference]:
    """What is another there and here of the data, and of the way that was trained so far.

    Stages to come may differ in everything, and the present one in its length.
    """
    there = checkpoint.get("run")
    if there is None:
        return []
    reached = int(checkpoint["state_dict"].get("stage_number", 0))
    free = {f"data.init_args.{name}" for name in DATA_ACCESS} | {f"model.{STAGES[reached]}.epochs"}
    later = tuple(f"model.{name}" for name in STAGES[reached + 1 :])
    one, two = (hidden(flat({key: course[key] for key in here})) for course in (there, here))
    return [
        (name.replace(".init_args", ""), one.get(name), two.get(name))
        for name in {**one, **two}
        if one.get(name) != two.get(name) and name not in free and not name.startswith(later)
    ]


class RunRecord(Callback):
    """Keeps in every checkpoint, under "run", what a resumed run needs besides Lightning's own: the logged rows so far
    and what the run is.

    Args:
        identity: what the run is, in plain containers.
        rows: of metrics.csv, (step, metrics); grows as the run goes on.
    """

    def __init__(self, identity: dict[str, Any], rows: list[tuple[int, dict[str, float]]]) -> None:
        self.identity = identity
        self.rows = rows

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        checkpoint["run"] = {**self.identity, "rows": self.rows}
