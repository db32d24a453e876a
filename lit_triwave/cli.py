"""The command line: answers `--help` and `--version` itself, and passes everything else to the command's own module."""

from __future__ import annotations

import os
import sys
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import spec_from_file_location
from pathlib import Path
from typing import Any, TextIO

from lit_triwave import __version__
from lit_triwave.distributed.launcher import check_numbers, end_with_launcher
from lit_triwave.distributed.signals import interrupted
from lit_triwave.errors import did_you_mean, one_line

_LIGHTNING_COMMANDS = {
    "fit": "train: initialise, pretrain the peaks, release and train the weights; then test, draw and summarise",
    "validate": "evaluate a checkpoint on the validation data",
    "test": "evaluate a checkpoint on the test data; redraws the figures",
    "predict": "write a checkpoint's predictions to predictions.csv",
}
"""Name ↦ description in the help. All of them are in `commands/fit`, which also gets the name."""
_COMMANDS = {
    "sweep": "make the runs of a sweep file in W&B's format, one by one or as SLURM jobs; needs no W&B server",
    "reproduce": "make the paper's tables, with our results beside the paper's",
    "compare-heads": "compare constructed with dense classifier heads from the same config, over many seeds",
    "inspect": "show the content of a checkpoint: peaks, scales, linear regions, dead units, pictures of the waves",
    "export": "write a checkpoint as plain PyTorch, a torch.export program or ONNX",
    "compare": "show runs on disk or in W&B side by side: a table, a page or figures",
}
"""Name ↦ description in the help. Command a-b is `run(args, started) -> exit code` in `commands/a_b/command.py`."""
_LISTED = "\n".join(f"  {name:<13} {said}" for name, said in (_LIGHTNING_COMMANDS | _COMMANDS).items())
_HELP = f"""\
usage: python -m lit_triwave COMMAND --config FILE [--KEY VALUE ...]

Constructed ReLU networks with exponentially many linear regions, under PyTorch Lightning.

commands:
{_LISTED}

Every field of a config can be given on the command line, for example
  python -m lit_triwave fit --config configs/x3_minus_x.yaml --model.depth 6 --model.replicas 10
validate, test and predict use the run of the config's experiment that saved a checkpoint last.
--run.id ID or --ckpt_path FILE chooses another one. `fit --ckpt_path last` resumes this run.

  python -m lit_triwave COMMAND --help            show all fields of a command
  python -m lit_triwave COMMAND --print_config    print a complete config with its defaults
  python -m lit_triwave --version

LIT_TRIWAVE_DEBUG=1 shows the traceback of an error."""

_SHIPPED = [folder / "configs" for folder in (Path(__file__).parent, Path(__file__).parents[1])]
"""Folders of the shipped configs: in the wheel, and in the repository."""
_PRINTERS = ("compare", "inspect")
"""Commands whose result is what they print."""


