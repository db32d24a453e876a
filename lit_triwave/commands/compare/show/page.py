"""Writes a comparison as one HTML file with a sortable table and interactive charts; needs no server or network."""

from __future__ import annotations

import json
import math
import re
from html import escape
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from lit_triwave.commands.compare.show import charts
from lit_triwave.commands.compare.show.curves import Curves
from lit_triwave.commands.compare.table.table import BEST, Comparison
from lit_triwave.commands.compare.table.verdict import remarks, verdict
from lit_triwave.errors import some

_LONGEST_LABEL = 90
_MANY = 100
"""With more rows than this, curves have half as many points."""


def write_page(curves: Curves, comparison: Comparison, file: TextIO) -> None:
    """Writes the whole HTML file: table, charts and plotly.js itself.

    Args:
        curves: the learning curves of the rows.
        comparison: the rows to show.
        file: the stream to write to.
    """
    from plotly.offline import get_plotlyjs

    number = {row: place for place, row in enumerate(comparison.rows)}
    logarithmic, top = charts.main_scale(comparison)
    costs = {cost: _cost(comparison, cost, top) for cost in charts.COSTS}
    parallel = charts.parallel_rows(comparison)
    axes = [
        {"title": axis.title, "places": np.round(axis.places, 4).tolist(), "ticks": list(axis.ticks.items())}
        for axis in charts.parallel_axes(comparison, parallel)
    ]
    data = {
        "colors": charts.COLORS,
        "order": [number[row] for row in charts.drawing_order(comparison)],
        "drawable": [number[row] for row in charts.drawable(comparison, curves)],
        "labels": list(charts.labels(comparison, _LONGEST_LABEL).values()),
        "finished": [row.finished for row in comparison.rows],
        "main": comparison.main,
        "mainLog": logarithmic,
        "curves": _curves(comparison, curves),
        "costs": costs,
        "parallel": {"rows": [number[row] for row in parallel], "axes": axes},
    }
    against = f"{comparison.main} against {{}}, mean ± standard error over seeds{_omitted(top)}"
    captions = {
        "curves": "Learning curves: mean and range over seeds, the best rows in colour. Click rows of the table to add "
        f"theirs{_omitted(charts.curves_ceiling(curves))}.",
        "parameters": against.format("parameters"),
        "fit_seconds": against.format("the time of the steps"),
        "parallel": "Parallel coordinates: a line for each row, dark is best. Drag along an axis to pick lines, its "
        "title to move it. Without WebGL the browser draws none; compare --figures draws them as PNG.",
    }
    drawn = {"curves": curves.by_row, "parallel": axes} | {cost: content["points"] for cost, content in costs.items()}
    experiments = list(dict.fromkeys(run.experiment for run in comparison.runs))
    parts = {
        "title": escape(f"{len(comparison.runs)} runs of {some(experiments)}"),
        "verdict": "<br>".join(map(escape, verdict(comparison))),
        "remarks": "\n".join(f'<p class="remark">{escape(line)}</p>' for line in remarks(comparison)),
        "charts": "\n".join(_chart(name, caption, bool(drawn[name])) for name, caption in captions.items()),
        "table": _table(comparison),
        "style": _file("page.css"),
        "script": _file("page.js"),
        "plotly": get_plotlyjs().replace("</script", "<\\/script"),
        "data": _json(data),
    }
    file.write(re.sub(r"@(\w+)@", lambda match: parts[match[1]], _file("page.html")))


def _file(name: str) -> str:
    return Path(__file__).with_name(name).read_text(encoding="utf-8")


