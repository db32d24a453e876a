"""The command line of `compare`."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TextIO

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from lit_triwave.commands.compare.read.sources import read_all
from lit_triwave.commands.compare.show import writers
from lit_triwave.commands.compare.show.screen import write_screen
from lit_triwave.commands.compare.table.fields import Fields
from lit_triwave.commands.compare.table.selection import parse_condition, select, select_rows
from lit_triwave.commands.compare.table.table import HEADERS, Comparison, compare
from lit_triwave.commands.compare.table.verdict import notes
from lit_triwave.commands.quick_parser import QuickParser
from lit_triwave.errors import TriwaveError, did_you_mean
from lit_triwave.files import file_size, open_folder, written_whole

_ENDINGS = {".txt": "table", ".md": "md", ".csv": "csv", ".json": "json", ".html": "html", ".htm": "html"}
_FORMATS = ("table", "md", "csv", "json", "html")
_DESCRIPTION = """\
Compares runs: the fields in which they differ, and their metrics, mean ± standard error over seeds. Runs that differ
only in the seed are one row. The best row is marked, and a sentence says whether its lead may be chance."""

_RUNS = """\
a run's folder, a folder that contains runs at any depth (runs, runs/x3), an offline W&B run, or
wandb:ENTITY/PROJECT[?group=GROUP]"""


def _parser() -> argparse.ArgumentParser:
    """Returns the parser of the command's arguments."""
    parser = QuickParser(prog="python -m lit_triwave compare", description=_DESCRIPTION)
    add = parser.add_argument
    several: dict[str, Any] = {"nargs": "+", "action": "extend", "default": []}
    where = 'only runs with FIELD OP VALUE, in quotes: "depth>=5"; OP is one of = != < <= > >= and ~, contains'
    add("runs", nargs="+", metavar="RUN", help=_RUNS)
    add("--where", **several, metavar="CONDITION", help=where)
    add("--sort", metavar="FIELD", help="field or metric by which rows are sorted; the main metric by default")
    add("--descending", action="store_true", help="reverse the order")
    add("--group-by", **several, metavar="FIELD", help="fields that make a row; all that differ by default")
    add("--metrics", **several, metavar="METRIC", help="metrics to show; the first one decides")
    add("--format", choices=_FORMATS, help="by default given by the ending of --out, else table")
    add("--out", type=Path, metavar="FILE", help="file to write instead of standard output")
    add("--figures", type=Path, metavar="FOLDER", help="folder for PNGs: curves, cost, time, parallel coordinates")
    return parser


def run(args: Sequence[str], started: float) -> int:
    """Runs `compare` with its command line; returns the exit code."""
    asked = _parser().parse_args(list(args))
    form = asked.format or _format_of(asked.out)
    said: list[str] = []
    terminal = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=terminal, transient=True, disable=not terminal.is_terminal) as bars:
        runs = read_all(asked.runs, _advance(bars, "runs"), said)
        fields = Fields(runs)
        conditions = [parse_condition(text, fields) for text in asked.where]
        runs = select(runs, conditions)
        by = [fields.find(name, "--group-by") for name in asked.group_by]
        metrics = [fields.find(name, "--metrics", fields.metrics) for name in asked.metrics]
        sort = fields.find(asked.sort, "--sort", besides=HEADERS) if asked.sort else None
        comparison = compare(runs, fields, by, list(dict.fromkeys(metrics)), sort, asked.descending)
        comparison.said = said
        comparison = select_rows(comparison, conditions)
        write = _WRITERS.get(form)
        if asked.figures or write is None:
            from lit_triwave.commands.compare.show.curves import read_curves

            curves = read_curves(comparison, _advance(bars, "curves"))
    files: list[Path] = []
    if asked.figures:
        from lit_triwave.commands.compare.show.figures import write_figures

        open_folder(asked.figures, "give another to --figures")
        files += write_figures(comparison, curves, asked.figures)
    if write is None:
        from lit_triwave.commands.compare.show.page import write_page

        write = partial(write_page, curves)
    if asked.out:
        if asked.out.is_dir():
            raise TriwaveError(f"--out must be a file, got the folder {asked.out}")
        open_folder(asked.out.parent, "give another --out")
        with written_whole(asked.out) as place, place.open("w", encoding="utf-8") as file:
            write(comparison, file)
        files.append(asked.out)
    else:
        write(comparison, sys.stdout)
    for path in filter(Path.is_file, files):  # not pipes
        print(f"written  {path}, {file_size(path)}", file=sys.stdout if asked.out else sys.stderr)
    # A table shows the notes itself.
    if asked.out or form not in ("table", "md") or not _same_place(sys.stdout, sys.stderr):
        for note in notes(comparison):
            print(note, file=sys.stderr)
    return 0


_WRITERS: dict[str, Callable[[Comparison, TextIO], None]] = {
    "table": write_screen,
    "md": writers.write_markdown,
    "csv": writers.write_csv,
    "json": writers.write_json,
}
"""Writers of the formats but html, whose module takes half a second to import."""


def _format_of(out: Path | None) -> str:
    """Returns the format for the ending of a file; `table` without a file.

    Raises:
        TriwaveError: the ending belongs to no format.
    """
    if out is None:
        return "table"
    if out.suffix.lower() not in _ENDINGS:
        near = did_you_mean(out.suffix, _ENDINGS)
        raise TriwaveError(f"without --format, --out must end in {', '.join(_ENDINGS)}, got {out}{near}")
    return _ENDINGS[out.suffix.lower()]


def _same_place(one: TextIO, other: TextIO) -> bool:
    """Whether two streams are read together, on a terminal or in a file."""
    try:
        return os.path.sameopenfile(one.fileno(), other.fileno())
    except (OSError, ValueError):  # a stream without a file
        return False


def _advance(bars: Progress, name: str) -> Callable[[int, int], None]:
    """Adds a bar; returns a function that is called with the number of finished items and the total."""
    task = bars.add_task(name, total=None)
    return lambda done, total: bars.update(task, completed=done, total=total)
