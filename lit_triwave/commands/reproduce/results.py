"""What a reproduction has found so far, kept on disk program by program."""

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

SEEDS_FILE = "seeds.json"
"""Every seed of every finished program; it lets an interrupted run go on."""
RESULTS_FILE = "results.json"
"""The tables; there when all programs are finished."""


class Results:
    """The cells of all finished programs in a folder.

    Args:
        folder: is made if it does not exist.
        settings: of the run; another run's folder is refused.
        overwrite: drop what the folder holds.

    Attributes:
        finished: program name ↦ what `train` returned.

    Raises:
        TriwaveError: the folder holds finished results, those of other settings, or something else.
    """

    def __init__(self, folder: Path, settings: dict[str, Any], overwrite: bool = False) -> None:
        self.folder = folder
        self.settings = settings
        self.finished: dict[str, dict[str, Any]] = {}
        self.path = folder / SEEDS_FILE
        if folder.is_dir() and any(folder.iterdir()):
            if not self.path.is_file():
                raise TriwaveError(f"--out {folder}: a folder with something else in it; choose another")
            if overwrite:
                # The tables first: without them the folder counts as unfinished.
                (folder / RESULTS_FILE).unlink(missing_ok=True)
                self.path.unlink()
            else:
                self._go_on()
        open_folder(folder, "give another --out")

    def _go_on(self) -> None:
        try:
            saved = json.loads(self.path.read_text())
            there, self.finished = dict(saved["settings"]), dict(saved["programs"])
            for found in self.finished.values():
                found["seconds"], [(cell["mse"], cell["dead"]) for cell in found["cells"].values()]
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise TriwaveError(f"{self.path} is damaged: choose another --out, or --overwrite") from error
        if (self.folder / RESULTS_FILE).is_file():
            raise TriwaveError(f"--out {self.folder} holds a finished run: choose another, or --overwrite")
        differing = [
            f"{name} {there.get(name)} there and {value} here"
            for name, value in self.settings.items()
            if there.get(name) != value
        ]
        if differing:
            raise TriwaveError(
                f"--out {self.folder} holds an unfinished run of other settings ({'; '.join(differing)}): "
                "choose another, or --overwrite"
            )

    def add(self, program: Program, found: dict[str, Any]) -> None:
        """Keeps a finished program, on disk too."""
        self.finished[program.name] = found
        write_json(self.path, {"settings": self.settings, "machine": machine(), "programs": self.finished})

    @property
    def seconds(self) -> float:
        """Wall time of all finished programs."""
        return float(sum(found["seconds"] for found in self.finished.values()))

    def cells(self, programs: list[Program]) -> dict[str, dict[str, dict[str, dict[str, list[Any]]]]]:
        """Table ↦ method ↦ column ↦ `mse`, `dead` and perhaps `regions` of all seeds, chunks joined."""
        tables: dict[str, dict[str, dict[str, dict[str, list[Any]]]]] = {}
        for program in programs:
            row = tables.setdefault(program.table, {}).setdefault(program.method, {})
            for column, found in self.finished[program.name]["cells"].items():
                cell = row.setdefault(column, {})
                for name, values in found.items():
                    cell.setdefault(name, []).extend(values)
        return tables


def statistics(cell: dict[str, list[Any]]) -> dict[str, float]:
    """Lowest, mean and median MSE over seeds, and the share of dead networks."""
    values = {name.removeprefix("_"): float(v) for name, v in spread("", torch.tensor(cell["mse"])).items()}
    return values | {"dead": sum(cell["dead"]) / len(cell["dead"])}


def machine() -> dict[str, str]:
    """What the run was made on: processor, cores, versions."""
    processor = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")  # Linux; elsewhere the name above has to do
    for line in info.read_text().splitlines() if info.is_file() else []:
        if line.startswith("model name"):
            processor = line.split(":", 1)[1].strip()
    packages = {name: version(name) for name in ("lit_triwave", "torch", "lightning")}
    threads = f"{torch.get_num_threads()} threads"
    return {"processor": processor, "threads": threads, "python": platform.python_version(), **packages}
