"""A run folder from an old version of the package (two seeds of x³ − x, depth 2) can still be used."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from lit_triwave.cli import main
from tests.conftest import REPOSITORY
from tests.finished_runs import rows

SAVED = Path(__file__).with_name("earlier_run")


@pytest.fixture
def earlier(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the run folder; its data need no file."""
    monkeypatch.chdir(REPOSITORY)
    folder = tmp_path / "x3_minus_x" / "earlier"
    shutil.copytree(SAVED, folder)
    return folder


@pytest.mark.parametrize("name", ["last", "best", "pretrained"])
def test_an_earlier_checkpoint_is_tested_with_the_result_it_had(earlier: Path, name: str) -> None:
    checkpoint = str(earlier / "checkpoints" / f"{name}.ckpt")
    assert main(["test", "--config", str(earlier / "config.yaml"), "--ckpt_path", checkpoint]) == 0
    if name == "last":
        before, now = (json.loads((run / "summary.json").read_text())["test/mse"] for run in (SAVED, earlier))
        assert now == pytest.approx(before, rel=1e-9)


def test_an_earlier_run_resumes_and_ends_with_the_rows_it_had(earlier: Path) -> None:
    checkpoint = str(earlier / "checkpoints" / "pretrained.ckpt")
    longer = ["--model.polish.epochs", "2", "--run.wandb", "disabled"]
    assert main(["fit", "--config", str(earlier / "config.yaml"), "--ckpt_path", checkpoint, *longer]) == 0
    assert [row["stage"] for row in rows(earlier) if row["stage"]][-1] == "2.0"
    assert len(rows(earlier)) > len(rows(SAVED))


@pytest.mark.lowest
@pytest.mark.parametrize(
    "args", [["inspect"], ["export", "--format", "torch"], ["compare", "--format", "csv"]], ids=lambda args: args[0]
)
def test_an_earlier_run_is_read_by_every_command(earlier: Path, args: list[str], capsys) -> None:
    out = ["--out", str(earlier.parent / ("m.pt" if args[0] == "export" else "figures"))]
    assert main([args[0], str(earlier), *args[1:], *(out if args[0] != "compare" else [])]) == 0
    assert "earlier" in capsys.readouterr().out
