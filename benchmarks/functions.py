"""Compares this project with other methods on smooth functions: error, parameters, training and prediction time.

    OMP_NUM_THREADS=1 python -m benchmarks.functions [--functions xy sin …] [--peers stack pykan …] [--seeds 0 …]
        [--out STEM]

All methods use the same training points and the same 20 000 new test points. They run one after the other in one
process on one thread. The error is the mean squared error divided by the variance of the target. The training time
includes all starts, but not imports, the test and figures. `pip install -e .[benchmarks]` installs pykan and inkan; a
method that is not installed is left out. Each row is shown and saved when it is done; Ctrl-C keeps finished rows.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from threadpoolctl import threadpool_limits

from benchmarks.loop import Seconds
from benchmarks.peers import CONFIGS, PEERS, Learned, Peer, Problem
from lit_triwave.commands.reproduce.results import machine
from lit_triwave.distributed.signals import INTERRUPTED
from lit_triwave.files import write_json, written_whole

FUNCTIONS = {
    path.stem: path
    for path in (
        *sorted(CONFIGS.glob("functions_nd/*.yaml")),
        *sorted(CONFIGS.glob("functions/*.yaml")),
        CONFIGS / "x3_minus_x.yaml",
    )
}
CHUNK = 10_000  # points that are predicted at a time
HEADINGS = (
    "function",
    "method",
    "test MSE / variance",
    "parameters",
    "training, s",
    "processor, s",
    "prediction, s",
    "processor, s",
)

Row = dict[str, Any]


def evaluate(problem: Problem, learned: Learned, predictions: int) -> Row:
    """Tests the result of a method.

    Args:
        problem: the problem.
        learned: the result.
        predictions: number of points for the prediction time.

    Returns:
        The numbers of a row.
    """
    test, domain = problem.data.test_set, torch.tensor([*problem.data.domain.values()], dtype=torch.float64)
    generator = torch.Generator().manual_seed(problem.seed)
    fraction = torch.rand(predictions, problem.inputs, generator=generator, dtype=torch.float64)
    x = torch.lerp(domain[:, 0], domain[:, 1], fraction)
    with torch.inference_mode():
        error = (predict(learned, test.x) - test.y).square().mean() / test.y.var(correction=0)
        begun = Seconds.now()
        predict(learned, x)
        seconds = Seconds.now().since(begun)
    return {
        "error": float(error),
        "parameters": learned.parameters,
        "training_seconds": learned.seconds.wall,
        "training_processor_seconds": learned.seconds.cpu,
        "prediction_seconds": seconds.wall,
        "prediction_processor_seconds": seconds.cpu,
    }


def predict(learned: Learned, x: torch.Tensor) -> torch.Tensor:
    """Returns the values at x, (batch,), a chunk at a time."""
    return torch.cat([learned.predict(part) for part in x.split(CHUNK)])


def measure(problem: Problem, peer: Peer, predictions: int) -> Row | None:
    """Trains and tests a method on a problem; None if it has no settings for this problem."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that few iterations have not converged, and the like
        learned = peer.train(problem)
        return None if learned is None else evaluate(problem, learned, predictions)


def cells(rows: Sequence[Row]) -> list[str]:
    """Returns a line of the table: medians over the seeds of one function and peer."""
    error, parameters, *seconds = (
        statistics.median(row[key] for row in rows) for key in rows[0] if key not in ("function", "peer", "seed")
    )
    errors = [row["error"] for row in rows]
    spread = f" ({min(errors):.1e} to {max(errors):.1e})" if len(rows) > 1 else ""
    shown = [f"{value:.2g}" if value < 10 else f"{value:.0f}" for value in seconds]
    return [rows[0]["function"], rows[0]["peer"], f"{error:.1e}{spread}", f"{parameters:.0f}", *shown]


