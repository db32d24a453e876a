"""Tensor programs: each trains all seeds of all functions of a table by all methods of one architecture."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from itertools import groupby
from typing import Any

import torch
from lightning.pytorch import Callback, Trainer

from datamodules import FunctionDataModule
from datamodules.regression import side_by_side
from lit_triwave.commands.reproduce.methods import METHODS, STEPS_PER_EPOCH
from lit_triwave.commands.reproduce.paper import DEPTH, DEPTHS, FUNCTIONS, STACK_DEPTHS, Table
from lit_triwave.commands.trainer_options import UNRECORDED
from lit_triwave.modules.metrics import dead
from lit_triwave.modules.regressor import FunctionRegressor
from lit_triwave.modules.stages import Stage
from lit_triwave.nn.networks import TriangleNetwork

CHUNK = 120
"""Most seeds of each function in one program. More seeds are trained in several programs, to limit the memory: the
Jacobian of four functions takes 180 MB."""
DEPTHS_SEEDS = 6
"""Most seeds at each depth of the study by depth. With more, its ten programs would take longer than the tables."""


@dataclass(frozen=True)
class Program:
    """Networks that are trained together.

    Args:
        table: name of the table.
        methods: names of the methods; all must belong to one family.
        functions: names of the functions; all must have the same inputs and wiring.
        seeds: number of networks for each method and function.
        chunk: index of the chunk of seeds.
        depth: number of hidden layers.
        seed: seed of the initialisation.
    """

    table: Table
    methods: tuple[str, ...]
    functions: tuple[str, ...]
    seeds: int
    chunk: int = 0
    depth: int = DEPTH
    seed: int = 0

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns of the table that the program fills."""
        return (str(self.depth),) if self.table == "depths" else self.functions

    @property
    def name(self) -> str:
        """Unique name of the program within a run."""
        return ".".join([self.table, "-".join(self.methods), "-".join(self.columns), str(self.chunk)])

    @property
    def points(self) -> int | None:
        """Training points; None for the regime's default.

        Our stages come close to an exact fit. For this, a function of two variables needs more points, and a deep
        network needs some points for each piece.
        """
        if "limit" in self.methods and self.table == "depths":
            return None
        if self.table == "depths":
            return int(max(500, 4 * 2**self.depth))
        random = FUNCTIONS[self.functions[0]].random_points
        return 6 * random if random and METHODS[self.methods[0]].ours else random

    @property
    def steps(self) -> int:
        """Number of steps: the pretraining of each method, and the steps that all its methods take together."""
        recipes = [METHODS[m].recipe(self.table, FUNCTIONS[self.functions[0]]) for m in self.methods]
        epochs = sum(recipe["pretrain"].epochs for recipe in recipes)
        epochs += sum(stage.epochs for name, stage in recipes[0].items() if name != "pretrain")
        return int(epochs) * STEPS_PER_EPOCH

    @property
    def cost(self) -> float:
        """Expected work, for a progress bar: steps times samples; a step of our methods costs as much as 20 others."""
        samples = (self.points or (10 if self.table == "sparse" else 500)) * self.seeds * len(self.functions)
        return float(self.steps * (20 if METHODS[self.methods[0]].ours else 1) * (2500 + samples * len(self.methods)))

    def module(self, method: str, data: Any, targets: int, methods: int = 1, **stages: Any) -> FunctionRegressor:
        """Returns a new module of a method's networks.

        Args:
            method: method of the training.
            data: a `RegressionDataModule` with this number of targets.
            targets: number of targets.
            methods: number of methods whose networks the module contains.
            stages: stages to use instead of the method's stages.
        """
        function, stacked = FUNCTIONS[self.functions[0]], method == "limit"
        shape = {"layers": list(function.layers)} if stacked else {"width": function.width, "wiring": function.wiring}
        shape |= METHODS[method].recipe(self.table, function, targets) | stages | METHODS[method].options
        return FunctionRegressor(
            depth=None if stacked and self.table != "depths" else self.depth,  # a stack chooses its own
            replicas=self.seeds * methods,
            domain=data.domain,
            target_range=[function.target_range] * targets if function.target_range else data.target_range,
            data_curvature=data.curvature,
            **shape,  # type: ignore[arg-type]
        )


def programs(
    functions: dict[Table, list[str]], methods: dict[Table, list[str]], seeds: int, seed: int = 0
) -> list[Program]:
    """All programs of a run, in the order of the tables.

    Args:
        functions: table ↦ functions.
        methods: table ↦ methods.
        seeds: number of seeds of each cell; at most `DEPTHS_SEEDS` in the study by depth.
        seed: seed of the starts.
    """
    found = []
    for table, names in functions.items():
        count = min(seeds, DEPTHS_SEEDS) if table == "depths" else seeds
        chunks = [min(CHUNK, count - first) for first in range(0, count, CHUNK)]
        # Only functions of one variable on one domain and with one wiring fit into one program.
        groups = [(name,) for name in names] if table == "nonconvex" else [tuple(names)]
        for _, family in groupby(methods[table], lambda name: METHODS[name].family):
            members = tuple(family)
            for group in groups:
                for depth in depths(members[0]) if table == "depths" else [DEPTH]:
                    for chunk, size in enumerate(chunks):
                        found.append(Program(table, members, group, size, chunk, depth, seed))
    return found


