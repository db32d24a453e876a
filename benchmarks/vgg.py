"""Measures VGG-16-BN with replaced hidden dense layers: parameters, multiply-adds, and the head's time in each form.

    python -m benchmarks.vgg [--batch 16] [--depth 5] [--threads 2] [--repeats 3]

Parameters and multiply-adds are those of the whole model for one image of 224 × 224. PyTorch counts them for the
original model, and `replace_dense` reports the classifier's share. With peaks, the subnetworks have no matrix products,
so their multiply-adds are not counted. The time is for one forward and backward pass of the classifier alone, from
25088 features to 1000 classes, and the fastest of the repeats. The original is timed first and last. On a shared
machine, the processor time of all threads is more reliable than the wall time. With a GPU, all runs on it.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from torchvision.models.vgg import VGG, vgg16_bn

from lit_triwave import replace_dense
from lit_triwave.nn.heads import BlockDiagonalLayers
from lit_triwave.nn.replacement_report import Replacement

FEATURES = 25088  # inputs of VGG's classifier, 512 · 7 · 7
FORMS = ("peaks", "blocks", "dense")
REPLACED = {0: "both hidden layers", 1: "the second hidden layer"}  # by `keep`


class Form(NamedTuple):
    """A form of the model: the replaced layers (`keep` of `replace_dense`, None for none), and the kind of release."""

    keep: int | None
    released: str

    def __str__(self) -> str:
        return "original" if self.keep is None else f"{REPLACED[self.keep]}, {self.released}"

    def apply(self, model: nn.Module, depth: int) -> Replacement | None:
        """Brings a model, or its classifier, into this form; returns the report of the replacement."""
        if self.keep is None:
            return None
        report = replace_dense(model, depth, keep=self.keep)
        if self.released != "peaks":
            (layers,) = (module for module in model.modules() if isinstance(module, BlockDiagonalLayers))
            layers.release(self.released)  # type: ignore[arg-type]
        return report


def forms() -> Iterator[Form]:
    """Yields the original, and both replacements in all three forms."""
    yield Form(None, "")
    for keep in REPLACED:
        for released in FORMS:
            yield Form(keep, released)


def count(form: Form, depth: int) -> tuple[int, int | None]:
    """Returns the parameters and multiply-adds (None with peaks) of the whole model, without making its weights."""
    with torch.device("meta"):
        model = vgg16_bn()
        with FlopCounterMode(display=False) as counter:
            model(torch.zeros(1, 3, 224, 224))
        report = form.apply(model, depth)
    products = counter.get_total_flops() // 2
    if report is not None:
        after = {"blocks": report.blocks, "dense": report.dense}.get(form.released)
        products = after and products - report.before.multiply_adds + after.multiply_adds
    return sum(p.numel() for p in model.parameters()), products


def seconds(head: nn.Module, x: Tensor, repeats: int) -> tuple[float, float]:
    """Returns wall time and processor time of the fastest forward and backward passes, after one warm-up."""
    wait: Any = torch.cuda.synchronize if x.is_cuda else lambda: None
    times = []
    for _ in range(repeats + 1):
        head.zero_grad()
        x.grad = None
        wait()
        wall, processor = time.perf_counter(), time.process_time()
        head(x).sum().backward()
        wait()
        times.append((time.perf_counter() - wall, time.process_time() - processor))
    return min(wall for wall, _ in times[1:]), min(processor for _, processor in times[1:])


def measure(form: Form, depth: int, batch: int, repeats: int, device: str) -> tuple[float, float]:
    """Returns `seconds` of VGG-16's classifier in a form."""
    head = VGG(nn.Identity(), init_weights=False).classifier
    form.apply(head, depth)
    return seconds(head.to(device), torch.randn(batch, FEATURES, device=device, requires_grad=True), repeats)


def main(arguments: Sequence[str] | None = None) -> None:
    """Counts, measures and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in {"batch": 16, "depth": 5, "threads": 2, "repeats": 3}.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    asked = parser.parse_args(arguments)
    torch.set_num_threads(asked.threads)
    torch.manual_seed(0)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    where = torch.cuda.get_device_name() if device == "cuda" else f"CPU, {asked.threads} threads"
    table = Table(title=f"VGG-16-BN, depth {asked.depth}; head: batch {asked.batch}, float32, {where}")
    for column in (
        "replaced, form",
        "parameters",
        "multiply-adds",
        "share",
        "head, ms",
        "ratio",
        "processor, ms",
        "ratio",
    ):
        table.add_column(column, justify="left" if "form" in column else "right")
    counts = {form: count(form, asked.depth) for form in forms()}
    times = {form: measure(form, asked.depth, asked.batch, asked.repeats, device) for form in forms()}
    original = Form(None, "")
    again = measure(original, asked.depth, asked.batch, asked.repeats, device)
    first = tuple(map(min, times[original], again))
    whole = counts[original][1]
    assert whole is not None
    for form, (parameters, products) in counts.items():
        shown = [f"{products / 1e9:.3f} G", f"{products / whole:.4f}"] if products else ["", ""]
        both = first if form == original else times[form]
        for value, reference in zip(both, first, strict=True):
            shown += [f"{1e3 * value:.0f}", f"{value / reference:.2f}"]
        table.add_row(str(form), f"{parameters:,}", *shown)
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
