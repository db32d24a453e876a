"""The runs of a sweep: the name, the arguments of `fit` and the state of each."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import re
from collections import Counter
from collections.abc import Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml

from lit_triwave.cli import main
from lit_triwave.commands.config_checks import check_nulls
from lit_triwave.commands.sweep.definition import Sweep
from lit_triwave.errors import TriwaveError
from lit_triwave.files import read_json
from lit_triwave.tracking.flat_config import DATA_ACCESS, describes_run, flat
from lit_triwave.tracking.run import Run
from lit_triwave.tracking.run_files import CONFIG_YAML, CUT_SHORT, METRICS_CSV, RUN_JSON, SUMMARY_JSON

_LONGEST = 80  # characters of an id; `Run` accepts up to 100


@dataclass(frozen=True)
class Planned:
    """One run of a sweep.

    Attributes:
        id: the run's id, which names its folder.
        values: swept field ↦ value.
        words: arguments of `fit`, configs first, without the run's place and id.
        folder: the run's folder.
    """

    id: str
    values: dict[str, Any]
    words: list[str]
    folder: Path

    @property
    def state(self) -> Literal["finished", "begun", "new"]:
        """State of the run on disk. run.json decides, because a stopped run may also have a summary."""
        if (self.folder / RUN_JSON).is_file():
            # The limits in the sweep file would cut a resumed run short again.
            ended = read_json(self.folder / RUN_JSON).get("state") in ("finished", CUT_SHORT)
            return "finished" if ended else "begun"
        if (self.folder / SUMMARY_JSON).is_file():
            return "finished"
        return "begun" if self.folder.is_dir() and any(self.folder.iterdir()) else "new"

    @property
    def command(self) -> list[str]:
        """Arguments of `fit` that start or resume the run."""
        place = [f"--run.root={self.folder.parent.parent}", f"--run.experiment={self.folder.parent.name}"]
        said = {*self.words, "--run.root=runs", *map("=".join, zip(self.words, self.words[1:], strict=False))}
        place = [word for word in place if word not in said]  # the words may contain it already
        return [*self.words, *place, f"--run.id={self.id}", *(["--ckpt_path=last"] if self.state == "begun" else [])]

    @property
    def summary(self) -> dict[str, Any]:
        """The run's summary; {} if there is none yet."""
        return read_json(self.folder / SUMMARY_JSON)

    def metric(self, name: str | None) -> float | None:
        """Returns a number of the summary, or else its last value in metrics.csv; None if there is none."""
        value, metrics = self.summary.get(name or ""), self.folder / METRICS_CSV
        if value is None and metrics.is_file():
            with metrics.open(newline="") as file:
                value = next((row[name] for row in reversed([*csv.DictReader(file)]) if row.get(name or "")), None)
        try:
            return None if value is None else float(value)
        except ValueError:  # a word
            return None


def plan(sweep: Sweep, count: int | None, overrides: Sequence[str]) -> list[Planned]:
    """Returns the runs of a sweep in their order, with all values checked by the parser of `fit`.

    Args:
        sweep: the sweep.
        count: most runs to make.
        overrides: further arguments of every `fit`.

    Raises:
        TriwaveError: `fit` would refuse an argument, two runs are the same, or the folder has runs of another config.
    """
    for word in overrides:
        name = word.removeprefix("--").partition("=")[0]
        if word.startswith("--") and name in {parameter.name for parameter in sweep.parameters}:
            raise TriwaveError(f"--{name} is swept by {sweep.path}: change its values there")
        if name in ("run.id", "ckpt_path") and word.startswith("--"):
            raise TriwaveError(f"--{name} cannot be given: each run of a sweep has its own")
    points = list(sweep.values(count))
    ids = run_ids(points)
    for name, count in Counter(ids).items():
        if count > 1:
            twice = name.rpartition("-")[0]
            raise TriwaveError(f"{sweep.path}: values must differ between runs, got {twice} twice; list each once")
    words = [configs_first([*sweep.before, *arguments(point), *sweep.after, *overrides]) for point in points]
    configs = _parse_all(sweep, points, words)
    first = configs[0]["run"]
    named = any(word.split("=")[0] == "--run.experiment" for word in [*sweep.before, *sweep.after, *overrides])
    experiment = first["experiment"] if named else sweep.path.stem
    folder = Path(first["root"]) / experiment
    runs = [Planned(i, point, line, folder / i) for i, point, line in zip(ids, points, words, strict=True)]
    _refuse_other_runs(sweep, runs)
    return runs


