"""In a sentence: which row is best, and whether its lead is larger than the seeds' spread."""

from __future__ import annotations

from lit_triwave.comparison.cells import mean_and_error, number
from lit_triwave.comparison.compared_run import ComparedRun
from lit_triwave.comparison.fields import is_number
from lit_triwave.comparison.rows import Row, most_varied, setting
from lit_triwave.comparison.statistics import Sample, welch
from lit_triwave.comparison.table import Comparison
from lit_triwave.goals import goal

SIGNIFICANT = 0.05
"""A smaller p of Welch's test is called larger than the seeds' spread."""
MOST_NOTES = 12


def verdict(comparison: Comparison) -> str:
    """Which row is best by the main metric, and what its lead over the next one is worth."""
    main = comparison.main
    ranked = comparison.ranked()
    if main is None or not ranked:
        return f"No finished run has {main or 'a metric'}: none is the best."
    if goal(main) is None:
        return f"Of {main} neither more nor less is better: no row is marked."
    name = _name(comparison, ranked[0])
    if len(ranked) == 1:
        return f"Best by {main}: {name}, the only finished row; there is nothing to compare it with."
    one, other = _sample(ranked[0], main), _sample(ranked[1], main)
    lead = abs(one.mean - other.mean)
    text = f"Best by {main}: {name}, {mean_and_error(one)}; "
    text += f"its lead over the next, {_name(comparison, ranked[1])}, is {number(lead)}"
    if lead == 0:
        return f"{text}: both are alike."
    n = f"n = {one.n} and {other.n}"
    p = welch(one, other)
    if p is None:
        if one.n == 1 or other.n == 1:
            return f"{text}; with one seed ({n}) nothing tells whether that is more than chance."
        if one.deviation is None or other.deviation is None:
            return f"{text} ({n}); the summaries do not have the spread over their seeds, so it can't be weighed."
        return f"{text} ({n}); neither row's seeds differ at all, so there is no spread to weigh it by."
    larger = "larger" if p < SIGNIFICANT else "not larger"
    text = f"{text}, {larger} than the seeds' spread (Welch's t-test, {n}, p = {p:.2g}"
    chosen = f", not corrected for the choice among {len(ranked)} rows" if len(ranked) > 2 else ""
    return f"{text}{chosen})."


def _sample(row: Row, metric: str) -> Sample:
    sample = row.sample(metric)
    assert sample is not None  # of a ranked row
    return sample


def _name(comparison: Comparison, row: Row) -> str:
    columns = comparison.columns if comparison.grouped else most_varied(comparison.rows, comparison.columns, 6, True)
    return comparison.label(row, columns)


def remarks(comparison: Comparison) -> list[str]:
    """What else a reader must know: rows that do not count, seeds that are no seeds, runs with notes."""
    lines = []
    main = comparison.main
    if main and goal(main) == "min":
        lowest = [(s.best, row) for row in comparison.ranked() if (s := row.sample(main)) and s.best is not None]
        best = comparison.best()
        if len(lowest) > 1:
            value, row = min(lowest, key=lambda pair: pair[0])
            if row is not best:
                name = _name(comparison, row)
                lines.append(f"The lowest {main} of a single seed, {number(value)}, is that of {name}.")
    unfinished = sum(not row.finished for row in comparison.rows)
    if unfinished:
        lines.append(
            f"{unfinished} of {len(comparison.runs)} runs did not finish: in brackets what they logged last; they are "
            "never the best and in no mean over seeds."
        )
    repeated = [run.name for row in comparison.rows for run in row.repeated]
    if repeated:
        lines.append(f"Same config and seed as another run, so not counted again: {_some(repeated)}.")
    exchanged = [row for row in comparison.rows if any(_exchanges(run) for run in row.runs)]
    if exchanged:
        lines.append(
            f"{len(exchanged)} of {len(comparison.rows)} rows were polished with exchange: their seeds are not "
            "independent, and their spread says little."
        )
    if comparison.grouped:
        pooled = [row for row in comparison.rows if len({setting(run) for run in row.runs}) > 1]
        if pooled:
            lines.append(f"{len(pooled)} of {len(comparison.rows)} rows pool runs that differ in more than the seed.")
    notes = [f"{run.name}: {note}" for run in comparison.runs for note in run.notes] + comparison.said
    lines += notes[:MOST_NOTES]
    if len(notes) > MOST_NOTES:
        lines.append(f"… and {len(notes) - MOST_NOTES} more notes; --format json has all.")
    return lines


def _exchanges(run: ComparedRun) -> bool:
    """Whether worse seeds of a run went on from better ones."""
    asked = (run.config.get("model.polish.epochs"), run.config.get("model.polish.exchange"))
    return all(is_number(value) and value > 0 for value in asked) and run.summary.get("replicas", 1) != 1


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
