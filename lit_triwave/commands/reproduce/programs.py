"""Tensor programs: each trains all seeds of all functions of a table by one method, side by side."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import torch
from lightning.pytorch import Callback, Trainer

from datamodules import FunctionDataModule
from datamodules.regression import side_by_side
from lit_triwave.commands.reproduce.methods import METHODS, STEPS_PER_EPOCH, new_module
from lit_triwave.commands.reproduce.paper import DEPTH, DEPTHS, FUNCTIONS, Table
from lit_triwave.commands.trainer_options import UNRECORDED
from lit_triwave.modules.metrics import dead
from lit_triwave.nn.networks import TriangleNetwork

CHUNK = 120
"""Most seeds of each function in one program. More seeds are trained in several programs, which bounds the memory: the
Jacobian of four functions takes 180 MB."""
DEPTHS_SEEDS = 6
"""Most seeds at each depth of the study by depth, whose ten programs would otherwise take longer than the tables."""


@dataclass(frozen=True)
class Program:
    """Networks that are trained together.

    Args:
        table: name of the table.
        method: name of the method.
        functions: names of the functions; several have to share inputs and wiring.
        seeds: number of networks for each function.
        chunk: index of the chunk of seeds.
        depth: number of hidden layers.
        seed: of the initialisation.
    """

    table: Table
    method: str
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
        return ".".join([self.table, self.method, "-".join(self.columns), str(self.chunk)])

    @property
    def points(self) -> int | None:
        """Training points; None for the regime's default.

        The polish comes close to an exact fit, for which a function of two variables needs more of them, and a deep
        network some for each of its pieces.
        """
        if self.table == "depths":
            return int(max(500, 4 * 2**self.depth))
        random = FUNCTIONS[self.functions[0]].random_points
        return 6 * random if random and self.method == "polish" else random

    @property
    def cost(self) -> float:
        """Expected work, for a progress bar: steps times samples; one of the polish costs as much as 20 others."""
        stages = METHODS[self.method].stages(self.table, FUNCTIONS[self.functions[0]])
        steps = sum(stage.epochs * (20 if name == "polish" else 1) for name, stage in stages.items())
        samples = (self.points or (10 if self.table == "sparse" else 500)) * self.seeds * len(self.functions)
        return float(steps * (2500 + samples))


def programs(
    functions: dict[Table, list[str]], methods: dict[Table, list[str]], seeds: int, seed: int = 0
) -> list[Program]:
    """All programs of a run, in the order of the tables.

    Args:
        functions: table ↦ functions.
        methods: table ↦ methods.
        seeds: of each cell; at most `DEPTHS_SEEDS` in the study by depth.
        seed: of the starts.
    """
    found = []
    for table, names in functions.items():
        count = min(seeds, DEPTHS_SEEDS) if table == "depths" else seeds
        chunks = [min(CHUNK, count - first) for first in range(0, count, CHUNK)]
        # Only functions of one variable on one domain and with one wiring fit into one program.
        groups = [(name,) for name in names] if table == "nonconvex" else [tuple(names)]
        for method in methods[table]:
            for group in groups:
                for depth in DEPTHS if table == "depths" else [DEPTH]:
                    found += [
                        Program(table, method, group, size, chunk, depth, seed) for chunk, size in enumerate(chunks)
                    ]
    return found


def new_data(program: Program) -> Any:
    """Returns the data module of a program."""
    parts = []
    for name in program.functions:
        function = FUNCTIONS[name]
        parts.append(
            FunctionDataModule(
                function.expression,
                function.domain,
                regime="sparse" if program.table == "sparse" else "dense",
                points=program.points,
                sampling="sobol" if function.random_points else "equally_spaced",
                test_sampling="random" if function.random_points else "regular",
            )
        )
    return side_by_side(parts, repeats=STEPS_PER_EPOCH)


@cache
def free_knot_mse(function: str, depth: int) -> float | None:
    """Returns the free-knot limit for the segments of that depth (METHOD section 6); None for several variables."""
    target = FUNCTIONS[function]
    if len(target.domain) > 1:
        return None
    network = TriangleNetwork(target.domain, wiring=target.wiring, depth=depth, generator=torch.Generator())
    return FunctionDataModule(target.expression, target.domain).free_knot_mse(network.segments)


class _Steps(Callback):
    """Reports, after each step, the share of all steps that it is."""

    def __init__(self, steps: int, tell: Callable[[float], None]) -> None:
        self.steps = steps
        self.tell = tell

    def on_train_batch_end(self, *args: Any, **kwargs: Any) -> None:
        self.tell(1 / self.steps)


def train(program: Program, tell: Callable[[float], None] = lambda share: None) -> dict[str, Any]:
    """Trains and tests a program.

    Args:
        program: the networks.
        tell: called after each step with the share of all steps that it is.

    Returns:
        `seconds`, the wall time, and `cells`: column ↦ `mse` on the test points and `dead` flag of each seed, and with
        pretraining `regions`, the linear pieces of each seed.
    """
    started, threads = time.monotonic(), torch.get_num_threads()
    if program.table == "sparse":
        torch.set_num_threads(1)  # with ten points, waiting threads cost more than they gain
    method, function = METHODS[program.method], FUNCTIONS[program.functions[0]]
    data, targets = new_data(program), len(program.functions)
    module = new_module(program.table, method, function, data, program.depth, program.seeds, targets)
    # Every function gets the same initialisation, so a cell does not depend on the functions beside it.
    torch.manual_seed(1000 * program.seed + program.chunk)
    one_data = new_data(replace(program, functions=program.functions[:1]))
    starts = new_module(program.table, method, function, one_data, program.depth, program.seeds, 1).network
    with torch.no_grad():
        for parameter, start in zip(module.network.parameters(), starts.parameters(), strict=True):
            parameter.copy_(torch.cat([start] * targets))
    trainer = Trainer(
        accelerator="cpu",
        devices=1,
        precision="64-true",
        callbacks=[_Steps(module.total_epochs * STEPS_PER_EPOCH, tell)],
        limit_val_batches=0,
        log_every_n_steps=1_000_000_000,
        **UNRECORDED,
    )
    try:
        trainer.fit(module, datamodule=data)
        trainer.test(module, datamodule=data, verbose=False)
    finally:
        torch.set_num_threads(threads)
    with torch.no_grad():
        constant = dead(module(data.train_set.x))
    cells = {}
    for t, column in enumerate(program.columns):
        mine = slice(t * program.seeds, (t + 1) * program.seeds)
        cells[column] = {"mse": module.test_results["test/mse"][mine].tolist(), "dead": constant[mine].tolist()}
        if method.pretrained:
            cells[column]["regions"] = module.pretrain_regions[mine].tolist()
    return {"seconds": time.monotonic() - started, "cells": cells}
