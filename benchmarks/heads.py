"""Compares the speed of a head's block-diagonal part with one dense layer of its width, forward and backward.

    python benchmarks/heads.py [--batch 512] [--nets 1024] [--depth 5] [--threads 2] [--repeats 20] [--no-compile]

Each time is the fastest of the repeats, because other programs disturb it least. The dense layer is measured before
and after the others, and the faster time is used. If there is a GPU, everything runs on it.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from lit_triwave import TriangleBank


def fastest(module: Callable[[Tensor], Tensor], x: Tensor, grad: Tensor, repeats: int) -> float:
    """Returns the seconds of one forward and backward pass."""
    wait = torch.cuda.synchronize if x.is_cuda else lambda: None
    times = []
    for _ in range(repeats + 2):  # two to warm up
        x.grad = None
        for parameter in module.parameters():  # type: ignore[attr-defined]
            parameter.grad = None
        wait()
        start = time.perf_counter()
        module(x).backward(grad)
        wait()
        times.append(time.perf_counter() - start)
    return min(times[2:])


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in {"batch": 512, "nets": 1024, "depth": 5, "threads": 2, "repeats": 20}.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--no-compile", action="store_true")
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    torch.manual_seed(0)
    device = "cuda" if torch.cuda.is_available() else "cpu"

    def sample(width: int) -> tuple[Tensor, Tensor]:
        x = torch.rand(asked.batch, width, device=device)
        return x.requires_grad_(), torch.randn(asked.batch, width, device=device)

    width = 4 * asked.nets
    layer = nn.Sequential(nn.Linear(width, width), nn.ReLU()).to(device)
    dense = fastest(layer, *sample(width), asked.repeats)
    rows = []
    for form in ("waves (peaks)", "released blocks"):
        bank = TriangleBank(asked.nets, asked.depth, device=device)
        if form != "waves (peaks)":
            bank.release()
        rows.append((form, fastest(bank, *sample(asked.nets), asked.repeats)))
        if not asked.no_compile:
            compiled = torch.compile(bank, fullgraph=True)
            rows.append((f"{form}, compiled", fastest(compiled, *sample(asked.nets), asked.repeats)))
    dense = min(dense, fastest(layer, *sample(width), asked.repeats))
    where = torch.cuda.get_device_name() if device == "cuda" else f"CPU, {asked.threads} threads"
    table = Table(title=f"batch {asked.batch}, {asked.nets} subnetworks, depth {asked.depth}, float32, {where}")
    for column in ("forward + backward", "ms", "times faster"):
        table.add_column(column, justify="left" if column.startswith("forward") else "right")
    table.add_row(f"Linear({width}, {width}) + ReLU", f"{1e3 * dense:.1f}", "1")
    for form, seconds in rows:
        table.add_row(form, f"{1e3 * seconds:.1f}", f"{dense / seconds:.1f}")
    Console().print(table)


if __name__ == "__main__":
    main()
