"""`compare-heads`: a constructed head against dense ones on the same backbone, data and seeds."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from lit_triwave.commands.compare_heads.report import (
    write_results,
)
from lit_triwave.commands.compare_heads.runs import (
    Cells,
    open_results,
    train_missing,
)
from lit_triwave.commands.parser import OneLineParser
from lit_triwave.commands.quiet import quiet
from lit_triwave.errors import TriwaveError


def compare_heads(
    config: str, seeds: int = 10, own_splits: bool = False, out: str | None = None, overwrite: bool = False
) -> None:
    """Trains the config's constructed head and its dense rivals, each over many seeds.

    Args:
        config: YAML file of a `fit` with an `ImageClassifier` whose head is block_diagonal.
        seeds: how many, from 0 on; ≥ 1.
        own_splits: a split of the images for each seed, where the data can be split, instead of the config's for all.
            The spread is larger then: splits differ more than starts.
        out: folder of the results; runs/compare_heads/<name of the config> by default. Finished runs that are in it are
            kept.
        overwrite: start anew where the folder holds runs of another config.
    """


def run(args: Sequence[str], started: float) -> int:
    """Parses the command's arguments, trains what is missing, writes tables and figure; returns the exit code."""
    quiet()
    parser = OneLineParser(prog="python -m lit_triwave compare-heads", description=compare_heads.__doc__)
    parser.classes = (compare_heads,)  # type: ignore[assignment]
    parser.add_argument("--config", type=str, required=True, help="YAML file of a fit with a block_diagonal head")
    parser.add_argument("--seeds", type=int, default=10, help="how many, from 0 on")
    parser.add_argument("--own_splits", action="store_true", help="a split of the images for each seed")
    parser.add_argument("--out", type=str, help="folder of the results")
    parser.add_argument("--overwrite", action="store_true", help="start anew where runs of another config are")
    asked = parser.parse_args(list(args))
    if asked.seeds < 1:
        raise TriwaveError(f"--seeds {asked.seeds}: at least 1")
    path = Path(asked.config)
    if not path.is_file():
        raise TriwaveError(f"--config {path}: no such file")
    cells = Cells(path, asked.own_splits)
    name = path.stem + ("_own_splits" if cells.own_splits else "")
    folder = Path(asked.out or Path("runs") / "compare_heads" / name)
    open_results(folder, cells.fingerprint, asked.overwrite)
    try:
        results = train_missing(cells, folder, asked.seeds)
    except (KeyboardInterrupt, SystemExit):
        print(f"finished runs are kept in {folder}; the same command goes on")
        raise
    write_results(results, folder, path, cells.own_splits)
    print(folder, flush=True)
    return 0