def depths(method: str) -> range:
    """The depths at which the study by depth has a method."""
    return STACK_DEPTHS if method == "limit" else DEPTHS


def new_data(program: Program) -> Any:
    """Returns the data module of a program."""
    parts = []
    for function in (FUNCTIONS[name] for name in program.functions):
        options: dict[str, Any] = {"regime": "sparse" if program.table == "sparse" else "dense"}
        if function.random_points:
            options |= {"sampling": "sobol", "test_sampling": "random"}
        parts.append(FunctionDataModule(function.expression, function.domain, points=program.points, **options))
    return side_by_side(parts, repeats=STEPS_PER_EPOCH)


def free_knot_limit(table: str, column: str) -> float | None:
    """Returns the free-knot limit of a column (METHOD section 6); None if it is unknown."""
    function, depth = (column, DEPTH) if column in FUNCTIONS else ("x3", int(column))
    return None if table == "sparse" else free_knot_mse(function, depth)


@cache
def free_knot_mse(function: str, depth: int) -> float | None:
    """Returns the free-knot limit for the segments of a depth (METHOD section 6); None for several variables."""
    target = FUNCTIONS[function]
    if len(target.domain) > 1:
        return None
    network = TriangleNetwork(target.domain, wiring=target.wiring, depth=depth, generator=torch.Generator())
    return FunctionDataModule(target.expression, target.domain).free_knot_mse(network.segments)


class _Steps(Callback):
    """Reports the progress after each step, as a share of all steps."""

    def __init__(self, steps: int, tell: Callable[[float], None]) -> None:
        self.steps = steps
        self.tell = tell

    def on_train_batch_end(self, *args: Any, **kwargs: Any) -> None:
        self.tell(1 / self.steps)


def train(program: Program, tell: Callable[[float], None] = lambda share: None) -> dict[str, Any]:
    """Trains and tests a program: first the separate stages of each method, then all methods side by side.

    Args:
        program: the networks.
        tell: called after each step with its share of all steps.

    Returns:
        `seconds`, the wall time, and `cells`: method ↦ column ↦ `mse` on the test points and `dead` flag of each seed,
        and with pretraining `regions`, the linear pieces of each seed.
    """
    started, threads = time.monotonic(), torch.get_num_threads()
    if program.table == "sparse":
        torch.set_num_threads(1)  # with ten points, waiting threads cost more than they gain
    try:
        data, step = new_data(program), _Steps(program.steps, tell)
        parts = [_started(program, name, data, step) for name in program.methods]
        module = parts[0] if len(parts) == 1 else _joined(program, parts, data)
        trainer = _trainer(step)
        trainer.fit(module, datamodule=data)
        trainer.test(module, datamodule=data, verbose=False)
    finally:
        torch.set_num_threads(threads)
    shape = len(program.columns), len(parts), program.seeds
    with torch.no_grad():
        constant = dead(module(data.train_set.x)).view(shape)
    errors = module.test_results["test/mse"].view(shape)
    cells: dict[str, Any] = {name: {} for name in program.methods}
    for m, (name, part) in enumerate(zip(program.methods, parts, strict=True)):
        regions = part.pretrain_regions.view(shape[0], shape[2])
        for t, column in enumerate(program.columns):
            cells[name][column] = {"mse": errors[t, m].tolist(), "dead": constant[t, m].tolist()}
            if "pretrain" in METHODS[name].stages:
                cells[name][column]["regions"] = regions[t].tolist()
    return {"seconds": time.monotonic() - started, "cells": cells}


def _started(program: Program, name: str, data: Any, step: Callback) -> FunctionRegressor:
    """Returns a method's module at its start. With several methods, this is the start of their common stages."""
    targets, alone = len(program.functions), len(program.methods) == 1
    later: dict[str, Any] = {} if alone else {"train": Stage(0)}
    module = program.module(name, data, targets, **later)
    # Every function gets the same initialisation, so a cell does not depend on the functions and methods beside it.
    torch.manual_seed(1000 * program.seed + program.chunk)
    start = program.module(name, new_data(replace(program, functions=program.functions[:1])), 1)
    with torch.no_grad():
        for parameter, own in zip(module.network.parameters(), start.network.parameters(), strict=True):
            parameter.copy_(torch.cat([own] * targets))
    if not alone:
        if module.total_epochs:
            _trainer(step).fit(module, datamodule=data)
        module.enter_stage("train")
    return module


def _joined(program: Program, parts: list[FunctionRegressor], data: Any) -> FunctionRegressor:
    """Returns one module for the networks of several methods; the networks of a function are consecutive."""
    targets = len(program.functions)
    module = program.module(program.methods[0], data, targets, len(parts), pretrain=Stage(0))
    module.enter_stage("train")
    with torch.no_grad():
        networks = (part.network.parameters() for part in parts)
        for parameter, *own in zip(module.network.parameters(), *networks, strict=True):
            parameter.copy_(torch.stack([p.unflatten(0, (targets, -1)) for p in own], 1).flatten(0, 2))
    return module


def _trainer(step: Callback) -> Trainer:
    options = UNRECORDED | {"limit_val_batches": 0, "log_every_n_steps": 1_000_000_000}
    return Trainer(accelerator="cpu", devices=1, precision="64-true", callbacks=[step], **options)
