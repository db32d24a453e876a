"""Measures this project on one GPU, in at most eight minutes; without a GPU it runs a tiny version on the CPU.

    python -m benchmarks.gpu [--out runs/gpu] [--parts tests vgg ...]

Each part is a separate process, which is killed when its time is over. So if a part is late or fails, only its own
remaining numbers are lost. After each part, gpu.json has all numbers so far, and gpu.md has them as a table. The output
of each part is in PART.log in the same folder. The most important parts come first.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch

LIMITS = {"tests": 110, "images": 80, "vgg": 80, "head": 70, "fits": 50, "limit": 40, "nccl": 50}
"""Seconds of each part, with its start: eight minutes in total."""


@dataclass
class Part:
    """The result of a part.

    Attributes:
        state: whether it ended; a late one was killed.
        seconds: its time, with its start.
        error: the last line of a failed part's output; "" for other parts.
        figures: the measured numbers, see `benchmarks.gpu_parts.Figure`.
    """

    name: str
    state: Literal["done", "late", "failed"] = "done"
    seconds: float = 0.0
    error: str = ""
    figures: list[dict[str, str | float]] = field(default_factory=list)


def in_a_process(name: str, command: Sequence[str], limit: float, out: Path) -> Part:
    """Runs a part in a separate process. If it is late, it is killed with all processes that it started.

    Args:
        name: name of the part.
        command: command that writes the numbers to `out`/NAME.jsonl, one a line, each as soon as it is known.
        limit: seconds.
        out: folder of the results.
    """
    log, figures = out / f"{name}.log", out / f"{name}.jsonl"
    figures.unlink(missing_ok=True)
    part, begun = Part(name), time.monotonic()
    with log.open("w") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, start_new_session=True)
        try:
            part.state = "failed" if process.wait(limit) else "done"
        except subprocess.TimeoutExpired:
            part.state = "late"
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
    part.seconds = time.monotonic() - begun
    if part.state == "failed":
        part.error = next((line for line in reversed(log.read_text().splitlines()) if line.strip()), "no output")
    lines = figures.read_text().split("\n")[:-1] if figures.is_file() else []  # what follows the last \n is half a line
    part.figures = [json.loads(line) for line in lines]
    return part


def here(name: str) -> Part:
    """Runs the tiny version of a part on the CPU, in this process and without a limit."""
    part, begun = Part(name), time.monotonic()
    try:
        part.figures += [asdict(figure) for figure in _measured(name, "cpu")]
    except Exception as error:
        traceback.print_exc()
        part.state, part.error = "failed", f"{type(error).__name__}: {error}"
    part.seconds = time.monotonic() - begun
    return part


def _measured(name: str, device: str) -> Iterator[Any]:
    """Yields the numbers of a part, on a CPU the numbers of its tiny version."""
    from benchmarks import gpu_parts  # its imports take long

    return gpu_parts.PARTS[name](device, device == "cpu")


def where() -> str:
    """Returns the device in words, with the version of PyTorch."""
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU: tiny versions on the CPU"
    return f"{device}; PyTorch {torch.__version__}"


def table(parts: Sequence[Part]) -> str:
    """Returns all figures as a Markdown table, with a line for each part that did not end."""
    rows = ["| part | measured | figure | |", "|---|---|---:|---|"]
    for part in parts:
        for figure in part.figures:
            rows.append(f"| {part.name} | {figure['what']} | {figure['value']:.4g} | {figure['unit']} |")
        if part.state != "done":
            rows.append(f"| {part.name} | **{part.state}** after {part.seconds:.0f} s | | {part.error} |")
    return "\n".join([where(), "", *rows, ""])


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures, and writes the results; returns 1 if a part was late or failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/gpu"), help="folder of the results")
    parser.add_argument("--parts", nargs="+", choices=LIMITS, default=list(LIMITS), metavar="PART", help="only these")
    parser.add_argument("--here", action="store_true", help="tiny versions on the CPU, in this process")
    parser.add_argument("--measure", help=argparse.SUPPRESS)  # in the process of a part
    asked = parser.parse_args(arguments)
    asked.out.mkdir(parents=True, exist_ok=True)
    if asked.measure:
        with (asked.out / f"{asked.measure}.jsonl").open("w", buffering=1) as file:
            for figure in _measured(asked.measure, "cuda" if torch.cuda.is_available() else "cpu"):
                print(json.dumps(asdict(figure)), file=file)
        return 0
    parts: list[Part] = []
    for name in asked.parts:
        command = [sys.executable, "-m", "benchmarks.gpu", "--measure", name, "--out", str(asked.out)]
        parts.append(here(name) if asked.here else in_a_process(name, command, LIMITS[name], asked.out))
        print(f"{name}: {parts[-1].state} after {parts[-1].seconds:.0f} s {parts[-1].error}", flush=True)
        content = {"where": where(), "parts": [asdict(part) for part in parts]}
        (asked.out / "gpu.json").write_text(json.dumps(content, indent=1))
        (asked.out / "gpu.md").write_text(table(parts))
    print(table(parts))
    return int(any(part.state != "done" for part in parts))


if __name__ == "__main__":
    sys.exit(main())
