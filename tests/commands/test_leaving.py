"""The end of the process after a command."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from lit_triwave import __main__ as program

SCRIPT = """
import atexit, sys
import lit_triwave.__main__ as program
import lit_triwave.cli
def main():
    atexit.register(lambda: print("another exit function"))
    {more}
    return 7
lit_triwave.cli.main = main
program.run()
"""


def test_the_process_ends_with_the_code_after_all_other_exit_functions() -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT.format(more="")], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (7, "another exit function\n", "")


def test_what_is_not_yet_in_an_open_file_is_written(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    more = f"global file; file = open({str(path)!r}, 'w'); file.write('not lost')"
    done = subprocess.run([sys.executable, "-c", SCRIPT.format(more=more)], timeout=60)
    assert (done.returncode, path.read_text()) == (7, "not lost")


def test_memory_is_not_freed_unless_a_file_is_open_or_the_command_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    codes: list[int] = []
    monkeypatch.setattr(os, "_exit", codes.append)
    program._leave()
    assert codes == []  # an exception that no one has caught
    monkeypatch.setattr(program, "_codes", [3])
    monkeypatch.setattr(program.gc, "get_objects", lambda: [sys.stdout, 1])
    program._leave()
    assert codes == [3]
    with (tmp_path / "a").open("wb") as file:
        monkeypatch.setattr(program.gc, "get_objects", lambda: [file])
        program._leave()
    assert codes == [3]
