"""The command: trains the programs with a progress bar, then writes the tables, the figures and the page."""

from __future__ import annotations

import os
import shlex
import signal
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from lit_triwave.commands.quick_parser import FLAG, SWITCH, QuickParser, at_least
from lit_triwave.commands.quiet import quiet
from lit_triwave.commands.reproduce import figures, report
from lit_triwave.commands.reproduce.methods import METHODS, TABLE_METHODS
from lit_triwave.commands.reproduce.page import page
from lit_triwave.commands.reproduce.paper import FUNCTIONS, TABLE_FUNCTIONS, TABLES, Table
from lit_triwave.commands.reproduce.programs import Program, programs, train
from lit_triwave.commands.reproduce.results import RESULTS_FILE, Results, machine, statistics
from lit_triwave.commands.reproduce.workers import train_in_processes
from lit_triwave.errors import TriwaveError, did_you_mean
from lit_triwave.files import open_folder, write_json, written_whole
from lit_triwave.tracking.run_json import cores

DESCRIPTION = "Trains the networks of the paper's tables and shows our results beside the paper's."


def run(args: Sequence[str], started: float) -> int:
    """Runs `reproduce` with its command line; returns the exit code."""
    options = _parse(args)
    quiet()
    functions = _chosen_functions(options.table, options.functions)
    methods = _chosen_methods(list(functions), options.methods, options.polish)
    functions = {table: names for table, names in functions.items() if table in methods}
    todo = programs(functions, methods, options.seeds, options.seed)
    settings = {"functions": functions, "methods": methods, "seeds": options.seeds, "seed": options.seed}
    if options.page:
        open_folder(Path(options.page).parent, "give another --page")
    results = Results(Path(options.out), settings, options.overwrite)
    done = f", {len(results.finished)} of them finished already" if results.finished else ""
    print(f"{len(todo)} parts{done}; results go to {options.out}", flush=True)
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        _train_all(todo, results, options.jobs)
        _write_all(todo, results, shlex.join(["python", "-m", "lit_triwave", "reproduce", *args]), options.page)
    except (KeyboardInterrupt, SystemExit):
        print(f"{len(results.finished)} of {len(todo)} parts are saved in {options.out}; the same command resumes")
        raise
    finally:
        signal.signal(signal.SIGTERM, before)
    return 0


def _parse(args: Sequence[str]) -> Any:
    """Returns the command line as a namespace; exits with code 2 and one line if it is wrong."""
    parser = QuickParser(prog="python -m lit_triwave reproduce", description=DESCRIPTION)
    parser.add_argument(
        "--table", choices=[*TABLES, "all"], default="all", help="table of the paper; default %(default)s"
    )
    parser.add_argument("--seeds", type=at_least(1), default=30, help="networks in each cell; default %(default)s")
    parser.add_argument("--seed", type=at_least(0), default=0, help="of the initialisations; default %(default)s")
    parser.add_argument("--methods", nargs="+", default=[], help=f"by default all, among {', '.join(METHODS)}")
    parser.add_argument("--functions", nargs="+", default=[], help=f"by default all, among {', '.join(FUNCTIONS)}")
    parser.add_argument("--polish", **SWITCH, default=True, help="include our methods, polish and limit; default true")
    parser.add_argument("--jobs", type=at_least(1), default=cores(), help="processes at once; default %(default)s")
    parser.add_argument("--out", default="runs/reproduction", help="folder of the results; default %(default)s")
    parser.add_argument("--overwrite", **FLAG, help="delete the results in --out")
    parser.add_argument("--page", help="also write the page to this file, and its figures beside it")
    options = parser.parse_args(args)
    for key, known in {"methods": [*METHODS], "functions": [*FUNCTIONS]}.items():
        words = ",".join(getattr(options, key)).split(",")  # separated by spaces or commas
        setattr(options, key, [word for word in dict.fromkeys(words) if word])
        for name in getattr(options, key):
            if name not in known:
                parser.error(f"--{key} must be among {', '.join(known)}, got {name}{did_you_mean(name, known)}")
    return options


def _chosen_functions(table: str, names: list[str]) -> dict[Table, list[str]]:
    """Returns the chosen functions of each table."""
    tables = TABLES if table == "all" else [name for name in TABLES if name == table]
    chosen = {name: [f for f in TABLE_FUNCTIONS[name] if not names or f in names] for name in tables}
    if table != "all":
        missing = [name for name in names if name not in TABLE_FUNCTIONS[tables[0]]]
        if missing:
            has = ", ".join(TABLE_FUNCTIONS[tables[0]])
            raise TriwaveError(f"--functions must be among {has} for table {table}, got {missing[0]}")
    return {name: functions for name, functions in chosen.items() if functions}


