"""Rows of the table: runs that differ only in the seed share a row; each unfinished run has its own."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from lit_triwave.commands.compare.read.compared_run import ComparedRun
from lit_triwave.commands.compare.table.fields import comparable, value_of
from lit_triwave.commands.compare.table.statistics import Sample, averaged, is_lost, pooled, sample_of, seeds_of
from lit_triwave.errors import some
from lit_triwave.tracking.flat_config import DATA_ACCESS

_SEEDS = ("seed", "split_seed", "seed_everything")
"""Last words of the names of fields that are seeds."""
_TRAINER = ("precision", "max_epochs", "max_steps", "accumulate_grad_batches", "gradient_clip_val")
"""Trainer fields that affect results; the others affect only where and how fast a run trains."""
TARGET = ("data.expression", "data.class_path", "data.path", "data.target", "data.domain")
"""Fields that name the target: the function or data set. Errors of different targets are not compared."""


@dataclass(eq=False)
class Row:
    """One row of the table.

    Args:
        runs: the included runs, in the order in which they were read.
        values: values of the fields that differ between the rows, by full names.
        repeated: copies of runs, which are not included.
    """

    runs: list[ComparedRun]
    values: dict[str, Any]
    repeated: list[ComparedRun] = field(default_factory=list)
    _samples: dict[str, Sample | None] = field(default_factory=dict, repr=False)

    @property
    def state(self) -> str:
        """State of its runs; all have the same state."""
        return self.runs[0].state

    @property
    def finished(self) -> bool:
        """Whether its runs finished; other rows show the last logged values."""
        return self.state == "finished"

    @cached_property
    def target(self) -> Hashable:
        """Key that is equal for rows of the same functions or data sets."""
        return frozenset(_key(run, is_target) for run in self.runs)

    @cached_property
    def name(self) -> str:
        """Name of its only run, or the experiment and the number of runs."""
        if len(self.runs) == 1:
            return self.runs[0].name
        experiments = list(dict.fromkeys(run.experiment for run in self.runs))
        return f"{some(experiments, 1)} ({len(self.runs)} runs)"

    def sample(self, metric: str) -> Sample | None:
        """Returns a metric over all seeds of the row; None if no run has it or if it is not finite for a run."""
        if metric not in self._samples:
            again = [averaged([sample_of(run, metric) for run in runs], metric) for runs in self.same_again]
            self._samples[metric] = None if self.lost(metric) else pooled(again, metric)
        return self._samples[metric]

    def known_sample(self, metric: str) -> Sample:
        """Returns a metric that the row is known to have, such as the main metric of a ranked row."""
        sample = self.sample(metric)
        assert sample is not None
        return sample

    @cached_property
    def same_again(self) -> list[list[ComparedRun]]:
        """The runs of the row, in one list for each config and seed, because repetitions add no seeds."""
        alike: dict[Hashable, list[ComparedRun]] = {}
        for run in self.runs:
            alike.setdefault(_whole_config(run), []).append(run)
        return list(alike.values())

    @property
    def seeds(self) -> int:
        """Number of different seeds in the row."""
        return sum(seeds_of(runs[0]) for runs in self.same_again)

    def lost(self, metric: str) -> list[ComparedRun]:
        """Returns the runs whose value of a metric is not finite; a mean without them would favour the better runs."""
        return [run for run in self.runs if is_lost(run, metric)]


def _is_seed(name: str) -> bool:
    """Returns whether a field of a config is a seed."""
    return name.rpartition(".")[2] in _SEEDS


def _is_relevant(name: str) -> bool:
    """Returns whether a field of a config can affect results, seeds excluded."""
    first, _, rest = name.partition(".")
    if first == "trainer":
        return rest in _TRAINER
    access = first == "data" and rest in DATA_ACCESS and not is_target(name)
    return not (_is_seed(name) or access or name == "model.compile")


def is_target(name: str) -> bool:
    """Returns whether a field of a config belongs to the target."""
    return name in TARGET or name.startswith("data.domain.")


def _key(run: ComparedRun, wanted: Callable[[str], bool]) -> Hashable:
    """Returns a key that is equal for runs with the same values of the wanted fields; null is like no such field."""
    fields = sorted(run.config.items())
    return tuple((name, comparable(value)) for name, value in fields if value is not None and wanted(name))


def differing(runs: Sequence[ComparedRun]) -> list[str]:
    """Returns the full names of the fields in which runs differ: `experiment` and config fields that affect results.

    Seeds are excluded. A field that only some runs have, because of another version or model, is not a difference. A
    field in options that only some runs have, such as `model.train.options.betas`, is a difference.
    """
    values: dict[str, set[Hashable]] = {"experiment": {run.experiment for run in runs}}
    for run in runs:
        for name, value in run.config.items():
            if f"{name}." != _options(name):  # no options: what others have is named below
                values.setdefault(name, set()).add(comparable(value))
    for name in [name for name in values if _options(name)]:
        for run in runs:
            if name not in run.config and any(_options(other) == _options(name) for other in run.config):
                values[name].add(comparable(None))
    return [name for name, found in values.items() if len(found) > 1 and (name == "experiment" or _is_relevant(name))]


def _options(name: str) -> str:
    """Returns the mapping of options that contains a field, or the field itself if it is an empty mapping; else ""."""
    before, word, _ = f"{name}.".partition("options.")
    return word and before + word


def make_rows(runs: Sequence[ComparedRun], by: Sequence[str], columns: Sequence[str]) -> list[Row]:
    """Returns the rows, in the order of their first runs.

    Args:
        runs: the runs to group.
        by: full names of the fields that finished runs of a row have in common.
        columns: full names of the fields whose values are kept if all runs of a row agree.
    """
    groups: dict[Hashable, list[ComparedRun]] = {}
    for run in runs:
        alike: Hashable = tuple(comparable(value_of(run, name)) for name in by)
        if run.state != "finished" or not (run.config or by):
            alike = run  # a row of its own
        groups.setdefault(alike, []).append(run)
    rows = []
    for group in groups.values():
        # The copy of a run with most results is included; if several have as many, the last of them.
        fullest = {_identity(run): run for run in sorted(group, key=lambda run: len(run.summary))}
        counted = [run for run in group if fullest[_identity(run)] is run]
        repeated = [run for run in group if fullest[_identity(run)] is not run]
        values = {}
        for name in columns:
            found = [value_of(run, name) for run in counted]
            values[name] = found[0] if len(set(map(comparable, found))) == 1 else None
        rows.append(Row(counted, values, repeated))
    return rows


def _identity(run: ComparedRun) -> Hashable:
    """Returns a key that a run shares with its W&B copy and copies of its folder, but with no other run."""
    return run.wandb_id or (run.name, run.about.get("started"))


def _whole_config(run: ComparedRun) -> Hashable:
    """Returns a key for config and seeds; it is unique if the run drew its seed."""
    seed = run.config.get("seed_everything")
    if isinstance(seed, bool) or seed is None:  # each run draws its own seed
        return run
    return run.experiment, _key(run, lambda name: _is_relevant(name) or _is_seed(name))
