"""The page of `compare`: what it draws, and how a real browser shows it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lit_triwave.cli import main
from lit_triwave.commands.compare.show.charts import LEAST_DISTANCE
from tests.chromium import ENTER, MISSING, WITH_WEBGL, WITHOUT_WEBGL, Chromium
from tests.compared_runs import (
    LONG,
    compared,
    replicas,
    write_diverged,
    write_run,
    write_sweep,
    write_two_functions,
)

DRAWN = "performance.getEntriesByName('parallel-drawn').length"
"""Whether the last chart is drawn."""

Browsers = Callable[[tuple[str, ...]], Chromium]

with_and_without_webgl = pytest.mark.parametrize("arguments", [WITHOUT_WEBGL, WITH_WEBGL], ids=["no_webgl", "webgl"])


def data_of(page: Path) -> dict[str, Any]:
    """What a page's charts draw."""
    found = re.search(r'<script id="data" type="application/json">(.*?)</script>', page.read_text())
    assert found
    content: dict[str, Any] = json.loads(found[1])
    return content


def in_chromium(test: Any) -> Any:
    """Marks a test that needs a browser."""
    return pytest.mark.browser(pytest.mark.skipif(bool(MISSING), reason=MISSING)(test))


@pytest.fixture(scope="module")
def browsers() -> Iterator[Browsers]:
    """One browser for each set of arguments, started when it is first asked for."""
    started: dict[tuple[str, ...], Chromium] = {}

    def browser(arguments: tuple[str, ...]) -> Chromium:
        if arguments not in started:
            started[arguments] = Chromium(*arguments)
        started[arguments].width(1400)
        started[arguments].errors()  # of an earlier test
        return started[arguments]

    yield browser
    for chromium in started.values():
        chromium.__exit__()


@pytest.fixture
def browser(browsers: Browsers) -> Chromium:
    """A browser without WebGL."""
    return browsers(WITHOUT_WEBGL)


def page_of(runs: Path, *args: str) -> Path:
    """The page of all runs in a folder, written beside it."""
    page = runs.parent / "page.html"
    assert main(["compare", str(runs), *args, "--out", str(page)]) == 0
    return page


@pytest.fixture(scope="module")
def sweep_page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of twelve runs in four rows."""
    return page_of(write_sweep(tmp_path_factory.mktemp("sweep") / "runs"))


@pytest.fixture(scope="module")
def awkward_page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of thirty runs with long names."""
    return page_of(write_awkward(tmp_path_factory.mktemp("awkward") / "runs"))


def write_awkward(root: Path) -> Path:
    """Thirty runs of fields with long names and values, near and far apart; every seventh did not finish."""
    random = np.random.default_rng(0)
    for number in range(30):
        config: dict[str, Any] = {
            "data.expression": LONG,
            "data.points": int(random.choice([100, 101, 102, 500, 1000, 50_000])),
            "model.depth": int(random.choice([2, 3, 8, 13])),
            "model.train.lr": float(random.choice([1e-4, 1e-3, 1.1e-3, 0.1])),
            "model.pretrain.lr": float(random.choice([1e-3, 1e-2])),
            "model.channels": [[32, 64], [32, 64, 128]][number % 2],
            "model.pretrain.warmup_fraction_of_epochs": float(random.choice([0.01, 0.02, 0.03, 0.05, 0.1, 0.2])),
            "model.train.optimizer": str(
                random.choice(["AdamW", "lit_triwave.optimizers.LevenbergMarquardtOptimizer"])
            ),
            "model.start": str(random.choice(["a start with a long name", "a start with a longer name yet", "none"])),
            "model.recruit": bool(number % 3),
            "seed_everything": number,
        }
        error = 10 ** float(random.uniform(-7, -1))
        summary = replicas([error, 1.5 * error]) | {
            "parameters": 20 * config["model.depth"],
            "fit_seconds": 2.0 + number,
        }
        curve = "step,train/mse_mean\n" + "".join(
            f"{step},{error * (2 + 100 / (1 + step))}\n" for step in range(0, 99, 3)
        )
        state = "finished" if number % 7 else "running"
        write_run(root / "x3" / f"20261125-1449{number:02d}-a490", config, summary, state, curve)
    return root


