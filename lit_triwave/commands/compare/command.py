"""The command line of `compare`."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TextIO

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from lit_triwave.commands.compare.parser import QuickParser
from lit_triwave.commands.compare.read.sources import read_all
from lit_triwave.commands.compare.show import writers
from lit_triwave.commands.compare.table.fields import Fields
from lit_triwave.commands.compare.table.selection import parse_conditions, select, select_rows
from lit_triwave.commands.compare.table.table import HEADERS, Comparison, compare
from lit_triwave.commands.compare.table.verdict import notes
from lit_triwave.errors import TriwaveError, did_you_mean
from lit_triwave.files import file_size, open_folder, written_whole

ENDINGS = {".txt": "table", ".md": "md", ".csv": "csv", ".json": "json", ".html": "html", ".htm": "html"}
FORMATS = ("table", "md", "csv", "json", "html")
DESCRIPTION = """\
Lays runs side by side: the fields in which they differ, and their metrics, mean ± standard error over seeds. Runs that
differ in nothing but the seed are one row; the best row is marked, with a word on whether its lead is chance."""

RUNS = """\
a run's folder, a folder of runs however deep (runs, runs/x3), an offline W&B run, or
wandb:ENTITY/PROJECT[?group=GROUP]"""


def parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    parser = QuickParser(prog="python -m lit_triwave compare", description=DESCRIPTION)
    add = parser.add_argument
    where = 'only runs with FIELD OP VALUE, in quotes: "depth>=5"; OP is one of = != < <= > >= and ~, contains'
    add("runs", nargs="+", metavar="RUN", help=RUNS)
    add("--where", nargs="+", action="extend", default=[], metavar="CONDITION", help=where)
    add("--sort", metavar="FIELD", help="a field or metric to put the rows in order by; the main metric by default")
    add("--descending", action="store_true", help="the other way round")
    add("--group-by", nargs="+", default=[], metavar="FIELD", help="fields that make a row; all that differ by default")
    add("--metrics", nargs="+", default=[], metavar="METRIC", help="to be shown, the one that decides first")
    add("--format", choices=FORMATS, help="by default what the ending of --out says, else table")
    add("--out", type=Path, metavar="FILE", help="instead of standard output")
    add("--figures", type=Path, metavar="FOLDER", help="for PNGs: curves, cost, time, parallel coordinates")
    return parser


def run(args: Sequence[str], started: float) -> int:
    """Parses the command's arguments, reads the runs, writes what was asked for; returns the exit code."""
    asked = parser().parse_args(list(args))
    form = asked.format or format_of(asked.out)
    said: list[str] = []
    with Bars() as bars:
        runs = read_all(asked.runs, bars.advance("runs"), said)
        fields = Fields(runs)
        conditions = parse_conditions(asked.where, fields)
        runs = select(runs, conditions)
        by = [fields.find(name, "--group-by") for name in asked.group_by]
        metrics = [fields.find(name, "--metrics", fields.metrics) for name in asked.metrics]
        sort = fields.find(asked.sort, "--sort", besides=HEADERS) if asked.sort else None
        comparison = compare(runs, fields, by, list(dict.fromkeys(metrics)), sort, asked.descending)
        comparison.said = said
        comparison = select_rows(comparison, conditions)
        drawn = asked.figures or form == "html"
        curves = None
        if drawn:
            from lit_triwave.commands.compare.show.curves import read_curves

            curves = read_curves(comparison, bars.advance("curves"))
    files: list[Path] = []
    if asked.figures:
        from lit_triwave.commands.compare.show.figures import write_figures

        assert curves is not None
        open_folder(asked.figures, "give another to --figures")
        files += write_figures(comparison, curves, asked.figures)
    if form == "html":
        from lit_triwave.commands.compare.show.page import page

        assert curves is not None
        text = page(comparison, curves)
        _put(lambda file: _write(file, text), asked.out)
    else:
        write = WRITERS[form]
        _put(lambda file: write(comparison, file), asked.out)
    files += [asked.out] if asked.out else []
    for path in filter(Path.is_file, files):  # of a pipe there is nothing to be said
        print(f"written  {path}, {file_size(path)}", file=sys.stdout if asked.out else sys.stderr)
    # A table on the terminal has them already.
    if asked.out or form not in ("table", "md") or not (sys.stdout.isatty() and sys.stderr.isatty()):
        for note in notes(comparison):
            print(note, file=sys.stderr)
    return 0


WRITERS: dict[str, Callable[[Comparison, TextIO], None]] = {
    "table": writers.write_screen,
    "md": writers.write_markdown,
    "csv": writers.write_csv,
    "json": writers.write_json,
}


def _write(file: TextIO, text: str) -> None:
    file.write(text)


def format_of(out: Path | None) -> str:
    """The format that a file's ending asks for; `table` without a file.

    Raises:
        TriwaveError: the ending is of none.
    """
    if out is None:
        return "table"
    if out.suffix.lower() not in ENDINGS:
        near = did_you_mean(out.suffix, ENDINGS)
        raise TriwaveError(f"--out {out}: ends in {', '.join(ENDINGS)}, or give --format{near}")
    return ENDINGS[out.suffix.lower()]


def _put(write: Callable[[TextIO], None], out: Path | None) -> None:
    """Writes to a file, whole or not at all, or to standard output, whose reader may leave early."""
    if out is not None:
        if out.is_dir():
            raise TriwaveError(f"--out {out}: a folder; the name of a file is expected")
        open_folder(out.parent, "give another --out")
        with written_whole(out) as partial, partial.open("w", encoding="utf-8") as file:
            write(file)
        return
    try:
        write(sys.stdout)
        sys.stdout.flush()
    except BrokenPipeError:  # `compare … | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


class Bars:
    """How far the reading is, on a terminal."""

    def __init__(self) -> None:
        console = Console(stderr=True)
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        self._progress = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)

    def __enter__(self) -> Bars:
        self._progress.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._progress.stop()

    def advance(self, name: str) -> Callable[[int, int], None]:
        """A function that is told how many are done, of how many."""
        task = self._progress.add_task(name, total=None)
        return lambda done, total: self._progress.update(task, completed=done, total=total)
