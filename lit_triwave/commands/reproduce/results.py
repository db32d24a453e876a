"""The results of a reproduction, saved after each program."""

from __future__ import annotations

import json
import math
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from pandas import DataFrame, concat

from lit_triwave.commands.reproduce.paper import paper_value
from lit_triwave.commands.reproduce.programs import Program, free_knot_limit
from lit_triwave.errors import TriwaveError
from lit_triwave.files import open_folder, write_json
from lit_triwave.tracking.run_json import processor

_SEEDS_FILE = "seeds.json"
"""All seeds of all finished programs, from which an interrupted run resumes."""
RESULTS_FILE = "results.json"
"""The tables, written when all programs are finished."""


class Results:
    """The cells of all finished programs in a folder.

    Args:
        folder: folder of the results; it is created if it does not exist.
        settings: settings of the run; a folder with other settings is refused.
        overwrite: delete the results in the folder.

    Attributes:
        finished: program name ↦ result of `train`.

    Raises:
        TriwaveError: the folder has finished results, results of other settings, or other files.
    """

    def __init__(self, folder: Path, settings: dict[str, Any], overwrite: bool = False) -> None:
        self.folder = folder
        self.settings = settings
        self.finished: dict[str, dict[str, Any]] = {}
        self.path = folder / _SEEDS_FILE
        if folder.is_dir() and any(folder.iterdir()):
            if not self.path.is_file():
                raise TriwaveError(f"--out must be a new folder or one with results, got {folder} with other files")
            if overwrite:
                # The tables first: without them, the folder is an unfinished run.
                (folder / RESULTS_FILE).unlink(missing_ok=True)
                self.path.unlink()
            else:
                self._resume()
        open_folder(folder, "give another --out")

    def _resume(self) -> None:
        try:
            saved = json.loads(self.path.read_text())
            there, self.finished = dict(saved["settings"]), dict(saved["programs"])
            for found in self.finished.values():
                found["seconds"], [(c["mse"], c["dead"]) for row in found["cells"].values() for c in row.values()]
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise TriwaveError(f"{self.path} is damaged: give another --out, or --overwrite") from error
        if (self.folder / RESULTS_FILE).is_file():
            raise TriwaveError(f"--out {self.folder} has a finished run: give another --out, or --overwrite")
        here = self.settings
        other = {name: there.get(name) for name, value in here.items() if there.get(name) != value}
        if other:
            differing = "; ".join(f"{name} {value} there and {here[name]} here" for name, value in other.items())
            what = f"an unfinished run of other settings ({differing})"
            raise TriwaveError(f"--out {self.folder} has {what}: give another --out, or --overwrite")

    def add(self, program: Program, found: dict[str, Any]) -> None:
        """Adds a finished program and saves it."""
        self.finished[program.name] = found
        write_json(self.path, {"settings": self.settings, "machine": machine(), "programs": self.finished})

    def seeds(self, programs: list[Program]) -> DataFrame:
        """Returns a row for each network: table, method, column, depth, mse, dead and, with pretraining, regions."""
        parts = []
        for program in programs:
            for method, columns in self.finished[program.name]["cells"].items():
                for column, found in columns.items():
                    place = {"table": program.table, "method": method, "column": column, "depth": program.depth}
                    parts.append(DataFrame({**place, "regions": math.nan, **found}))
        whole: DataFrame = concat(parts)
        return whole


def statistics(seeds: DataFrame) -> DataFrame:
    """Returns a row for each cell: its table, method and column, and its statistics beside the paper's.

    Returns:
        `min`, `mean` and `median` of the MSE over seeds; the share of `dead` networks; `paper_min`, `paper_mean` and
        `free_knot_limit` (METHOD section 6), which are NaN where they are unknown.
    """
    cells = seeds.groupby(["table", "method", "column"], sort=False)
    found: DataFrame = cells["mse"].agg(["min", "mean", "median"]).assign(dead=cells["dead"].mean())
    for statistic in ("min", "mean"):
        found[f"paper_{statistic}"] = [paper_value(statistic, *cell) or math.nan for cell in found.index]
    found["free_knot_limit"] = [free_knot_limit(table, column) or math.nan for table, _, column in found.index]
    known: DataFrame = found.reset_index()
    return known


def machine() -> dict[str, str]:
    """Returns the processor, the number of threads and the versions of a run."""
    packages = {name: version(name) for name in ("lit_triwave", "torch", "lightning")}
    threads = f"{torch.get_num_threads()} threads"
    return {"processor": processor(), "threads": threads, "python": platform.python_version(), **packages}
