"""`compare`: all runs of one experiment, as an array of jobs leaves them, in one table."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console
from rich.table import Table

from lit_triwave.errors import TriwaveError
from lit_triwave.messages import OneLineParser
from lit_triwave.resuming import flat
from lit_triwave.runs import written_whole

SHOWN = ("test/mse_min", "test/mse_mean", "test/accuracy", "test/loss")
"""Of the summaries; the file has everything."""
MOST_SHOWN = 3  # fields of the configs
PLACES = ("run.", "trainer.", "config")
"""Fields of a config that say where a run was, not what it was."""


def run(args: Sequence[str], started: float) -> int:
    """Parses the command's arguments, writes comparison.csv and shows its main columns; returns the exit code."""
    parser = OneLineParser(prog="python -m lit_triwave compare", description=__doc__)
    parser.add_argument("folder", type=str, help="of an experiment, such as runs/x3")
    folder = Path(parser.parse_args(list(args)).folder)
    rows: list[dict[str, Any]] = []
    found, differing = gather(folder)
    while rows != found:  # another job may be doing the same, with fewer runs, and be the last to write
        rows = found
        write_table(folder / "comparison.csv", rows)
        found, differing = gather(folder)
    Console().print(shown(rows, [*most_varied(rows, differing)[:MOST_SHOWN], *SHOWN]))
    print(folder / "comparison.csv")
    return 0


def gather(folder: Path) -> tuple[list[dict[str, Any]], list[str]]:
    """One row for each finished run of a folder, in the order of their ids: its name, the fields in which the configs
    differ, and its summary. Besides, the names of those fields.

    Raises:
        TriwaveError: there is none.
    """
    runs = [path.parent for path in folder.glob("*/summary.json") if (path.parent / "config.yaml").is_file()]
    runs.sort(key=lambda run: (len(run.name), run.name))  # slurm-7_9 before slurm-7_10
    if not runs:
        raise TriwaveError(f"no finished runs in {folder}/*")
    configs = [flat(yaml.safe_load((run / "config.yaml").read_text())) for run in runs]
    names = dict.fromkeys(name for config in configs for name in config if not name.startswith(PLACES))
    differing = [name for name in names if len({repr(config.get(name)) for config in configs}) > 1]
    rows = [
        {"run": run.name}
        | {name.replace(".init_args", ""): config.get(name) for name in differing}
        | json.loads((run / "summary.json").read_text())
        for run, config in zip(runs, configs, strict=True)
    ]
    return rows, [name.replace(".init_args", "") for name in differing]


def most_varied(rows: list[dict[str, Any]], names: Sequence[str]) -> list[str]:
    """The fields that tell the runs apart best first, without the long names of classes."""
    short = [name for name in names if not name.endswith("class_path")]
    return sorted(short, key=lambda name: -len({repr(row.get(name)) for row in rows}))


def write_table(path: Path, rows: list[dict[str, Any]]) -> None:
    """Rows as CSV; what a row does not have stays empty."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    with written_whole(path) as partial, partial.open("w", newline="") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows)


def shown(rows: list[dict[str, Any]], names: Sequence[str]) -> Table:
    """The runs and some of their columns, those that any of them has."""
    columns = [name for name in names if any(row.get(name) is not None for row in rows)]
    table = Table()
    table.add_column("run", no_wrap=True)
    for name in columns:
        table.add_column(name.rpartition(".")[2], justify="right", overflow="fold")
    for row in rows:
        cells = (row.get(name, "") for name in columns)
        texts = (f"{cell:.3g}" if isinstance(cell, float) else str(cell) for cell in cells)
        table.add_row(row["run"], *texts)
    return table
