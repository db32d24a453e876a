"""The table of `compare` on terminals of several widths."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from lit_triwave.cli import main
from tests.compared_runs import LONG, replicas, write_run


@pytest.fixture
def wide(tmp_path: Path) -> Path:
    """Six runs that differ in many fields, one of them stopped; a table of all fields is 250 columns wide."""
    for number in range(6):
        config = {
            "data.expression": LONG if number % 2 else "sin(x)",
            "model.depth": 4 + number // 2,
            "model.train.lr": 1e-3 * (1 + number // 3),
            "model.polish.epochs": number // 2,
            "model.pretrain.epochs": number,
            "model.wiring": ["difference", "single"][number % 2],
        }
        summary = replicas([1.234e-5 * (1 + number), 9e-7 * (2 + number)])
        summary |= {"test/max_error": 0.036, "parameters": 93, "fit_seconds": 7.5 + number}
        folder = tmp_path / "x3_minus_x" / f"20261125-1449{number:02d}-a490"
        write_run(folder, config, summary, state="stopped" if number == 3 else "finished")
    return tmp_path


def on_a_terminal(width: int, monkeypatch: pytest.MonkeyPatch, capsys: Any, *args: object) -> list[str]:
    """The lines that `compare` shows on a terminal of this width, without colours."""
    for name, value in {"TTY_COMPATIBLE": "1", "TERM": "xterm", "COLUMNS": str(width)}.items():
        monkeypatch.setenv(name, value)
    capsys.readouterr()
    assert main(["compare", *map(str, args)]) == 0
    return re.sub(r"\x1b\[[\d;?]*[A-Za-z]", "", capsys.readouterr().out).splitlines()


@pytest.mark.parametrize("width", [76, 80, 100, 130, 180])
def test_a_table_fits_its_terminal_and_breaks_no_number_and_no_word(
    width: int, wide: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    lines = on_a_terminal(width, monkeypatch, capsys, wide)
    table = [line for line in lines if line[:1] in "┏┃┡│└"]
    assert len(table) <= 4 + 1 + 3 * 6 and max(map(len, table)) <= width
    tokens = {token for line in table for cell in re.split("[┃│]", line) for token in cell.split()}
    for number in range(6):  # whole, in one line
        assert f"20261125-1449{number:02d}-a490" in " ".join(tokens)
    assert "(7.07 ± 5.27)e-06" in "".join(table) and "1.80e-06" in tokens and "seeds" in tokens
    assert tokens & {"finished"} and tokens & {"stopped"}
    assert not tokens & {"m", "x_error", "rs", "conds", "xpression", "ion"}


def test_what_does_not_fit_is_named_and_what_tells_rows_apart_stays_longest(
    wide: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    lines = on_a_terminal(112, monkeypatch, capsys, wide, "--where", "expression=sin(x)")
    (omitted,) = [line for line in lines if line.startswith("Not enough room for ")]
    header = "".join(line for line in lines if line.startswith("┃"))
    assert "depth" in header and "test/mse" in header and "lowest" in header and "max_error" in header
    assert omitted.endswith("; use --format md to see them.")
    for name in omitted.removeprefix("Not enough room for ").partition(";")[0].split(", "):
        assert name not in header
    assert "Not enough room" not in "".join(on_a_terminal(300, monkeypatch, capsys, wide))


def test_fields_that_tell_nothing_go_first_then_costs_then_what_tells_the_rows_apart(
    wide: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    seen = set()
    for width in range(84, 230, 8):
        lines = on_a_terminal(width, monkeypatch, capsys, wide)
        left = " ".join(lines).partition("Not enough room for ")[2].partition(";")[0]
        gone = {name.strip() for name in left.split(",")} - {""}
        metrics, telling = gone & {"test/max_error", "parameters", "fit_seconds"}, gone & {"expression", "depth"}
        assert not telling or len(metrics) == 3
        assert not metrics or "wiring" in gone
        seen.add((bool(gone), bool(metrics), bool(telling)))
    assert seen == {(False, False, False), (True, False, False), (True, True, False), (True, True, True)}


def test_metrics_that_were_asked_for_stay(wide: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    asked = ("test/mse", "fit_seconds", "parameters")
    lines = on_a_terminal(100, monkeypatch, capsys, wide, "--metrics", *asked)
    header = "".join(line for line in lines if line.startswith("┃"))
    assert "seconds" in header and "parameters" in header
