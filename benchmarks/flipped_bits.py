"""Flips single bits in checkpoints of every kind of run and stage, and counts the flips that are not refused.

    python -m benchmarks.flipped_bits [--flips 400] [--seed 0] [--kinds "own module" …]

Each kind of run is stopped in each of its stages. Then one random bit at a time is flipped in its `last.ckpt`,
`best.ckpt` and `pretrained.ckpt`. A flip changes the content if PyTorch alone would load other values or fail. Each of
these flips must be refused; otherwise the exit code is 1.
"""

from __future__ import annotations

import argparse
import math
import random
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from torch import nn

from benchmarks.attempts import same, show
from benchmarks.kill_and_resume import DIGITS, FUNCTION
from lit_triwave.checkpoints.load import load_checkpoint
from lit_triwave.cli import main as command
from lit_triwave.errors import TriwaveError

STACK = ["--config", "configs/stack.yaml", "--model.layers=[2, 2]", "--model.replicas=2", "--data.points=100"]
STACK += ["--model.limit.epochs=4", "--model.pretrain.epochs=4", "--model.train.epochs=4", "--model.polish.epochs=4"]
STAGES = ["--model.pretrain.epochs=4", "--model.train.epochs=4"]
WIRED = [*FUNCTION, *STAGES, "--model.polish.epochs=4"]
TWO_INPUTS = ["--data.expression=x**2 + y", "--data.domain={x: [-1, 1], y: [0, 1]}", "--data.points=100"]
TWO_INPUTS += ["--data.sampling=sobol"]
OWN = ["--model.class_path=lightning.pytorch.demos.boring_classes.BoringModel"]
OWN += ["--data.class_path=lightning.pytorch.demos.boring_classes.BoringDataModule"]
IN_TURN = {"pretrain": 2, "train": 6, "polish": 10}
KINDS = {
    "function, single": (WIRED, IN_TURN),
    "function, difference": ([*WIRED, "--model.wiring=difference"], IN_TURN),
    "function, sum": ([*WIRED, *TWO_INPUTS, "--model.wiring=sum", "--model.release=dense"], IN_TURN),
    "function, composition": ([*WIRED, *TWO_INPUTS, "--model.wiring=composition"], IN_TURN),
    "random start": (
        [*WIRED, "--model.initialization=kaiming", "--model.pretrain.epochs=0"],
        {"train": 2, "polish": 6},
    ),
    "stack": (STACK, {"limit": 2, "pretrain": 6, "train": 10, "polish": 14}),
    "digits, blocks": ([*DIGITS, "--model.release=blocks"], {"pretrain": 1, "train": 4}),
    "digits, dense": ([*DIGITS, "--model.release=dense"], {"pretrain": 1, "train": 4}),
    "digits, dense head": (
        [*DIGITS, "--model.head=dense", "--model.pretrain.epochs=0", "--model.train.epochs=2"],
        {"train": 1},
    ),
    "digits, replaced layers": (
        [*DIGITS, "--model.head=replaced", "--model.backbone=benchmarks.flipped_bits.TwoDenseLayers"],
        {"pretrain": 1, "train": 4},
    ),
    "own module": (OWN, {"train": 2}),
}
"""Kind of run ↦ arguments of `fit`, and epochs after which it is in the middle of each stage."""


class TwoDenseLayers(nn.Sequential):
    """A model of images whose hidden dense layer is replaced.

    Args:
        image_shape: (channels, height, width).
        num_classes: outputs.
    """

    def __init__(self, image_shape: Sequence[int], num_classes: int) -> None:
        pixels = math.prod(image_shape)
        super().__init__(nn.Flatten(), nn.Linear(pixels, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU())
        self.append(nn.Linear(16, num_classes))


def flipped(path: Path, times: int, chance: random.Random) -> tuple[int, int]:
    """Flips one bit of a checkpoint at a time, and restores the file at the end.

    Returns:
        The number of flips that changed the content, and the number of these that were refused.
    """
    whole, before = path.read_bytes(), torch.load(path, weights_only=True)
    changed = refused = 0
    for _ in range(times):
        content = bytearray(whole)
        content[chance.randrange(len(whole))] ^= 1 << chance.randrange(8)
        path.write_bytes(content)
        try:
            changes = not same(torch.load(path, weights_only=True), before)
        except Exception:  # PyTorch raises many kinds
            changes = True
        try:
            load_checkpoint(path)
        except TriwaveError:
            refused += changes
        changed += changes
    path.write_bytes(whole)
    return changed, refused


def main(args: Sequence[str] | None = None) -> int:
    """Prints the table; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--flips", type=int, default=400, help="of each checkpoint")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kinds", nargs="+", default=[*KINDS], choices=[*KINDS], metavar="KIND")
    asked = parser.parse_args(args)
    chance, table, total = random.Random(asked.seed), Table("run", "stage", "file", "changed", "refused"), [0, 0]
    with tempfile.TemporaryDirectory() as folder:
        place = ["--run.root", folder, "--run.wandb", "disabled", "--trainer.enable_progress_bar", "false"]
        for kind in asked.kinds:
            options, stages = KINDS[kind]
            for stage, epochs in stages.items():
                run_id = kind.replace(", ", "-").replace(" ", "_")
                run = [f"--run.experiment={stage}", f"--run.id={run_id}", "--run.checkpoint_every=1"]
                if command(["fit", *options, *place, *run, f"--trainer.max_epochs={epochs}"]):
                    raise SystemExit(f"the run for {kind}, {stage} failed")
                for path in sorted((Path(folder) / stage / run_id / "checkpoints").glob("*.ckpt")):
                    counts = flipped(path, asked.flips, chance)
                    total = [a + b for a, b in zip(total, counts, strict=True)]
                    show(table, [kind, stage, path.name, *counts])
    Console().print(table)
    print(f"{total[1]} of {total[0]} flips that change the content were refused")
    return int(total[0] != total[1])


if __name__ == "__main__":
    sys.exit(main())
