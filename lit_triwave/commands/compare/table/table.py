"""A comparison of runs: its rows, columns and best rows, and its cells as text."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from lit_triwave.commands.compare.read.compared_run import ComparedRun
from lit_triwave.commands.compare.table.cells import joined, mean_and_error, number, shown
from lit_triwave.commands.compare.table.columns import most_varied
from lit_triwave.commands.compare.table.fields import Fields, comparable
from lit_triwave.commands.compare.table.rows import Row, differing, make_rows
from lit_triwave.commands.compare.table.statistics import halves
from lit_triwave.errors import is_number
from lit_triwave.tracking.metric_goals import SPLIT, Goal, goal, without_split

_MAIN = ("test/accuracy", "test/mse")
"""Candidates for the main metric, unless the user names one."""
_BESIDES = ("test/accuracy", "test/mse", "test/max_error", "test/r2", "test/loss", "parameters", "fit_seconds")
"""Metrics shown besides the main one, unless the user names others."""
_OURS = "lit_triwave."
_MOST_OWN = 4
"""Most metrics of a user's module that are shown, unless the user names some."""
BEST = "★"
LOWEST = "lowest"
"""Header of the column with the lowest seed's value, beside the mean over seeds."""
HEADERS = ("run", "seeds", LOWEST)
"""Headers of columns that are not fields; rows can be sorted by them too."""
_MOST_COLUMNS = 6
"""Fields shown on the screen and in Markdown unless the user chose them; CSV, JSON and HTML have all."""
_MOST_TELLING = 6
"""Fields in a row's label, at most."""


@dataclass(frozen=True)
class Cell:
    """A cell of the table.

    Args:
        text: the text to show.
        value: number by which the cell is sorted, None for a text.
    """

    text: str
    value: float | None = None


