"""The results of a reproduction, saved after each program."""

from __future__ import annotations

import json
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from lit_triwave.commands.reproduce.programs import Program
from lit_triwave.errors import TriwaveError
from lit_triwave.files import open_folder, write_json
from lit_triwave.modules.metrics import spread
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
                raise TriwaveError(
                    f"--out must be a new folder or one with results, got {folder} with other files: give another --out"
                )
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
        differing = [
            f"{name} {there.get(name)} there and {value} here"
            for name, value in self.settings.items()
            if there.get(name) != value
        ]
        if differing:
            raise TriwaveError(
                f"--out {self.folder} has an unfinished run of other settings ({'; '.join(differing)}): "
                "give another --out, or --overwrite"
            )

    def add(self, program: Program, found: dict[str, Any]) -> None:
        """Adds a finished program and saves it."""
        self.finished[program.name] = found
        write_json(self.path, {"settings": self.settings, "machine": machine(), "programs": self.finished})

    @property
    def seconds(self) -> float:
        """Wall time of all finished programs in seconds."""
        return float(sum(found["seconds"] for found in self.finished.values()))

    def cells(self, programs: list[Program]) -> dict[str, dict[str, dict[str, dict[str, list[Any]]]]]:
        """Returns table ↦ method ↦ column ↦ `mse`, `dead` and, with pretraining, `regions` of all seeds."""
        tables: dict[str, dict[str, dict[str, dict[str, list[Any]]]]] = {}
        for program in programs:
            for method, columns in self.finished[program.name]["cells"].items():
                row = tables.setdefault(program.table, {}).setdefault(method, {})
                for column, found in columns.items():
                    cell = row.setdefault(column, {})
                    for name, values in found.items():
                        cell.setdefault(name, []).extend(values)
        return tables


def statistics(cell: dict[str, list[Any]]) -> dict[str, float]:
    """Returns the lowest, mean and median MSE over seeds, and the share of dead networks."""
    values = {name.removeprefix("_"): float(v) for name, v in spread("", torch.tensor(cell["mse"])).items()}
    return values | {"dead": sum(cell["dead"]) / len(cell["dead"])}


def machine() -> dict[str, str]:
    """Returns the processor, the number of threads and the versions of a run."""
    packages = {name: version(name) for name in ("lit_triwave", "torch", "lightning")}
    threads = f"{torch.get_num_threads()} threads"
    return {"processor": processor(), "threads": threads, "python": platform.python_version(), **packages}
