"""In a sentence: which row is best, and whether its lead is larger than the seeds' spread."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from lit_triwave.commands.compare.read.compared_run import ComparedRun
from lit_triwave.commands.compare.table.cells import mean_and_error, number, shown
from lit_triwave.commands.compare.table.fields import is_number, value_of
from lit_triwave.commands.compare.table.rows import TARGET, Row, is_target, setting
from lit_triwave.commands.compare.table.statistics import Sample, welch
from lit_triwave.commands.compare.table.table import Comparison
from lit_triwave.errors import some
from lit_triwave.tracking.metric_goals import goal
from lit_triwave.tracking.private_paths import hidden

SIGNIFICANT = 0.05
"""A smaller p of Welch's test is called larger than the seeds' spread."""
MOST_NOTES = 12
CODE = ("git.commit", "versions.lit_triwave", "versions.torch")
"""What may make another number of the same config."""
OF_ALL_SEEDS = {"min": "a minimum", "max": "a maximum", "median": "a median"}
"""Last words of metrics that are one number of all seeds, which does not say how far they are spread."""
MOST_TARGETS = 8
"""Functions or data sets of which a sentence is said."""


def verdict(comparison: Comparison) -> list[str]:
    """Which row is best by the main metric, and what its lead over the next one is worth; for each target in a sentence
    of its own, as an error of one function says nothing of another's."""
    main = comparison.main
    targets = comparison.by_target()
    if main is None or not targets:
        return [f"No finished run has {main or 'a metric'}: none is the best."]
    if goal(main) is None:
        return [f"Of {main} neither more nor less is better: no row is marked."]
    if len(targets) == 1:
        return [_of_target(comparison, targets[0], f"Best by {main}")]
    names = target_names([rows[0] for rows in targets])
    several = [(name, rows) for name, rows in zip(names, targets, strict=True) if len(rows) > 1]
    alone = [name for name, rows in zip(names, targets, strict=True) if len(rows) == 1]
    lines = [f"The rows are of {len(targets)} functions or data sets: {main} is compared within each."]
    lines += [_of_target(comparison, rows, f"Best for {name}") for name, rows in several[:MOST_TARGETS]]
    if len(several) > MOST_TARGETS:
        lines.append(f"… and {len(several) - MOST_TARGETS} more; --where picks some.")
    if alone:
        lines.append(f"With one row there is nothing to compare: {some(alone)}.")
    return lines


def _of_target(comparison: Comparison, ranked: Sequence[Row], beginning: str) -> str:
    """What is said of the rows of one target, best first."""
    columns = comparison.telling(ranked)
    name = comparison.label(ranked[0], columns)
    if len(ranked) == 1:
        return f"{beginning}: {name}, the only finished row; there is nothing to compare it with."
    main = comparison.main or ""
    one, other = (_sample(row, main) for row in ranked[:2])
    lead = abs(one.mean - other.mean)
    text = f"{beginning}: {name}, {mean_and_error(one)}; "
    text += f"its lead over the next, {comparison.label(ranked[1], columns)}, is {number(lead)}"
    if lead == 0:
        return f"{text}: both are alike."
    n = f"n = {one.n} and {other.n}"
    p = welch(one, other)
    if p is None:
        ending = main.rpartition("_")[2]
        if ending in OF_ALL_SEEDS and any(row.seeds > 1 for row in ranked[:2]):
            return f"{text}; {OF_ALL_SEEDS[ending]} over seeds has no spread, so it can't be weighed."
        if any(sample.n < row.seeds for sample, row in zip((one, other), ranked, strict=False)):
            return f"{text}; a run of many seeds has one {main}, so nothing tells whether that is more than chance."
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