def markdown(rows: Sequence[Row], title: str) -> str:
    """Returns a page with the table and the settings of the methods in it."""
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        groups.setdefault((row["function"], row["peer"]), []).append(row)
    lines = [title, "", f"| {' | '.join(HEADINGS)} |", "|---|---|" + "---:|" * (len(HEADINGS) - 2)]
    lines += [f"| {' | '.join(cells(group))} |" for group in groups.values()]
    legend = [f"- {peer.name}: {peer.settings}." for peer in PEERS if any(row["peer"] == peer.name for row in rows)]
    return "\n".join([*lines, "", *legend, ""])


def show(console: Console, row: Row) -> None:
    """Prints a row."""
    function, peer, error, parameters, *seconds = cells([row])
    console.print(
        f"{function:<10} {peer:<12} seed {row['seed']}: {error}, {parameters:>6} parameters, training {seconds[0]} s "
        f"(processor {seconds[1]} s), prediction {seconds[2]} s (processor {seconds[3]} s)"
    )


def save(stem: Path, rows: Sequence[Row], title: str) -> None:
    """Writes STEM.json with all rows, and STEM.md with the table."""
    stem.parent.mkdir(parents=True, exist_ok=True)
    write_json(stem.with_suffix(".json"), {"title": title, "rows": list(rows)})
    with written_whole(stem.with_suffix(".md")) as partial:
        partial.write_text(markdown(rows, title))


def main(arguments: Sequence[str] | None = None) -> list[Row]:
    """Measures, prints and saves the rows, and returns them.

    Raises:
        SystemExit: after Ctrl-C; finished rows are saved.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = [peer.name for peer in PEERS]
    parser.add_argument("--functions", nargs="+", choices=FUNCTIONS, default=[*FUNCTIONS], metavar="NAME")
    parser.add_argument("--peers", nargs="+", choices=names, default=names, metavar="NAME", help=", ".join(names))
    parser.add_argument(
        "--seeds", nargs="+", type=int, default=[0], help="seeds of points and starts; medians are shown"
    )
    parser.add_argument("--out", type=Path, metavar="STEM", help="writes STEM.json and STEM.md after each row")
    parser.add_argument("--points", type=int, help="training points; default: those of configs/stack.yaml")
    parser.add_argument("--test-points", type=int, default=20_000)
    parser.add_argument("--predictions", type=int, default=1_000_000, help="points of the timed prediction")
    parser.add_argument(
        "--effort", type=float, default=1.0, help="share of the iterations of all methods, for a quick try"
    )
    asked = parser.parse_args(arguments)
    points = {"test_points": asked.test_points} | ({"points": asked.points} if asked.points else {})
    console = Console(width=160, highlight=False)
    peers = []
    for peer in (peer for peer in PEERS if peer.name in asked.peers):
        if peer.installed:
            peers.append(peer)
        else:
            console.print(f"{peer.name} is left out: it is not installed; pip install -e .[benchmarks]", markup=False)
    torch.set_num_threads(1)
    command = ["python -m benchmarks.functions", *(sys.argv[1:] if arguments is None else arguments)]
    where = ", ".join(" ".join(item) for item in machine().items())
    title = f"`{' '.join(command)}`; {where}; seeds {', '.join(map(str, asked.seeds))}"
    rows: list[Row] = []
    try:
        with threadpool_limits(1):
            for function in asked.functions:
                for seed in asked.seeds:
                    problem = Problem(FUNCTIONS[function], seed, asked.effort, **points)
                    for peer in peers:
                        if console.is_terminal:  # the row overwrites it
                            console.print(f"{function}, {peer.name}, seed {seed} …", end="\r")
                        try:
                            figures = measure(problem, peer, asked.predictions)
                        except Exception as error:  # an error of one method must not stop the others
                            console.print(f"{function}, {peer.name}, seed {seed} failed: {error}", markup=False)
                            continue
                        if figures is not None:
                            rows.append({"function": function, "peer": peer.name, "seed": seed} | figures)
                            show(console, rows[-1])
                            if asked.out:
                                save(asked.out, rows, title)
    except KeyboardInterrupt:
        console.print(f"\ninterrupted after {len(rows)} rows")
        raise SystemExit(INTERRUPTED) from None
    return rows


if __name__ == "__main__":
    main()
