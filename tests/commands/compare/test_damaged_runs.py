"""A damaged run folder never stops a comparison: it is shown as damaged, with the reason, and is not included."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from lit_triwave.cli import main
from lit_triwave.commands.compare.read.run_folders import find_run_folders
from tests.compared_runs import compared, write_run

ESCAPE = "\x1b[31mred"
RUN: dict[str, Any] = {"experiment": "x3", "state": "finished", "config": {"model.depth": 5}}
BAD_RECORDS: dict[str, tuple[Any, str]] = {
    "deep": ('{"a":' * 50_000 + "1" + "}" * 50_000, "run.json is damaged (it must be nested at most 50 deep)"),
    "digits": ('{"config": {"model.depth": ' + "9" * 400 + "}}", "a number must be below 2^63"),
    "many digits": ('{"config": {"model.depth": ' + "9" * 5000 + "}}", "run.json is damaged (Exceeds the limit"),
    "surrogate": ('{"config": {"a": "\\ud800"}}', "its texts must be Unicode, got half of a pair"),
    "large": (b" " * 9_000_000, "it must have at most 8 MB"),
    "many": (json.dumps({"config": {"a": [0] * 30_000}}), "it must have at most 20000 values"),
    "long": (RUN | {"tags": ["y" * 20_000]}, "a text must have at most 10000 characters, got 20000"),
    "list": ("[1]", "it must be a mapping"),
    "wandb_id": (RUN | {"wandb_id": ["a"]}, "wandb_id must be text, got ['a']"),
    "id": (RUN | {"id": {"a": 1}}, "id must be text, got {'a': 1}"),
    "state": (
        RUN | {"state": "happy"},
        "state must be one of running, finished, cut short, stopped, failed, got 'happy'",
    ),
    "state's kind": (RUN | {"state": [ESCAPE]}, "got ['\\x1b[31mred']"),
    "tags": (RUN | {"tags": "a"}, "tags must be a list, got 'a'"),
    "config": (RUN | {"config": 3}, "config must be a mapping, got 3"),
    "git": (RUN | {"git": "main"}, "git must be a mapping, got 'main'"),
    "schema": (RUN | {"schema": "two"}, "schema must be a whole number, got 'two'"),
    "null": (RUN | {"config": None}, "run.json is damaged (config must be a mapping, got None)"),
    "null state": (RUN | {"state": None}, "cut short, stopped, failed, got None"),
    "twins": (
        '{"state": "failed", "config": {}, "state": "finished"}',
        "run.json is damaged (it has two values for state)",
    ),
}
BAD_SUMMARIES: dict[str, tuple[Any, str]] = {
    "word": ({"test/mse": "oops"}, "test/mse must be a number from 0 to 1e+100, got 'oops'"),
    "large number": ({"test/mse": 1e308}, "test/mse must be a number from 0 to 1e+100, got 1e+308"),
    "negative": ({"test/mse": -1.0}, "test/mse must be a number from 0 to 1e+100, got -1.0"),
    "negative mean": ({"test/y/mse_mean": -1e-9}, "test/y/mse_mean must be a number from 0"),
    "twins": ('{"test/mse": 3.0, "test/mse": 1e-9}', "summary.json is damaged (it has two values for test/mse)"),
    "no results": ({"schema": 2}, "summary.json is damaged (it has no results)"),
    "name": ({f"test/{ESCAPE}": "oops"}, "test/\\x1b[31mred must be a number"),
}
LOOP = "a: &a [1]\n" + "".join(
    f"{new}: &{new} [{', '.join([f'*{old}'] * 9)}]\n" for old, new in zip("abcdefg", "bcdefgh", strict=True)
)
BAD_CONFIGS: dict[str, tuple[Any, str]] = {
    "aliases": (LOOP, "config.yaml is damaged (it must have at most 20000 values)"),
    "itself": ("a: &a\n  b: *a\n", "config.yaml is damaged (it must be nested at most 50 deep)"),
    "merges": (LOOP.replace("[", "{<<: [").replace("]", "]}").replace("{<<: [1]}", "{x: 1}"), "are not allowed"),
    "deep yaml": ("a: " + "[" * 50_000, "it must be nested at most 50 deep"),
    "keys": ("1: 2\n", "its keys must be texts"),
    "base 60": ("a: " + "1:" * 400_000 + "1\n", "are not allowed"),
}
BAD_METRICS: dict[str, tuple[Any, str]] = {
    "binary": (bytes(range(1, 256)) * 8, "metrics.csv is damaged (it is no text in UTF-8)"),
    "text": ("step,loss\n1,0.5\n2,low\n", "metrics.csv is damaged (loss is 'low')"),
    "few": ("step,loss\n1,0.5\n2\n", "metrics.csv is damaged (1 of 2 rows left out)"),
    "zeros": (bytes(9000), "metrics.csv is damaged (it must be text)"),
}


def put(file: Path, content: Any) -> None:
    if isinstance(content, bytes):
        file.write_bytes(content)
    else:
        file.write_text(content if isinstance(content, str) else json.dumps(content))


@pytest.fixture
def odd(tmp_path: Path) -> dict[str, str]:
    """Run folders beside those of `sweep`: name ↦ why they are damaged."""
    root, reasons = tmp_path / "runs" / "odd", {}
    for name, cases in {
        "run.json": BAD_RECORDS,
        "summary.json": BAD_SUMMARIES,
        "config.yaml": BAD_CONFIGS,
        "metrics.csv": BAD_METRICS,
    }.items():
        for case, (content, why) in cases.items():
            folder = write_run(root / f"{name} {case}", {"seed_everything": 9}, {"test/mse": 1e-9})
            put(folder / name, content)
            if name == "config.yaml":
                (folder / "run.json").unlink()
            reasons[folder.name] = why
    for name in ("run.json", "summary.json", "metrics.csv"):
        folder = write_run(root / f"pipe {name}", {"seed_everything": 9}, {"test/mse": 1e-9})
        (folder / name).unlink(missing_ok=True)
        os.mkfifo(folder / name)
        reasons[folder.name] = f"{name} is damaged (it must be a regular file)"
    circle = write_run(root / "circle", {"seed_everything": 9}, {"test/mse": 1e-9})
    (circle / "metrics.csv").symlink_to(circle / "metrics.csv")
    reasons["circle"] = "metrics.csv is damaged (Too many levels of symbolic links)"
    return reasons


def test_odd_runs_are_shown_as_damaged_with_the_reason_and_do_not_count(
    sweep: Path, odd: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    began = time.process_time()
    content = compared(capsys, sweep)
    assert time.process_time() - began < 10
    found = {Path(run["source"]).name: run for run in content["runs"] if Path(run["source"]).parent.name == "odd"}
    assert found.keys() == odd.keys()
    for name, why in odd.items():
        assert found[name]["state"] == "damaged", name
        assert any(why in note for note in found[name]["notes"]), (name, found[name]["notes"])
        assert any(why in remark for remark in content["remarks"])
    assert not any("more note" in remark for remark in content["remarks"])
    finished = [row for row in content["rows"] if row["state"] == "finished"]
    assert len(finished) == 4 and sum(row["seeds"] for row in finished) == 12


def test_steps_beyond_counting_leave_the_curves(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = "step,train/mse\n0,3\n1e308,2\n-5,1\n1,1\n"
    write_run(tmp_path / "x3" / "a", metrics=rows, state="failed")
    (run,) = compared(capsys, tmp_path)["runs"]
    assert "metrics.csv is damaged (step is 1e+308)" in run["notes"]
    assert run["summary"]["step"] == 1


@pytest.mark.parametrize("form", ["table", "md", "csv", "json"])
def test_control_characters_of_a_run_reach_no_terminal(
    form: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in range(2):
        run = write_run(
            tmp_path / f"e{ESCAPE}" / f"r{number}", {"model.release": f"{ESCAPE}{number}"}, {"test/mse": 1.0}
        )
        record = json.loads((run / "run.json").read_text())
        record |= {"id": f"\u202e{ESCAPE}{number}", "tags": [ESCAPE], "group": ESCAPE}
        (run / "run.json").write_text(json.dumps(record))
    bad = write_run(tmp_path / f"e{ESCAPE}" / "bad", state=ESCAPE)
    (bad / "metrics.csv").write_text(f"step,{ESCAPE}\n1,{ESCAPE}\n")
    os.makedirs(os.fsencode(tmp_path) + b"/e/\xff")
    write_run(Path(os.fsdecode(os.fsencode(tmp_path) + b"/e/\xff/r")), summary={"test/mse": 2.0})
    capsys.readouterr()
    assert main(["compare", str(tmp_path), "--format", form]) == 0
    said = capsys.readouterr()
    text = said.out + said.err
    assert "\x1b" not in text and "\u202e" not in text and "\\x1b[31mred" in text.replace("\\\\", "\\")
    text.encode()


def test_links_are_followed_to_runs_and_not_through_whole_disks(tmp_path: Path) -> None:
    far, near = tmp_path / "far", tmp_path / "runs"
    for folder in (far / "experiment" / "run", far / "a" / "b" / "c" / "run", near / "own" / "deep" / "down" / "run"):
        folder.mkdir(parents=True)
        (folder / "run.json").write_text("{}")
    (near / "linked").symlink_to(far)
    (near / "process").symlink_to("/proc/self")
    found = [str(folder.relative_to(near)) for folder in find_run_folders(near, [])]
    assert found == ["linked/experiment/run", "own/deep/down/run"]


def test_a_copy_with_a_damaged_file_is_named_by_its_folder_and_its_reason_is_said_once(tmp_path: Path) -> None:
    write_run(tmp_path / "x3" / "a", summary={"test/mse": 1.0})
    shutil.copytree(tmp_path / "x3" / "a", tmp_path / "x3" / "b")
    (tmp_path / "x3" / "b" / "summary.json").write_text("[")
    command = [sys.executable, "-m", "lit_triwave", "compare", str(tmp_path)]
    both = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=60)
    assert both.stdout.count("x3/b: summary.json is damaged") == 1


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize(
    ("command", "code", "says"),
    [
        ("compare", 1, "error: standard output cannot be written: No space left on device\n"),
        ("--version", 0, ""),
        ("--help", 0, ""),
    ],
)
def test_output_that_cannot_be_written_is_told_in_one_line(
    command: str, code: int, says: str, unbuffered: str, tmp_path: Path
) -> None:
    write_run(tmp_path / "x3" / "a", summary={"test/mse": 1.0})
    words = [sys.executable, "-m", "lit_triwave", command, *[str(tmp_path)] * (command == "compare")]
    environment = os.environ | {"PYTHONUNBUFFERED": unbuffered}
    with open("/dev/full", "w") as full:
        done = subprocess.run(words, env=environment, stdout=full, stderr=subprocess.PIPE, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (code, says)
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(words, env=environment, stdout=writing, stderr=subprocess.PIPE, text=True, timeout=60)
    os.close(writing)
    assert (done.returncode, done.stderr) == (0, "")