def _chosen_methods(tables: list[Table], names: list[str], polish: bool) -> dict[Table, list[str]]:
    """Returns the methods of each table: the chosen ones, or those of the paper and ours."""
    wanted = {table: names or TABLE_METHODS[table] for table in tables}
    chosen = {table: [m for m in of_table if polish or not METHODS[m].ours] for table, of_table in wanted.items()}
    if not any(chosen.values()):
        raise TriwaveError("--methods must have one of the paper's methods with --polish false")
    return {table: sorted(methods, key=list(METHODS).index) for table, methods in chosen.items() if methods}


def _train_all(todo: list[Program], results: Results, jobs: int) -> None:
    """Trains the programs that are not finished."""
    console = Console()
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:3.0f} %"))
    left = [program for program in todo if program.name not in results.finished]
    with Progress(
        *columns, TimeElapsedColumn(), TimeRemainingColumn(), console=console, disable=not console.is_terminal
    ) as bar:
        costs = {program.name: program.cost for program in todo}
        task = bar.add_task("", total=sum(costs.values()))
        bar.advance(task, sum(costs[name] for name in results.finished))

        def in_turn() -> Iterator[tuple[Program, dict[str, Any]]]:
            for program in left:
                bar.update(task, description=_title(program))
                yield program, train(program, lambda share, cost=program.cost: bar.advance(task, share * cost))  # type: ignore[misc]

        jobs = min(jobs, len(left))
        bar.update(task, description=f"{jobs} at once")
        found = in_turn() if jobs < 2 else train_in_processes(left, jobs, train, partial(bar.advance, task))
        for program, result in found:
            results.add(program, result)
            if not console.is_terminal:
                print(f"{_title(program)}: {result['seconds']:.1f} s", flush=True)


def _title(program: Program) -> str:
    rows = " and ".join(METHODS[name].label for name in program.methods)
    return f"{program.table}: {rows}, {', '.join(map(report.label, program.columns))}"


def _write_all(todo: list[Program], results: Results, command: str, page_file: str | None) -> None:
    """Shows the tables and writes them, the figures and the page."""
    seeds = results.seeds(todo)
    stats = statistics(seeds)
    report.show(stats)
    drawn = {}
    for table, cells in stats.groupby("table", sort=False):
        own = seeds[seeds["table"] == table]
        figure = figures.depth_figure(cells) if table == "depths" else figures.boxes(own, cells)
        drawn[report.TITLES[str(table)]] = (table, figure)
    at_start = figures.regions_figure(min(30, results.settings["seeds"]))
    drawn["Linear regions at initialisation by depth"] = ("regions", at_start)
    facts = machine() | {
        "seeds": f"{results.settings['seeds']}, starts of --seed {results.settings['seed']}",
        "training time": f"{sum(found['seconds'] for found in results.finished.values()):.0f} s",
    }
    pages = {results.folder / "reproduction.md": results.folder / "figures"}
    if page_file:
        pages[Path(page_file)] = Path(page_file).with_name(f"{Path(page_file).stem}_figures")
    counted = seeds[seeds["table"] != "nonconvex"].dropna(subset="regions")  # networks of one subnetwork
    regions = {"networks": len(counted), "as_many": int((counted["regions"] == 2.0 ** counted["depth"]).sum())}
    for file, folder in pages.items():
        folder.mkdir(parents=True, exist_ok=True)
        links = {}
        for caption, (name, figure) in drawn.items():
            with written_whole(folder / f"{name}.png") as partial:
                figure.savefig(partial, format="png")
            links[caption] = os.path.relpath(folder / f"{name}.png", file.parent)
        with written_whole(file) as partial:
            partial.write_text(page(command, facts, stats, links, regions))
    with written_whole(results.folder / "results.csv") as partial:
        stats.to_csv(partial, index=False)
    content: dict[str, Any] = {}
    for cell in stats.to_dict("records"):
        row = content.setdefault(cell["table"], {}).setdefault(cell["method"], {})
        row[cell["column"]] = {name: cell[name] for name in report.STATISTICS}
    write_json(results.folder / RESULTS_FILE, content)
    print(f"{results.folder}: {RESULTS_FILE}, results.csv, reproduction.md, figures/, seeds.json")
