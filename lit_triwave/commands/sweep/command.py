"""The command: makes, resumes or keeps one run after another, or lists them for SLURM."""

from __future__ import annotations

import math
import os
import shlex
import signal
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lit_triwave.commands.quick_parser import QuickParser, at_least
from lit_triwave.commands.quiet import quiet
from lit_triwave.commands.sweep.definition import Sweep, read_sweep
from lit_triwave.commands.sweep.plan import Planned, plan
from lit_triwave.commands.sweep.process import Stop
from lit_triwave.distributed.signals import INTERRUPTED, REQUEUE, REQUEUE_SIGNAL
from lit_triwave.errors import TriwaveError, did_you_mean
from lit_triwave.files import open_folder, written_whole
from lit_triwave.tracking.lock import used_by

DESCRIPTION = (
    "Makes the runs of a sweep file in W&B's format (grid or random), without W&B's server, as ordinary run folders in "
    "runs/<sweep>/. Further arguments, --KEY VALUE, go to every fit. The same command again resumes the sweep."
)


def run(args: Sequence[str], started: float) -> int:
    """Runs `sweep` and returns the exit code: 1 if a run failed, 130 or 75 if a signal stopped it."""
    quiet()
    options, overrides = _parse(args)
    tasks = int(os.environ.get("SLURM_STEP_NUM_TASKS", "1"))
    if tasks > 1:
        advice = "--list FILE makes jobs for slurm/array.sbatch"
        raise TriwaveError(f"sweep must be one process, got {tasks} tasks from srun; {advice}")
    sweep = read_sweep(Path(options.file))
    runs = plan(sweep, options.count, overrides)
    if sweep.early_terminate:
        print("early_terminate is ignored: only W&B's server can follow it")
    if options.list is not None:
        return _write_list(Path(options.list), runs, sweep)
    folder = runs[0].folder.parent
    open_folder(folder, "set run.root to another", "sweep folder")
    kept = sum(one.state == "finished" for one in runs)
    limited = f" of {sweep.size}" if math.isfinite(sweep.size) and sweep.size > len(runs) else ""
    names = " × ".join(parameter.name for parameter in sweep.parameters)
    before = f"; {kept} are finished already" if kept else ""
    print(f"sweep {folder}: {len(runs)} runs{limited}, {names}{before}", flush=True)
    stop = Stop()
    with stop.installed():
        failed = _run_all(runs, sweep, stop)
    if stop.requested is not None:
        left = f"{sum(one.state != 'finished' for one in runs)} of {len(runs)} runs are left"
        command = shlex.join(["python", "-m", "lit_triwave", "sweep", *args])
        print(f"stopped by {stop.requested.name}, {left}; resume with:\n{command}", flush=True)
        return REQUEUE if stop.requested == REQUEUE_SIGNAL else INTERRUPTED
    _close(runs, sweep, failed)
    return 1 if failed else 0


def _parse(args: Sequence[str]) -> tuple[Any, list[str]]:
    """Returns the command's own arguments as a namespace, and the arguments for `fit`."""
    parser = QuickParser(prog="python -m lit_triwave sweep", description=DESCRIPTION)
    parser.add_argument("file", help="sweep file, such as configs/sweeps/digits_heads.yaml")
    parser.add_argument("--count", type=at_least(1), help="number of runs to make, from the first; by default all")
    parser.add_argument("--list", help="write the unfinished runs to this file, for slurm/array.sbatch")
    options, overrides = parser.parse_known_args(args)
    if overrides and args[0].startswith("-"):
        parser.error("FILE must come first: python -m lit_triwave sweep FILE [--KEY VALUE ...]")
    return options, overrides


def _write_list(file: Path, runs: list[Planned], sweep: Sweep) -> int:
    """Writes one line for each unfinished run, as slurm/array.sbatch reads them; no file if all are finished."""
    left = [one for one in runs if one.state != "finished"]
    if not left:
        for number, one in enumerate(runs, start=1):
            print(f"run {number}/{len(runs)}  {one.id}  {_result(one, sweep)}finished")
        print(f"all {len(runs)} runs are finished: {file} is not written")
        return 0
    lines = []
    for one in left:
        config, *words = one.command
        again = [] if "--ckpt_path=last" in words else ["--ckpt_path=last"]  # the list may be submitted twice
        lines.append(shlex.join([config.removeprefix("--config="), *words, *again]))
    try:
        with written_whole(file) as partial:
            partial.write_text("\n".join(lines) + "\n")
    except OSError as error:
        raise TriwaveError(f"--list {file} cannot be written: {error.strerror}") from error
    print(f"{file}: {len(left)} of {len(runs)} runs; submit them with: slurm/array.sbatch {shlex.quote(str(file))}")
    return 0


def _run_all(runs: list[Planned], sweep: Sweep, stop: Stop) -> dict[str, str]:
    """Makes the unfinished runs until a signal arrives; returns the runs that failed, id ↦ reason."""
    failed: dict[str, str] = {}
    seconds: list[float] = []
    for number, one in enumerate(runs, start=1):
        if stop.requested is not None:
            break
        title = f"run {number}/{len(runs)}  {one.id}"
        if one.state == "finished":
            print(f"{title}  {_result(one, sweep)}finished already", flush=True)
            continue
        owner = used_by(one.folder)
        if owner is not None:
            print(f"{title}  skipped: process {owner} is working on it", flush=True)
            continue
        print(f"{title}{'  resumes' if one.state == 'begun' else ''}", flush=True)
        begun = time.monotonic()
        code = stop.fit(one.command)
        if code in (INTERRUPTED, REQUEUE) or stop.requested is not None:
            # A signal to the run alone ends the sweep too: its sender wants the machine.
            stop.requested = stop.requested or (REQUEUE_SIGNAL if code == REQUEUE else signal.SIGINT)
            break
        seconds.append(time.monotonic() - begun)
        left = sum(other.state != "finished" for other in runs[number:]) * sum(seconds) / len(seconds)
        if code:
            failed[one.id] = f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        said = f"failed, {failed[one.id]}; " if code else _result(one, sweep)
        print(f"{title}  {said}{seconds[-1]:.0f} s{f', about {_duration(left)} left' if left else ''}", flush=True)
    return failed


def _result(one: Planned, sweep: Sweep) -> str:
    """Returns the sweep's metric of a run with its name; an empty string if the run has none."""
    value = one.metric(sweep.metric)
    return "" if value is None else f"{sweep.metric} {value:.4g}  "


def _duration(seconds: float) -> str:
    """Returns a duration in a readable unit."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _close(runs: list[Planned], sweep: Sweep, failed: dict[str, str]) -> None:
    """Prints which runs failed, which one is best, and how to compare them."""
    for name, why in failed.items():
        print(f"failed: {name} ({why})")
    values = {one.id: one.metric(sweep.metric) for one in runs if one.state == "finished"}
    known = {name: value for name, value in values.items() if value is not None}
    if known:
        choose, word = (min, "lowest") if sweep.goal == "minimize" else (max, "highest")
        best = choose(known, key=known.__getitem__)
        print(f"{word} {sweep.metric}: {known[best]:.4g}, {best}")
    elif values and sweep.metric:
        there = {name for one in runs for name in one.summary}
        print(f"no run has the sweep's metric {sweep.metric}{did_you_mean(sweep.metric, sorted(there))}")
    folder = runs[0].folder.parent
    print(f"{len(values)} of {len(runs)} runs are finished; python -m lit_triwave compare {folder}", flush=True)