def _parse_all(sweep: Sweep, points: list[dict[str, Any]], words: list[list[str]]) -> list[dict[str, Any]]:
    """Returns configs of some runs that together have each value with each config file (parsing one takes 0.2 s)."""
    continuous = {parameter.name for parameter in sweep.parameters if parameter.continuous}
    seen: set[tuple[str, str, str]] = set()
    configs = []
    for point, line in zip(points, words, strict=True):
        values = {(str(point.get("config")), k, "" if k in continuous else repr(v)) for k, v in point.items()}
        if not values <= seen:
            configs.append(_parsed(line))
            seen |= values
    return configs


def _parsed(words: Sequence[str]) -> dict[str, Any]:
    """Returns the config that `fit` parses from its arguments."""
    output, errors = io.StringIO(), io.StringIO()
    with redirect_stdout(output), redirect_stderr(errors):
        code = main(["fit", *words, "--print_config"])
    if code:
        lines = errors.getvalue().strip().splitlines() or ["fit refuses the arguments"]
        raise TriwaveError(f"{lines[-1].removeprefix('error: ')} (fit {' '.join(words)})")
    content = dict(yaml.safe_load(output.getvalue()))
    try:  # checks that `fit` makes behind its parser
        check_nulls(content)
        Run(**content["run"])
    except (TriwaveError, ValueError) as error:
        raise TriwaveError(f"{error} (fit {' '.join(words)})") from error
    return content


def _refuse_other_runs(sweep: Sweep, runs: list[Planned]) -> None:
    """Raises TriwaveError if the folder has runs of other configs; checks one run for each config file."""
    seen = set()
    for run in runs:
        config = str(run.values.get("config"))
        file = run.folder / CONFIG_YAML
        if config in seen or not file.is_file():
            continue
        seen.add(config)
        there, here = (flat(content) for content in (yaml.safe_load(file.read_text()), _parsed(run.words)))
        free = ("trainer.", *(f"data.init_args.{name}" for name in DATA_ACCESS))
        differing = [
            f"{name.replace('.init_args', '')} is {there.get(name)!r} there and {here.get(name)!r} here"
            for name in {**there, **here}
            if there.get(name) != here.get(name) and describes_run(name) and not name.startswith(free)
        ]
        if differing:
            what = f"was made from another config: {'; '.join(differing[:3])}"
            raise TriwaveError(f"{run.folder} {what}; --run.experiment NAME starts another sweep")


def run_ids(runs: Sequence[dict[str, Any]]) -> list[str]:
    """Returns a readable id for each run, such as `depth=5-width=8`.

    A field is named by the last part of its name if that is unambiguous. Fields with only one value are named too, so
    that the ids do not change when values are added later. Ids that are too long or equal end in a hash of the values.

    Args:
        runs: field name ↦ value for each run, all with the same names.
    """
    last = Counter(name.rpartition(".")[2] for name in (runs[0] if runs else {}))
    ids = []
    for run in runs:
        shorts = {name: name.rpartition(".")[2] for name in run}
        names = {name: short if last[short] == 1 else name for name, short in shorts.items()}
        ids.append("-".join(f"{names[name]}={_readable(value)}" for name, value in run.items()))
    alike = Counter(ids)
    for number, (name, run) in enumerate(zip(ids, runs, strict=True)):
        if alike[name] > 1 or len(name) > _LONGEST:
            digest = hashlib.sha256(json.dumps(run, sort_keys=True, default=str).encode()).hexdigest()[:8]
            ids[number] = f"{name[: _LONGEST - 9]}-{digest}"
    return ids


def _readable(value: Any) -> str:
    """Returns a value in characters that a run's id may have; for a config file, its path in configs/."""
    text = value if isinstance(value, str) else _argument_value(value)
    text = re.sub(r"^(\./)?configs/|\.ya?ml$", "", text)
    return re.sub(r"[^\w.+-]+", "_", text.replace('"', "")).strip("_") or "_"


def arguments(values: dict[str, Any]) -> list[str]:
    """Returns `--KEY=VALUE` for each value, as `wandb agent` does."""
    return [f"--{name}={_argument_value(value)}" for name, value in values.items()]


def _argument_value(value: Any) -> str:
    """Returns a value for the command line: a string as it is, any other value as JSON, which is YAML."""
    return value if isinstance(value, str) else json.dumps(value, default=str)


def configs_first(words: Sequence[str]) -> list[str]:
    """Moves the config files of a command line to the front, because fields can only be set after them."""
    joined: list[str] = []
    for word in words:
        if joined and joined[-1] == "--config":
            joined[-1] = f"--config={word}"
        else:
            joined.append(word)
    return sorted(joined, key=lambda word: not word.startswith("--config="))
