"""The page of `compare`: its content, and how a real browser shows it."""

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
    replicas,
    write_diverged,
    write_run,
    write_sweep,
)

DRAWN = "performance.getEntriesByName('parallel-drawn').length"
"""Whether the last chart is drawn."""

Browsers = Callable[[tuple[str, ...]], Chromium]

with_and_without_webgl = pytest.mark.parametrize("arguments", [WITHOUT_WEBGL, WITH_WEBGL], ids=["no_webgl", "webgl"])


def data_of(page: Path) -> dict[str, Any]:
    """The data of a page's charts."""
    found = re.search(r'<script id="data" type="application/json">(.*?)</script>', page.read_text())
    assert found
    content: dict[str, Any] = json.loads(found[1])
    return content


def in_chromium(test: Any) -> Any:
    """Marks a test that needs a browser."""
    return pytest.mark.browser(pytest.mark.skipif(bool(MISSING), reason=MISSING)(test))


@pytest.fixture(scope="module")
def browsers() -> Iterator[Browsers]:
    """One browser for each set of arguments, started at its first use."""
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
    """The page of all runs in a folder, written next to the folder."""
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
    """Thirty runs with long names and values of fields, close together and far apart; every seventh did not finish."""
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
    assert len(axes) == 8 and axes[-1]["title"] == "test/mse"
    for axis in axes:
        places = [place for place, _ in axis["ticks"]]
        assert places == sorted(places) and min(np.diff(places)) >= LEAST_DISTANCE, axis["title"]
        assert round(places[0], 4) == min(axis["places"]) and round(places[-1], 4) == max(axis["places"])
        assert max(len(text) for text in (axis["title"], *(text for _, text in axis["ticks"]))) <= 18
    assert any("…" in text and text.endswith("name yet") for axis in axes for _, text in axis["ticks"])


def test_a_diverged_run_is_above_the_axes_of_the_page_too(tmp_path: Path) -> None:
    write_diverged(tmp_path)
    assert main(["compare", str(tmp_path), "--out", str(tmp_path / "page.html")]) == 0
    data, text = data_of(tmp_path / "page.html"), (tmp_path / "page.html").read_text()
    assert sorted(y or 0 for _, y, _ in data["costs"]["parameters"]["points"].values()) == [0, 1e-4, 1e-2]
    assert max(y or 0 for _, mean, _, high in data["curves"]["lines"].values() for y in mean + high) == 2e-2
    for top in ("0.01", "0.02"):
        assert f"diverged values above {top} are not shown" in text
    assert data["parallel"]["axes"][-1]["ticks"][-1] == [1.08, "> 0.01"]


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
        assert "WebGL" in browser.run("return document.querySelector('#parallel figcaption').textContent")
    browser.run(f"{header}.click()")
    assert browser.run(f"return {depths}") == ["5", "5", "6", "6"]
    browser.run(f"{header}.click()")
    assert browser.run(f"return {depths}") == ["6", "6", "5", "5"]
    assert browser.run("return location.hash") == "#descending=depth"
    box = "const box = document.getElementById('filter'); box.value = arguments[0] || "
    browser.run(f"{box}'depth=6 release=dense'; box.dispatchEvent(new Event('input'))")
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
def test_no_label_of_the_parallel_coordinates_touches_another_or_is_cut(awkward_page: Path, browsers: Browsers) -> None:
    browser = browsers(WITH_WEBGL)
    boxes = """return [...document.querySelectorAll('#parallel .axis-title, #parallel .axis .tick text')]
        .filter(text => text.textContent).map(text => {
            const box = text.getBoundingClientRect();
            return [text.textContent, box.left, box.right, box.top, box.bottom]; })"""
    for width in (1920, 1400, 500):
        browser.width(width)
        browser.open(awkward_page)
        browser.until(DRAWN)
        left, right = browser.run(
            "const b = document.querySelector('#parallel .plot').getBoundingClientRect(); return [b.left, b.right]"
        )
        found = browser.run(boxes)
        assert {text for text, *_ in found} >= {"depth", "test/mse"}
        for _, start, end, *_ in found:
            assert left <= start and end <= right, (width, found)
        for (one, *a), (other, *b) in combinations(found, 2):
            apart = a[1] <= b[0] or b[1] <= a[0] or a[3] <= b[2] + 2 or b[3] <= a[2] + 2
            assert apart, (width, one, other)
    assert browser.errors() == []


@in_chromium
def test_the_filter_takes_texts_and_values_of_columns(awkward_page: Path, browser: Chromium) -> None:
    browser.open(awkward_page)
    columns = browser.run("return [...document.querySelectorAll('th')].map(h => h.textContent)")
    rows = browser.run("return lines.map(line => [...line.cells].map(cell => cell.textContent))")
    depth, start = columns.index("depth"), columns.index("start")
    wanted = {
        "": lambda cells: True,
        "depth=8": lambda cells: cells[depth] == "8",
        "model.depth=8": lambda cells: cells[depth] == "8",
        "144907": lambda cells: "144907" in cells[0],
        '"A START with a long"': lambda cells: cells[start].startswith("a start with a long"),
        'start="a start with a long name" depth=8': lambda cells: (
            cells[depth] == "8" and cells[start] == "a start with a long name"
        ),
        "state=running": lambda cells: "running" in cells,
        "nothing=5": lambda cells: False,
    }
    for text, keeps in wanted.items():
        browser.run(f"applyFilter({json.dumps(text)})")
        left = browser.run("return lines.filter(l => !l.hidden).map(l => [...l.cells].map(c => c.textContent))")
        assert left == [cells for cells in rows if keeps(cells)], text
        assert browser.run("return document.getElementById('count').textContent") == f"{len(left)} of 30 rows"
        assert bool(left) == (text != "nothing=5")


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
    for text in ("depth=1", "1", "x3/5", ""):
        browser.run(f"applyFilter({json.dumps(text)})")
        now = browser.run(colours)
        assert len(now) == len(set(now.values()))
        assert now.items() & before.items() == {item for item in before.items() if item[0] in now}
    assert now == before
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
