"""slurm/array.sbatch without SLURM: the job that it submits, and the command that a task starts."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY

LINE = 'configs/x3_minus_x.yaml --model.depth=6 --run.group="two words" --seed_everything=7'


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder in which `sbatch` and `fit` only print the words of their command."""
    (tmp_path / "sbatch").write_text("#!/bin/sh\nprintf '%s\\n' submitted \"$@\"\n")
    (tmp_path / "sbatch").chmod(0o755)
    (tmp_path / "slurm").mkdir()
    (tmp_path / "slurm" / "job.sh").write_text("fit() { printf '%s\\n' fit \"$@\"; }\n")
    return tmp_path


def array(place: Path, *lines: str, **task: str) -> subprocess.CompletedProcess[str]:
    """Calls the script with a list of these lines, as a user or as a task."""
    (place / "list.txt").write_text("\n".join(["# configs", "", *lines, ""]))
    environment = os.environ | {"PATH": f"{place}:{os.environ['PATH']}", "SLURM_SUBMIT_DIR": str(place)} | task
    command = ["slurm/array.sbatch", str(place / "list.txt")]
    return subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, timeout=60)


def task(number: int) -> dict[str, str]:
    return {"SLURM_ARRAY_JOB_ID": "4", "SLURM_ARRAY_TASK_ID": str(number)}


def test_a_list_is_submitted_as_jobs_and_a_task_has_the_words_of_its_line(place: Path) -> None:
    assert "--array=1-2" in array(place, LINE, LINE).stdout.splitlines()
    words = array(place, LINE, LINE, **task(2)).stdout.splitlines()
    assert words[:2] == ["fit", "slurm-4_2"]
    assert words[-3:] == ["--model.depth=6", "--run.group=two words", "--seed_everything=7"]


def test_without_a_list_there_is_a_usage_line(place: Path) -> None:
    done = subprocess.run(["slurm/array.sbatch"], cwd=REPOSITORY, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (2, "usage: slurm/array.sbatch LIST [options of sbatch]\n")


@pytest.mark.parametrize("first", ["# configs", LINE])
def test_a_byte_order_mark_is_no_part_of_the_first_line(place: Path, first: str) -> None:
    (place / "marked.txt").write_text(f"\ufeff{first}\n{LINE}\n")
    environment = os.environ | {"PATH": f"{place}:{os.environ['PATH']}"}
    command = ["slurm/array.sbatch", str(place / "marked.txt")]
    done = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, timeout=60)
    assert f"--array=1-{1 + (first == LINE)}" in done.stdout.splitlines(), done.stderr


@pytest.mark.parametrize(
    ("end", "says"), [("\\", "a backslash must"), ("\\\\\\", "a backslash must"), ("\r", "lines must end")]
)
def test_a_line_that_ends_in_nothing_that_a_word_can_have_is_refused(place: Path, end: str, says: str) -> None:
    for started in ({}, task(1)):
        done = array(place, f"configs/x3_minus_x.yaml --run.group a{end}", **started)
        assert (done.returncode, done.stdout) == (2, "")
        assert f"list.txt, line 3: {says}" in done.stderr
    words = array(place, "configs/x3_minus_x.yaml --run.group a\\\\", **task(1)).stdout.splitlines()
    assert words[-1] == "a\\"


@pytest.mark.parametrize("quote", ["it's", 'say"'])
def test_an_unmatched_quote_is_refused_before_submitting_and_in_the_task(place: Path, quote: str) -> None:
    bad = f"configs/x3_minus_x.yaml --run.group={quote} --seed_everything=7"
    for started in ({}, task(2)):
        done = array(place, LINE, bad, **started)
        assert done.returncode == 2 and done.stdout == ""
        (said,) = done.stderr.splitlines()
        assert "list.txt, line 4: " in said and bad in said
    assert array(place, LINE, bad, **task(1)).returncode == 0  # the other lines' tasks are not concerned


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("configs/x3_minus_x.yaml --model.depth 6 # as in the paper", "line 3: a comment must have a line of its own"),
        ("''", "line 3: no such config: an empty word"),
        ("no\x1b[31m.yaml", "line 3: no such config: no?[31m.yaml"),
        ("configs/x3_minus_x.yaml '\x1b[31m", "must have a second one, got configs/x3_minus_x.yaml '?[31m"),
        ("configs/x3_minus_x.yaml '#\x1b[31m'", "a line of its own, got #?[31m"),
        ("configs/x3_minus_x.yaml --run.group a\0b", "must be a text"),
    ],
)
def test_what_is_no_config_with_its_options_is_refused_before_submitting(place: Path, line: str, says: str) -> None:
    done = array(place, line)
    assert (done.returncode, done.stdout) == (2, "") and says in done.stderr and len(done.stderr.splitlines()) == 1


def test_a_list_that_is_missing_is_said_once(place: Path) -> None:
    done = subprocess.run(
        ["slurm/array.sbatch", place / "no.txt"], cwd=REPOSITORY, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 2 and "no.txt: no such file" in done.stderr and len(done.stderr.splitlines()) == 1
