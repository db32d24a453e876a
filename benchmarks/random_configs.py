"""Random small configs of `fit`: fields, choices and types are those of the classes from which the parser is made."""

from __future__ import annotations

import csv
import inspect
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import torch
from lightning.pytorch import Trainer

from datamodules import DigitsDataModule, FunctionDataModule, ImageNetDataModule, TableDataModule
from lit_triwave.modules import FunctionRegressor, ImageClassifier
from lit_triwave.modules.stages import SECOND_ORDER, Limit, Polish, Stage
from tests.image_data import write_imagenet

SHARE = 0.35  # share of the fields that are drawn; the others keep their defaults
OPTIMIZERS = [name for name, kind in vars(torch.optim).items() if inspect.isclass(kind) and name[0] != "_"]
EXPRESSIONS = {1: ["x**3 - x", "sin(3*x)", "abs(x)", "exp(x)", "x**2"], 2: ["x*y", "(x**2 + y**2)**1.5", "sin(x) + y"]}
EXPRESSIONS |= {3: ["x*y*z", "x + y**2 - z", "exp(-x*y) + z"]}
SMALL: dict[str, tuple[Any, ...]] = {
    # models
    "depth": (1, 2, 3, 4),
    "replicas": (1, 2, 3, 4),
    "members": (1, 1, 2),
    "layers": (None, [1], [2], [2, 2], [3, 1, 2]),
    "width": (1, 3, 4),
    "margin": (1e-3, 0.01, 0.2),
    "raai_share": (0.1, 0.9),
    "num_nets": (1, 4, 6),
    "dropout": (0.0, 0.3),
    "channels": ([4], [2, 4]),
    "convolutions": (1, 2),
    "label_smoothing": (0.0, 0.1),
    "mixup": (0.0, 0.2),
    "cutmix": (0.0, 1.0),
    # stages
    "lr": (1e-4, 0.003, 0.01, 0.1),
    "warmup": (0.0, 0.1, 1.0),
    "optimizer": ("Adam", "AdamW", "SGD", *OPTIMIZERS),
    "exchange": (0.0, 0.5),
    "chunk": (7, 64),
    "seed": (0, 3),
    "max_points": (None, 40),
    "halving": (0, 2, 5),
    # data
    "points": (20, 60, 150),
    "test_points": (20, 100),
    "noise": (0.0, 0.1),
    "batch_size": (None, 16, 50),
    "val_fraction": (0.0, 0.2),
    "test_fraction": (0.0, 0.2),
    "rotation": (0.0, 20.0),
    "scaling": (0.0, 0.2),
    "shear": (0.0, 0.1),
    "shift": (0.0, 1.0),
    "validation": (0, 100),
    "split_seed": (0, 1),
    "erase": (0.0, 0.5),
    "fraction": (1.0, 0.5),
    "workers": (0, 1, 2),
    # trainer
    "precision": ("64-true", "64-true", "32-true", "32-true", "bf16-mixed", "bf16-true", "16-mixed", 16),
    "accumulate_grad_batches": (1, 1, 2),
    "gradient_clip_val": (None, 0.5),
    "check_val_every_n_epoch": (1, 2, 7),
    "log_every_n_steps": (1, 3, 50),
    "limit_train_batches": (1.0, 1.0, 0.5, 2),
    "limit_val_batches": (1.0, 0, 1),
    "num_sanity_val_steps": (0, 1),
    "reload_dataloaders_every_n_epochs": (0, 1),
}
"""Field ↦ values that keep a run short, for fields whose types allow long runs."""
NOT_DRAWN = ("expression", "domain", "path", "inputs", "target", "root", "compile", "weights", "backbone")
NOT_DRAWN += ("fast_dev_run", "barebones", "detect_anomaly", "inference_mode", "profiler", "enable_model_summary")
NOT_DRAWN += ("use_distributed_sampler", "logger", "enable_progress_bar", "enable_checkpointing", "benchmark", "regime")


def draw(chance: random.Random, folder: Path) -> dict[str, Any]:
    """Draws a config. `fit` may still refuse it, because not all fields fit together.

    Args:
        chance: random generator.
        folder: folder of the data files, which are written once.
    """
    kind = chance.choice([_function, _function, _function, _stack, _stack, _table, _digits, _digits, _images])
    model, data, trainer = kind(chance, folder)
    trainer = _fields(Trainer, chance, SHARE / 4) | {"accelerator": "cpu", "devices": 1} | trainer
    classifies = data["class_path"].endswith(("DigitsDataModule", "ImageNetDataModule"))
    name = "ImageClassifier" if classifies else "FunctionRegressor"
    model = {"class_path": f"lit_triwave.modules.{name}", "init_args": model}
    return {"seed_everything": chance.randrange(100), "trainer": trainer, "model": model, "data": data}


def _fields(kind: Callable[..., Any], chance: random.Random, share: float = SHARE) -> dict[str, Any]:
    """Draws values for some of the arguments of a class."""
    hints = get_type_hints(kind.__init__)  # type: ignore[misc]
    found = {}
    for name in inspect.signature(kind).parameters:
        values = SMALL.get(name) or _choices(hints.get(name))
        if name not in NOT_DRAWN and values and chance.random() < share:
            found[name] = chance.choice(values)
    return found


def _choices(hint: Any) -> tuple[Any, ...]:
    """Returns all values of a type with few values (choices, or true and false); () for other types."""
    if hint is bool:
        return (False, True)
    if get_origin(hint) is Literal:
        return get_args(hint)
    return tuple(value for part in get_args(hint) for value in _choices(part))


