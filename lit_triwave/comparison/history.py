"""metrics.csv of a run as arrays."""

from __future__ import annotations

from pathlib import Path

import numpy as np

NAN = float("nan")


def read_history(path: Path, notes: list[str]) -> dict[str, np.ndarray]:
    """What was logged, by column.

    Args:
        path: of a metrics.csv; it may be missing, or end in the middle of a row.
        notes: to which is added what could not be read.

    Returns:
        Column name ↦ values by logged row, float64 of shape (rows,), NaN where nothing was logged.
    """
    try:
        header, *lines = path.read_text().splitlines()
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:  # ValueError: no lines, or no text
        if not isinstance(error, OSError) and path.stat().st_size == 0:
            return {}
        notes.append(f"{path.name} is damaged ({' '.join(str(error).split())[:80]})")
        return {}
    names = header.split(",")
    try:
        # All cells as one list: several times faster than the csv module on files that are blank for the most part.
        cells = ",".join(lines).split(",") if lines else []
        if len(cells) != len(names) * len(lines):
            raise ValueError
        table = np.array([float(cell) if cell else NAN for cell in cells])
    except ValueError:
        table = _what_is_whole(lines, len(names), path, notes)
    columns = table.reshape(-1, len(names)).T.copy()
    return dict(zip(names, columns, strict=True))


def _what_is_whole(lines: list[str], width: int, path: Path, notes: list[str]) -> np.ndarray:
    """The rows of which every cell is blank or a number, (rows, width)."""
    rows, damaged = [], 0
    for number, line in enumerate(lines, start=1):
        try:
            row = [float(cell) if cell else NAN for cell in line.split(",")]
        except ValueError:
            row = []
        if len(row) == width:
            rows.append(row)
        elif number < len(lines):  # the last one may be in the writing
            damaged += 1
    if damaged:
        notes.append(f"{path.name} is damaged ({damaged} of {len(lines)} rows left out)")
    return np.array(rows, dtype=float)


def last_values(history: dict[str, np.ndarray]) -> dict[str, float]:
    """The last value that was logged of each column, as Python numbers; whole ones as int."""
    last: dict[str, float] = {}
    for name, values in history.items():
        (logged,) = np.nonzero(np.isfinite(values))
        if len(logged):
            value = float(values[logged[-1]])
            last[name] = int(value) if value.is_integer() and name in ("epoch", "step", "stage") else value
    return last
