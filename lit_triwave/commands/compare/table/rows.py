"""Runs that differ in nothing but the seed, as one row; unfinished runs, each as a row of its own."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from lit_triwave.commands.compare.read.compared_run import ComparedRun
from lit_triwave.commands.compare.table.fields import comparable, value_of
from lit_triwave.commands.compare.table.statistics import Sample, averaged, is_lost, pooled, sample_of, seeds_of
from lit_triwave.errors import some
from lit_triwave.tracking.flat_config import DATA_ACCESS

SEEDS = ("seed", "split_seed", "seed_everything")
"""Last words of the fields that are seeds."""
TRAINER = ("precision", "max_epochs", "max_steps", "accumulate_grad_batches", "gradient_clip_val")
"""Fields of the trainer that decide a result; the others say where and how fast it was reached."""
TARGET = ("data.expression", "data.class_path", "data.path", "data.target", "data.domain")
"""Fields that say what a run's errors are of; those of different targets are not compared."""


@dataclass(eq=False)
class Row:
    """One row of the table.

    Args:
        runs: that count, in the order in which they were read.
        values: of the fields that differ between the rows, by full names.
        repeated: copies of one of `runs`, which are no runs of their own.
    """

    runs: list[ComparedRun]
    values: dict[str, Any]
    repeated: list[ComparedRun] = field(default_factory=list)
    _samples: dict[str, Sample | None] = field(default_factory=dict, repr=False)

    @property
    def state(self) -> str:
        """State of its runs; an unfinished run is a row of its own."""
        return self.runs[0].state

    @property
    def finished(self) -> bool:
        """Whether it counts; the values of other rows are those that were logged last."""
        return self.state == "finished"

    @cached_property
    def target(self) -> Hashable:
        """Equal for the rows whose metrics are of the same function or data set, or of the same ones."""
        return frozenset(target(run) for run in self.runs)

    @cached_property
    def name(self) -> str:
        """Name of its only run, or the experiment with the number of runs."""
        if len(self.runs) == 1:
            return self.runs[0].name
        experiments = list(dict.fromkeys(run.experiment for run in self.runs))
        return f"{some(experiments, 1)} ({len(self.runs)} runs)"

    def sample(self, metric: str) -> Sample | None:
        """A metric over all seeds of the row; None where no run has it, or one has it and it is not finite."""
        if metric not in self._samples and self.lost(metric):
            self._samples[metric] = None
        if metric not in self._samples:
            again = [averaged([sample_of(run, metric) for run in runs], metric) for runs in self.same_again]
            self._samples[metric] = pooled([sample for sample in again if sample is not None], metric)
        return self._samples[metric]

    @cached_property
    def same_again(self) -> list[list[ComparedRun]]:
        """The runs of the row, those of one config and seed together: further ones are no further seeds."""
        alike: dict[Hashable, list[ComparedRun]] = {}
        for run in self.runs:
            alike.setdefault(_whole_config(run), []).append(run)
        return list(alike.values())

    @property
    def seeds(self) -> int:
        """How many its runs have trained."""
        return sum(seeds_of(runs[0]) for runs in self.same_again)

    def lost(self, metric: str) -> list[ComparedRun]:
        """The runs whose value of a metric is not finite: without them a mean would be of the better ones."""
        return [run for run in self.runs if is_lost(run, metric)]


def is_seed(name: str) -> bool:
    """Whether a field of a config is a seed."""
    return name.rpartition(".")[2] in SEEDS


def _decides(name: str) -> bool:
    """Whether a field of a config says what a run was, not where or with which seed."""
    first, _, rest = name.partition(".")
    if first == "trainer":
        return rest in TRAINER
    access = first == "data" and rest in DATA_ACCESS and not is_target(name)
    return not (is_seed(name) or access or name == "model.compile")


def is_target(name: str) -> bool:
    """Whether a field of a config says of what a run's errors are."""
    return name in TARGET or name.startswith("data.domain.")


def target(run: ComparedRun) -> Hashable:
    """The function and its domain, or the data set."""
    return tuple((name, comparable(run.config[name])) for name in sorted(run.config) if is_target(name))


def setting(run: ComparedRun) -> Hashable:
    """What a run was, seeds left out: equal for the runs that are a row by default."""
    kept = sorted(name for name, value in run.config.items() if value is not None and _decides(name))
    return run.experiment, tuple((name, comparable(run.config[name])) for name in kept)


def differing(runs: Sequence[ComparedRun]) -> list[str]:
    """The fields, by full names, in which runs differ, besides seeds and places: `experiment` and those of configs.

    A field that a run does not have, being of another version or another model, is no difference by itself.
    """
    values: dict[str, set[Hashable]] = {"experiment": {run.experiment for run in runs}}
    for run in runs:
        for name, value in run.config.items():
            values.setdefault(name, set()).add(comparable(value))
    return [name for name, found in values.items() if len(found) > 1 and (name == "experiment" or _decides(name))]


def make_rows(runs: Sequence[ComparedRun], by: Sequence[str], columns: Sequence[str]) -> list[Row]:
    """The rows, in the order of their first runs.

    Args:
        runs: to be grouped.
        by: fields, by full names, that finished runs of a row have alike.
        columns: fields whose values are kept where all runs of a row agree.
    """
    groups: dict[Hashable, list[ComparedRun]] = {}
    for run in runs:
        alike: Hashable = tuple(comparable(value_of(run, name)) for name in by)
        if run.state != "finished" or not (run.config or by):
            alike = (id(run), alike)
        groups.setdefault(alike, []).append(run)
    rows = []
    for group in groups.values():
        counted, repeated = _without_copies(group)
        values = {name: _common([value_of(run, name) for run in counted]) for name in columns}
        rows.append(Row(counted, values, repeated))
    return rows


def _common(values: Sequence[Any]) -> Any:
    return values[0] if len({comparable(value) for value in values}) == 1 else None


def _without_copies(runs: Sequence[ComparedRun]) -> tuple[list[ComparedRun], list[ComparedRun]]:
    """The runs, each once, and the copies of them: what has most results counts, of equals the last."""
    fullest: dict[Hashable, ComparedRun] = {}
    for run in runs:
        other = fullest.get(_identity(run))
        if other is None or len(run.summary) >= len(other.summary):
            fullest[_identity(run)] = run
    counted = [run for run in runs if fullest[_identity(run)] is run]
    return counted, [run for run in runs if fullest[_identity(run)] is not run]


def _identity(run: ComparedRun) -> Hashable:
    """Equal for a run, its W&B copy and a copy of its folder; another run of the same config and seed is another."""
    return run.wandb_id or (run.name, run.about.get("started"))


def _whole_config(run: ComparedRun) -> Hashable:
    """Config and seeds; equal for no other run where the seed is drawn anew."""
    seed = run.config.get("seed_everything")
    if isinstance(seed, bool) or seed is None:  # drawn anew by each run
        return id(run)
    seeds = tuple((name, comparable(value)) for name, value in sorted(run.config.items()) if is_seed(name))
    return setting(run), seeds