@dataclass
class Comparison:
    """The content that every format shows.

    Args:
        runs: all compared runs.
        fields: the fields of these runs.
        rows: the rows, in the order in which they are shown.
        columns: full names of the fields in which the rows differ.
        metrics: the metrics to show; the first is the main one.
        grouped: whether the user chose the fields that make a row.
        said: notes on the whole comparison, such as folders that could not be read.
        asked: whether the user chose the metrics.
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
        """Columns without the experiment if the rows' names begin with it, as names of run folders do."""
        named = all(row.name.startswith(row.runs[0].experiment) for row in self.rows)
        return [name for name in self.columns if not (named and name == "experiment")]

    @property
    def main(self) -> str:
        """The metric by which the best row of each target is found; "" without any metric."""
        return self.metrics[0] if self.metrics else ""

    def goal(self, metric: str) -> Goal | None:
        """Returns whether lower or higher values of a metric are better, by its name or by what a run says of it."""
        said = (
            run.summary.get("mode")
            for run in self.runs
            if without_split(str(run.summary.get("monitor", ""))) == without_split(metric)
        )
        return goal(metric) or next((mode for mode in said if mode in ("min", "max")), None)

    def by_target(self) -> list[list[Row]]:
        """Returns the finished rows that have the main metric, in one list for each function or data set, best first.

        If the metric has no known goal, the rows keep their order.
        """
        targets: dict[Hashable, list[Row]] = {}
        for row in self.rows:
            if row.finished and row.sample(self.main) is not None:
                targets.setdefault(row.target, []).append(row)
        return [self.best_first(rows) for rows in targets.values()]

    def best_first(self, rows: Sequence[Row]) -> list[Row]:
        """Returns rows that have the main metric, best value first; in their order if the metric has no goal."""
        sign = {"max": -1.0, "min": 1.0, None: 0.0}[self.goal(self.main)]
        return sorted(rows, key=lambda row: sign * row.known_sample(self.main).mean)

    def ranked(self) -> list[Row]:
        """Returns the rows of `by_target` in one list, target after target."""
        return [row for rows in self.by_target() for row in rows]

    def best(self) -> list[Row]:
        """Returns the best row of each target; a target with a single row has one only if there is no other target."""
        if self.goal(self.main) is None:
            return []
        targets = self.by_target()
        return [rows[0] for rows in targets if len(rows) > 1 or len(targets) == 1]

    def telling(self, rows: Sequence[Row]) -> list[str]:
        """Returns the fields that identify each of some rows: the user's choice, or those that distinguish best."""
        return self.columns if self.grouped else most_varied(rows, self.columns, _MOST_TELLING, enough=True)

    def few_columns(self) -> tuple[list[str], list[str]]:
        """Returns the fields shown on the screen and in Markdown, and a sentence about the others if there are any."""
        if self.grouped:
            return self.columns, []
        there = [name for name in self.apart if any(shown(row.values.get(name)) for row in self.rows)]
        columns = most_varied(self.rows, there, _MOST_COLUMNS)
        left = len(self.apart) - len(columns)
        more = "1 more field differs" if left == 1 else f"{left} more fields differ"
        others = [f"{more}; use --format csv, json or html to see all, or --group-by to choose."] if left else []
        return columns, others

    def label(self, row: Row, columns: Sequence[str], longest: int = 90) -> str:
        """Returns what distinguishes a row, such as "depth 5, blocks", or its name if no field does."""
        parts = []
        for name in columns:
            text = shown(row.values.get(name))
            if text:
                bare = text[0].isalpha() and text not in ("true", "false")  # a word needs no field name beside it
                parts.append(text if bare else f"{self.fields.short(name)} {text}")
        state = "" if row.finished else f" ({row.state})"
        return joined(parts or [row.name], longest - len(state)) + state

    def cells(self, columns: Sequence[str]) -> tuple[list[str], list[list[Cell]]]:
        """Returns the header and the cells of the table, row by row.

        Args:
            columns: full names of the fields to show, some of `self.columns`.
        """
        lowest = [LOWEST] * self._has_lowest()
        unfinished = not all(row.finished for row in self.rows)
        header = ["run", *(self.fields.short(name) for name in columns), *["state"] * unfinished, "seeds"]
        header += [*self.metrics[:1], *lowest, *self.metrics[1:]]
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
                if lowest and metric == self.main:
                    best_of = sample.best if sample is not None and sample.n > 1 else None
                    cells.append(Cell("" if best_of is None else number(best_of), best_of))
            body.append(cells)
        return header, body

    def value(self, row: Row, name: str) -> Any:
        """Returns a row's value of a field, a metric, or one of `HEADERS`; None if it has none."""
        sample = row.sample(self.main if name == LOWEST else name)
        if name == LOWEST:
            return sample.best if sample is not None and row.finished else None
        if name == "seeds":
            return row.seeds
        if sample is not None:
            return sample.mean
        return row.name if name in ("run", "name", "source") else row.values.get(name)

    def of_rows(self, rows: list[Row]) -> Comparison:
        """Returns the comparison of some of the rows, with the fields in which they differ and their metrics."""
        kept = {run for row in rows for run in (*row.runs, *row.repeated)}
        varied = [name for name in self.columns if len({comparable(row.values.get(name)) for row in rows}) > 1]
        there = [name for name in self.metrics[1:] if any(row.sample(name) for row in rows)]
        return replace(
            self,
            runs=[run for run in self.runs if run in kept],
            rows=rows,
            columns=self.columns if self.grouped else varied,
            metrics=[*self.metrics[:1], *there],
        )

    def _has_lowest(self) -> bool:
        """Returns whether the lowest seed is shown beside the mean of the main metric, which has to be an error."""
        samples = [row.sample(self.main) for row in self.rows if goal(self.main) == "min" and "/" in self.main]
        return any(sample is not None and sample.best is not None and sample.n > 1 for sample in samples)

    def text(self, row: Row, metric: str) -> str:
        """Returns a metric's mean ± standard error, or for an unfinished run the last logged value in brackets."""
        sample = row.sample(metric)
        if row.finished:
            return mean_and_error(sample) if sample is not None else "not finite" if row.lost(metric) else ""
        if sample is not None:
            return f"({number(sample.mean)})"
        name = _last_logged(row.runs[0], metric)
        return f"({number(row.runs[0].summary[name])} {name})" if name else ""


def _last_logged(run: ComparedRun, metric: str) -> str | None:
    """Returns the name of what an unfinished run last logged for a metric; None if nothing."""
    return next((name for name in stand_ins(metric) if is_number(run.summary.get(name))), None)


