"""The command: prints facts about a checkpoint and draws its figures into a folder."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from lit_triwave.analysis.costs import count_parameters
from lit_triwave.checkpoints.rebuild import Saved, load_module
from lit_triwave.commands.inspect.drawing import draw, state
from lit_triwave.commands.inspect.figures import plural
from lit_triwave.commands.inspect.finite import healthy_seed, lost_seeds
from lit_triwave.commands.inspect.peaks_table import peaks_tables
from lit_triwave.commands.inspect.subnetworks import Group, groups
from lit_triwave.commands.inspect.units import Activity, activity
from lit_triwave.commands.quick_parser import QuickParser, at_least
from lit_triwave.commands.quiet import quiet
from lit_triwave.errors import TriwaveError
from lit_triwave.files import open_folder, written_whole
from lit_triwave.modules.regressor import FunctionRegressor
from lit_triwave.nn.scaling import interval

DESCRIPTION = "Shows the content of a checkpoint: stage, peaks, scales, linear regions, dead units, and pictures."
_ALL_SEEDS = 1 << 12  # most linear pieces, in all seeds together, that are counted


def run(args: Sequence[str], started: float) -> int:
    """Runs `inspect` with its command line; returns the exit code."""
    parser = QuickParser(prog="python -m lit_triwave inspect", description=DESCRIPTION)
    parser.add_argument("checkpoint", help="a .ckpt file, the folder of a run, or of an experiment")
    parser.add_argument("--out", help="folder for the pictures; by default figures/inspect/ in the run's folder")
    parser.add_argument(
        "--seed", type=at_least(0), help="seed of a function's network, from 0; by default the best one"
    )
    parser.add_argument("--target", help="of several targets, the one to show; by default the first")
    options = parser.parse_args(args)
    quiet()
    saved = load_module(options.checkpoint)
    lost = lost_seeds(saved)
    seed = healthy_seed(saved, options.seed, lost, options.target)
    inside = saved.run_folder
    folder = Path(options.out or (inside / "figures" / "inspect" if inside else "inspect"))
    open_folder(folder, "give another --out")
    parts = groups(saved, seed)
    remarks: list[str] = []
    active = None
    try:
        active = activity(saved, seed)
    except TriwaveError as error:
        remarks.append(f"dead units are unknown: {error}")
    console = Console()
    console.print(_facts(saved, seed, parts, active, lost))
    for part in parts:
        for shown in peaks_tables(part, console):
            console.print(shown)
    for name, figure in draw(saved, seed, parts, active, remarks):
        with written_whole(folder / f"{name}.png") as partial:
            figure.savefig(partial, format="png")
        print(folder / f"{name}.png")
    for remark in remarks:
        print(remark)
    return 0


def _facts(saved: Saved, seed: int, parts: Sequence[Group], active: Activity | None, lost: dict[int, str]) -> Table:
    """Returns the facts about a checkpoint as a table of names and values."""
    table = Table(show_header=False, title=str(saved.path), title_justify="left")
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for name, value in [*_origin(saved), *_network_facts(saved, seed, parts, lost)]:
        table.add_row(name, value)
    table.add_section()
    if isinstance(saved.module, FunctionRegressor):
        table.add_row("linear regions", _function_regions(saved.module, seed, lost))
    elif parts:
        counts = list(parts[0].counts.values())
        which = "" if len(counts) == len(parts[0].labels) else f" of {len(counts)} of them"
        middle = float(torch.tensor(counts, dtype=torch.float64).quantile(0.5))
        now = f"{min(counts)} to {max(counts)}, median {middle:g}; by construction {1 << parts[0].bank.depth}"
        table.add_row(f"linear regions of a subnetwork{which}", now)
    if active is not None:
        bends = active.neurons - active.dead - active.linear
        table.add_row("hidden neurons", f"{active.neurons}, on {active.on}:")
        table.add_row("  dead, zero on all", f"{active.dead} ({active.dead / active.neurons:.1%})")
        table.add_row("  never zero", f"{active.linear} ({active.linear / active.neurons:.1%})")
        table.add_row("  with a kink", f"{bends} ({bends / active.neurons:.1%})")
    for part in parts:
        for name, value in _release_facts(saved, part):
            table.add_row(name, value)
    return table


def _origin(saved: Saved) -> Iterator[tuple[str, str]]:
    """Yields the origin of a checkpoint as names and values."""
    module, data = saved.module, saved.run.get("data") or {}
    yield "module", type(module).__name__
    yield "saved in", f"{module.place(saved.epoch)}, step {saved.step}"
    arguments = data.get("init_args", {})
    said = arguments.get("expression") or arguments.get("path") or arguments.get("root") or ""
    kind = data.get("class_path", "").rpartition(".")[2]
    yield "data", f"{kind} {said}".strip() or "unknown"
    if "seed_everything" in saved.run:
        yield "seed of the run", str(saved.run["seed_everything"])


def _network_facts(saved: Saved, seed: int, parts: Sequence[Group], lost: dict[int, str]) -> Iterator[tuple[str, str]]:
    """Yields the kind of network in a checkpoint as names and values."""
    module, arguments = saved.module, saved.module.hparams
    count = count_parameters(module)
    if isinstance(module, FunctionRegressor):
        scaling = saved.scaling
        ends = zip(saved.variables, scaling.lower.tolist(), (scaling.lower + scaling.span).tolist(), strict=True)
        yield "domain", ", ".join(f"{name} in {interval(low, high)}" for name, low, high in ends)
        start = arguments["initialization"]
        wiring = f", wiring {arguments['wiring']}" if start == "constructed" else ""
        yield "network", start + wiring
        each, several = saved.seeds // len(saved.targets), len(saved.targets) > 1
        target, number = divmod(seed, each)
        best = module.best_replicas[target] % each
        if several:
            yield "targets", f"{saved.target}; {saved.targets[target] or f'number {target + 1}'} is shown"
        of_each = " of each target" if several else ""
        yield "seeds", f"{each}{of_each}, the best one is {best}; seed {number} is shown"
        for lost_one, name in lost.items():
            whose = f", target {lost_one // each + 1}" if several else ""
            yield f"  not finite, seed {lost_one % each}{whose}", f"{name}; excluded from everything below"
        trained, built = module.trained_parameters, count // saved.seeds
        follow = "" if trained == built else f" of its limit, from which the {built:,} of the built network follow"
        yield "parameters", f"{trained:,} of each seed{follow}, {saved.dtype}".replace("torch.", "")
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


def _function_regions(module: FunctionRegressor, seed: int, lost: Collection[int]) -> str:
    """Returns the linear pieces of one seed before the release and now, and of all finite seeds where that is quick."""
    along = "" if module.network.scaling.in_features == 1 else ", along the domain's diagonal"
    before = int(module.pretrain_regions[seed])
    count = module.linear_regions(seed)
    if count is None:
        return f"more than {module.most_pieces(module.plain(seed)):,}, not counted{along}"
    text = f"{count}{along}"
    if before and module.network.parameterization == "weights":
        text = f"{before} at the end of pretraining, {count} now{along}"
    seeds = module.network.replicas
    if module.network.segments is not None and 1 < seeds <= _ALL_SEEDS >> min(12, module.hparams["depth"]):
        counts = [module.linear_regions(number) or 0 for number in range(seeds) if number not in lost]
        which = f"the {len(counts)} finite seeds" if lost else "all seeds"
        text += f"; {which} {min(counts)} to {max(counts)}"
    return text


def _release_facts(saved: Saved, part: Group) -> Iterator[tuple[str, str]]:
    """Yields how far training has moved the weights since the release, as names and values."""
    if part.bank.released is None:
        return
    name = "" if part.name == "subnetworks" else f" ({part.name})"
    distance = part.distance(bool(saved.module.hparams.get("recruit", False)))
    moved = ", ".join(f"{kind} weights {share:.3g}" for kind, share in distance.items())
    moved += " × their size then" if moved else ""
    yield f"moved since the release{name}", moved or "unknown: the run's pretrained.ckpt is not beside it"
    share = part.off_diagonal()
    if share is not None:
        yield f"between subnetworks{name}", f"{100 * share:.2g} % of the hidden matrices' squared weights"