def test_axes_of_the_parallel_coordinates_have_ticks_that_do_not_touch(awkward_page: Path) -> None:
    axes = data_of(awkward_page)["parallel"]["axes"]
    assert sorted(axis["rank"] for axis in axes) == list(range(8))
    assert axes[-1]["title"] == ["test/mse"] and axes[-1]["rank"] == 0  # the last to be left out
    for axis in axes:
        places = [place for place, _ in axis["ticks"]]
        assert places == sorted(places) and min(np.diff(places)) >= LEAST_DISTANCE, axis["title"]
        assert min(places) == min(axis["places"]) and max(places) == max(axis["places"])
        assert len(axis["title"]) <= 2 and max(map(len, axis["title"])) <= 16
        assert max(len(text) for _, text in axis["ticks"]) <= 18
    assert any("…" in text and text.endswith("name yet") for axis in axes for _, text in axis["ticks"])


def test_a_diverged_run_is_above_the_axes_of_the_page_too(tmp_path: Path) -> None:
    write_diverged(tmp_path)
    assert main(["compare", str(tmp_path), "--out", str(tmp_path / "page.html")]) == 0
    data = data_of(tmp_path / "page.html")
    assert (data["mainTop"], data["curveTop"]) == (1e-2, 2e-2)


@in_chromium
@with_and_without_webgl
def test_the_page_works_in_a_real_browser_without_a_network(
    sweep_page: Path, browsers: Browsers, arguments: tuple[str, ...]
) -> None:
    page, browser = sweep_page, browsers(arguments)
    depths = "[...document.querySelectorAll('tbody tr')].filter(r => !r.hidden).map(r => r.cells[1].textContent)"
    releases = depths.replace("cells[1]", "cells[2]")
    header = "[...document.querySelectorAll('th')].find(h => h.textContent === 'depth')"
    browser.open(page)
    browser.until(DRAWN)
    assert browser.run(f"return {depths}") == ["6", "6", "5", "5"]  # best first
    assert browser.run("return document.querySelectorAll('tr.best').length") == 1
    # A band and a line for each of the four rows.
    assert browser.run("return document.querySelectorAll('#curves .scatterlayer .trace').length") == 8
    for chart in ("parameters", "fit_seconds"):
        assert browser.run(f"return document.querySelectorAll('#{chart} .points path.point').length") == 4
    if arguments is WITH_WEBGL:
        assert browser.run("return document.querySelectorAll('#parallel .parcoords .y-axis').length") == 3
    else:
        assert browser.run("return document.querySelectorAll('#parallel .scatterlayer path.js-line').length") >= 4
    browser.run(f"{header}.click()")
    assert browser.run(f"return {depths}") == ["5", "5", "6", "6"]
    browser.run(f"{header}.click()")
    assert browser.run(f"return {depths}") == ["6", "6", "5", "5"]
    assert browser.run("return location.hash") == "#descending=depth"
    box = "const box = document.getElementById('filter'); box.value = arguments[0] || "
    browser.run(f"{box}'depth>=6 release=dense'; box.dispatchEvent(new Event('input'))")
    assert browser.until("document.getElementById('count').textContent.startsWith('1 of 4')")
    assert browser.run(f"return [{depths}, {releases}]") == [["6"], ["dense"]]
    assert browser.until("document.querySelectorAll('#curves .scatterlayer .trace').length === 2")
    browser.open(page, "ascending=release&filter=depth=5")  # an address that was sent to someone
    assert browser.run(f"return [{depths}, {releases}]") == [["5", "5"], ["blocks", "dense"]]
    browser.until(DRAWN)
    assert not browser.run(
        "return [...document.querySelectorAll('.modebar-btn')].some(b => /share/i.test(b.dataset.title))"
    )
    assert browser.errors() == []


