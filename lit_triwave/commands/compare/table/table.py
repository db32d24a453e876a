"""A comparison: rows, columns, the best row, and what is to be said of it; and its cells as text."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from lit_triwave.commands.compare.read.compared_run import ComparedRun
from lit_triwave.commands.compare.table.cells import joined, mean_and_error, number, shown
from lit_triwave.commands.compare.table.columns import most_varied
from lit_triwave.commands.compare.table.fields import Fields, comparable, is_number
from lit_triwave.commands.compare.table.rows import Row, differing, make_rows
from lit_triwave.tracking.metric_goals import goal

MAIN = ("test/accuracy", "test/mse")
"""Metrics that a comparison is about, unless another is asked for."""
BESIDES = ("test/accuracy", "test/mse", "test/max_error", "test/loss", "parameters", "fit_seconds")
"""Metrics shown besides the main one, unless others are asked for."""
BEST = "★"
LOWEST = "lowest"
"""Header of the lowest seed's value, beside the mean over seeds."""
HEADERS = ("run", "seeds", LOWEST)
"""Headers of columns that are no field; rows can be sorted by them too."""
MOST_TELLING = 6
"""Fields in a row's label."""


@dataclass(frozen=True)
class Cell:
    """A cell of the table.

    Args:
        text: that is shown.
        value: by which the cell is put in order, None for a text.
    """

    text: str
    value: float | None = None


@dataclass
class Comparison:
    """What every format shows.

    Args:
        runs: all that are compared.
        fields: of these.
        rows: in the order in which they are shown.
        columns: fields, by full names, in which the rows differ.
        metrics: shown; the first is the main one.
        grouped: whether the user said what makes a row.
        said: about runs as a whole, such as folders that could not be read.
        asked: whether the user said which metrics are shown.
    """

    runs: list[ComparedRun]
    fields: Fields
    rows: list[Row]
    columns: list[str]
    metrics: list[str]
    grouped: bool = False
    said: list[str] = field(default_factory=list)
    asked: bool = False

    @property
    def apart(self) -> list[str]:
        """The columns without the experiment, where the rows' names say it, as those of run folders do."""
        named = all(row.name.startswith(row.runs[0].experiment) for row in self.rows)
        return [name for name in self.columns if not (named and name == "experiment")]

    @property
    def main(self) -> str | None:
        """The metric by which rows are the best of their targets."""
        return self.metrics[0] if self.metrics else None

    def by_target(self) -> list[list[Row]]:
        """The finished rows that have the main metric, those of one function or data set together, best first; in their
        order where neither way is better."""
        main = self.main
        targets: dict[Hashable, list[Row]] = {}
        for row in self.rows:
            if main is not None and row.finished and row.sample(main) is not None:
                targets.setdefault(row.target, []).append(row)
        return [self.best_first(rows) for rows in targets.values()]

    def best_first(self, rows: Sequence[Row]) -> list[Row]:
        """Rows that have the main metric, the best value first; in their order where neither way is better."""
        sign = {"max": -1.0, "min": 1.0}.get(goal(self.main or "") or "", 0.0)
        return sorted(rows, key=lambda row: sign * self._mean(row))

    def ranked(self) -> list[Row]:
        """The same in one list, target after target."""
        return [row for rows in self.by_target() for row in rows]

    def _mean(self, row: Row) -> float:
        sample = row.sample(self.main or "")
        return math.inf if sample is None else sample.mean

    def best(self) -> list[Row]:
        """The best row of each target, if one way is better; not of a target with one row, where there are others."""
        if self.main is None or goal(self.main) is None:
            return []
        targets = self.by_target()
        return [rows[0] for rows in targets if len(rows) > 1 or len(targets) == 1]

    def telling(self, rows: Sequence[Row]) -> list[str]:
        """The fields that say which of some rows a row is: those that were asked for, or what tells them apart."""
        return self.columns if self.grouped else most_varied(rows, self.columns, MOST_TELLING, enough=True)

    def label(self, row: Row, columns: Sequence[str], longest: int = 90) -> str:
        """What tells a row from the others, such as "depth 5, blocks"; its name where nothing does."""
        parts = []
        for name in columns:
            text = shown(row.values.get(name))
            if text:
                bare = text[0].isalpha() and text not in ("true", "false")  # a word says which field it is of
                parts.append(text if bare else f"{self.fields.short(name)} {text}")
        state = "" if row.finished else f" ({row.state})"
        return joined(parts or [row.name], longest - len(state)) + state

    def cells(self, columns: Sequence[str]) -> tuple[list[str], list[list[Cell]]]:
        """Header and cells of the table, row by row.

        Args:
            columns: fields to be shown, of `self.columns`.
        """
        lowest = {metric for metric in self.metrics if self.has_lowest(metric)}
        unfinished = not all(row.finished for row in self.rows)
        header = ["run", *(self.fields.short(name) for name in columns), *["state"] * unfinished, "seeds"]
        for metric in self.metrics:
            header += [metric, *[LOWEST] * (metric in lowest)]
        best = set(self.best())
        body = []
        for row in self.rows:
            cells = [Cell(f"{BEST} {row.name}" if row in best else row.name)]
            for name in columns:
                value = row.values.get(name)
                cells.append(Cell(shown(value), float(value) if is_number(value) else None))
            cells += [Cell(row.state)] * unfinished + [Cell(str(row.seeds), row.seeds)]
            for metric in self.metrics:
                sample = row.sample(metric) if row.finished else None
                cells.append(Cell(self.text(row, metric), sample.mean if sample else None))
                if metric in lowest:
                    lowest_of = sample.best if sample is not None else None
                    several = sample is not None and sample.n > 1 and lowest_of is not None
                    cells.append(Cell(number(lowest_of) if several else "", lowest_of))  # type: ignore[arg-type]
            body.append(cells)
        return header, body

    def value(self, row: Row, name: str) -> Any:
        """What a row has of a field, a metric, or one of `HEADERS`; None where it has nothing."""
        sample = row.sample(self.main or "" if name == LOWEST else name)
        if name == LOWEST:
            return sample.best if sample is not None and row.finished else None
        if name == "seeds":
            return row.seeds
        if sample is not None:
            return sample.mean
        return row.name if name in ("run", "name", "source") else row.values.get(name)

    def of_rows(self, rows: list[Row]) -> Comparison:
        """The same of some of its rows, with the fields in which these differ and the metrics that they have."""
        kept = {id(run) for row in rows for run in (*row.runs, *row.repeated)}
        varied = [name for name in self.columns if len({comparable(row.values.get(name)) for row in rows}) > 1]
        there = [name for name in self.metrics[1:] if any(row.sample(name) for row in rows)]
        return replace(
            self,
            runs=[run for run in self.runs if id(run) in kept],
            rows=rows,
            columns=self.columns if self.grouped else varied,
            metrics=[*self.metrics[:1], *there],
        )

    def has_lowest(self, metric: str) -> bool:
        """Whether the lowest of the seeds is shown beside their mean: of the main metric, if it is an error."""
        if metric != self.main or goal(metric) != "min" or "/" not in metric:
            return False
        samples = [row.sample(metric) for row in self.rows]
        return any(sample is not None and sample.best is not None and sample.n > 1 for sample in samples)

    def text(self, row: Row, metric: str) -> str:
        """A metric's mean ± standard error; of an unfinished run, in brackets, what was logged last in its place."""
        sample = row.sample(metric)
        if row.finished:
            return mean_and_error(sample) if sample is not None else "not finite" if row.lost(metric) else ""
        if sample is not None:
            return f"({number(sample.mean)})"
        name, value = last_logged(row.runs[0], metric)
        return "" if name is None else f"({number(value)} {name})"