def target_names(rows: Sequence[Row]) -> list[str]:
    """What the targets of rows are called, each by as many fields as tell it apart; one row of each target."""
    runs = [row.runs[0] for row in rows]
    known = [name for name in dict.fromkeys(name for run in runs for name in run.config) if is_target(name)]
    texts = [""] * len(runs)
    for name in [*(name for name in TARGET if name in known), *(name for name in known if name not in TARGET)]:
        alike = Counter(texts)
        for place, run in enumerate(runs):
            value = shown(value_of(run, name))
            if value and (not texts[place] or alike[texts[place]] > 1):
                value = value if name in TARGET else f"{name.rpartition('.')[2]} in [{value}]"
                texts[place] = ", ".join(filter(None, (texts[place], value)))
    return [text or "no target named" for text in texts]


def remarks(comparison: Comparison) -> list[str]:
    """What else a reader must know: rows that do not count, seeds that are no seeds, runs with notes."""
    lines = []
    main = comparison.main
    if main and goal(main) == "min":
        targets = comparison.by_target()
        for name, rows in zip(target_names([rows[0] for rows in targets]), targets[:MOST_TARGETS], strict=False):
            lowest = [(s.best, row) for row in rows if (s := row.sample(main)) and s.best is not None]
            value, row = min(lowest, key=lambda pair: pair[0], default=(0.0, rows[0]))
            if row is not rows[0]:
                of_it = f" for {name}" if len(targets) > 1 else ""
                label = comparison.label(row, comparison.telling(rows))
                lines.append(f"The lowest {main} of a single seed{of_it}, {number(value)}, is that of {label}.")
    unfinished = sum(not row.finished for row in comparison.rows)
    if unfinished:
        lines.append(
            f"{unfinished} of {len(comparison.runs)} runs did not finish: in brackets what they logged last; they are "
            "never the best and in no mean over seeds."
        )
    without = [
        row.name for row in comparison.rows if row.finished and main and row.sample(main) is None and not row.lost(main)
    ]
    if without and comparison.by_target():
        lines.append(f"Without {main}, so not compared (--metrics names another): {some(without)}.")
    lost = [run.name for row in comparison.rows for run in row.lost(main or "")]
    if lost:
        lines.append(f"{main} is not finite, so their rows have no mean: {some(lost)}.")
    mixed = [row for row in comparison.rows if row.finished and of_several_codes(row)]
    if mixed:
        named = ", ".join(dict.fromkeys(name for row in mixed for name in of_several_codes(row)))
        lines.append(f"{len(mixed)} of {len(comparison.rows)} rows pool runs of different code ({named}).")
    repeated = [hidden(run.source) for row in comparison.rows for run in row.repeated]
    if repeated:
        lines.append(f"There twice, as a copy, and counted once: {some(repeated)}.")
    again = [" and ".join(run.name for run in runs) for row in comparison.rows for runs in row.same_again if runs[1:]]
    if again:
        lines.append(f"Of one config and seed, so no further seeds, and averaged: {some(again)}.")
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
    return lines + notes(comparison)


def notes(comparison: Comparison) -> list[str]:
    """What could not be read of runs, or is not known here: damaged files, a newer layout."""
    names = Counter(run.name for run in comparison.runs)
    found = [
        f"{run.name if names[run.name] == 1 else run.source}: {note}" for run in comparison.runs for note in run.notes
    ]
    found += comparison.said
    more = len(found) - MOST_NOTES
    return found[:MOST_NOTES] + ([f"… and {more} more notes; --format json has all."] if more > 0 else [])


def of_several_codes(row: Row) -> list[str]:
    """In which of `CODE` the runs of a row differ, as far as it is known."""
    return [name for name in CODE if len({run.about.get(name) for run in row.runs} - {None}) > 1]


def _exchanges(run: ComparedRun) -> bool:
    """Whether worse seeds of a run went on from better ones."""
    asked = (run.config.get("model.polish.epochs"), run.config.get("model.polish.exchange"))
    return all(is_number(value) and value > 0 for value in asked) and run.summary.get("replicas", 1) != 1