class _LastingStream:
    """A text stream that ignores output when the terminal or the reader of the pipe is gone, or the disk is full.

    Args:
        stream: standard output or standard error.
        ignored: errors that are ignored; another one is raised once.
    """

    def __init__(self, stream: TextIO, ignored: type[OSError]) -> None:
        self._stream, self._ignored = stream, ignored

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        with self._muted():
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with self._muted():
            self._stream.flush()

    @contextmanager
    def _muted(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:  # for what is still in the buffer, too
            os.dup2(os.open(os.devnull, os.O_WRONLY), self._stream.fileno())
            if not isinstance(error, self._ignored):
                error.strerror = f"standard output cannot be written: {error.strerror}"
                raise


@contextmanager
def _lasting_screen(ignored: type[OSError]) -> Iterator[None]:
    """Lets a command or a run continue when nobody can read its output any more."""
    before = sys.stdout, sys.stderr
    # A stream that was closed from the start is None, and print ignores it.
    sys.stdout, sys.stderr = (stream and _LastingStream(stream, ignored) for stream in before)
    try:
        yield
    finally:
        for stream in filter(None, (sys.stdout, sys.stderr)):
            stream.flush()  # Python would do it later, and report an error itself
        sys.stdout, sys.stderr = before


def main(args: Sequence[str] | None = None) -> int:
    """Runs one command.

    Args:
        args: the command line without the program's name; `sys.argv[1:]` when None.

    Returns:
        The exit code. 0 is success. 1 is an error, which is one line on standard error. 2 is a wrong command line. 130
        follows Ctrl-C, SIGTERM or SIGHUP. 75 follows SIGUSR1: the run is saved and should be started again.
    """
    started = time.monotonic()  # the imports below take seconds, and are part of a run's wall time
    if args is None and os.getcwd() not in map(os.path.abspath, sys.path):
        sys.path.insert(0, os.getcwd())  # as `python -m` does, so that `lit-triwave` also finds the user's classes
    args = with_shipped_configs(sys.argv[1:] if args is None else args)
    for word in args:
        if any("\ud800" <= letter <= "\udfff" for letter in word):  # how Python reads bytes that are no text
            print(f"error: the command line must be text in UTF-8, got {word!a}", file=sys.stderr)
            return 2
    if not args or args[0] in ("-h", "--help", "--version"):
        with _lasting_screen(OSError):
            print(__version__ if args and args[0] == "--version" else _HELP)
        return 0
    known = [*_LIGHTNING_COMMANDS, *_COMMANDS]
    if not args[0].startswith("-") and args[0] not in known:
        near = did_you_mean(args[0], known)
        print(f"error: the command must be one of {', '.join(known)}, got {args[0]}{near}", file=sys.stderr)
        return 2
    if not any(isinstance(finder, OwnDataModules) for finder in sys.meta_path):
        sys.meta_path.insert(0, OwnDataModules())
    with _lasting_screen(BrokenPipeError if args[0] in _PRINTERS else OSError):
        return _run(args, started)


def _run(args: list[str], started: float) -> int:
    try:
        check_numbers()
        end_with_launcher()
        # Imported here: torch and Lightning take seconds, and the help above needs neither.
        try:
            if args[0] != "compare":  # which needs no Lightning
                import_module("lit_triwave.commands.quick_imports").import_lightning()
            folder = args[0].replace("-", "_") if args[0] in _COMMANDS else "fit"
            run = import_module(f"lit_triwave.commands.{folder}.command").run
        except ModuleNotFoundError as error:
            advice = "run `make setup` and use .venv/bin/python, or pip install lit_triwave"
            print(f"error: {error}: {advice}", file=sys.stderr)
            return 1
        code = int(run(args[1:] if args[0] in _COMMANDS else args, started))
        print(end="", flush=True)  # an error of the last output is reported below
        return code
    except KeyboardInterrupt:
        return interrupted()
    except SystemExit as stop:
        if isinstance(stop.__context__, KeyboardInterrupt):  # Lightning ends in this way after Ctrl-C
            return interrupted()
        return stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except Exception as error:
        if os.environ.get("LIT_TRIWAVE_DEBUG"):
            traceback.print_exc()
        else:
            print(f"error: {one_line(error)}", file=sys.stderr)
        return 1


def with_shipped_configs(args: Sequence[str]) -> list[str]:
    """Returns the command line with paths of shipped configs in place of names that are not files in this folder.

    So `--config stack.yaml` and `--config configs/stack.yaml` work in any folder.
    """
    found = list(args)
    for i, word in enumerate(found):
        if word.startswith("--config="):
            found[i] = f"--config={_config(word.removeprefix('--config='))}"
        elif word in ("--config", "-c") and i + 1 < len(found):
            found[i + 1] = _config(found[i + 1])
    return found


def _config(name: str) -> str:
    if Path(name).exists() or ".." in Path(name).parts:
        return name
    shipped = (folder / name.removeprefix("configs/") for folder in _SHIPPED)
    return next((str(path) for path in shipped if path.is_file()), name)


def shipped_configs() -> list[str]:
    """Returns the names by which `--config` finds the shipped configs."""
    return sorted(str(path.relative_to(folder)) for folder in _SHIPPED for path in folder.rglob("*.yaml"))


class OwnDataModules(MetaPathFinder):
    """Finds this project's package `datamodules` even if the user's folder has a package with this name.

    Modules in the user's package are found too, after those of this project.
    """

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        if fullname != "datamodules":
            return None
        ours = Path(__file__).parents[1] / fullname
        places = list(dict.fromkeys(str(folder) for folder in (ours, Path.cwd() / fullname) if folder.is_dir()))
        return spec_from_file_location(fullname, ours / "__init__.py", submodule_search_locations=places)