def _stage(chance: random.Random, most: int) -> dict[str, Any]:
    stage = _fields(Stage, chance) | {"epochs": chance.choice([0, 1, 2, most // 2, most])}
    return stage | ({"options": {}} if "optimizer" in stage else {})  # the default's are Adam's


def _regressor(chance: random.Random, most: int = 30) -> dict[str, Any]:
    model = _fields(FunctionRegressor, chance)
    model |= {"pretrain": _stage(chance, most), "train": _stage(chance, most)}
    model["polish"] = _fields(Polish, chance) | {"epochs": chance.choice([0, 0, 3, most])}
    if chance.random() < 0.3:
        model["pretrain"] |= {"optimizer": SECOND_ORDER, "options": {}}
    return {name: value for name, value in model.items() if name not in ("limit", "layers", "members", "wiring")}


def _precise(chance: random.Random) -> dict[str, Any]:
    return {"precision": chance.choice(SMALL["precision"])}


def _whole_batch(model: dict[str, Any], data: dict[str, Any]) -> None:
    """Puts all points into one batch in most cases in which a stage needs it, as a user would."""
    second = model["pretrain"].get("optimizer") == SECOND_ORDER or model["polish"]["epochs"] or "limit" in model
    if second:
        data.pop("batch_size", None)


def _function_data(chance: random.Random, variables: int) -> dict[str, Any]:
    domain = {name: [chance.choice([-1, 0]), chance.choice([1, 2])] for name in "xyz"[:variables]}
    arguments = _fields(FunctionDataModule, chance) | {"expression": chance.choice(EXPRESSIONS[variables])}
    arguments |= {"domain": domain, "points": chance.choice(SMALL["points"])}
    if variables > 1:
        arguments["sampling"] = chance.choice(["random", "sobol"])
        arguments["test_sampling"] = "random"
    return {"class_path": "datamodules.FunctionDataModule", "init_args": arguments}


def _function(chance: random.Random, _: Path) -> tuple[dict[str, Any], ...]:
    variables = chance.choice([1, 1, 1, 2])
    model, data = _regressor(chance), _function_data(chance, variables)
    if model.get("initialization", "constructed") == "constructed":
        model["wiring"] = chance.choice(["sum", "composition", *(["single", "difference"] if variables == 1 else [])])
    else:
        model["pretrain"]["epochs"] = 0
    _whole_batch(model, data["init_args"])
    return model, data, _precise(chance)


def _as_stack(model: dict[str, Any], chance: random.Random) -> dict[str, Any]:
    model |= {"wiring": "stack", "initialization": "constructed"}
    model |= {name: chance.choice(SMALL[name]) for name in ("layers", "members")}
    model["limit"] = _fields(Limit, chance) | {"epochs": chance.choice([1, 4, 12])}
    if chance.random() < 0.3:
        model["limit"]["options"] = {"relevance": True}
    return model


def _stack(chance: random.Random, _: Path) -> tuple[dict[str, Any], ...]:
    model, data = _as_stack(_regressor(chance, 10), chance), _function_data(chance, chance.choice([1, 2, 3]))
    _whole_batch(model, data["init_args"])
    return model, data, _precise(chance)


def _table(chance: random.Random, folder: Path) -> tuple[dict[str, Any], ...]:
    path = folder / "table.csv"
    if not path.is_file():
        numbers = random.Random(0)
        rows = [[numbers.gauss(0, 1), numbers.gauss(5, 2), numbers.choice("uvw")] for _ in range(120)]
        with path.open("w") as file:
            csv.writer(file).writerows([["a", "b", "c", "y"], *([*row, row[0] * row[1]] for row in rows)])
    arguments = _fields(TableDataModule, chance) | {"path": str(path), "target": "y"}
    arguments["inputs"] = chance.choice([["a", "b"], ["a", "b", "c"], ["b"]])
    model = _regressor(chance, 10)
    if chance.random() < 0.6:
        model = _as_stack(model, chance)
    elif model.get("initialization", "constructed") == "constructed":
        model["wiring"] = "single" if len(arguments["inputs"]) == 1 else chance.choice(["sum", "composition"])
    else:
        model["pretrain"]["epochs"] = 0
    _whole_batch(model, arguments)
    return model, {"class_path": "datamodules.TableDataModule", "init_args": arguments}, _precise(chance)


def _classifier(chance: random.Random) -> dict[str, Any]:
    model = _fields(ImageClassifier, chance) | {"pretrain": _stage(chance, 3), "train": _stage(chance, 3)}
    model |= {"num_nets": chance.choice(SMALL["num_nets"]), "channels": chance.choice(SMALL["channels"])}
    model["backbone"] = chance.choice(["cnn", "cnn", "none"])
    if model.get("head") in ("dense", "original"):
        model["pretrain"]["epochs"] = 0
    return model


def _digits(chance: random.Random, _: Path) -> tuple[dict[str, Any], ...]:
    arguments = _fields(DigitsDataModule, chance) | {"batch_size": chance.choice([100, 300])}
    return _classifier(chance), {"class_path": "datamodules.DigitsDataModule", "init_args": arguments}, {}


def _images(chance: random.Random, folder: Path) -> tuple[dict[str, Any], ...]:
    root = folder / "images"
    if not root.is_dir():
        write_imagenet(root)
    arguments = _fields(ImageNetDataModule, chance) | {"root": str(root), "batch_size": chance.choice([5, 8])}
    arguments |= {"image_size": 16, "workers": chance.choice([0, 0, 1, 2])}
    return _classifier(chance), {"class_path": "datamodules.ImageNetDataModule", "init_args": arguments}, {}
