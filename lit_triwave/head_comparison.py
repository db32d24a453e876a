"""`compare-heads`: a constructed head against dense ones on the same backbone, data and seeds."""

from __future__ import annotations

import copy
import csv
import hashlib
import json
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from jsonargparse import Namespace
from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer, seed_everything
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from lit_triwave.analysis.costs import count_parameters
from lit_triwave.callbacks.loss_history import EpochHistory, validation_images
from lit_triwave.commands.config_checks import LINKS
from lit_triwave.commands.parser import OneLineParser, known_classes
from lit_triwave.commands.quiet import quiet
from lit_triwave.commands.trainer_options import UNRECORDED
from lit_triwave.errors import TriwaveError
from lit_triwave.files import open_folder, write_json, written_whole
from lit_triwave.modules.classifier import ImageClassifier
from lit_triwave.modules.stages import Stage
from lit_triwave.nn.heads import BlockDiagonalHead
from lit_triwave.tracking.run import Run

SHOWN_EPOCHS = (1, 2, 5)
CONSTRUCTED = "constructed"
RIVALS = ("equal parameters", "equal width", "equal depth")
RECORD = 2
"""Counts the changes of what is kept of a run, so that records of an earlier kind are not taken for whole ones."""
LINE_SECONDS = 30.0
"""How long a log file may be without a word of a run."""

Results = dict[str, list[dict[str, Any]]]


def compare_heads(
    config: str, seeds: int = 10, own_splits: bool = False, out: str | None = None, overwrite: bool = False
) -> None:
    """Trains the config's constructed head and its dense rivals, each over many seeds.

    Args:
        config: YAML file of a `fit` with an `ImageClassifier` whose head is block_diagonal.
        seeds: how many, from 0 on; ≥ 1.
        own_splits: a split of the images for each seed, where the data can be split, instead of the config's for all.
            The spread is larger then: splits differ more than starts.
        out: folder of the results; runs/compare_heads/<name of the config> by default. Finished runs that are in it are
            kept.
        overwrite: start anew where the folder holds runs of another config.
    """


def run(args: Sequence[str], started: float) -> int:
    """Parses the command's arguments, trains what is missing, writes tables and figure; returns the exit code."""
    quiet()
    parser = OneLineParser(prog="python -m lit_triwave compare-heads", description=compare_heads.__doc__)
    parser.classes = (compare_heads,)  # type: ignore[assignment]
    parser.add_argument("--config", type=str, required=True, help="YAML file of a fit with a block_diagonal head")
    parser.add_argument("--seeds", type=int, default=10, help="how many, from 0 on")
    parser.add_argument("--own_splits", action="store_true", help="a split of the images for each seed")
    parser.add_argument("--out", type=str, help="folder of the results")
    parser.add_argument("--overwrite", action="store_true", help="start anew where runs of another config are")
    asked = parser.parse_args(list(args))
    if asked.seeds < 1:
        raise TriwaveError(f"--seeds {asked.seeds}: at least 1")
    path = Path(asked.config)
    if not path.is_file():
        raise TriwaveError(f"--config {path}: no such file")
    cells = Cells(path, asked.own_splits)
    name = path.stem + ("_own_splits" if cells.own_splits else "")
    folder = Path(asked.out or Path("runs") / "compare_heads" / name)
    open_results(folder, cells.fingerprint, asked.overwrite)
    try:
        results = train_missing(cells, folder, asked.seeds)
    except (KeyboardInterrupt, SystemExit):
        print(f"finished runs are kept in {folder}; the same command goes on")
        raise
    write_results(results, folder, path, cells.own_splits)
    print(folder, flush=True)
    return 0


class Cells:
    """The runs of a comparison: heads × seeds.

    Args:
        path: of the config.
        own_splits: see `compare_heads`.

    Attributes:
        heads: name ↦ what it changes in the model's arguments.
        own_splits: whether each seed has a split of its own.
        fingerprint: of the config, to tell runs of another one.

    Raises:
        TriwaveError: the config is not of a constructed head.
    """

    def __init__(self, path: Path, own_splits: bool = False) -> None:
        parser = known_classes(ImageClassifier, Stage, Trainer, Run)()
        parser.add_argument("--seed_everything", type=bool | int, default=0)
        parser.add_lightning_class_args(Trainer, "trainer")
        parser.add_lightning_class_args(LightningModule, "model", subclass_mode=True)
        parser.add_lightning_class_args(LightningDataModule, "data", subclass_mode=True)
        parser.add_class_arguments(Run, "run")
        for source, target in LINKS.items():
            parser.link_arguments(source, f"model.init_args.{target}", apply_on="instantiate")
        self.parser = parser
        self.config: Namespace = parser.parse_path(str(path))
        model = self.config.model
        head = model.init_args.get("head")
        if head != "block_diagonal":
            raise TriwaveError(
                f"{path}: compare-heads starts from an ImageClassifier with head block_diagonal, not "
                f"{head or model.class_path.rsplit('.', 1)[-1]}"
            )
        self.own_splits = own_splits and "split_seed" in self.config.data.init_args
        text = f"{RECORD} {self.own_splits} {parser.dump(self.config, skip_none=False)}"
        self.fingerprint = hashlib.sha256(text.encode()).hexdigest()[:16]
        torch.manual_seed(0)
        module = parser.instantiate_classes(self.config).model
        self.heads = rivals(module.network.head, model.init_args)

    def instantiate(
        self, head: str, seed: int, *callbacks: Callback
    ) -> tuple[Trainer, ImageClassifier, LightningDataModule]:
        """Trainer, model and data of one run; the trainer gets `callbacks` besides those of the config."""
        config = self.config.clone()
        for key, value in self.heads[head].items():
            config.model.init_args[key] = value
        if "seed" in config.data.init_args:
            config.data.init_args.seed = seed
        if self.own_splits:
            config.data.init_args.split_seed = seed
        for key, setting in (UNRECORDED | {"check_val_every_n_epoch": 1}).items():
            config.trainer[key] = setting
        seed_everything(seed, verbose=False)
        made = self.parser.instantiate_classes(config)
        everything = [*(made.trainer.callbacks or []), *callbacks]
        return Trainer(**made.trainer.as_dict() | {"callbacks": everything}), made.model, made.data


