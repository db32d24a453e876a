"""`python -m benchmarks.functions` on one function with a tiny budget."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import functions
from benchmarks.functions import main
from benchmarks.peers import PEERS, Learned, Peer, Problem

TINY = ["--functions", "xy", "--points", "100", "--test-points", "100", "--predictions", "100", "--effort", "0.05"]
NAMES = [peer.name for peer in PEERS if peer.name != "own-config"]  # which would be a second `fit`


def test_all_installed_peers_learn_the_same_points(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = main([*TINY, "--peers", *NAMES, "--out", str(tmp_path / "table")])
    assert [row["peer"] for row in rows] == [peer.name for peer in PEERS if peer.installed and peer.name in NAMES]
    assert all(row["error"] < 0.9 for row in rows)  # a constant has 1
    assert rows[0]["error"] < 1e-3  # the stack
    assert json.loads((tmp_path / "table.json").read_text())["rows"] == rows
    page = (tmp_path / "table.md").read_text()
    assert all(f"| xy | {row['peer']} | {row['error']:.1e} |" in page for row in rows)
    missing = [peer.name for peer in PEERS if not peer.installed]
    said = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in said if "not installed" in line] == missing


def test_a_peer_that_fails_or_is_missing_leaves_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    peers = (Peer("broken", "", _fail), Peer("absent", "", _fail, "no_such_package"), *PEERS[-1:])
    monkeypatch.setattr(functions, "PEERS", peers)
    rows = main([*TINY, "--out", str(tmp_path / "table")])
    assert [row["peer"] for row in rows] == [PEERS[-1].name]
    said = capsys.readouterr().out
    assert "xy, broken, seed 0 failed: too bad" in said
    assert "absent is left out: it is not installed; pip install -e .[benchmarks]" in said


def test_ctrl_c_keeps_the_rows_that_are_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(functions, "PEERS", (*PEERS[-1:], Peer("interrupted", "", _interrupt), *PEERS[-2:-1]))
    with pytest.raises(SystemExit) as stop:
        main([*TINY, "--out", str(tmp_path / "table")])
    assert stop.value.code == 130
    assert [row["peer"] for row in json.loads((tmp_path / "table.json").read_text())["rows"]] == [PEERS[-1].name]


def _fail(problem: Problem) -> Learned:
    raise RuntimeError("too bad")


def _interrupt(problem: Problem) -> Learned:
    raise KeyboardInterrupt
