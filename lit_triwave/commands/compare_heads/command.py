"""The command line of `compare-heads`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from lit_triwave.commands.compare_heads.report import write_results
from lit_triwave.commands.compare_heads.runs import Cells, open_results, train_missing
from lit_triwave.commands.config_files import check_config
from lit_triwave.commands.parser import OneLineParser
from lit_triwave.commands.quiet import quiet
from lit_triwave.errors import TriwaveError


def compare_heads(
    config: str, seeds: int = 10, own_splits: bool = False, out: str | None = None, overwrite: bool = False
) -> None:
    """Trains the constructed head of a config and dense heads, each with many seeds.

    Args:
        config: YAML file of a `fit` with an `ImageClassifier` whose head is block_diagonal.
        seeds: number of seeds, from 0 on; at least 1.
        own_splits: whether each seed has its own split of the images, if the data can be split. The spread is larger
            then, because splits differ more than starts.
        out: folder of the results; by default runs/compare_heads/<name of the config>. Finished runs in it are kept.
        overwrite: whether runs of another config in the folder are deleted.
    """


def run(args: Sequence[str], started: float) -> int:
    """Runs `compare-heads` with its command line; returns the exit code."""
    quiet()
    parser = OneLineParser(prog="python -m lit_triwave compare-heads", description=compare_heads.__doc__)
    parser.classes = (compare_heads,)  # type: ignore[assignment]
    parser.add_argument("--config", type=str, required=True, help="YAML file of a fit with a block_diagonal head")
    parser.add_argument("--seeds", type=int, default=10, help="number of seeds, from 0 on")
    parser.add_argument("--own_splits", action="store_true", help="use another split of the images for each seed")
    parser.add_argument("--out", type=str, help="folder of the results")
    parser.add_argument("--overwrite", action="store_true", help="delete runs of another config in the folder")
    asked = parser.parse_args(list(args))
    if asked.seeds < 1:
        raise TriwaveError(f"--seeds must be at least 1, got {asked.seeds}")
    path = Path(asked.config)
    if not path.is_file():
        raise TriwaveError(f"--config must be a file, got {path}: there is no such file")
    check_config(path)
    cells = Cells(path, asked.own_splits)
    name = path.stem + ("_own_splits" if cells.own_splits else "")
    folder = Path(asked.out or Path("runs") / "compare_heads" / name)
    open_results(folder, cells.fingerprint, asked.overwrite)
    try:
        results = train_missing(cells, folder, asked.seeds)
    except (KeyboardInterrupt, SystemExit):
        print(f"finished runs are kept in {folder}; the same command resumes")
        raise
    write_results(results, folder, path, cells.own_splits)
    print(folder, flush=True)
    return 0
