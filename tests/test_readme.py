"""The commands and examples of README and documentation work as written, with small settings appended."""

from __future__ import annotations

import inspect
import os
import re
import runpy
import shlex
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

import datamodules
import lit_triwave
from lit_triwave.cli import main
from tests.conftest import REPOSITORY
from tests.image_data import write_folder, write_imagenet

DOCS = REPOSITORY / "docs"
LIGHTNING = ("fit", "validate", "test", "predict")
README = REPOSITORY / "README.md"
PAGES = [README, *sorted(DOCS.rglob("*.md"))]
TINY = ["--model.pretrain.epochs", "2", "--model.train.epochs", "2"]
FEW = [*TINY, "--model.polish.epochs", "1", "--data.test_points", "101"]
IMAGES = ["--model.num_nets", "8", "--model.depth", "2", "--model.pretrain.epochs", "1", "--model.train.epochs", "1"]
SMALL = {
    "configs/x3_minus_x.yaml": [*FEW, "--model.replicas", "2"],
    "configs/stack.yaml": ["--model.layers", "[2, 2]", "--model.limit.epochs", "5", "--data.points", "200"],
    "configs/table.yaml": ["--model.layers", "[2, 2]", "--model.members", "2", "--model.limit.epochs", "4"],
    "configs/functions/x3.yaml": [*FEW, "--model.replicas", "2"],
    "configs/digits.yaml": [*IMAGES, "--model.channels", "[4,8]"],
    "configs/baselines/digits.yaml": ["--model.channels", "[4,8]", "--model.width", "16", "--model.train.epochs", "1"],
    "configs/image_folder.yaml": [
        *IMAGES,
        "--model.channels",
        "[4,8]",
        "--data.image_size",
        "16",
        "--data.workers",
        "0",
    ],
    "pendulum.yaml": TINY,
    "diagonal.yaml": [*TINY, "--data.test_points", "101"],
    "mixture.yaml": [*TINY, "--data.test_points", "101"],
}
"""Arguments by the first config of a command; other configs get `TINY`."""


class Block(NamedTuple):
    """A fenced block of a page.

    Attributes:
        language: after the fence; `bash` is run, `sh` needs a cluster, data or another system.
        file: name of the file that it stands for, "" for none.
        text: of the block.
    """

    language: str
    file: str
    text: str


def blocks(page: Path) -> list[Block]:
    found = re.findall(r'^```(\w+)(?: title="(.+?)")?\n(.*?)^```$', page.read_text(), flags=re.DOTALL | re.MULTILINE)
    return [Block(*parts) for parts in found]


def commands(page: Path) -> list[str]:
    return [line for block in blocks(page) if block.language == "bash" for line in block.text.splitlines()]


def runs_whole(page: Path, line: str) -> bool:
    """Whether a command is run. For other commands, which have separate tests, only the arguments are checked."""
    if page.name in ("README.md", "extending.md") or page.parent.name == "tutorials":
        return True
    cheap = any(word in line for word in (" compare ", " test ", " predict ", " export ", "one_batch", "--help"))
    return page.name == "resume.md" or (cheap and "onnx" not in line)


def runs_before(page: Path) -> list[str]:
    """The commands of the README that make the runs for a page's commands."""
    read = " ".join(line for line in commands(page) if runs_whole(page, line) and " fit " not in line)
    makers: dict[str, str] = {}
    for line in commands(README):
        if name := re.search(r" fit .*--run.experiment (\w+)| fit --config configs/(\w+).yaml$", line):
            makers.setdefault(name[1] or name[2], line)
    return [line for name, line in makers.items() if page != README and re.search(rf"\b{name}\b", read)]


def arguments(line: str) -> list[str]:
    """Returns the arguments of a command, with further ones that make it fast."""
    python, m, package, command, *args = shlex.split(line)
    assert (python, m, package) == ("python", "-m", "lit_triwave"), line
    if command in LIGHTNING and "--config" in args:
        args += SMALL.get(args[args.index("--config") + 1], TINY if "baselines" not in line else TINY[2:])
    return [command, *args]


def check_arguments(line: str, capfd: pytest.CaptureFixture[str]) -> None:
    """Checks the arguments with the command's parser, or finds the options in its help."""
    command, *args = arguments(line)
    if command in LIGHTNING:
        assert main([command, *args, "--print_config"]) == 0, line
        capfd.readouterr()
        return
    capfd.readouterr()
    assert main([command, "--help"]) == 0
    known = capfd.readouterr().out
    for word in args:
        if word.startswith("--") and "." not in word:
            assert word in known, f"{line}: {word}"
        if word.startswith("configs/"):
            assert (REPOSITORY / word).is_file(), line


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder like the repository's root, with data of a user, so that runs are not written to the repository."""
    path = tmp_path_factory.mktemp("readme")
    (path / "configs").symlink_to(REPOSITORY / "configs")
    rows = [f"{w},{h},{1000 + 20 * w * h}" for w in range(8) for h in range(8)]
    (path / "my_table.csv").write_text("\n".join(["width,height,price", *rows]))
    (path / "my_questions.csv").write_text("width,height\n3,4\n")
    write_imagenet(path / "my_images", classes=6)
    write_folder(path / "my_photos", {"2026": 2})
    return path


