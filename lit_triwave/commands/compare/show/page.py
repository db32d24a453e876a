"""Writes a comparison as one HTML file with a sortable table and interactive charts; needs no server or network."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from lit_triwave.commands.compare.show.charts import (
    COSTS,
    Axis,
    ceiling,
    curves_ceiling,
    drawable,
    drawing_order,
    is_error,
    is_wide,
    labels,
    parallel_axes,
    parallel_rows,
    points,
)
from lit_triwave.commands.compare.show.curves import Curve, Curves
from lit_triwave.commands.compare.table.cells import shown
from lit_triwave.commands.compare.table.columns import most_varied
from lit_triwave.commands.compare.table.rows import Row
from lit_triwave.commands.compare.table.table import BEST, Cell, Comparison
from lit_triwave.commands.compare.table.verdict import remarks, verdict
from lit_triwave.errors import some

_MOST_FIELDS = 6
"""Fields that stand before the metrics; the others stand behind them."""
_LONGEST_LABEL = 90
_MANY = 100
"""With more rows than this, curves have half as many points."""


def page(comparison: Comparison, curves: Curves) -> str:
    """Returns the whole HTML file: table, charts and plotly.js itself.

    Args:
        comparison: the rows to show.
        curves: the learning curves of these rows.
    """
    from plotly.offline import get_plotlyjs

    order = drawing_order(comparison)
    parallel = parallel_rows(comparison)
    best = set(comparison.best())
    axes = parallel_axes(comparison, parallel) if parallel else []
    costs = {}
    for cost, name in COSTS.items():
        found = points(comparison, cost)
        values = {"x": _rounded(found.x), "y": _rounded(found.y), "error": _rounded(found.error)}
        costs[cost] = {"rows": found.rows, "name": name, "log": is_wide(found.x), **values}
    means = points(comparison, comparison.main or "").y
    data = _curves(curves) | {
        "order": order,
        "drawable": drawable(comparison, curves),
        "labels": labels(comparison, _LONGEST_LABEL),
        "finished": [row.finished for row in comparison.rows],
        "main": comparison.main,
        "mainLog": is_error(comparison, means),
        "mainTop": ceiling(means) if is_error(comparison, means) else None,
        "curveMetric": curves.metric,
        "curveLog": curves.logarithmic,
        "curveTop": curves_ceiling(curves),
        "costs": costs,
        "parallel": {
            "rows": parallel,
            "best": [number for number in parallel if comparison.rows[number] in best],
            "targets": len(comparison.by_target()),
            "axes": [_axis(axis) for axis in axes],
        },
    }
    experiments = list(dict.fromkeys(run.experiment for run in comparison.runs))
    parts = {
        "title": escape(f"{len(comparison.runs)} runs of {some(experiments)}"),
        "verdict": "<br>".join(map(escape, verdict(comparison))),
        "remarks": "\n".join(f'<p class="remark">{escape(line)}</p>' for line in remarks(comparison)),
        "main": escape(comparison.main or ""),
        "table": _table(comparison),
        "style": _file("page.css"),
        "script": _file("page.js"),
        "plotly": get_plotlyjs().replace("</script", "<\\/script"),
        "data": _json(data),
    }
    return re.sub(r"@(\w+)@", lambda match: parts[match[1]], _file("page.html"))


def _file(name: str) -> str:
    return Path(__file__).with_name(name).read_text(encoding="utf-8")


def _json(content: dict[str, Any]) -> str:
    """Returns JSON that is safe inside a script element."""
    return json.dumps(content, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")


def _axis(axis: Axis) -> dict[str, Any]:
    places = [round(place, 4) for place in axis.places]
    return {"title": axis.title, "places": places, "ticks": list(axis.ticks.items()), "rank": axis.rank}


def _rounded(values: np.ndarray) -> list[float | None]:
    """Returns values with four digits, enough for a picture, and None for values that are not finite."""
    return [float(f"{value:.4g}") if np.isfinite(value) else None for value in values.tolist()]


def _curves(curves: Curves) -> dict[str, Any]:
    """Returns the curves by number of the row, and the grids of steps that rows with equal steps share.

    A curve is [number of its grid, mean, low, high].
    """
    grids: dict[bytes, int] = {}
    steps: list[list[float]] = []
    found: dict[str, Any] = {}
    every = 2 if len(curves.curves) > _MANY else 1
    for number, curve in enumerate(curves.curves):
        if curve is None or not len(curve.steps):
            continue
        kept = _every(curve, every)
        grid = grids.setdefault(kept.steps.tobytes(), len(grids))
        if grid == len(steps):
            steps.append([float(f"{step:.6g}") for step in kept.steps.tolist()])
        found[str(number)] = [grid, _rounded(kept.mean), _rounded(kept.low), _rounded(kept.high)]
    return {"curves": found, "grids": steps}


def _every(curve: Curve, every: int) -> Curve:
    """Returns every n-th point of a curve, counted from the last one."""
    kept = np.arange(len(curve.steps))[::-1][::every][::-1]
    return Curve(curve.steps[kept], curve.mean[kept], curve.low[kept], curve.high[kept])


def _table(comparison: Comparison) -> str:
    """Returns the table. A cell whose text is not its value has the value as an attribute.

    The fields that best distinguish the rows stand before the metrics, the other fields behind them.
    """
    header, body = comparison.cells(comparison.columns)
    fields = range(1, 1 + len(comparison.columns))  # the first column is the run
    first = comparison.columns if comparison.grouped else most_varied(comparison.rows, comparison.apart, _MOST_FIELDS)
    near = [1 + comparison.columns.index(name) for name in first]
    metrics = range(1 + len(comparison.columns), len(header))
    shown_order = [0, *near, *metrics, *(column for column in fields if column not in near)]

    def value(row: Row, column: int) -> Any:
        return row.values.get(comparison.columns[column - 1]) if column in fields else None

    classes = []
    for column in range(len(header)):
        cells = [cells[column] for cells in body]
        values = [value(row, column) if column in fields else header[column] for row in comparison.rows]
        classes.append(_kind(cells, values))
    kinds = [f' class="{name}"' if name else "" for name in classes]
    parts = ["<table><thead><tr>"]
    for column in shown_order:
        full = comparison.columns[column - 1] if column in fields else header[column] if column else "name"
        name = f'<button type="button">{escape(header[column])}</button>'
        parts.append(f'<th scope="col"{kinds[column]} title="{escape(full)}">{name}</th>')
    parts.append("</tr></thead><tbody>")
    for number, (row, cells) in enumerate(zip(comparison.rows, body, strict=True)):
        state = "best" if cells[0].text.startswith(BEST) else "" if row.finished else "unfinished"
        parts.append(f'\n<tr data-row="{number}" class="{state}">')
        for column in shown_order:
            attribute = _data(cells[column], value(row, column))
            if column in metrics and not row.finished and (logged := row.sample(header[column])):
                attribute = f' data-logged="{logged.mean!r}"'  # for the filter, not for sorting
            parts.append(f"<td{kinds[column]}{attribute}>{escape(cells[column].text)}</td>")
        parts.append("</tr>")
    return "".join([*parts, "</tbody></table>"])


def _kind(cells: Sequence[Cell], values: Sequence[Any]) -> str:
    """Returns the class of a column: none for numbers, `text`, or `text unordered` for lists and truth values."""
    if any(cell.value is not None for cell in cells):
        return ""
    return "text" if any(isinstance(value, str) for value in values) else "text unordered"


def _data(cell: Cell, value: Any) -> str:
    """Returns the attribute by which a cell is filtered: its number, or the texts that mean its value."""
    if cell.value is not None:
        return f' data-v="{repr(cell.value).removesuffix(".0")}"'
    items = value if isinstance(value, (list, tuple)) else []
    whole = json.dumps(value, default=str) if isinstance(value, (list, tuple, dict)) else str(value)
    texts = list(dict.fromkeys([whole, cell.text, *map(str, items), *map(shown, items)]))
    return "" if value is None or texts == [cell.text] else f' data-is="{escape(json.dumps(texts))}"'
