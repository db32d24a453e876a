"""A comparison as one HTML file: sortable table and interactive charts, without a server or a network."""

from __future__ import annotations

import json
import re
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from lit_triwave.commands.compare.show.charts import (
    COSTS,
    Axis,
    ceiling,
    coloured,
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
from lit_triwave.commands.compare.table.columns import most_varied
from lit_triwave.commands.compare.table.table import BEST, Cell, Comparison
from lit_triwave.commands.compare.table.verdict import remarks, verdict
from lit_triwave.errors import some

MOST_FIELDS = 6
"""Fields before the metrics; further ones come behind them."""
LONGEST_LABEL = 90
MANY = 100
"""More rows than this have half as many points in a curve."""


def page(comparison: Comparison, curves: Curves) -> str:
    """The whole file: table, charts, and plotly.js itself.

    Args:
        comparison: to be shown.
        curves: of its rows.
    """
    from plotly.offline import get_plotlyjs

    order = drawing_order(comparison)
    first, rest = _curves(curves, coloured(comparison, curves))
    parallel = parallel_rows(comparison)
    best = set(comparison.best())
    axes = parallel_axes(comparison, parallel) if parallel else []
    costs = {}
    for cost, name in COSTS.items():
        found = points(comparison, cost)
        values = {"x": _rounded(found.x), "y": _rounded(found.y), "error": _rounded(found.error)}
        costs[cost] = {"rows": found.rows, "name": name, "log": is_wide(found.x), **values}
    means = points(comparison, comparison.main or "").y
    first |= {
        "order": order,
        "drawable": drawable(comparison, curves),
        "labels": labels(comparison, LONGEST_LABEL),
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
        "table_script": _file("page_table.js"),
        "plotly": get_plotlyjs().replace("</script", "<\\/script"),
        "first": _json(first),
        "rest": _json(rest),
    }
    return re.sub(r"@(\w+)@", lambda match: parts[match[1]], _file("page.html"))


def _file(name: str) -> str:
    return Path(__file__).with_name(name).read_text(encoding="utf-8")


def _json(content: dict[str, Any]) -> str:
    """JSON that can stand inside a script element."""
    return json.dumps(content, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")


def _axis(axis: Axis) -> dict[str, Any]:
    places = [round(place, 4) for place in axis.places]
    return {"title": axis.title, "places": places, "ticks": list(axis.ticks.items()), "rank": axis.rank}


def _rounded(values: np.ndarray) -> list[float | None]:
    """To four digits, which a picture does not tell from all of them; None for what is not finite."""
    return [float(f"{value:.4g}") if np.isfinite(value) else None for value in values.tolist()]


def _curves(curves: Curves, best: list[int]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The curves of the best rows, for the first picture, and those of the others.

    Each is [number of its grid, mean, low, high]; rows that logged at the same steps share a grid.
    """
    grids: dict[bytes, int] = {}
    steps: list[dict[str, list[float | None]]] = [{}, {}]
    found: list[dict[str, Any]] = [{}, {}]
    every = 2 if len(curves.curves) > MANY else 1
    for number, curve in enumerate(curves.curves):
        if curve is None or not len(curve.steps):
            continue
        kept = _every(curve, every)
        grid = grids.setdefault(kept.steps.tobytes(), len(grids))
        part = 0 if number in best else 1
        steps[part][str(grid)] = [float(f"{step:.6g}") for step in kept.steps.tolist()]
        found[part][str(number)] = [grid, _rounded(kept.mean), _rounded(kept.low), _rounded(kept.high)]
    first, rest = ({"curves": found[part], "grids": steps[part]} for part in (0, 1))
    return first, rest


def _every(curve: Curve, every: int) -> Curve:
    """One in so many points, the last one among them."""
    kept = np.arange(len(curve.steps))[::-1][::every][::-1]
    return Curve(curve.steps[kept], curve.mean[kept], curve.low[kept], curve.high[kept])


def _table(comparison: Comparison) -> str:
    """The table; each cell has the value by which it is sorted and filtered where that is not its text.

    Where many fields differ, those that tell the rows apart best stand before the metrics, the others behind them.
    """
    header, body = comparison.cells(comparison.columns)
    fields = range(1, 1 + len(comparison.columns))  # the first column is the run
    first = comparison.columns if comparison.grouped else most_varied(comparison.rows, comparison.apart, MOST_FIELDS)
    near = [1 + comparison.columns.index(name) for name in first]
    metrics = range(1 + len(comparison.columns), len(header))
    shown_order = [0, *near, *metrics, *(column for column in fields if column not in near)]
    numeric = [any(row[column].value is not None for row in body) for column in range(len(header))]
    kinds = ["" if number else ' class="text"' for number in numeric]
    parts = ["<table><thead><tr>"]
    for column in shown_order:
        full = comparison.columns[column - 1] if column in fields else header[column]
        name = f'<button type="button">{escape(header[column])}</button>'
        parts.append(f'<th scope="col"{kinds[column]} title="{escape(full)}">{name}</th>')
    parts.append("</tr></thead><tbody>")
    for number, (row, cells) in enumerate(zip(comparison.rows, body, strict=True)):
        state = "best" if cells[0].text.startswith(BEST) else "" if row.finished else "unfinished"
        parts.append(f'\n<tr data-row="{number}" class="{state}">')
        for column in shown_order:
            value = row.values.get(comparison.columns[column - 1]) if column in fields else None
            if column in metrics and not row.finished and (logged := row.sample(header[column])):
                value = logged.mean  # by which it is filtered, as by --where, and not sorted
            parts.append(f"<td{kinds[column]}{_data(cells[column], value)}>{escape(cells[column].text)}</td>")
        parts.append("</tr>")
    return "".join([*parts, "</tbody></table>"])


def _data(cell: Cell, value: Any) -> str:
    """A cell's number, or what else it has that its text does not say: a list, or a text of which it shows a part."""
    if cell.value is not None:
        return f' data-v="{repr(cell.value).removesuffix(".0")}"'
    if isinstance(value, (list, tuple, dict, float)) or (isinstance(value, str) and value != cell.text):
        return f' data-json="{escape(json.dumps(value, default=str))}"'
    return ""
