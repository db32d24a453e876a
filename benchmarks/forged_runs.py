"""Compares 20 good runs together with 200 forged ones, and checks that only the good ones are included.

    python -m benchmarks.forged_runs [--forged 200] [--seed 0]

The forged run folders come from good ones. Their values are of another kind, too many or nested too deeply; their texts
have control characters or are not Unicode. Bits of files are flipped, or files are cut off, zero, pipes, links in
circles, YAML that refers to itself, or tables of 30 MB. `compare` must show each of them by name as damaged, and must
not change the rows of the good ones; otherwise the exit code is 1. Time and memory are those of one process, with all
imports.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import sys
import tempfile
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from benchmarks.compare import measured, write_run

GOOD = 20
RECORD = "run.json"
SUMMARY = "summary.json"
TEXTS = ("experiment", "id", "wandb_id", "group", "job_type", "started", "ended")
MAPPINGS = ("config", "git", "versions", "hardware", "branched_from")
LINES = "step,train/mse_mean\n" + "".join(f"{step},1\n" for step in range(3_500_000))
Forge = Callable[[Path, random.Random], None]


def nested(levels: int) -> str:
    """Returns JSON with this depth of nesting."""
    return '{"a":' * levels + "1" + "}" * levels


def bomb(letters: str) -> str:
    """Returns YAML whose references expand to 9^(number of letters) values."""
    return f"{letters[0]}: &{letters[0]} [1]\n" + "".join(
        f"{new}: &{new} [{', '.join([f'*{old}'] * 9)}]\n" for old, new in pairwise(letters)
    )


def kind_of_field(run: Path, chance: random.Random) -> None:
    """A field of `run.json` has a wrong type."""
    name = chance.choice([*TEXTS, *MAPPINGS, "tags", "schema", "state"])
    wrong: list[Any] = [3.5, 10**19]
    wrong += [] if name == "tags" else [["\x1b[31m"], [[]]]
    wrong += [None] if name in ("experiment", "id", "started", "config", "versions", "tags", "schema", "state") else []
    wrong += ["text"] if name in MAPPINGS else [{"a": 1}]
    record = json.loads((run / RECORD).read_text())
    (run / RECORD).write_text(json.dumps(record | {name: chance.choice(wrong)}))


def content(run: Path, chance: random.Random) -> None:
    """A file of settings or results is nested deeply, has huge or many values, or is not a mapping."""
    texts = [nested(51), nested(60_000), "[1]", '"text"', "", "{", '{"a": NaN', '{"config": {"a": "\\ud800"}}']
    texts += ['{"config": {"a": ' + "9" * 400 + "}}", '{"a": ' + "9" * 5000 + "}", json.dumps({"a": [0] * 30_000})]
    texts += ['{"a": [' + "[]," * 25_000 + "1]}", " " * 9_000_000]
    (run / chance.choice([RECORD, SUMMARY])).write_text(chance.choice(texts))


def result(run: Path, chance: random.Random) -> None:
    """A result is not a number, or a number whose square is not finite."""
    summary = json.loads((run / SUMMARY).read_text())
    value = chance.choice(["oops", 1e308, -1e200, -1.0, [1.0], {"a": 1}, True, 10**18 * 10**200])
    (run / SUMMARY).write_text(
        json.dumps(summary | {chance.choice(["test/mse", "test/new/mse", "test/\x1b[2J/mse"]): value})
    )


def settings(run: Path, chance: random.Random) -> None:
    """Only `config.yaml` describes the run, and its content is harmful."""
    (run / RECORD).unlink()
    texts = [bomb("abcdefgh"), "a: &a\n  b: *a\n", "a: " + "[" * 50_000, "1: 2\n", "a: " + "1:" * 400_000 + "1\n", "-"]
    texts += ["a: !!python/object/apply:os.system ['true']\n", "\t- a: [", "a: b: c\n", "<<: {a: 1}\n", "a: \x00\n"]
    (run / "config.yaml").write_text(chance.choice(texts))


def place(run: Path, chance: random.Random) -> None:
    """There is something else instead of a regular file."""
    file = run / chance.choice([RECORD, SUMMARY, "metrics.csv"])
    file.unlink()
    make = chance.choice([os.mkfifo, os.mkdir, lambda path: os.symlink(path, path), lambda path: os.symlink(run, path)])
    make(file)


def noise(run: Path, chance: random.Random) -> None:
    """A file is binary: zeros, or random bytes from somewhere on."""
    file = run / chance.choice([RECORD, SUMMARY, "metrics.csv"])
    whole = file.read_bytes()
    start = chance.randrange(min(200, len(whole)))
    file.write_bytes(chance.choice([bytes(9000), whole[:start] + b"\xff\xfe" + chance.randbytes(4000)]))


def table(run: Path, chance: random.Random) -> None:
    """A row of the metrics has text in place of a number, or too few cells; or a key of a file is there twice."""
    if chance.random() < 0.3:
        whole = (run / SUMMARY).read_text()
        (run / SUMMARY).write_text(whole.replace("{", '{"test/mse": 1e-9,', 1))
        return
    lines = (run / "metrics.csv").read_text().splitlines()
    place = chance.randrange(1, len(lines))
    lines[place] = chance.choice(["1", lines[place] + ",2", lines[place] + "x", lines[place].replace(",", ";")])
    (run / "metrics.csv").write_text("\n".join(lines) + "\n")


def cut(run: Path, chance: random.Random) -> None:
    """A file ends early."""
    file = run / chance.choice([RECORD, SUMMARY])
    whole = file.read_bytes()
    file.write_bytes(whole[: chance.randrange(len(whole) - 2)])


def summary_alone(run: Path, chance: random.Random) -> None:
    """A finished run has no result, or one that is empty."""
    (run / SUMMARY).write_text(chance.choice(["{}", '{"schema": 2}', '{"schema": []}']))


def large(run: Path, chance: random.Random) -> None:
    """A run that has not finished, whose 30 MB of metrics are all read, and whose state does not exist."""
    record = json.loads((run / RECORD).read_text()) | {"state": chance.choice(["happy", "\x1b[31m", ""])}
    (run / RECORD).write_text(json.dumps(record))
    (run / "metrics.csv").write_text(LINES)


FORGES: list[Forge] = [kind_of_field, content, result, settings, place, noise, table, cut, summary_alone]


def forge(root: Path, count: int, seed: int) -> list[str]:
    """Writes forged run folders; returns their names."""
    chance, names = random.Random(seed), []
    for number in range(count):
        kind = large if number % 100 == 99 else FORGES[number % len(FORGES)]
        run = root / f"{number:03d}-{kind.__name__}"
        write_run(run, {"model.depth": 3}, number, 50)
        kind(run, chance)
        names.append(run.name)
    return names


def rows(file: Path) -> list[Any]:
    """Returns the result of a comparison for the good runs, except for fields in which only other runs differ."""
    found = [row for row in json.loads(file.read_text())["rows"] if row["state"] == "finished"]
    return [{key: value for key, value in row.items() if key not in ("name", "fields")} for row in found]


def main(args: Sequence[str] | None = None) -> int:
    """Prints the result; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--forged", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args(args)
    wrong = []
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        for number in range(GOOD):
            write_run(root / "runs/good" / str(number), {"model.depth": 4 + number // 4}, number % 4, 200)
        measured("compare", str(root / "runs"), "--out", str(root / "good.json"))
        names = forge(root / "runs/forged", asked.forged, asked.seed)
        for form in ("json", "table", "html"):
            out = root / f"all.{form}".replace("table", "txt")
            seconds, processor, memory = measured("compare", str(root / "runs"), "--out", str(out))
            print(f"{form}: {seconds:.1f} s, processor time {processor:.1f} s, {memory:.0f} MiB at most")
        runs = {Path(run["source"]).name: run for run in json.loads((root / "all.json").read_text())["runs"]}
        for name in names:
            if name not in runs or runs[name]["state"] != "damaged" or not runs[name]["notes"]:
                wrong.append(name)
                there = runs.get(name) and (runs[name]["state"], runs[name]["notes"])
                print(f"{name} is not shown as damaged: {there or 'not at all'}")
        if rows(root / "good.json") != rows(root / "all.json"):
            wrong.append("good")
            print("the result for the good runs differs from the result without forged runs")
        if "\x1b" in (root / "all.txt").read_text():
            wrong.append("table")
            print("the table has control characters")
        print(f"{len(names) - len(wrong)} of {len(names)} forged runs shown as damaged beside {GOOD} good ones")
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
