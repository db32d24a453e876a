"""The scripts in `examples/` work, here with fewer steps."""

from __future__ import annotations

import re
import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import REPOSITORY


def example(name: str) -> Callable[..., Any]:
    main: Callable[..., Any] = runpy.run_path(str(REPOSITORY / "examples" / name))["main"]
    return main


def test_a_formula() -> None:
    assert example("formula.py")(epochs=8) < 0.05


def test_a_table_of_two_targets(tmp_path: Path) -> None:
    quick = ["--model.limit.epochs", "5", "--model.members", "1", "--model.layers", "[2]", "--model.depth", "4"]
    found = example("table.py")(quick, tmp_path)
    assert {*found} == {"target", "s6"} and min(found.values()) > 0.1


def test_a_folder_of_images(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    quick = ["--model.pretrain.epochs", "2", "--model.train.epochs", "1", "--model.num_nets", "8", "--model.depth", "3"]
    accuracy = example("images.py")([*quick, "--data.workers", "0", "--data.batch_size", "16"], tmp_path, 30)
    assert accuracy > 0.5  # 0.25 by chance
    assert re.search(r"6_\d+.png: [0369], with confidence", capsys.readouterr().out)


def test_a_model_of_ones_own() -> None:
    assert example("own_model.py")(peak_epochs=3, weight_epochs=2) > 0.85