def stand_ins(metric: str) -> list[str]:
    """Returns the logged metrics that can stand for a test metric, closest first."""
    last = without_split(metric).rpartition("/")[2]
    between = "_" if "/" not in metric else "/"
    return [f"{part}{between}{last}{ending}" for part in ("val", "train") for ending in ("", "_mean", "_min")]


def compare(
    runs: list[ComparedRun],
    fields: Fields,
    by: Sequence[str] = (),
    metrics: Sequence[str] = (),
    sort: str | None = None,
    descending: bool = False,
) -> Comparison:
    """Returns the comparison of some runs.

    Args:
        runs: the runs to compare, at least one.
        fields: the fields of these runs or of more.
        by: full names of the fields that make a row; by default those in which the runs differ, seeds excluded.
        metrics: the metrics to show, the main one first; by default those of this project that the runs have.
        sort: full name of the field or metric by which rows are sorted, or one of `HEADERS`. By default they are
            sorted by the main metric, best first, target by target.
        descending: whether the order is reversed.
    """
    columns = list(by) or differing(runs)
    rows = make_rows(runs, columns, [*columns, *([sort] if sort else [])])
    shown_metrics = list(metrics) or _default_metrics(runs)
    comparison = Comparison(runs, fields, rows, columns, shown_metrics, grouped=bool(by), asked=bool(metrics))
    first = comparison.ranked()[:: -1 if descending else 1]
    if sort:
        there = [row for row in rows if comparison.value(row, sort) is not None]
        first = sorted(there, key=lambda row: _order(comparison.value(row, sort)), reverse=descending)
    known = set(first)
    comparison.rows = first + [row for row in rows if row not in known]
    return comparison


def _default_metrics(runs: Sequence[ComparedRun]) -> list[str]:
    """Returns the default metrics that the runs have; the main one is that of most finished runs.

    If no run has finished, what the runs logged or the kind of their models decides. Where a run stopped its worse
    seeds early, the best seeds are compared, since the mean is one over seeds that were not trained.
    """
    done = [run for run in runs if run.state == "finished"]

    def evidence(name: str) -> tuple[int, int, int]:
        finished = sum(is_number(run.summary.get(name)) for run in done)
        logged = sum(_last_logged(run, name) is not None for run in runs)
        return finished, logged, sum(_has_kind(run, name) for run in runs)

    first = max(_MAIN, key=evidence)
    own = [] if evidence(first)[0] else _own_metrics(done or runs)
    if own or not any(evidence(first)):
        return own
    there = [name for name in _BESIDES if any(is_number(run.summary.get(name)) for run in runs)]
    if first == "test/mse" and any(halves(run) for run in done):
        first = "test/mse_min"
    return [first, *(name for name in there if name != first)]


def _own_metrics(runs: Sequence[ComparedRun]) -> list[str]:
    """Returns the metrics in the summaries of the user's modules: of the test, or else of the validation.

    The main metric is their `monitor`, or else the first metric with a known direction, losses last.
    """
    runs = [run for run in runs if not str(run.config.get("model.class_path", _OURS)).startswith(_OURS)]
    names = dict.fromkeys(name for run in runs for name, value in run.summary.items() if is_number(value))
    splits = {name: match[1] for name in names if (match := SPLIT.match(name))}
    split = next((one for one in ("test", "val", "valid", "validation") if one in splits.values()), None)
    found = [name for name in splits if splits[name] == split]
    if not found:
        return []
    watched = {without_split(str(run.summary.get("monitor", ""))) for run in runs}
    found.sort(key=lambda name: (without_split(name) not in watched, goal(name) is None, "loss" in name))
    return [*found[:_MOST_OWN], *(name for name in ("parameters", "fit_seconds") if name in names)]


def _has_kind(run: ComparedRun, metric: str) -> bool:
    """Returns whether the model of a run is of the kind that has this metric."""
    kind = str(run.config.get("model.class_path", ""))
    return kind.startswith(_OURS) and kind.endswith("Classifier" if metric == "test/accuracy" else "Regressor")


def _order(value: Any) -> tuple[int, float, str]:
    """Returns a sort key that puts numbers before texts."""
    return (0, float(value), "") if is_number(value) else (1, 0.0, shown(value))
