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
    where = 'only runs with FIELD OP VALUE, in quotes: "depth>=5"; OP is one of = != < <= > >= and ~, contains'
    add("runs", nargs="+", metavar="RUN", help=_RUNS)
    add("--where", nargs="+", action="extend", default=[], metavar="CONDITION", help=where)
    add("--sort", metavar="FIELD", help="field or metric by which rows are sorted; the main metric by default")
    add("--descending", action="store_true", help="reverse the order")
    add("--group-by", nargs="+", default=[], metavar="FIELD", help="fields that make a row; all that differ by default")
    add("--metrics", nargs="+", default=[], metavar="METRIC", help="metrics to show; the first one decides")
    add("--format", choices=_FORMATS, help="by default given by the ending of --out, else table")
    add("--out", type=Path, metavar="FILE", help="file to write instead of standard output")
    add("--figures", type=Path, metavar="FOLDER", help="folder for PNGs: curves, cost, time, parallel coordinates")
    return parser


def run(args: Sequence[str], started: float) -> int:
    """Runs `compare` with its command line; returns the exit code."""
    asked = _parser().parse_args(list(args))
    form = asked.format or _format_of(asked.out)
    said: list[str] = []
    with _Bars() as bars:
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
        write = _WRITERS[form]
        _put(lambda file: write(comparison, file), asked.out)
    files += [asked.out] if asked.out else []
    for path in filter(Path.is_file, files):  # not pipes
        print(f"written  {path}, {file_size(path)}", file=sys.stdout if asked.out else sys.stderr)
    # A table shows the notes itself.
    if asked.out or form not in ("table", "md") or not _same_place(sys.stdout, sys.stderr):
        for note in notes(comparison):
            print(note, file=sys.stderr)
    return 0


_WRITERS: dict[str, Callable[[Comparison, TextIO], None]] = {
    "table": writers.write_screen,
    "md": writers.write_markdown,
    "csv": writers.write_csv,
    "json": writers.write_json,
}


def _write(file: TextIO, text: str) -> None:
    file.write(text)


def _format_of(out: Path | None) -> str:
    """Returns the format for the ending of a file; `table` without a file.

    Raises:
        TriwaveError: the ending belongs to no format.
    """
    if out is None:
        return "table"
    if out.suffix.lower() not in _ENDINGS:
        near = did_you_mean(out.suffix, _ENDINGS)
        raise TriwaveError(f"--out must end in {', '.join(_ENDINGS)}, got {out}{near}: or give --format")
    return _ENDINGS[out.suffix.lower()]


def _put(write: Callable[[TextIO], None], out: Path | None) -> None:
    """Writes to a file, completely or not at all, or to standard output."""
    if out is not None:
        if out.is_dir():
            raise TriwaveError(f"--out must be a file, got the folder {out}")
        open_folder(out.parent, "give another --out")
        with written_whole(out) as partial, partial.open("w", encoding="utf-8") as file:
            write(file)
        return
    write(sys.stdout)


def _same_place(one: TextIO, other: TextIO) -> bool:
    """Whether two streams are read together, on a terminal or in a file."""
    try:
        return os.path.sameopenfile(one.fileno(), other.fileno())
    except (OSError, ValueError):  # a stream without a file
        return False


class _Bars:
    """Shows the progress of reading, on a terminal."""

    def __init__(self) -> None:
        console = Console(stderr=True)
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        self._progress = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)

    def __enter__(self) -> _Bars:
        self._progress.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._progress.stop()

    def advance(self, name: str) -> Callable[[int, int], None]:
        """Returns a function that is called with the number of finished items and the total."""
        task = self._progress.add_task(name, total=None)
        return lambda done, total: self._progress.update(task, completed=done, total=total)