def rivals(head: BlockDiagonalHead, arguments: Namespace) -> dict[str, dict[str, Any]]:
    """The constructed head and the dense ones: of as many parameters (one hidden layer), of equal width (one hidden
    layer), of equal width and depth; each with and without the batch norm that the constructed one has."""
    released = copy.deepcopy(head)
    released.release(arguments.release)
    parameters = count_parameters(released)
    features, classes = head.layers.projection.in_features, head.classes.out_features
    width = 4 * head.bank.shape.numel()
    sizes = {
        "equal parameters": (max(1, round((parameters - classes) / (features + 1 + classes))), 1),
        "equal width": (width, 1),
        "equal depth": (width, head.bank.depth),
    }
    epochs = arguments.pretrain.epochs + arguments.train.epochs
    whole = {"pretrain.epochs": 0, "train.epochs": epochs, "head": "dense"}
    result: dict[str, dict[str, Any]] = {CONSTRUCTED: {}}
    for name in RIVALS:
        neurons, depth = sizes[name]
        for norm in (False, True):
            label = f"dense, {name}" + (" + batch norm" if norm else "")
            result[label] = whole | {"width": neurons, "depth": depth, "batch_norm": norm}
    return result


def open_results(folder: Path, fingerprint: str, overwrite: bool) -> None:
    """Makes the folder, or takes what it holds of the same config.

    Raises:
        TriwaveError: it holds runs of another config, or cannot be written.
    """
    mark = folder / "fingerprint"
    if folder.is_dir() and any(folder.iterdir()):
        if not mark.is_file():
            raise TriwaveError(f"--out {folder} holds something else: choose another folder")
        if overwrite:
            shutil.rmtree(folder)
        elif mark.read_text() != fingerprint:
            raise TriwaveError(f"--out {folder} holds runs of another config: choose another, or add --overwrite")
    open_folder(folder / "runs", "give another --out")
    mark.write_text(fingerprint)


def train_missing(cells: Cells, folder: Path, seeds: int) -> Results:
    """Trains every run that the folder does not hold yet, seed by seed, so that an early stop is still a comparison."""
    results: Results = {name: [] for name in cells.heads}
    files = {
        (name, seed): folder / "runs" / f"{name.replace(', ', '-').replace(' + ', '-').replace(' ', '_')}-{seed}.json"
        for seed in range(seeds)
        for name in cells.heads
    }
    kept = {run for run, file in files.items() if file.is_file()}
    if kept:
        print(f"{len(kept)} of {len(files)} runs are kept from before", flush=True)
    with ComparisonProgress(len(files)) as progress:
        for (name, seed), file in files.items():
            progress.begin(name, seed)
            if (name, seed) not in kept:
                write_json(file, train(cells, name, seed, progress))
            record = json.loads(file.read_text())
            results[name].append(record)
            progress.end(record["test/accuracy"], (name, seed) in kept)
    return results


class ComparisonProgress(Callback):
    """How far the comparison is, and its present run: two bars on a terminal; elsewhere a line for each run, and one
    every 30 s within a run.

    Args:
        runs: how many there are.
    """

    def __init__(self, runs: int) -> None:
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[unit]}"),
        )
        console = Console()
        self.bars = Progress(
            *columns, TimeElapsedColumn(), TimeRemainingColumn(), console=console, disable=not console.is_terminal
        )
        self.runs = self.bars.add_task("all heads and seeds", total=runs, unit="runs")
        self.epochs = self.bars.add_task("", total=None, unit="epochs")
        self.run = ""
        self.said = time.monotonic()

    def __enter__(self) -> ComparisonProgress:
        self.bars.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.bars.stop()

    def begin(self, name: str, seed: int) -> None:
        """A run begins."""
        self.run = f"seed {seed}  {name:36}"
        self.bars.reset(self.epochs, description=f"seed {seed}, {name}")

    def end(self, accuracy: float, kept: bool) -> None:
        """It is finished, or was before."""
        self._say(f"{accuracy:.2%}{'  kept from before' if kept else ''}")
        self.bars.advance(self.runs)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        done, epochs = trainer.current_epoch + 1, trainer.max_epochs
        self.bars.update(self.epochs, completed=done, total=epochs)
        if self.bars.disable and time.monotonic() >= self.said + LINE_SECONDS:
            self._say(f"epoch {done}/{epochs}")

    def _say(self, what: str) -> None:
        self.said = time.monotonic()
        print(f"{self.run} {what}", flush=True)


