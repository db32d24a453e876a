"""Trains random small configs, interrupts and kills them at random times, and looks for errors.

    python -m benchmarks.soak [--minutes 60] [--seed 0] [--out FOLDER]

Each case is a config of `benchmarks.random_configs`. One run of it is not interrupted. Another run gets one to three of
the signals SIGINT, SIGTERM, SIGHUP, SIGUSR1 and SIGKILL, while it starts, trains or writes a checkpoint, and is resumed
each time. Both must end bit-identical (`benchmarks.attempts.result`). Then one of the other commands reads the run, and
after every ten cases `compare` reads all of them.

A finding is a traceback, an error that is not one line in plain words, or an undocumented exit code. A process that
does not end, a difference, and a run that `compare` does not include are findings too.

Each case is a line on the screen and in FOLDER/soak.log. The files of a finding stay in FOLDER. After a finding the
exit code is 1. The configs depend only on the seed; the times of the signals also depend on the machine.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml

from benchmarks.attempts import Attempts, differing
from benchmarks.random_configs import draw
from lit_triwave.tracking.run_files import CUT_SHORT

OPTIONS = ["--run.wandb", "disabled", "--trainer.enable_progress_bar", "false"]
SIGNALS = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGKILL, signal.SIGKILL]
READERS = [["inspect"], ["export", "--format", "torch"], ["test"], ["validate"], ["predict"]]
FORMS = ["table", "md", "csv", "json", "html"]
COMPARED = 10  # cases between two calls of compare
END_LIMIT = 300.0  # seconds within which a process must end
NO_WORDS = re.compile(r"Traceback|NoneType|object has no|Error\b|not subscriptable|invalid literal|Segmentation")
"""What a user must not see."""


class Finding(Exception):
    """An event that must not happen, in words."""


class Soak:
    """The cases of one call.

    Args:
        root: folder of all files.
        seed: seed of all random numbers.
    """

    def __init__(self, root: Path, seed: int) -> None:
        self.root, self.seed = root, seed
        self.runs = Attempts(root, OPTIONS)
        self.ended_as: dict[str, str] = {}  # runs since the last compare ↦ their states

    def case(self, number: int) -> str:
        """Does one case; returns what happened, in words.

        Raises:
            Finding: something happened that must not happen.
        """
        chance = random.Random(f"{self.seed}-{number}")
        config = draw(chance, self.root)
        file = self.root / f"{number}.yaml"
        file.write_text(yaml.safe_dump(config))
        every = chance.choice([1, 3, 100])
        args = ["--config", str(file), "--run.checkpoint_every", str(every), "--run.checkpoint_seconds", "0.2"]
        both = alone, stopped = f"{number}-alone", f"{number}-stopped"
        begun = time.monotonic()
        code = self.ended(self.runs.start(args, alone), alone)
        seconds = time.monotonic() - begun
        what = f"{config['model']['class_path'].rpartition('.')[2]} {config['data']['class_path'].rpartition('.')[2]}"
        if code != 0:
            return f"{what}: {self.refusal(code, alone)}"
        moments = self.interrupt(args, stopped, seconds, chance)
        code = self.ended(self.runs.start(args, stopped), stopped)
        if code:
            raise Finding(f"the resumed run ended with {code} after {moments}")
        differs = differing(self.runs.folder(alone), self.runs.folder(stopped))
        if differs:
            raise Finding(f"after {moments} these differ: {', '.join(differs)}")
        states = {name: json.loads((self.runs.folder(name) / "run.json").read_text())["state"] for name in both}
        # A config may leave out a part of the data, such as by `limit_train_batches`.
        if states[alone] != states[stopped] or states[alone] not in ("finished", CUT_SHORT):
            raise Finding(f"state {states[stopped]}, alone {states[alone]}, after {moments}")
        self.ended_as |= states
        return f"{what}: {moments}; same; {self.read(file, stopped, chance)}"

    def ended(self, process: Any, run_id: str) -> int:
        """Waits for a process; returns its exit code.

        Raises:
            Finding: it does not end, or has printed text that no user should see.
        """
        process.join(END_LIMIT)
        if process.exitcode is None:
            process.kill()
            raise Finding(f"it has not ended after {END_LIMIT:.0f} s")
        words = NO_WORDS.search(self.runs.log(run_id).read_text(errors="replace"))
        if words:
            raise Finding(f"it printed {words[0]!r}")
        return int(process.exitcode)

    def refusal(self, code: int, run_id: str) -> str:
        """Returns why a config was refused, or a run failed.

        Raises:
            Finding: the error is not in one line, or a refused run left its folder.
        """
        last = self.runs.log(run_id).read_text().splitlines()[-1:] or [""]
        if code not in (1, 2) or not last[0].startswith("error: "):
            raise Finding(f"it ended with {code}, and says last: {last[0]}")
        folder = self.runs.folder(run_id)
        if folder.exists() and not any((folder / "checkpoints").glob("*.ckpt")) and "diverged" not in last[0]:
            raise Finding(f"a refused run left its folder: {last[0]}")
        return f"refused ({last[0].removeprefix('error: ')})"

    def interrupt(self, args: Sequence[str], run_id: str, seconds: float, chance: random.Random) -> str:
        """Starts processes that work on a run, and interrupts each; returns the signals and their times in words."""
        said = []
        for _ in range(chance.randint(1, 3)):
            process, number = self.runs.start(args, run_id), chance.choice(SIGNALS)
            moment = chance.choice(["start", "training", "training", "writing"])
            if moment != "start":
                self.runs.wait_for_training(process, run_id)
            delay = chance.random() * seconds * (0.2 if moment == "writing" else 1)
            process.join(delay)
            checkpoints = self.runs.folder(run_id) / "checkpoints"
            while moment == "writing" and process.is_alive() and not any(checkpoints.glob("*.partial")):
                time.sleep(0.0002)
            if process.is_alive():
                _send(process, number)
                if number != signal.SIGKILL and chance.random() < 0.2 and process.is_alive():
                    process.join(chance.random() * 2)  # then a second signal
                    if process.is_alive():
                        _send(process, number)
                        moment += " twice"
                said.append(f"{number.name} in {moment}")
            code = self.ended(process, run_id)
            # A process that has not set up its handlers yet ends by the signal itself.
            usual = {signal.SIGUSR1: 75, signal.SIGKILL: -signal.SIGKILL}.get(number, 130)
            if code not in (0, usual, -number):
                raise Finding(f"{said[-1:]} ended it with {code}")
        return ", ".join(said) or "over before a signal"

    def read(self, file: Path, run_id: str, chance: random.Random) -> str:
        """Lets another command read a run; returns its name.

        Raises:
            Finding: it failed without an error in one line.
        """
        name, *options = chance.choice(READERS)
        run = self.runs.folder(run_id)
        if name in ("inspect", "export"):
            args = [name, str(run), *options]
        else:
            place = ["--run.root", str(self.root), "--run.experiment", "e", "--run.id", run_id]
            args = [name, "--config", str(file), *OPTIONS, *place]
        code = self.ended(self.runs.command(args, run_id), run_id)
        last = self.runs.log(run_id).read_text().splitlines()[-1]
        if code and not (code in (1, 2) and last.startswith("error: ")):
            raise Finding(f"{name} ended with {code}, and says last: {last}")
        return f"{name} refused ({last.removeprefix('error: ')})" if code else name

    def compare(self, chance: random.Random) -> str:
        """Compares all runs since the last time, then removes them; returns what was done.

        Raises:
            Finding: it failed, or does not show each of them with its state.
        """
        form, out = chance.choice(FORMS), self.root / "compared"
        for asked, file in ((form, out), ("json", out.with_suffix(".json"))):
            options = ["--figures", str(self.root / "figures")] if chance.random() < 0.2 else []
            args = ["compare", str(self.root / "e"), "--format", asked, "--out", str(file), *options]
            code = self.ended(self.runs.command(args, "compare"), "compare")
            if code:
                raise Finding(f"compare --format {asked} ended with {code}")
        runs = json.loads(out.with_suffix(".json").read_text())["runs"]
        there = {Path(run["source"]).name: run["state"] for run in runs}
        lost = [name for name, state in self.ended_as.items() if there.get(name) != state]
        if lost:
            raise Finding(f"compare does not show as {', '.join(f'{self.ended_as[name]}: {name}' for name in lost)}")
        for name in self.ended_as:
            shutil.rmtree(self.runs.folder(name))
        count, self.ended_as = len(self.ended_as), {}
        return f"compare --format {form}: {count} runs"


def _send(process: Any, number: signal.Signals) -> None:
    """Sends a signal to a process that may end at this moment."""
    with suppress(ProcessLookupError):
        os.kill(process.pid, number)


def main(args: Sequence[str] | None = None) -> int:
    """Prints a line for each case; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, help="number of the first case")
    parser.add_argument("--cases", type=int, help="end after so many")
    parser.add_argument("--out", type=Path, help="folder of the log and of findings; a temporary one by default")
    asked = parser.parse_args(args)
    os.environ["OMP_NUM_THREADS"] = "1"
    root = asked.out or Path(tempfile.mkdtemp(prefix="soak"))
    root.mkdir(parents=True, exist_ok=True)
    soak, findings, begun, number = Soak(root.resolve(), asked.seed), 0, time.monotonic(), asked.first

    with (root / "soak.log").open("a") as log:

        def say(text: str) -> None:
            line = f"{(time.monotonic() - begun) / 60:5.1f} min  {text}"
            print(line, flush=True)
            print(line, file=log, flush=True)

        while time.monotonic() - begun < 60 * asked.minutes and number - asked.first != asked.cases:
            try:
                say(f"{number}  {soak.case(number)}")
                if (number + 1 - asked.first) % COMPARED == 0:
                    say(soak.compare(random.Random(number)))
            except Finding as finding:
                findings += 1
                say(f"{number}  FINDING: {finding}; see {root}/{number}*")
            number += 1
        say(f"seed {asked.seed}: {number - asked.first} cases, {findings} findings")
    return int(findings > 0)


if __name__ == "__main__":
    sys.exit(main())
