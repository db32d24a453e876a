from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY
from tests.run_command import run_command

README = (REPOSITORY / "README.md").read_text()
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", README, flags=re.DOTALL)


def blocks(language: str) -> list[str]:
    return [text for kind, text in BLOCKS if kind == language]


def commands() -> list[str]:
    return [line for text in blocks("bash") for line in text.splitlines() if line.startswith("python ")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that looks like the repository's root, so that runs are written elsewhere."""
    path = tmp_path_factory.mktemp("readme")
    (path / "configs").symlink_to(REPOSITORY / "configs")
    return path


def run(folder: Path, *args: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    return subprocess.run(
        [sys.executable, *args], cwd=folder, env=environment, capture_output=True, text=True, timeout=500
    )


# One test, in the README's order: `test` and `predict` use the run that `fit` made.
def test_every_command_runs_as_written(folder: Path) -> None:
    assert len(commands()) >= 8
    for line in commands():
        python, m, package, *args = shlex.split(line)
        assert (python, m, package) == ("python", "-m", "lit_triwave")
        done = run_command(args, folder, PYTHONPATH=str(REPOSITORY))
        assert done.returncode == 0, f"{line}\n{done.stderr}"
        assert "Warning" not in done.stderr, f"{line}\n{done.stderr}"
    assert list((folder / "runs" / "x3_minus_x").glob("*/predictions.csv"))
    assert not_ignored(folder) == {"configs"}


def not_ignored(folder: Path) -> set[str]:
    """What git would offer to add of what lies in a folder, were it the repository's root."""
    subprocess.run(["git", "init", "--quiet", folder], check=True)
    (folder / ".git" / "info" / "exclude").write_text((REPOSITORY / ".gitignore").read_text())
    listed = subprocess.run(
        ["git", "-C", folder, "status", "--porcelain", "-z"], check=True, capture_output=True, text=True
    )
    return {line[3:] for line in listed.stdout.split("\0") if line}


def test_no_source_is_ignored() -> None:
    if not (REPOSITORY / ".git").exists():
        pytest.skip("a copy without its history")
    hidden = ["git", "ls-files", "--cached", "--ignored", "--exclude-standard"]
    assert subprocess.run(hidden, cwd=REPOSITORY, check=True, capture_output=True).stdout == b""


def test_make_fit_is_the_first_command(folder: Path) -> None:
    makefile = (REPOSITORY / "Makefile").read_text()
    assert commands()[0].removeprefix("python ") in makefile


@pytest.mark.parametrize("code", blocks("python"))
def test_python_examples_run_as_written(folder: Path, code: str) -> None:
    done = run(folder, "-c", code)
    assert done.returncode == 0, done.stderr


def test_the_table_config_runs_as_written(folder: Path) -> None:
    (config,) = blocks("yaml")
    (folder / "my_table.yaml").write_text(config)
    rows = [f"{w},{h},{1000 + 20 * w * h}" for w in range(20) for h in range(20)]
    (folder / "my_table.csv").write_text("\n".join(["width,height,price", *rows]))
    epochs = ["--model.pretrain.epochs", "20", "--model.train.epochs", "20"]
    done = run(folder, "-m", "lit_triwave", "fit", "--config", "my_table.yaml", *epochs)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("args", [[], ["--help"], ["-h"], ["--version"]])
def test_help_needs_no_torch(folder: Path, args: list[str]) -> None:
    # What makes it answer at once; a time would measure the machine.
    code = f"import sys\nfrom lit_triwave.cli import main\nassert main({args}) == 0\nassert 'torch' not in sys.modules"
    done = run(folder, "-c", code)
    assert done.returncode == 0, done.stderr
    assert done.stdout