@in_chromium
def test_odd_names_and_a_comparison_without_curves_make_a_page_without_errors(
    tmp_path: Path, browser: Chromium
) -> None:
    odd = "</script><b>\"&'|`*"
    write_run(tmp_path / "x3" / "a", {"data.expression": odd}, {"test/mse": 0.0})
    write_run(tmp_path / "x3" / "b", {"data.expression": "x"}, {"test/mse": 0.0}, state="failed")
    assert main(["compare", str(tmp_path), "--out", str(tmp_path / "page.html")]) == 0
    browser.open(tmp_path / "page.html")
    browser.until(DRAWN)
    assert browser.errors() == []
    cells = browser.run("return [...document.querySelectorAll('tbody tr')].map(r => r.cells[1].textContent)")
    assert cells == [odd, "x"]


@in_chromium
def test_the_table_does_not_wait_for_plotly(sweep_page: Path, browser: Chromium) -> None:
    browser.open(sweep_page)
    browser.until(DRAWN)
    ready, drawn = (
        browser.run(f"return performance.getEntriesByName('{mark}')[0].startTime")
        for mark in ("table-ready", "curves-drawn")
    )
    assert ready < drawn


@in_chromium
@with_and_without_webgl
def test_no_label_of_the_parallel_coordinates_touches_another_or_is_cut(
    awkward_page: Path, browsers: Browsers, arguments: tuple[str, ...]
) -> None:
    browser = browsers(arguments)
    if arguments is WITH_WEBGL:
        labels = "#parallel .axis-title, #parallel .axis .tick text"
    else:
        labels = "#parallel .annotation-text"
    boxes = f"""return [...document.querySelectorAll('{labels}')].filter(text => text.textContent).map(text => {{
        const box = text.getBoundingClientRect();
        return [text.textContent, box.left, box.right, box.top, box.bottom]; }})"""
    for width, axes in {1920: 8, 1400: 8, 1000: 7, 500: 3}.items():
        browser.width(width)
        browser.open(awkward_page)
        browser.run("document.getElementById('parallel').scrollIntoView()")
        browser.until(DRAWN)
        figure = browser.run(
            "const b = document.getElementById('parallel').getBoundingClientRect(); return [b.left, b.right]"
        )
        found = browser.run(boxes)
        assert sum(text in ("depth", "test/mse") for text, *_ in found) == 2
        titles = browser.run(f"return document.querySelectorAll('{labels.split(',')[0]}').length")
        assert titles == axes or arguments is WITHOUT_WEBGL
        for _, left, right, *_ in found:
            assert figure[0] <= left and right <= figure[1], (width, found)
        for (one, *a), (other, *b) in combinations(found, 2):
            apart = a[1] <= b[0] or b[1] <= a[0] or a[3] <= b[2] + 2 or b[3] <= a[2] + 2
            assert apart, (width, one, other)
    assert browser.errors() == []


CONDITIONS = [
    f"data.expression='{LONG}'",
    "expression~exp",
    "depth>=8",
    "depth < 8",
    "depth != 8",
    "points=1e3",
    "train.lr<=1e-3",
    "channels=128",
    "channels!=128",
    "channels='32, 64'",
    "channels~12",
    "optimizer=LevenbergMarquardtOptimizer",
    "optimizer=lit_triwave.optimizers.LevenbergMarquardtOptimizer",
    "optimizer~levenberg",
    "model.start='a start with a long name'",
    'start!="a start with a long name"',
    "recruit=True",
    "recruit != true",
    "name~144907",
    "test/mse<1e-4",
    "state=running",
    "seeds>=2",
    "lowest<1e-4",
    "optimizer>B",
    "started>2026-11-25",
    "started<='2026-11-25 12:00'",
    "channels=[32, 64, 128]",
    "channels!=[32,64]",
]