@pytest.fixture(scope="module")
def finished() -> set[str]:
    """Commands that an earlier page has already run; pages share their runs."""
    return set()


# In this order, on one worker: pages use the runs of the pages before.
@pytest.mark.xdist_group("documentation")
@pytest.mark.parametrize(
    "page", [page for page in PAGES if commands(page)], ids=lambda page: page.relative_to(REPOSITORY).as_posix()
)
def test_every_command_runs_as_written(
    page: Path,
    folder: Path,
    finished: set[str],
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(folder)
    for block in blocks(page):
        if block.file:
            (folder / block.file).write_text(block.text)
    before = runs_before(page)
    for line in [*before, *commands(page)]:
        if not runs_whole(page, line) and line not in before:
            check_arguments(line, capfd)
        elif line not in finished:
            code, said = main(arguments(line)), capfd.readouterr().err
            assert code == 0, f"{line}\n{said}"
            assert "Warning" not in said, f"{line}\n{said}"
            finished.add(line)


@pytest.mark.xdist_group("documentation")
def test_what_commands_write_is_ignored_by_git(folder: Path, finished: set[str]) -> None:
    if not finished:
        pytest.skip("no command was run before")
    subprocess.run(["git", "init", "--quiet", folder], check=True)
    (folder / ".git" / "info" / "exclude").write_text((REPOSITORY / ".gitignore").read_text())
    status = ["git", "-C", str(folder), "status", "--porcelain", "-z"]
    listed = subprocess.run(status, check=True, capture_output=True, text=True).stdout
    ours = {"configs", "my_images/", "my_photos/", "my_table.csv", "my_questions.csv"}
    examples = {block.file for page in PAGES for block in blocks(page)}
    assert {line[3:] for line in listed.split("\0") if line} <= ours | examples


def test_no_source_is_ignored() -> None:
    if not (REPOSITORY / ".git").exists():
        pytest.skip("a copy without its history")
    hidden = ["git", "ls-files", "--cached", "--ignored", "--exclude-standard"]
    assert subprocess.run(hidden, cwd=REPOSITORY, check=True, capture_output=True).stdout == b""


def test_make_fit_is_the_first_command() -> None:
    makefile = (REPOSITORY / "Makefile").read_text()
    assert commands(README)[0].removeprefix("python ") in makefile


@pytest.mark.parametrize(
    "code",
    [
        pytest.param(block.text, id=f"{page.stem}-{number}")
        for page in PAGES
        for number, block in enumerate(blocks(page))
        if block.language == "python" and not block.file
    ],
)
def test_python_examples_run_as_written(code: str) -> None:
    exec(compile(code, "example", "exec"), {})


def test_the_readme_is_short() -> None:
    text = README.read_text()
    assert len(text.splitlines()) <= 150
    assert len(text.split()) <= 1500


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(REPOSITORY).as_posix())
def test_links_lead_to_files(page: Path) -> None:
    # `make docs` checks those between pages, with their anchors; these are also read on a code host.
    for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", page.read_text()):
        assert (page.parent / target).exists(), target


def test_contributing_answers_questions_with_files_and_names_that_exist() -> None:
    table = (REPOSITORY / "CONTRIBUTING.md").read_text().partition("| question |")[2].partition("## Walls")[0]
    answers = [row.split(" | ")[1] for row in table.splitlines() if row.startswith("| ") and "**" not in row]
    assert len(answers) >= 25
    for answer in answers:
        files = ""
        for word in re.findall(r"`([^`]+)`", answer):
            if "/" in word:
                files = (REPOSITORY / word).read_text()
            else:
                assert re.search(rf"\b{word}\b", files), answer


def test_the_list_of_all_files_is_that_of_the_code() -> None:
    written = runpy.run_path(str(DOCS / "list_files.py"))
    assert written["PAGE"].read_text() == written["page"](), "python docs/list_files.py writes it anew"


def test_every_shipped_config_is_in_the_reference() -> None:
    text = (DOCS / "reference" / "configs.md").read_text()
    for config in (REPOSITORY / "configs").rglob("*.yaml"):
        assert f"All files of [{config.parent.relative_to(REPOSITORY).as_posix()}](" in text, config


def test_every_public_name_is_in_the_reference() -> None:
    text = "".join(page.read_text() for page in (DOCS / "reference").glob("*.md"))
    for package in (lit_triwave, datamodules):
        for name in package.__all__:
            assert f"::: {package.__name__}.{name}\n" in text, name


def test_every_field_of_a_config_is_documented() -> None:
    documented = {lit_triwave.FunctionRegressor, lit_triwave.ImageClassifier, lit_triwave.Stage}
    documented |= {getattr(datamodules, name) for name in datamodules.__all__}
    for kind in documented:
        described = re.findall(r"^\s+([\w, ]+):\s", inspect.getdoc(kind) or "", flags=re.MULTILINE)
        names = {name.strip() for group in described for name in group.split(",")}
        assert set(inspect.signature(kind).parameters) <= names, kind.__name__


@pytest.mark.parametrize("args", [[], ["--help"], ["-h"], ["--version"]])
def test_help_needs_no_torch(args: list[str]) -> None:
    # What makes it answer at once; a time would measure the machine.
    code = f"import sys\nfrom lit_triwave.cli import main\nassert main({args}) == 0\nassert 'torch' not in sys.modules"
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=REPOSITORY, env=environment, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout
