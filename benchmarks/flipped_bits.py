"""Flips single bits in checkpoints of every kind of run and stage, and counts those that are loaded all the same.

    python -m benchmarks.flipped_bits [--flips 400] [--seed 0]

Each kind of run is stopped in each of its stages. Of its `last.ckpt`, `best.ckpt` and `pretrained.ckpt` one random bit
is flipped at a time. A flip changes the content if PyTorch alone would load something else, or nothing; each of these
must be refused. Exits with 1 otherwise.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from benchmarks.attempts import same
from benchmarks.kill_and_resume import DIGITS, FUNCTION
from lit_triwave.checkpoints.load import load_checkpoint
from lit_triwave.cli import main as command
from lit_triwave.errors import TriwaveError

STACK = ["--config", "configs/stack.yaml", "--model.layers=[2, 2]", "--model.replicas=2", "--data.points=100"]
STACK += ["--model.limit.epochs=4", "--model.pretrain.epochs=4", "--model.train.epochs=4", "--model.polish.epochs=4"]
STAGES = ["--model.pretrain.epochs=4", "--model.train.epochs=4"]
KINDS = {
    "function": ([*FUNCTION, *STAGES, "--model.polish.epochs=4"], {"pretrain": 2, "train": 6, "polish": 10}),
    "random start": (
        [*FUNCTION, "--model.initialization=kaiming", *STAGES, "--model.pretrain.epochs=0", "--model.polish.epochs=4"],
        {"train": 2, "polish": 6},
    ),
    "stack": (STACK, {"limit": 2, "pretrain": 6, "train": 10, "polish": 14}),
    "digits, blocks": ([*DIGITS, "--model.release=blocks"], {"pretrain": 1, "train": 4}),
    "digits, dense": ([*DIGITS, "--model.release=dense"], {"pretrain": 1, "train": 4}),
    "digits, dense head": (
        [*DIGITS, "--model.head=dense", "--model.pretrain.epochs=0", "--model.train.epochs=2"],
        {"train": 1},
    ),
}
"""Kind of run ↦ arguments of `fit`, and epochs after which it is in the middle of each stage."""


def flipped(path: Path, times: int, chance: random.Random) -> tuple[int, int]:
    """Flips one bit of a checkpoint at a time; the file is as before afterwards.

    Returns:
        How many flips changed the content, and how many of these were refused.
    """
    whole, before = path.read_bytes(), torch.load(path, weights_only=True)
    changed = refused = 0
    for _ in range(times):
        content = bytearray(whole)
        content[chance.randrange(len(whole))] ^= 1 << chance.randrange(8)
        path.write_bytes(content)
        try:
            changes = not same(torch.load(path, weights_only=True), before)
        except Exception:  # whatever PyTorch raises
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
    asked = parser.parse_args(args)
    chance, table, total = random.Random(asked.seed), Table("run", "stage", "file", "changed", "refused"), [0, 0]
    with tempfile.TemporaryDirectory() as folder:
        place = ["--run.root", folder, "--run.wandb", "disabled", "--trainer.enable_progress_bar", "false"]
        for kind, (options, stages) in KINDS.items():
            for stage, epochs in stages.items():
                run = [f"--run.experiment={stage}", f"--run.id={kind.replace(' ', '_')}", "--run.checkpoint_every=1"]
                if command(["fit", *options, *place, *run, f"--trainer.max_epochs={epochs}"]):
                    raise SystemExit(f"the run for {kind}, {stage} failed")
                for path in sorted((Path(folder) / stage / kind.replace(" ", "_") / "checkpoints").glob("*.ckpt")):
                    counts = flipped(path, asked.flips, chance)
                    total = [a + b for a, b in zip(total, counts, strict=True)]
                    table.add_row(kind, stage, path.name, *map(str, counts))
    Console().print(table)
    print(f"{total[1]} of {total[0]} flips that change the content were refused")
    return int(total[0] != total[1])


if __name__ == "__main__":
    sys.exit(main())
