"""Trains the runs of a head comparison that are missing: each head with each seed."""

from __future__ import annotations

import copy
import hashlib
import json
import shutil
import time
from pathlib import Path
from typing import Any

import torch
from jsonargparse import Namespace
from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer, seed_everything
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from lit_triwave.analysis.costs import count_parameters
from lit_triwave.callbacks.loss_history import EpochHistory, validation_images
from lit_triwave.commands.compare_heads.report import CONSTRUCTED, Results
from lit_triwave.commands.config_checks import LINKS
from lit_triwave.commands.parser import known_classes
from lit_triwave.commands.trainer_options import UNRECORDED
from lit_triwave.errors import TriwaveError
from lit_triwave.files import open_folder, write_json
from lit_triwave.modules.classifier import ImageClassifier
from lit_triwave.modules.stages import Stage
from lit_triwave.nn.heads import BlockDiagonalHead
from lit_triwave.tracking.run import Run

_RECORD = 3
"""Version of the records of runs; records of other versions are not used."""
LINE_SECONDS = 30.0
"""Longest time without a line about the current run, if there is no terminal."""


class Cells:
    """The runs of a comparison: heads × seeds.

    Args:
        path: the config.
        own_splits: see `compare_heads`.

    Attributes:
        heads: name ↦ changes of the model's arguments.
        own_splits: whether each seed has its own split.
        fingerprint: hash of the config, by which runs of another config are recognized.

    Raises:
        TriwaveError: the config has no constructed head.
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
            got = head or model.class_path.rpartition(".")[2]
            raise TriwaveError(f"{path}: `head` of an ImageClassifier must be block_diagonal, got {got}")
        self.own_splits = own_splits and "split_seed" in self.config.data.init_args
        text = f"{_RECORD} {self.own_splits} {parser.dump(self.config, skip_none=False)}"
        self.fingerprint = hashlib.sha256(text.encode()).hexdigest()[:16]
        torch.manual_seed(0)
        module = parser.instantiate_classes(self.config).model
        self.heads = _rivals(module.network.head, model.init_args)

    def instantiate(
        self, head: str, seed: int, *callbacks: Callback
    ) -> tuple[Trainer, ImageClassifier, LightningDataModule]:
        """Returns trainer, model and data of one run; `callbacks` are added to those of the config."""
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


def _rivals(head: BlockDiagonalHead, arguments: Namespace) -> dict[str, dict[str, Any]]:
    """Returns the constructed head and the dense ones, with and without the batch norm of the constructed one.

    The dense heads have equal parameters (one hidden layer), equal width (one hidden layer), or equal width and depth.
    """
    final = copy.deepcopy(head)
    if arguments.train.epochs:
        final.release(arguments.release)
    parameters = count_parameters(final)
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
    for name, (neurons, depth) in sizes.items():
        for norm in (False, True):
            label = f"dense, {name}" + (" + batch norm" if norm else "")
            result[label] = whole | {"width": neurons, "depth": depth, "batch_norm": norm}
    return result


def open_results(folder: Path, fingerprint: str, overwrite: bool) -> None:
    """Creates the folder of the results, or checks that it contains runs of the same config.

    Raises:
        TriwaveError: the folder contains something else, or cannot be written.
    """
    mark = folder / "fingerprint"
    if folder.is_dir() and any(folder.iterdir()):
        if not mark.is_file():
            raise TriwaveError(f"--out must be a new folder or one of earlier results, got {folder}")
        if overwrite:
            shutil.rmtree(folder)
        elif mark.read_text() != fingerprint:
            raise TriwaveError(f"--out {folder} contains runs of another config: give another, or --overwrite")
    open_folder(folder / "runs", "give another --out")
    mark.write_text(fingerprint)


def train_missing(cells: Cells, folder: Path, seeds: int) -> Results:
    """Trains the missing runs, seed by seed, so that a comparison is also possible after an early stop."""
    results: Results = {name: [] for name in cells.heads}
    files = {
        (name, seed): folder / "runs" / f"{name.replace(', ', '-').replace(' + ', '-').replace(' ', '_')}-{seed}.json"
        for seed in range(seeds)
        for name in cells.heads
    }
    kept = {run for run, file in files.items() if file.is_file()}
    if kept:
        print(f"{len(kept)} of {len(files)} runs are kept from before", flush=True)
    progress = _Progress(len(files))
    with progress.bars:
        for (name, seed), file in files.items():
            progress.begin(name, seed)
            if (name, seed) not in kept:
                write_json(file, train(cells, name, seed, progress))
            record = json.loads(file.read_text())
            results[name].append(record)
            progress.end(record["test/accuracy"], (name, seed) in kept)
    return results


class _Progress(Callback):
    """Shows the progress of all runs and of the current one: two bars on a terminal.

    Without a terminal, each run has a line at its end, and one every 30 s before.

    Args:
        runs: number of runs.
    """

    def __init__(self, runs: int) -> None:
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        self.bars = Progress(*columns, disable=not Console().is_terminal)
        self.runs = self.bars.add_task("runs", total=runs)
        self.epochs = self.bars.add_task("", total=None)
        self.run = ""
        self.said = time.monotonic()

    def begin(self, name: str, seed: int) -> None:
        """Begins a run."""
        self.run = f"seed {seed}  {name:36}"
        self.bars.reset(self.epochs, description=f"epochs of seed {seed}, {name}")

    def end(self, accuracy: float, kept: bool) -> None:
        """Reports the result of the current run."""
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
    """Trains one run; returns its accuracy after each epoch on validation data, and at the end on test data.

    Its time is processor time, because other programs may use the processor too.
    """
    history = EpochHistory()
    trainer, model, data = cells.instantiate(name, seed, history, *callbacks)
    begun = time.process_time()
    trainer.fit(model, datamodule=data)
    seconds = time.process_time() - begun
    if trainer.interrupted:
        raise KeyboardInterrupt
    trainer.test(model, datamodule=data, verbose=False)
    record = {"head": name, "seed": seed, "parameters": count_parameters(model.network), "processor_seconds": seconds}
    curve = [row["val/accuracy"] for row in history.rows]
    return record | {"images": validation_images(data), "accuracy": curve} | model.results
