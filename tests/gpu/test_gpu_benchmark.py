from __future__ import annotations

import json
import math
import sys
from pathlib import Path

import pytest

from benchmarks import gpu
from benchmarks.gpu_parts import PARTS


def test_the_parts_take_eight_minutes_at_most() -> None:
    assert list(PARTS) == list(gpu.LIMITS)
    assert sum(gpu.LIMITS.values()) <= 8 * 60


@pytest.mark.parametrize("name", PARTS)
def test_a_tiny_version_of_every_part_is_measured_on_the_cpu(tmp_path: Path, name: str) -> None:
    assert gpu.main(["--here", "--parts", name, "--out", str(tmp_path)]) == 0
    (part,) = json.loads((tmp_path / "gpu.json").read_text())["parts"]
    text = (tmp_path / "gpu.md").read_text()
    assert (part["name"], part["state"]) == (name, "done")
    assert part["figures"]
    for figure in part["figures"]:
        assert math.isfinite(figure["value"]), figure
        assert figure["what"] in text


def test_a_late_part_costs_only_its_own_figures_and_is_killed(tmp_path: Path) -> None:
    write = f"open({str(tmp_path / 'slow.jsonl')!r}, 'w').write"
    text = f"""{write}('{{"what": "a", "value": 1, "unit": "s"}}\\n{{"what')\nimport time\ntime.sleep(60)"""
    part = gpu.in_a_process("slow", [sys.executable, "-c", text], 2.0, tmp_path)
    assert (part.state, part.figures) == ("late", [{"what": "a", "value": 1, "unit": "s"}])
    assert part.seconds < 10
    assert "| slow | **late** after" in gpu.table([part])


def test_a_failing_part_says_why(tmp_path: Path) -> None:
    part = gpu.in_a_process("broken", [sys.executable, "-c", "raise ValueError('no such kernel')"], 10.0, tmp_path)
    assert (part.state, part.error, part.figures) == ("failed", "ValueError: no such kernel", [])
    assert "no such kernel" in gpu.table([part])
