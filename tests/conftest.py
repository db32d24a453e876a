from __future__ import annotations

import base64
import gc
import hashlib
import json
import os
import shutil

# One thread a process: the tests run in parallel, and these networks are small. Children inherit it.
os.environ["OMP_NUM_THREADS"] = "1"
# For torch.compile: no processes beside this one, and no program compiled to try each instruction set of the processor.
os.environ["TORCHINDUCTOR_COMPILE_THREADS"] = os.environ["TORCHINDUCTOR_VEC_ISA_OK"] = "1"
# A fifth less time for the C++ compiler, whose programs are run once: it optimises nothing, and keeps no headers.
os.environ["TORCHINDUCTOR_DEBUG_COMPILE"], os.environ["TORCHINDUCTOR_CPP_CACHE_PRECOMPILE_HEADERS"] = "1", "0"
os.environ["WANDB_MODE"] = "disabled"
job = [name for name in os.environ if name.startswith("SLURM_") and name != "SLURM_CONF"]  # that runs these tests
for variable in (*job, "LIT_TRIWAVE_RUN_ID", "LIT_TRIWAVE_TASKS", "WANDB_API_KEY"):
    os.environ.pop(variable, None)

from collections.abc import Callable  # noqa: E402
from functools import partial  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import TYPE_CHECKING, Any  # noqa: E402

import pytest  # noqa: E402

from lit_triwave.cli import main  # noqa: E402
from lit_triwave.commands.quick_imports import import_lightning  # noqa: E402

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# No test cuts the power. A small fit asks the disk 40 times to write at once, and waits for it 0.2 s.
os.fsync = lambda descriptor: None

REPOSITORY = Path(__file__).parents[1]


SMALL = ["--model.replicas", "3", "--model.pretrain.epochs", "5", "--model.train.epochs", "5"]
SMALL += ["--model.polish.epochs", "0"]
# Three batches an epoch: the first, one in the middle, and the last.
SMALL += ["--data.batch_size", "167", "--run.checkpoint_every", "1", "--trainer.check_val_every_n_epoch", "2"]
PIXEL = base64.b64decode("iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGP4DwABAQEANl9ngAAAAABJRU5ErkJggg==")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--no-skips", action="store_true", help="report a skipped test as failed")


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("dist", "no") == "no":  # in each worker; their controller runs no test and needs none of it
        gc.disable()  # until all tests are collected: what is imported stays, and looking for garbage takes 0.7 s
        import_lightning()  # before any test does: it takes half of the time
        import torch
        from hypothesis import settings

        torch.set_num_threads(1)
        settings.register_profile("default", deadline=None)  # machines are shared; a slow draw is no failure
        settings.load_profile("default")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    # Groups first: one worker runs all tests of a group, and should not begin when the others are about to end.
    items.sort(key=lambda item: item.get_closest_marker("xdist_group") is None)


def pytest_collection_finish() -> None:
    gc.freeze()  # what is imported stays, and looking through it again and again takes 5 % of the time of all tests
    gc.set_threshold(5_000, 10, 20)
    gc.enable()


def pytest_unconfigure() -> None:
    gc.unfreeze()  # or nanobind reports leaks


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]):
    report = yield
    if report.skipped and item.config.getoption("--no-skips"):
        report.outcome = "failed"
        report.longrepr = f"skipped, but --no-skips is given: {report.longrepr[2]}"
    return report


def _fit(root: Path, name: str, *args: str, config: str = "configs/functions/x3_minus_x.yaml", code: int = 0) -> Path:
    place = ["--run.root", str(root)] + (["--run.id", name] if name else [])
    assert main(["fit", "--config", config, *SMALL, *place, *args]) == code
    return root / Path(config).stem / name


def save_a_pixel(figure: Figure, path: Any, **options: Any) -> None:
    """Replaces `Figure.savefig`, because drawing takes half the time of a small run."""
    path.write(PIXEL) if hasattr(path, "write") else Path(path).write_bytes(PIXEL)


@pytest.fixture(autouse=True)
def _no_tracking(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "disabled")  # again: a run that tracks takes the variable away


@pytest.fixture(autouse=True)
def _blank_figures(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    from matplotlib.figure import Figure

    if request.node.get_closest_marker("draws") is None:
        monkeypatch.setattr(Figure, "savefig", save_a_pixel)


@pytest.fixture
def fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Runs the command `fit` on a small x³ − x problem and returns the run's folder."""
    monkeypatch.chdir(REPOSITORY)
    return partial(_fit, tmp_path)


def shared_folder(factory: pytest.TempPathFactory, name: str) -> Path:
    """Returns a folder that all workers of the session use together."""
    base = factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / name
    folder.mkdir(exist_ok=True)
    return folder


@pytest.fixture
def trained(tmp_path: Path, fit: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Returns a copy of the run that `fit` makes with these arguments; one worker trains it once for each session."""
    from filelock import FileLock

    root = shared_folder(tmp_path_factory, "trained")

    def copied(name: str, *args: str) -> Path:
        asked = json.dumps([name, *args])
        folder = root / hashlib.sha256(asked.encode()).hexdigest()[:16]
        with FileLock(f"{folder}.lock"):
            if not folder.is_dir():
                _fit(folder, name, *args)
        (run,) = folder.glob(f"*/{name}")
        return Path(shutil.copytree(run, tmp_path / run.parent.name / name))

    return copied


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    """The folder of twelve runs in four rows; depth 6 with blocks is the best row."""
    from tests.compared_runs import write_sweep

    return write_sweep(tmp_path / "runs")
