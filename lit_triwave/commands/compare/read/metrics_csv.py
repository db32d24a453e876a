"""Reads metrics.csv of a run as arrays."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import numpy as np

from lit_triwave.commands.compare.read.checked import read_bytes, what_fails
from lit_triwave.errors import printable

_MOST_BYTES = 32_000_000
"""Most bytes of a file. Its cells take about thirty times its size in memory."""
_COUNTS = {"epoch", "step", "stage"}
_OF_NUMBERS = b"0123456789.+-eE,\r\n" + b"nanif"  # also nan and inf
_LAST_STEP = 1 << 53
"""Largest whole number; above it, floating-point numbers skip whole numbers."""


class MetricsFile:
    """The metrics that a run logged, read from its metrics.csv when called.

    Args:
        path: the file; it may be missing, or end in the middle of a row.
        notes: list to which a note on each unreadable part is added.
    """

    def __init__(self, path: Path, notes: list[str]) -> None:
        self.path, self.notes = path, notes
        if not self._is_large() and _has_odd_rows(self._content()):
            self()  # notes which rows; a table has many runs, so not all cells of each are read

    def __call__(self, names: Collection[str] | None = None) -> dict[str, np.ndarray]:
        """Returns column name ↦ values by logged row, float64 of shape (rows,), NaN where nothing was logged.

        Args:
            names: columns to read, which is faster than to read all; None for all.
        """
        if self._is_large():
            self._note(f"{self.path.name} has more than {_MOST_BYTES / 1e6:.0f} MB and is left out")
            return {}
        text = self._content().decode()
        header, *lines = text.splitlines() or [""]
        known = header.split(",")
        # All cells as one list: several times faster than the csv module, because most cells are blank.
        cells = ",".join(lines).split(",") if lines else []
        if len(cells) != len(known) * len(lines):
            cells = self._whole(lines, len(known), text.endswith("\n"))
        columns = {}
        for place, name in enumerate(known):
            if name and (names is None or name in names):
                columns[name] = self._numbers(name, cells[place :: len(known)])
        for name in _COUNTS & columns.keys():
            odd = (columns[name] < 0) | (columns[name] > _LAST_STEP)
            if odd.any():
                self._note(f"{self.path.name} is damaged ({name} is {columns[name][odd][0]:g})")
                columns = {other: values[~odd] for other, values in columns.items()}
        return columns

    def _note(self, text: str) -> None:
        if text not in self.notes:
            self.notes.append(text)

    def _is_large(self) -> bool:
        return self.path.is_file() and self.path.stat().st_size > _MOST_BYTES

    def _content(self) -> bytes:
        """Returns the text in the file; nothing if it is missing or, with a note, if it cannot be read."""
        try:
            content = read_bytes(self.path, _MOST_BYTES)
            if "\0" in content.decode():
                raise ValueError("it must be text")
            return content
        except FileNotFoundError:
            pass
        except (OSError, ValueError) as error:
            self._note(f"{self.path.name} is damaged ({what_fails(error)})")
        return b""

    def _whole(self, lines: list[str], width: int, ended: bool) -> list[str]:
        """Returns the cells of the rows that have as many cells as there are columns.

        If the last row has not `ended`, it may still be being written, and its missing cells are no damage.
        """
        whole = [line for line in lines if line.count(",") == width - 1]
        damaged = sum(line.count(",") != width - 1 for line in lines[: None if ended else -1])
        if damaged:
            self._note(f"{self.path.name} is damaged ({damaged} of {len(lines)} rows left out)")
        return ",".join(whole).split(",") if whole else []

    def _numbers(self, name: str, column: list[str]) -> np.ndarray:
        """Returns a column with NaN for blank cells and, with a note, for cells that are not numbers."""
        values = np.full(len(column), np.nan)
        for place, cell in enumerate(column):
            try:
                if cell:
                    values[place] = float(cell)
            except ValueError:
                self._note(f"{self.path.name} is damaged ({printable(name[:40])} is '{printable(cell[:20])}')")
        return values


def _has_odd_rows(content: bytes) -> bool:
    """Returns whether rows that end have too many or few cells, or letters that no number has."""
    header, _, rows = content.partition(b"\n")
    rows = rows[: rows.rfind(b"\n") + 1]
    return bool(rows.translate(None, _OF_NUMBERS)) or rows.count(b",") != rows.count(b"\n") * header.count(b",")


def last_values(history: dict[str, np.ndarray]) -> dict[str, float]:
    """Returns the last logged value of each column as a Python number: epoch, step and stage as int."""
    last: dict[str, float] = {}
    for name, values in history.items():
        (logged,) = np.nonzero(np.isfinite(values))
        if len(logged):
            value = float(values[logged[-1]])
            last[name] = int(value) if value.is_integer() and name in _COUNTS else value
    return last
