"""The command line of `compare-heads`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from lit_triwave.commands.compare_heads.report import write_results
from lit_triwave.commands.compare_heads.runs import Cells, open_results, train_missing
from lit_triwave.commands.config_files import check_config
from lit_triwave.commands.quick_parser import QuickParser, at_least
from lit_triwave.commands.quiet import quiet
from lit_triwave.errors import TriwaveError


def run(args: Sequence[str], started: float) -> int:
    """Runs `compare-heads` with its command line; returns the exit code."""
    quiet()
    description = "Trains the constructed head of a config and dense heads, each with many seeds."
    parser = QuickParser(prog="python -m lit_triwave compare-heads", description=description)
    add = parser.add_argument
    add("--config", required=True, help="YAML file of a fit of an ImageClassifier with a block_diagonal head")
    add("--seeds", type=at_least(1), default=10, help="number of seeds, from 0 on; default %(default)s")
    splits = "use another split of the images for each seed, if the data can be split: their spread is larger"
    add("--own_splits", action="store_true", help=splits)
    add("--out", help="folder of the results; by default runs/compare_heads/<config>. Finished runs are kept")
    add("--overwrite", action="store_true", help="delete runs of another config in the folder")
    asked = parser.parse_args(args)
    path = Path(asked.config)
    check_config(path)
    if not path.is_file():  # nor a text that the parser of `fit` would take
        raise TriwaveError(f"--config must be a file, got {path}: there is no such file")
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