def train(cells: Cells, name: str, seed: int, *callbacks: Callback) -> dict[str, Any]:
    """One run: the accuracy after each epoch, on the validation data, and on the test data at the end."""
    history = EpochHistory()
    trainer, model, data = cells.instantiate(name, seed, history, *callbacks)
    trainer.fit(model, datamodule=data)
    if trainer.interrupted:
        raise KeyboardInterrupt
    trainer.test(model, datamodule=data, verbose=False)
    parameters = count_parameters(model.network)
    curve = [row["val/accuracy"] for row in history.rows]
    images = validation_images(data)
    return {"head": name, "seed": seed, "parameters": parameters, "images": images, "accuracy": curve} | model.results


def write_results(results: Results, folder: Path, config: Path, own_splits: bool) -> None:
    """Table on the screen, as Markdown and CSV; everything as JSON; the figure.

    The test accuracy has a column of its own where the curves are of other images.
    """
    from lit_triwave.figures import run_figures as plots

    curves = {name: 100 * torch.tensor([r["accuracy"] for r in runs]) for name, runs in results.items()}
    epochs = len(next(iter(curves.values()))[0])
    shown = [epoch for epoch in SHOWN_EPOCHS if epoch < epochs] + [epochs]
    images = results[CONSTRUCTED][0]["images"]
    header = ["head", "parameters", *(f"epoch {epoch}" for epoch in shown), *(["test"] if images != "test" else [])]
    rows = []
    for name, runs in results.items():
        values = [curves[name][:, epoch - 1] for epoch in shown]
        values += [100 * torch.tensor([r["test/accuracy"] for r in runs])] if images != "test" else []
        rows.append([name, f"{runs[0]['parameters']:,}", *map(mean_and_spread, values)])
    seeds = len(results[CONSTRUCTED])
    of = ("mean ± standard deviation of " if seeds > 1 else "") + of_seeds(seeds)
    of += ", each with a split of its own" if own_splits and seeds > 1 else ""
    last = "" if images == "test" else " and, at the end, on the test images"
    title = f"{config.name}: accuracy in % on the {images} images after some epochs{last}, {of}"
    lead = verdict(curves, shown)
    table = Table(title=title)
    for i, column in enumerate(header):
        table.add_column(column, justify="left" if i == 0 else "right")
    for row in rows:
        table.add_row(*row)
    console = Console()
    Console(width=console.width if console.is_terminal else max(console.width, 120)).print(table)
    print(lead)
    lines = [
        f"{title}.",
        "",
        *(f"| {' | '.join(row)} |" for row in (header, ["---"] * len(header), *rows)),
        "",
        lead,
        "",
    ]
    with written_whole(folder / "comparison.md") as partial:
        partial.write_text("\n".join(lines))
    with written_whole(folder / "comparison.csv") as partial, partial.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["head", "seed", "parameters", "epoch", "accuracy"])
        for name, runs in results.items():
            for r in runs:
                writer.writerows([name, r["seed"], r["parameters"], i + 1, a] for i, a in enumerate(r["accuracy"]))
    write_json(folder / "comparison.json", dict(results))
    figure = plots.heads_figure(curves, CONSTRUCTED, f"{config.name}: error on the {images} images, {of_seeds(seeds)}")
    figure.savefig(folder / "accuracy.png")


def of_seeds(seeds: int) -> str:
    """How many they are."""
    return f"{seeds} seeds" if seeds > 1 else "one seed"


def mean_and_spread(values: torch.Tensor) -> str:
    """Mean ± standard deviation over seeds."""
    spread = f" ± {values.std():.2f}" if len(values) > 1 else ""
    return f"{values.mean():.2f}{spread}"


def verdict(curves: dict[str, torch.Tensor], epochs: Sequence[int]) -> str:
    """Where the constructed head stands among the dense ones, by the mean over seeds, after each of some epochs."""
    parts = []
    for epoch in epochs:
        means = {name: float(curve[:, epoch - 1].mean()) for name, curve in curves.items()}
        own = means.pop(CONSTRUCTED)
        best = max(means, key=means.__getitem__)
        behind = sum(own > value for value in means.values())
        gap = own - means[best]
        place = f"{abs(gap):.2f} points {'above' if gap > 0 else 'below'}" if gap else "level with"
        parts.append(
            f"after epoch {epoch} it is ahead of {behind} of {len(means)} dense heads, {place} the best of them "
            f"({best})"
        )
    return "The constructed head: " + "; ".join(parts) + "."