def _json(content: dict[str, Any]) -> str:
    """Returns JSON that is safe inside a script element."""
    return json.dumps(content, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")


def _chart(name: str, caption: str, drawn: bool) -> str:
    place = '<div class="plot"></div>' if drawn else '<div class="none">The runs lack the data of this chart.</div>'
    return f'<figure id="{name}"><figcaption>{escape(caption)}</figcaption>{place}</figure>'


def _omitted(top: float | None) -> str:
    return "" if top is None else f"; diverged values above {charts.number_text(top)} are not shown"


def _rounded(value: float, top: float = math.inf) -> float | None:
    """Returns a value with four digits, enough for a picture; None if it is not finite or above `top`."""
    return float(f"{value:.4g}") if math.isfinite(value) and value <= top else None


def _cost(comparison: Comparison, cost: str, top: float | None) -> dict[str, Any]:
    """Returns the points of a chart by number of the row, each as [cost, metric, standard error]."""
    found = charts.points(comparison, cost)
    tops = (math.inf, math.inf if top is None else top, math.inf)
    drawn = {n: [*map(_rounded, found[row], tops)] for n, row in enumerate(comparison.rows) if row in found}
    return {"name": charts.COSTS[cost], "log": charts.is_wide([x for x, _, _ in found.values()]), "points": drawn}


def _curves(comparison: Comparison, curves: Curves) -> dict[str, Any]:
    """Returns the curves and their widths by number of the row, and the grids of steps that rows share.

    A curve is [number of its grid, mean, low, high].
    """
    top = charts.curves_ceiling(curves) or math.inf
    widths = charts.line_widths(curves, charts.colours(comparison, curves), 2, 3)
    grids: dict[tuple[float, ...], int] = {}
    lines: dict[int, Any] = {}
    every = 2 if len(comparison.rows) > _MANY else 1
    for number, row in enumerate(comparison.rows):
        if row not in curves.by_row:
            continue
        curve = curves.by_row[row]
        kept = slice((len(curve.steps) - 1) % every, None, every)  # the last point is one of them
        grid = tuple(float(f"{step:.6g}") for step in curve.steps[kept].tolist())
        drawn = (curve.mean, np.minimum(curve.low, top), np.minimum(curve.high, top))
        values = ([_rounded(value, top) for value in line[kept].tolist()] for line in drawn)
        lines[number] = [grids.setdefault(grid, len(grids)), *values]
    return {
        "metric": curves.metric,
        "log": curves.logarithmic,
        "steps": list(grids),
        "lines": lines,
        "widths": {number: widths[row] for number, row in enumerate(comparison.rows) if row in widths},
    }


def _table(comparison: Comparison) -> str:
    """Returns the table. A cell with a number has it as an attribute, by which it is sorted and filtered.

    The fields that best distinguish the rows come before the metrics, the other fields after them.
    """
    first, _ = comparison.few_columns()
    columns = [*first, *(name for name in comparison.columns if name not in first)]
    header, body = comparison.cells(columns)
    titles = ["name", *columns, *header[1 + len(columns) :]]
    order = [*range(1 + len(first)), *range(1 + len(columns), len(header)), *range(1 + len(first), 1 + len(columns))]
    kinds = ["" if any(cells[column].value is not None for cells in body) else ' class="text"' for column in order]
    parts = ["<table><thead><tr>"]
    for column, kind in zip(order, kinds, strict=True):
        name = f'<button type="button">{escape(header[column])}</button>'
        parts.append(f'<th scope="col"{kind} title="{escape(titles[column])}">{name}</th>')
    parts.append("</tr></thead><tbody>")
    for number, (row, cells) in enumerate(zip(comparison.rows, body, strict=True)):
        state = "best" if cells[0].text.startswith(BEST) else "" if row.finished else "unfinished"
        parts.append(f'\n<tr data-row="{number}" class="{state}">')
        for column, kind in zip(order, kinds, strict=True):
            value = cells[column].value
            attribute = "" if value is None else f' data-v="{repr(value).removesuffix(".0")}"'
            parts.append(f"<td{kind}{attribute}>{escape(cells[column].text)}</td>")
        parts.append("</tr>")
    return "".join([*parts, "</tbody></table>"])