@in_chromium
def test_the_filter_means_what_where_means(
    tmp_path: Path, browser: Chromium, capsys: pytest.CaptureFixture[str]
) -> None:
    awkward = write_awkward(tmp_path / "runs")
    write_run(awkward / "x3" / "other", {"data.expression": "x"}, {"test/mse": 1.0})
    for number, path in enumerate(sorted(awkward.rglob("run.json"))):
        record = json.loads(path.read_text()) | {"started": f"2026-11-{24 + number % 2}T{number % 24:02d}:00:00Z"}
        path.write_text(json.dumps(record))
    assert main(["compare", str(awkward), "--group-by", "name", *FIELDS, "--out", str(tmp_path / "page.html")]) == 0
    shown = "[...document.querySelectorAll('tbody tr')].filter(r => !r.hidden)"
    names = f"{shown}.map(r => r.cells[0].textContent.replace('★ ', ''))"
    browser.open(tmp_path / "page.html")
    everything = set(browser.run(f"return {names}"))
    assert len(everything) == 31
    for condition in CONDITIONS:
        browser.run(f"applyFilter({json.dumps(condition)})")
        assert browser.run("return document.getElementById('said').textContent") == "", condition
        left = {run["name"] for run in compared(capsys, awkward, "--where", condition)["runs"]}
        assert left and left != everything
        assert set(browser.run(f"return {names}")) == left, condition
    for two in ('depth>=8 "test/mse < 1e-4"', "'depth >= 8' test/mse<1e-4"):
        browser.run(f"applyFilter({json.dumps(two)})")
        left = {run["name"] for run in compared(capsys, awkward, "--where", "depth>=8", "test/mse<1e-4")["runs"]}
        assert set(browser.run(f"return {names}")) == left
    browser.run("applyFilter('\"with a long name\"')")  # a text with blanks
    left = {run["name"] for run in compared(capsys, awkward, "--where", "start~with a long name")["runs"]}
    assert set(browser.run(f"return {names}")) == left


FIELDS = [
    *("data.expression", "depth", "points", "train.lr", "pretrain.lr", "channels", "optimizer", "start", "recruit"),
    *("model.pretrain.warmup_fraction_of_epochs", "started"),
]


@in_chromium
def test_the_filter_says_what_it_does_not_know(awkward_page: Path, browser: Chromium) -> None:
    wrong = {
        "dept>=5": "dept: no column of the table",
        "depth>=8 modl.depth=5": "modl.depth: no column of the table",
        "qqqqqqqqqqqq=1": "qqqqqqqqqqqq: no column of the table",
        "lr=1": "lr: model.train.lr or model.pretrain.lr? Give more of its name.",
        "depth>many": "depth>many: > takes a number",
        "channels>1": "channels>1: channels has no order; it takes = != ~",
        "depth=>5": "depth=>5: OP is one of = != < <= > >= ~",
    }
    browser.open(awkward_page)
    for text, says in wrong.items():
        browser.run("document.getElementById('filter').value = ''")
        browser.type("#filter", text)
        browser.until(f"document.getElementById('said').textContent.startsWith({json.dumps(says)})", 5)
        assert browser.run("return document.getElementById('filter').matches('.wrong')")
    browser.run("document.getElementById('filter').value = ''")
    browser.type("#filter", "depth=8")
    browser.until("document.getElementById('said').textContent === '' && !document.querySelector('.wrong')")


OTHER_COLOURS = (
    "return [...document.querySelectorAll('#legend i')].slice(1).map(i => getComputedStyle(i).borderTopColor)"
)


@in_chromium
def test_a_row_keeps_its_colour_whatever_is_filtered(tmp_path: Path, browser: Chromium) -> None:
    for number in range(12):  # two more than colours
        curve = "step,train/mse_mean\n0,1\n"
        write_run(tmp_path / "x3" / str(number), {"model.depth": number}, {"test/mse": 1.0 + number}, metrics=curve)
    assert main(["compare", str(tmp_path), "--out", str(tmp_path / "page.html")]) == 0
    colours = "return Object.fromEntries(colours)"
    browser.open(tmp_path / "page.html")
    browser.until(DRAWN)
    before = browser.run(colours)
    assert len(before) == len(set(before.values())) == 10
    assert "2 others" in browser.run("return document.getElementById('legend').textContent")
    for text in ("depth>=1", "depth>=3", "depth>=8", "depth=5", ""):
        browser.run(f"applyFilter({json.dumps(text)}); drawAgain()")
        now = browser.run(colours)
        assert len(now) == len(set(now.values()))
        assert now.items() & before.items() == {item for item in before.items() if item[0] in now}
    assert now == before
    browser.run("applyFilter('depth>=1'); drawAgain()")
    assert browser.run("return document.getElementById('legend').textContent").endswith("1 other")
    assert browser.errors() == []


