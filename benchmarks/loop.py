"""Compares images per second in Lightning's loop, as in `fit`, with a plain loop like torchvision's reference.

    python -m benchmarks.loop

Both train the same network from the same start on the same loader, a small folder of generated JPEGs in ImageNet's
layout. After a warm-up they take turns. In each turn, an untimed epoch precedes the timed one. The result is the median
over the turns of Lightning's speed divided by that of the plain loop. On a shared machine, the same ratio of processor
times is more reliable; these include all threads of the process, but not its worker processes.
"""

from __future__ import annotations

import argparse
import logging
import statistics
import tempfile
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import CSVLogger
from PIL import Image
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.nn import functional

from datamodules import ImageNetDataModule
from lit_triwave.callbacks.progress import StageProgress
from lit_triwave.distributed.interruption import Interruption
from lit_triwave.modules import ImageClassifier
from lit_triwave.modules.stages import Stage

RECIPE: dict[str, Any] = {"momentum": 0.9, "weight_decay": 1e-4}
LR = 0.01


def write_images(root: Path, classes: int, images: int) -> None:
    """Writes train/ and val/ with classes of smooth, slightly noisy images of 500 × 375 pixels."""
    generator = np.random.default_rng(0)
    for split, count in (("train", images // classes), ("val", 1)):
        for label in range(classes):
            folder = root / split / f"n{label:08d}"
            folder.mkdir(parents=True)
            for number in range(count):
                coarse = Image.fromarray(generator.integers(0, 256, (12, 16, 3), dtype=np.uint8))
                smooth = np.asarray(coarse.resize((500, 375), Image.Resampling.BICUBIC), dtype=np.int16)
                noisy = (smooth + generator.integers(-8, 9, smooth.shape, dtype=np.int16)).clip(0, 255)
                Image.fromarray(noisy.astype(np.uint8)).save(folder / f"{number}.JPEG", quality=90)


class Seconds(NamedTuple):
    """Wall time and processor time of an epoch."""

    wall: float
    cpu: float

    @classmethod
    def now(cls) -> Seconds:
        return cls(time.perf_counter(), time.process_time())

    def since(self, begun: Seconds) -> Seconds:
        return Seconds(self.wall - begun.wall, self.cpu - begun.cpu)


class EpochTimer(Callback):
    """Measures the seconds of each training epoch."""

    def __init__(self) -> None:
        self.seconds: list[Seconds] = []

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.begun = Seconds.now()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.seconds.append(Seconds.now().since(self.begun))


def classifier(args: argparse.Namespace, data: ImageNetDataModule) -> ImageClassifier:
    """Returns the network, the same each time."""
    torch.manual_seed(0)
    return ImageClassifier(
        backbone=args.backbone,
        head=args.head,
        num_nets=16,
        pretrain=Stage(epochs=0),
        train=Stage(epochs=2, lr=LR, optimizer="SGD", options=RECIPE),
        num_classes=data.num_classes,
        image_shape=data.image_shape,
    )


def datamodule(args: argparse.Namespace, root: Path) -> ImageNetDataModule:
    """Returns the data, the same each time."""
    options = {"batch_size": args.batch, "image_size": args.size, "workers": args.workers, "channels_last": False}
    return ImageNetDataModule(str(root), **options)


def lightning_loop(args: argparse.Namespace, root: Path, folder: Path) -> Seconds:
    """Returns the seconds of the second epoch in Lightning, with the callbacks and the logger of `fit`."""
    data, timer = datamodule(args, root), EpochTimer()
    trainer = Trainer(
        accelerator="cpu",
        max_epochs=2,
        limit_val_batches=0,
        logger=CSVLogger(folder),
        log_every_n_steps=10,
        enable_checkpointing=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        callbacks=[Interruption(), StageProgress(), timer],
    )
    trainer.fit(classifier(args, data), datamodule=data)
    return timer.seconds[1]


def plain_loop(args: argparse.Namespace, root: Path) -> Seconds:
    """Returns the seconds of the second epoch in a plain loop with the same work."""
    data = datamodule(args, root)
    model = classifier(args, data).network.train()
    device = torch.device("cpu")
    optimizer = torch.optim.SGD(model.parameters(), lr=LR, **RECIPE)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, step_size=30, gamma=0.1)
    loader = data.train_dataloader()
    for epoch in range(2):
        begun = Seconds.now()
        loader.sampler.set_epoch(epoch)  # type: ignore[attr-defined]
        totals = {"loss": 0.0, "top1": 0.0, "top5": 0.0}
        for loaded in loader:
            images, labels = data.on_after_batch_transfer(loaded, 0)
            images, labels = images.to(device, non_blocking=True), labels.to(device, non_blocking=True)
            logits = model(images)
            loss = functional.cross_entropy(logits, labels)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            top1, top5 = hits(logits, labels)
            totals["loss"] += loss.item() * len(labels)
            totals["top1"] += top1.item()
            totals["top5"] += top5.item()
        schedule.step()
    return Seconds.now().since(begun)


def hits(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Returns how many labels are the first prediction, and how many are among the first five."""
    with torch.inference_mode():
        correct = logits.topk(min(5, logits.shape[1]), dim=1).indices == labels[:, None]
        return correct[:, 0].sum(), correct.any(1).sum()


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default="resnet18", help="cnn or a model of torchvision")
    parser.add_argument("--head", default="original", help="see ImageClassifier")
    parser.add_argument("--images", type=int, default=256)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--size", type=int, default=64, help="side of the images that the network gets")
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--turns", type=int, default=7)
    args = parser.parse_args(arguments)
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings(
        "ignore", ".*does not have many workers.*|.*smaller than the logging interval.*|.*LeafSpec.*"
    )

    pairs: list[tuple[Seconds, Seconds]] = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write_images(folder / "images", classes=8, images=args.images)
        for turn in range(args.turns + 1):
            runs = {
                "lightning": lambda: lightning_loop(args, folder / "images", folder / "logs"),
                "plain": lambda: plain_loop(args, folder / "images"),
            }
            # The order alternates, so that a drift of the machine's speed favours neither.
            order = list(runs) if turn % 2 else list(reversed(runs))
            seconds = {name: runs[name]() for name in order}
            if turn:  # turn 0 is the warm-up
                pairs.append((seconds["lightning"], seconds["plain"]))

    seen = args.images // args.batch * args.batch
    table = Table(
        title=f"{args.backbone}, {args.size} × {args.size}, batch {args.batch}, {torch.get_num_threads()} threads"
    )
    for heading in ("turn", "Lightning, images/s", "plain loop, images/s", "ratio", "ratio of processor time"):
        table.add_column(heading, justify="right")
    rows = [(seen / a.wall, seen / b.wall, b.wall / a.wall, b.cpu / a.cpu) for a, b in pairs]
    medians = tuple(statistics.median(column) for column in zip(*rows, strict=True))
    for turn, (fast, plain, ratio, cpu) in enumerate([*rows, medians], 1):
        name = str(turn) if turn <= len(rows) else "median"
        table.add_row(name, f"{fast:.1f}", f"{plain:.1f}", f"{ratio:.3f}", f"{cpu:.3f}", end_section=turn == len(rows))
    Console().print(table)


if __name__ == "__main__":
    main()
