"""Reads the runs that are given to `compare`: folders, offline W&B runs, or projects on W&B's server."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from lit_triwave.commands.compare.read.compared_run import ComparedRun
from lit_triwave.commands.compare.read.run_folders import find_run_folders, read_run_folder
from lit_triwave.errors import TriwaveError, printable
from lit_triwave.tracking.run_files import RUN_MARKS

HOSTED = "wandb:"


def read_all(addresses: Sequence[str], advance: Callable[[int, int], None], skipped: list[str]) -> list[ComparedRun]:
    """Returns the given runs, each once, in the order given.

    Args:
        addresses: run folders, folders of run folders, offline W&B runs, `wandb:ENTITY/PROJECT[?group=…]`.
        advance: called with the numbers of runs read so far and in total.
        skipped: list to which a note on each unreadable folder or W&B file is added.

    Raises:
        TriwaveError: an address is not one of these, or there is no run.
    """
    parts: list[ComparedRun | Path] = []
    for address in addresses:
        parts += _read_wandb(address, skipped) if _is_wandb(address) else _folders(address, skipped)
    runs: dict[Path | str, ComparedRun] = {}
    for done, part in enumerate(parts, start=1):
        if isinstance(part, ComparedRun):
            runs.setdefault(part.source, part)
        elif part.resolve() not in runs:
            runs[part.resolve()] = read_run_folder(part)
        advance(done, len(parts))
    # A run folder has more content than its W&B copy.
    on_disk = {run.wandb_id for place, run in runs.items() if isinstance(place, Path) and run.wandb_id}
    skipped[:] = map(printable, skipped)
    if not runs:
        raise TriwaveError(skipped[-1] if skipped else f"no run in {' '.join(addresses)}")
    return [run for place, run in runs.items() if isinstance(place, Path) or run.wandb_id not in on_disk]


def _is_wandb(address: str) -> bool:
    path = Path(address)
    if address.startswith(HOSTED) or path.suffix == ".wandb":
        return True
    return any(next(path.glob(pattern), None) for pattern in ("*.wandb", "*run-*/*.wandb"))


def _read_wandb(address: str, skipped: list[str]) -> list[ComparedRun]:
    # Imported only if needed, because W&B's client takes seconds.
    if address.startswith(HOSTED):
        from lit_triwave.commands.compare.read.wandb_server import read_hosted

        return read_hosted(address)
    from lit_triwave.commands.compare.read.wandb_offline import read_offline

    return read_offline(Path(address), skipped)


def _folders(address: str, skipped: list[str]) -> Sequence[ComparedRun | Path]:
    """Returns the run folders in a folder, or if there are none, the offline W&B runs in it."""
    path = Path(address)
    looks = f"a run's folder has {', '.join(RUN_MARKS[:-1])} or {RUN_MARKS[-1]}, as runs/<experiment>/<run id>/ does"
    if not path.is_dir():
        raise TriwaveError(
            f"{address} must be a folder, {'got a file' if path.exists() else 'but there is none'}; {looks}"
        )
    found = find_run_folders(path, skipped)
    if found:
        return found
    kept = sorted({file.parent.parent for file in path.rglob("*run-*/*.wandb")})
    if not kept:
        raise TriwaveError(f"no run in {address}; {looks}" + (f" ({skipped[-1]})" if skipped else ""))
    return [run for folder in kept for run in _read_wandb(str(folder), skipped)]
