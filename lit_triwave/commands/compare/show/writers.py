"""Writes a comparison as Markdown, CSV and JSON."""

from __future__ import annotations

import csv
import json
from dataclasses import asdict
from typing import Any, TextIO

from lit_triwave.commands.compare.read.compared_run import ComparedRun
from lit_triwave.commands.compare.table.fields import OWN
from lit_triwave.commands.compare.table.rows import Row
from lit_triwave.commands.compare.table.table import BEST, Comparison
from lit_triwave.commands.compare.table.verdict import remarks, verdict
from lit_triwave.files import finite
from lit_triwave.tracking.private_paths import hidden


def write_markdown(comparison: Comparison, file: TextIO) -> None:
    """Writes a Markdown table with the best rows in bold, and the sentences below it."""
    columns, others = comparison.few_columns()
    header, body = comparison.cells(columns)
    rows = [header, ["---"] * len(header)]
    for cells in body:
        bold = "**" if cells[0].text.startswith(BEST) else ""
        rows.append([f"{bold}{_escaped(cell.text)}{bold}" if cell.text else "" for cell in cells])
    file.writelines(f"| {' | '.join(cells)} |\n" for cells in rows)
    file.writelines(f"\n{_escaped(line)}\n" for line in [*verdict(comparison), *remarks(comparison), *others])


def _escaped(text: str) -> str:
    """Escapes a text for Markdown, so that x**3 stays x**3."""
    for sign in "\\|*_<`":
        text = text.replace(sign, "\\" + sign)
    return " ".join(text.split())


def write_csv(comparison: Comparison, file: TextIO) -> None:
    """Writes one line for each run with every known field of its config and summary."""
    names = [name for name in comparison.fields.names if name not in OWN]
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(["name", "experiment", "state", "source", "tags", "row", "counted", "notes", *names])
    for number, row in enumerate(comparison.rows, start=1):
        for run in [*row.runs, *row.repeated]:
            counted = row.finished and run not in row.repeated
            own = [run.name, run.experiment, run.state, hidden(run.source), "; ".join(run.tags), number, counted]
            values = run.summary | run.about | run.config
            writer.writerow([*own, "; ".join(run.notes), *(_plain(values.get(name)) for name in names)])


def _plain(value: Any) -> Any:
    """Returns a value in the form of CSV: lists and dicts as JSON, bools in lower case."""
    if isinstance(value, bool):
        return str(value).lower()
    return json.dumps(value, default=str) if isinstance(value, (list, dict)) else value


def write_json(comparison: Comparison, file: TextIO) -> None:
    """Writes runs and rows with every field and metric, and the sentences."""
    best = set(comparison.best())
    content = {
        "main_metric": comparison.main or None,
        "verdict": verdict(comparison),
        "remarks": remarks(comparison, most=None),
        "rows": [_row(comparison, row) | {"best": row in best} for row in comparison.rows],
        "runs": [_run(run) for run in comparison.runs],
    }
    json.dump(finite(content), file, indent=1, allow_nan=False, default=str)
    file.write("\n")


def _row(comparison: Comparison, row: Row) -> dict[str, Any]:
    names = dict.fromkeys([*comparison.fields.metrics, *comparison.metrics]) if row.finished else {}
    return {
        "name": row.name,
        "state": row.state,
        "fields": row.values,
        "seeds": row.seeds,
        "runs": [run.name for run in row.runs],
        "not_counted_again": [run.name for run in row.repeated],
        "metrics": {
            name: asdict(sample) | {"standard_error": sample.error}
            for name in names
            if (sample := row.sample(name)) is not None
        },
    }


def _run(run: ComparedRun) -> dict[str, Any]:
    names = ("name", "source", "state", "experiment", "config", "summary", "about", "notes", "tags")
    return {name: getattr(run, name) for name in names} | {"source": hidden(run.source)}
