"""The command: the facts on the screen, the figures in a folder."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from lit_triwave.analysis.costs import count_parameters
from lit_triwave.checkpoints.rebuild import Saved, load_module
from lit_triwave.commands.inspect.drawing import COUNTED, chosen, draw, state
from lit_triwave.commands.inspect.figures import plural
from lit_triwave.commands.inspect.finite import healthy_seed, lost_seeds
from lit_triwave.commands.inspect.peaks_table import peaks_tables
from lit_triwave.commands.inspect.subnetworks import Group, groups
from lit_triwave.commands.inspect.units import Activity, activity
from lit_triwave.commands.parser import OneLineParser
from lit_triwave.commands.quiet import quiet
from lit_triwave.errors import TriwaveError
from lit_triwave.files import open_folder, written_whole
from lit_triwave.modules.regressor import FunctionRegressor

DESCRIPTION = "What a checkpoint holds: stage, peaks, scales, linear regions, dead units, and pictures of it."
ALL_SEEDS = 1 << 12  # linear pieces of all seeds together that are counted


def run(args: Sequence[str], started: float) -> int:
    """`inspect` with its command line; returns the exit code."""
    parser = OneLineParser(prog="python -m lit_triwave inspect", description=DESCRIPTION)
    parser.add_argument("checkpoint", type=str, help="a .ckpt file, the folder of a run, or of an experiment")
    parser.add_argument("--out", type=str, help="folder of the pictures; by default figures/inspect/ of the run")
    parser.add_argument("--seed", type=int, help="which of a function's seeds, from 0; by default the best one")
    options = parser.parse_args(list(args))
    quiet()
    saved = load_module(options.checkpoint)
    lost = lost_seeds(saved)
    seed = healthy_seed(saved, options.seed, lost)
    inside = saved.run_folder
    folder = Path(options.out or (inside / "figures" / "inspect" if inside else "inspect"))
    open_folder(folder, "give another --out")
    parts = groups(saved, seed)
    remarks: list[str] = []
    active = None
    try:
        active = activity(saved, seed)
    except TriwaveError as error:
        remarks.append(f"dead units are not known: {error}")
    counts = [] if saved.is_function or not parts else parts[0].regions(chosen(len(parts[0].labels), COUNTED))
    console = Console()
    console.print(facts(saved, seed, parts, counts, active, lost))
    for part in parts:
        for shown in peaks_tables(saved, part, console):
            console.print(shown)
    for name, figure in draw(saved, seed, parts, counts, active, remarks):
        with written_whole(folder / f"{name}.png") as partial:
            figure.savefig(partial, format="png")
        print(folder / f"{name}.png")
    for remark in remarks:
        print(remark)
    return 0


def facts(
    saved: Saved,
    seed: int,
    parts: Sequence[Group],
    counts: Sequence[int],
    active: Activity | None,
    lost: dict[int, str],
) -> Table:
    """What is known of the network, in rows."""
    table = Table(show_header=False, title=str(saved.path), title_justify="left")
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for name, value in [*of_the_run(saved), *of_the_network(saved, seed, parts, lost)]:
        table.add_row(name, value)
    table.add_section()
    if isinstance(saved.module, FunctionRegressor):
        table.add_row("linear regions", function_regions(saved.module, seed, lost))
    elif parts:
        which = "" if len(counts) == len(parts[0].labels) else f" of {len(counts)} of them"
        table.add_row(f"linear regions of a subnetwork{which}", spread(counts, 1 << parts[0].bank.depth))
    if active is not None:
        bends = active.neurons - active.dead - active.linear
        table.add_row("hidden neurons", f"{active.neurons}, on {active.on}:")
        table.add_row("  dead, zero on all", f"{active.dead} ({active.dead / active.neurons:.1%})")
        table.add_row("  never zero", f"{active.linear} ({active.linear / active.neurons:.1%})")
        table.add_row("  that bend", f"{bends} ({bends / active.neurons:.1%})")
    for part in parts:
        for name, value in of_the_release(saved, part):
            table.add_row(name, value)
    return table


def of_the_run(saved: Saved) -> Iterator[tuple[str, str]]:
    """Where a checkpoint comes from."""
    module, data = saved.module, saved.run.get("data") or {}
    yield "module", type(module).__name__
    yield "taken in", f"{module.place(saved.epoch)}, step {saved.step}"
    arguments = data.get("init_args", {})
    said = arguments.get("expression") or arguments.get("path") or arguments.get("root") or ""
    kind = data.get("class_path", "").rpartition(".")[2]
    yield "data", f"{kind} {said}".strip() or "not said"
    if "seed_everything" in saved.run:
        yield "seed of the run", str(saved.run["seed_everything"])


def of_the_network(saved: Saved, seed: int, parts: Sequence[Group], lost: dict[int, str]) -> Iterator[tuple[str, str]]:
    """What kind of network a checkpoint holds."""
    module, arguments = saved.module, saved.module.hparams
    count = count_parameters(module)
    if isinstance(module, FunctionRegressor):
        scaling = saved.scaling
        ends = zip(saved.variables, scaling.lower.tolist(), (scaling.lower + scaling.span).tolist(), strict=True)
        yield "domain", ", ".join(f"{name} in [{low:g}, {high:g}]" for name, low, high in ends)
        start = arguments["initialization"]
        wiring = f", wiring {arguments['wiring']}" if start == "constructed" else ""
        yield "network", start + wiring
        yield "seeds", f"{saved.seeds}, the best one is {int(module.best_replica)}; shown is {seed}"
        for number, name in lost.items():
            yield f"  not finite, seed {number}", f"{name}; left out of all that follows"
        yield "parameters", f"{count // saved.seeds:,} of each seed, {saved.dtype}".replace("torch.", "")
    else:
        yield "network", f"backbone {arguments['backbone']}, head {arguments['head']}"
        yield "images", f"{tuple(arguments['image_shape'])}, {arguments['num_classes']} classes"
        yield "parameters", f"{count:,}, {saved.dtype}".replace("torch.", "")
    if not parts:
        wide = arguments["width"] or 4 * (arguments.get("num_nets") or 64)
        if arguments.get("head") != "original":
            yield "hidden layers", f"{arguments['depth']}, {wide} neurons wide"
    for part in parts:
        nets = len(part.labels)
        one = plural(nets, "subnetwork")
        squash = f", {arguments['squash']} squash" if "squash" in arguments else ""
        yield (
            part.name,
            f"{one}, {plural(part.bank.depth, 'hidden layer')} of {4 * nets} neurons{squash}; {state(part)}",
        )


def function_regions(module: FunctionRegressor, seed: int, lost: Collection[int] = ()) -> str:
    """Linear pieces of one seed before the release and now, and of all seeds but the lost ones where that is quick."""
    along = "" if module.network.scaling.in_features == 1 else ", along the domain's diagonal"
    before = int(module.pretrain_regions[seed])
    text = f"{module.linear_regions(seed)}{along}"
    if before and module.network.parameterization == "weights":
        text = f"{before} at the end of pretraining, {text.replace(along, '')} now{along}"
    seeds = module.network.replicas
    if 1 < seeds <= ALL_SEEDS >> min(12, module.hparams["depth"]):
        counts = [module.linear_regions(number) for number in range(seeds) if number not in lost]
        which = f"the {len(counts)} finite seeds" if lost else "all seeds"
        text += f"; {which} {min(counts)} to {max(counts)}"
    return text


def of_the_release(saved: Saved, part: Group) -> Iterator[tuple[str, str]]:
    """What training has made of the weights since they were released."""
    if part.bank.released is None:
        return
    name = "" if part.name == "subnetworks" else f" ({part.name})"
    distance = part.distance(bool(saved.module.hparams.get("recruit", False)))
    moved = ", ".join(f"{kind} weights {share:.3g}" for kind, share in distance.items())
    moved += " × their size then" if moved else ""
    yield f"moved since the release{name}", moved or "not known: the run's pretrained.ckpt is not beside it"
    share = part.off_diagonal()
    if share is not None:
        yield f"between subnetworks{name}", f"{100 * share:.2g} % of the hidden matrices' squared weights"


def spread(counts: Sequence[int], constructed: int) -> str:
    """Lowest, median and highest, against what the construction has."""
    values = torch.tensor(counts, dtype=torch.float64)
    now = f"{min(counts)} to {max(counts)}, median {float(values.quantile(0.5)):g}"
    return f"{now}; by construction {constructed}"
