"""Says in sentences which row is best, whether its lead exceeds the seeds' spread, and what limits the comparison."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from lit_triwave.commands.compare.read.compared_run import ComparedRun
from lit_triwave.commands.compare.table.cells import mean_and_error, number, shown
from lit_triwave.commands.compare.table.fields import value_of
from lit_triwave.commands.compare.table.rows import TARGET, Row, differing, is_target
from lit_triwave.commands.compare.table.statistics import halves, welch
from lit_triwave.commands.compare.table.table import Comparison
from lit_triwave.errors import is_number, some
from lit_triwave.tracking.private_paths import hidden

_SIGNIFICANT = 0.05
"""p of Welch's test below which a lead is called larger than the seeds' spread."""
MOST_NOTES = 12
"""Notes that are shown."""
_CODE = ("git.commit", "versions.lit_triwave", "versions.torch")
"""Fields of a run's code, which can change the results of the same config."""
_MOST_TARGETS = 8
"""Functions or data sets that get a sentence."""


def verdict(comparison: Comparison) -> list[str]:
    """Returns which row is best by the main metric and whether its lead exceeds the seeds' spread.

    Each target has its own sentence, because errors of different functions cannot be compared.
    """
    main = comparison.main
    targets = comparison.by_target()
    if not targets:
        return [f"No row is the best: no finished run has a finite {main or 'metric'}."]
    if comparison.goal(main) is None:
        return [f"No row is the best: it is not known whether a high or a low {main} is better."]
    if len(targets) == 1:
        return [_of_target(comparison, targets[0], f"Best by {main}")]
    names = _target_names([rows[0] for rows in targets])
    several = [(name, rows) for name, rows in zip(names, targets, strict=True) if len(rows) > 1]
    alone = [name for name, rows in zip(names, targets, strict=True) if len(rows) == 1]
    lines = [f"The rows belong to {len(targets)} functions or data sets; {main} is compared within each."]
    lines += [_of_target(comparison, rows, f"Best for {name}") for name, rows in several[:_MOST_TARGETS]]
    if len(several) > _MOST_TARGETS:
        lines.append(f"{len(several) - _MOST_TARGETS} more functions or data sets; use --where to select some.")
    if alone:
        lines.append(f"Only one row, so nothing to compare: {some(alone)}.")
    return lines


def _of_target(comparison: Comparison, ranked: Sequence[Row], beginning: str) -> str:
    """Returns the sentence about the rows of one target, which are in order, best first."""
    columns = comparison.telling(ranked)
    name = comparison.label(ranked[0], columns)
    if len(ranked) == 1:
        return f"{beginning}: {name}, the only finished row, so there is nothing to compare."
    main = comparison.main
    one, other = (row.known_sample(main) for row in ranked[:2])
    lead = abs(one.mean - other.mean)
    text = f"{beginning}: {name}, {mean_and_error(one)}; "
    text += f"its lead over the next, {comparison.label(ranked[1], columns)}, is {number(lead)}"
    if lead == 0:
        return f"{text}: they are equal."
    n = f"n = {one.n} and {other.n}"
    p = welch(one, other)
    if p is None:
        if any(sample.n < row.seeds for sample, row in zip((one, other), ranked, strict=False)):
            return f"{text}; a run of many seeds has one {main}, so the lead may be chance."
        return f"{text}; without a spread over the seeds ({n}) the lead may be chance."
    larger = "larger" if p < _SIGNIFICANT else "not larger"
    text = f"{text}, {larger} than the seeds' spread (Welch's t-test, {n}, p = {p:.2g}"
    chosen = f", not corrected for choosing among {len(ranked)} rows" if len(ranked) > 2 else ""
    return f"{text}{chosen})."


def _target_names(rows: Sequence[Row]) -> list[str]:
    """Returns names of the targets of rows, each with as many fields as distinguish it; rows have different targets."""
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
    return [text or "unnamed target" for text in texts]


def remarks(comparison: Comparison, most: int | None = MOST_NOTES) -> list[str]:
    """Returns what limits the comparison: rows and runs that are not included, mixed rows, and `most` of the notes."""
    lines = []
    main = comparison.main
    rows = comparison.rows
    unfinished = sum(not row.finished for row in rows)
    if unfinished:
        lines.append(
            f"{unfinished} of {len(comparison.runs)} runs did not finish: the values in brackets are the last ones "
            "logged. These runs are never the best and are not included in means."
        )
    without = [row for row in rows if row.finished and main and row.sample(main) is None]
    if without and comparison.by_target():
        names = [run.name for row in without for run in row.lost(main)]
        names += [row.name for row in without if not row.lost(main)]
        lines.append(f"{main} is missing or not finite, so not compared (--metrics names another): {some(names)}.")
    mixed = [difference for row in rows if (difference := [*_mixed_code(row), *differing(row.runs)])]
    if mixed:
        names = list(dict.fromkeys(name for difference in mixed for name in difference))
        lines.append(f"{len(mixed)} of {len(rows)} rows pool runs that differ in more than the seed: {some(names)}.")
    copies = [hidden(run.source) for row in rows for run in row.repeated]
    if copies:
        lines.append(f"Copies of runs, which are included once: {some(copies)}.")
    again = [" and ".join(run.name for run in runs) for row in rows for runs in row.same_again if runs[1:]]
    if again:
        lines.append(f"Runs of the same config and seed, which are averaged and add no seeds: {some(again)}.")
    exchanged = sum(any(_exchanges(run) for run in row.runs) for row in rows)
    if exchanged:
        lines.append(
            f"{exchanged} of {len(rows)} rows were polished with exchange: their seeds are not independent, so their "
            "spread says little."
        )
    halved = sum(any(halves(run) for run in row.runs) for row in rows)
    if halved:
        best = "test/mse_min"
        then = f"the best seeds are compared ({best})" if main == best else f"--metrics {best} is more telling"
        lines.append(
            f"{halved} of {len(rows)} rows stopped their worse seeds early (limit.halving): their means and spreads "
            f"say little, so {then}."
        )
    return lines + notes(comparison, most)


def notes(comparison: Comparison, most: int | None = MOST_NOTES) -> list[str]:
    """Returns what could not be read or is unknown here, such as damaged files and newer formats; all with None."""
    names = Counter(run.name for run in comparison.runs)
    found = [
        f"{run.name if names[run.name] == 1 else run.source}: {note}" for run in comparison.runs for note in run.notes
    ]
    found += comparison.said
    more = len(found[most:]) if most else 0
    return found[:most] + [f"more notes: {more}; use --format json to see all."] * bool(more)


def _mixed_code(row: Row) -> list[str]:
    """Returns the fields of `_CODE` in which the runs of a row are known to differ."""
    return [name for name in _CODE if len({run.about.get(name) for run in row.runs} - {None}) > 1]


def _exchanges(run: ComparedRun) -> bool:
    """Returns whether a run replaced its worse seeds by copies of better ones."""
    asked = (run.config.get("model.polish.epochs"), run.config.get("model.polish.exchange"))
    return all(is_number(value) and value > 0 for value in asked) and run.summary.get("replicas", 1) != 1