def last_logged(run: ComparedRun, metric: str) -> tuple[str | None, float]:
    """What an unfinished run logged last in the place of a metric: its name and value, (None, NaN) without any."""
    for name in stand_ins(metric):
        value = run.summary.get(name)
        if is_number(value):
            return name, float(value)
    return None, math.nan


def stand_ins(metric: str) -> list[str]:
    """Logged metrics that stand for one of the test, the nearest first."""
    last = metric.rpartition("/")[2]
    return [f"{part}/{last}{ending}" for part in ("val", "train") for ending in ("", "_mean", "_min")]


def compare(
    runs: list[ComparedRun],
    fields: Fields,
    by: Sequence[str] = (),
    metrics: Sequence[str] = (),
    sort: str | None = None,
    descending: bool = False,
) -> Comparison:
    """Lays runs side by side.

    Args:
        runs: at least one.
        fields: of these or of more.
        by: full names of the fields that make a row; by default those in which the runs differ, but for the seeds.
        metrics: to be shown, the main one first; by default those that runs of this project have.
        sort: full name of the field or metric by which rows are put in order, or one of `HEADERS`; by default the main
            metric, best first, target by target.
        descending: the other way round.
    """
    apart = differing(runs)
    columns = list(by) or apart
    rows = make_rows(runs, columns, [*dict.fromkeys([*columns, *([sort] if sort else [])])])
    comparison = Comparison(runs, fields, rows, columns, list(metrics) or default_metrics(runs), bool(by))
    comparison.asked = bool(metrics)
    if sort:
        there = [row for row in rows if comparison.value(row, sort) is not None]
        there.sort(key=lambda row: _order(comparison.value(row, sort)), reverse=descending)
        comparison.rows = there + [row for row in rows if comparison.value(row, sort) is None]
    else:
        ranked = comparison.ranked()
        ranked = ranked[::-1] if descending else ranked
        known = set(ranked)
        comparison.rows = ranked + [row for row in rows if row not in known]
    return comparison


def default_metrics(runs: Sequence[ComparedRun]) -> list[str]:
    """The metrics that runs have of those that are shown by default, first the one that most have, finished or, of an
    unfinished run, by what it logged."""
    finished = {name: sum(is_number(run.summary.get(name)) for run in runs if run.state == "finished") for name in MAIN}
    logged = {name: sum(last_logged(run, name)[0] is not None for run in runs) for name in MAIN}
    meant = {name: sum(_is_of(run, name) for run in runs) for name in MAIN}
    if not any([*finished.values(), *logged.values(), *meant.values()]):
        return []
    first = max(MAIN, key=lambda name: (finished[name], logged[name], meant[name]))
    there = [name for name in BESIDES if any(is_number(run.summary.get(name)) for run in runs)]
    return [first, *(name for name in there if name != first)]


def _is_of(run: ComparedRun, metric: str) -> bool:
    """Whether a run is of the kind that has a metric of `MAIN`, whatever it logged."""
    kind = str(run.config.get("model.class_path", ""))
    return kind.endswith("Classifier" if metric == "test/accuracy" else "Regressor")


def _order(value: Any) -> tuple[int, float, str]:
    """By what values are put in order: numbers before texts."""
    return (0, float(value), "") if is_number(value) else (1, 0.0, shown(value))