@in_chromium
def test_headers_and_rows_take_the_keyboard_and_rows_have_one_colour_everywhere(
    sweep: Path, tmp_path: Path, browser: Chromium
) -> None:
    for number in range(9):  # more rows than colours
        summary = {"test/mse": 1e-3 + number, "parameters": 9, "fit_seconds": 1.0}
        write_run(
            sweep / "more" / str(number), {"model.depth": 20 + number}, summary, metrics="step,train/mse_mean\n0,1\n"
        )
    assert main(["compare", str(sweep), "--out", str(tmp_path / "page.html")]) == 0
    depths = "[...document.querySelectorAll('tbody tr')].map(r => r.cells[1].textContent)"
    colour = "getComputedStyle(document.querySelector('#legend i')).borderTopColor"
    browser.open(tmp_path / "page.html")
    browser.until(DRAWN)
    browser.type("th:nth-child(2) button", ENTER)
    assert browser.run(f"return {depths}")[0] == "5"
    assert browser.run("return document.querySelector('th:nth-child(2)').getAttribute('aria-sort')") == "ascending"
    browser.type("th:nth-child(2) button", ENTER)
    assert browser.run(f"return {depths}")[0] == "28"
    assert browser.run("return document.querySelectorAll('tr.chosen').length") == 10
    browser.type("tbody tr:first-child", ENTER)  # the worst one
    assert browser.run("return document.querySelector('tbody tr').matches('.chosen')")
    assert "28" in browser.run("return document.querySelector('#legend span').textContent")
    assert browser.run(f"return {colour}") not in browser.run(OTHER_COLOURS)
    same = f"[...document.querySelectorAll('#parameters .point')].some(p => p.style.fill === {colour})"
    browser.until(same)
    browser.until(f"[...document.querySelectorAll('#curves .js-line')].some(p => p.style.stroke === {colour})")
    # The row takes the colour of the one that it displaces; the others keep theirs.
    assert browser.run("return document.querySelector('tbody tr').style.getPropertyValue('--chosen')") == "#4f6d2f"
    assert browser.errors() == []


def test_the_best_of_each_function_is_marked_on_the_page(tmp_path: Path) -> None:
    for expression in ("x**3", "sin(x)"):
        for depth in (4, 5):
            config = {"data.expression": expression, "model.depth": depth}
            write_run(tmp_path / "x3" / f"{expression}-{depth}".replace("*", ""), config, {"test/mse": 10.0**-depth})
    assert main(["compare", str(tmp_path), "--out", str(tmp_path / "page.html")]) == 0
    rows = re.findall(r'<tr data-row="\d" class="(\w*)"><td[^>]*>([^<]*)<', (tmp_path / "page.html").read_text())
    assert sorted(rows) == [("", "x3/sin(x)-4"), ("", "x3/x3-4"), ("best", "★ x3/sin(x)-5"), ("best", "★ x3/x3-5")]


@in_chromium
def test_a_bold_line_of_the_page_is_that_of_a_best_row_too(tmp_path: Path, browser: Chromium) -> None:
    write_two_functions(tmp_path)
    assert main(["compare", str(tmp_path), "--out", str(tmp_path / "page.html")]) == 0
    browser.open(tmp_path / "page.html")
    browser.run("document.getElementById('parallel').scrollIntoView()")
    browser.until(DRAWN)
    bold = "document.querySelector('#parallel .js-plotly-plot').data.at(-1).customdata"
    (row,) = browser.run(f"return [...new Set({bold}.filter(row => row !== null))]")
    assert browser.run(f"return document.querySelector('tr[data-row=\"{row}\"]').className") == "best"
    said = browser.run("return document.querySelector('#parallel figcaption').textContent")
    assert (
        said == "Parallel coordinates: a line for each row, dark is best, the best of each function or data set bold."
    )
