"""W&B's real client with a server on loopback: sources of `compare`, `wandb agent`, and online runs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import wandb
import yaml

from lit_triwave.commands.compare.read import wandb_server as hosted
from lit_triwave.commands.compare.read.sources import read_all
from lit_triwave.commands.compare.read.wandb_offline import read_offline
from lit_triwave.commands.compare.read.wandb_server import read_hosted
from lit_triwave.errors import TriwaveError
from lit_triwave.tracking.wandb_files import segments
from tests.conftest import REPOSITORY
from tests.faults import signal_at
from tests.finished_runs import rows
from tests.wandb_server import ENTITY, KEY, PROJECT, StoredRun, WandbServer

ONE_BY_ONE = ["--trainer.log_every_n_steps", "1"]
ADDRESS = f"wandb:{ENTITY}/{PROJECT}"


@pytest.fixture(autouse=True)
def no_login(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Hides the machine's login, and stops a W&B process that has another test's settings."""
    for name in ("HOME", "WANDB_CONFIG_DIR", "WANDB_CACHE_DIR", "WANDB_DATA_DIR"):
        monkeypatch.setenv(name, str(tmp_path / "home"))
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("WANDB_MODE", "offline")
    wandb.teardown()
    yield
    wandb.teardown()


@pytest.fixture
def server(no_login: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[WandbServer]:
    with WandbServer() as found:
        for name, value in found.environment.items():
            monkeypatch.setenv(name, value)
        yield found
        assert found.unknown == []


def logged(run: Path) -> dict[int, dict[str, float]]:
    """metrics.csv as step ↦ logged values."""
    found: dict[int, dict[str, float]] = {}
    for row in rows(run):
        step = int(row.pop("step"))
        found.setdefault(step, {}).update({name: float(value) for name, value in row.items() if value})
    return found


def assert_is_the_history(history: dict[str, np.ndarray], run: Path) -> None:
    """Every step of metrics.csv once, in order, with the same values."""
    table = logged(run)
    assert history["step"].tolist() == list(table)
    for i, row in enumerate(table.values()):
        assert {k: v[i] for k, v in history.items() if k != "step" and not np.isnan(v[i])} == row


def test_runs_of_a_project_are_read_with_their_configs_and_histories(server: WandbServer) -> None:
    states = ["finished", "running", "failed", "crashed", "killed"]
    for i in range(130):  # more than a page
        run = server.runs[f"id{i}"] = StoredRun(f"id{i}", displayName=f"e{i % 2}/r{i}", group=f"e{i % 2}", tags=["x"])
        run.state = states[i % 5]
        config = {"model": {"class_path": "M", "init_args": {"depth": i}}, "data.points": 500, "_wandb": {"t": 1}}
        run.config = {key: {"value": value} for key, value in config.items()}
        run.summary = {"test/mse": 0.5 * i, "_step": 3, "figures/fit": {"_type": "images"}, "stage": "train"}
        run.history = [
            {"_step": 0, "train/loss": 2.0, "_runtime": 1},
            {"_step": 3, "val/loss": 1.5, "trainer/global_step": 3},
        ]
    runs = read_hosted(ADDRESS)
    assert [run.name for run in runs] == [f"e{i % 2}/r{i}" for i in range(130)]
    assert [run.state for run in runs[:5]] == ["finished", "running", "failed", "cut off", "stopped"]
    seventh = runs[7]
    assert (seventh.source, seventh.experiment, seventh.tags) == (f"{ENTITY}/{PROJECT}/id7", "e1", ["x"])
    assert seventh.config == {"model.class_path": "M", "model.depth": 7, "data.points": 500}
    assert seventh.summary == {"test/mse": 3.5, "stage": "train"}
    history = seventh.history()
    np.testing.assert_equal(history["step"], [0, 3])
    np.testing.assert_equal(history["train/loss"], [2, np.nan])
    np.testing.assert_equal(history["val/loss"], [np.nan, 1.5])
    assert len(history) == 3
    assert {run.experiment for run in read_hosted(f"{ADDRESS}?group=e1")} == {"e1"}


@pytest.mark.parametrize(
    ("address", "says"),
    [
        ("wandb:project", "address must be wandb:ENTITY/PROJECT or wandb:ENTITY/PROJECT?group=NAME, got wandb:project"),
        (f"{ADDRESS}?gruop=x", f"wandb:ENTITY/PROJECT?group=NAME, got {ADDRESS}?gruop=x"),
        (f"{ADDRESS}?group=absent", "must contain runs, but there are none in this group"),
        (f"wandb:{ENTITY}/absent", f"no such W&B project {ENTITY}/absent"),
    ],
)
def test_a_wrong_address_is_one_line(server: WandbServer, address: str, says: str) -> None:
    with pytest.raises(TriwaveError) as refused:
        read_hosted(address)
    (line,) = str(refused.value).splitlines()
    assert address in line and says in line


def test_a_refused_login_is_one_line(server: WandbServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "on_Viewer", lambda given: {"viewer": None}, raising=False)
    with pytest.raises(TriwaveError, match="refuses this login .*; run wandb login --relogin"):
        read_hosted(ADDRESS)


def test_without_login_or_server_the_error_says_what_works_instead(monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    with pytest.raises(TriwaveError, match=r"no W&B login; run wandb login.* are compared without it"):
        read_hosted(ADDRESS)
    monkeypatch.setattr(hosted, "REACH_SECONDS", 2)
    absent = WandbServer()
    absent.server_close()
    for name, value in absent.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")  # the discard port
    wandb.teardown()
    begun = time.monotonic()
    with pytest.raises(TriwaveError, match=r"http://127.0.0.1:9 can't be reached .* are compared without it"):
        read_hosted(ADDRESS)
    assert time.monotonic() - begun < 30
    assert capsys.readouterr().err == ""


def test_a_resumed_online_run_has_each_step_once(fit, server: WandbServer) -> None:
    run = fit("r", *ONE_BY_ONE, *signal_at(1, 1), code=75)
    name = (run / "wandb_id").read_text().strip()
    assert list(server.runs) == [name]
    stored = server.runs[name]
    assert stored.fields["displayName"] == "x3_minus_x/r" and stored.fields["group"] == "x3_minus_x"
    before = len(stored.history)
    assert before > 0
    fit("", *ONE_BY_ONE, "--ckpt_path", str(run / "checkpoints" / "last.ckpt"))
    assert list(server.runs) == [name]
    steps = [row["_step"] for row in stored.history]
    assert steps == sorted(set(steps)) and len(steps) > before
    (there,) = read_hosted(ADDRESS)
    assert_is_the_history(there.history(), run)
    assert there.state == "finished"
    summary = json.loads((run / "summary.json").read_text())
    for key in ("test/mse", "linear_regions/final", "stage"):
        assert there.summary[key] == summary[key]
    assert any(key.endswith("depth") and value == 5 for key, value in there.config.items())
    assert not any(secret.encode() in sent for secret in (KEY, os.environ["HOME"]) for sent in server.received)


@pytest.mark.xdist_group("agent")  # groups begin first: the longest test of the last file would end after all others
def test_an_agent_makes_the_runs_of_a_sweep(server: WandbServer, tmp_path: Path) -> None:
    sweep = yaml.safe_load((REPOSITORY / "configs/sweeps/x3_constructed.yaml").read_text())
    small = ["--model.replicas=2", "--model.pretrain.epochs=3", "--model.train.epochs=3", f"--run.root={tmp_path}"]
    sweep["command"] += [*small, *[word.replace(" ", "=") for word in ["--trainer.log_every_n_steps 1"]]]
    sweep["parameters"] = {"model.depth": {"values": [3]}, "model.wiring": {"values": ["difference"]}}
    (tmp_path / "sweep.yaml").write_text(yaml.safe_dump(sweep))
    binaries = Path(sys.executable).parent
    environment = os.environ | {"WANDB_DIR": str(tmp_path), "PATH": f"{binaries}:{os.environ['PATH']}"}
    environment.pop("WANDB_SERVICE", None)  # a W&B process of its own
    quiet: dict[str, Any] = {
        "cwd": REPOSITORY,
        "env": environment,
        "capture_output": True,
        "text": True,
        "timeout": 200,
    }
    made = subprocess.run([binaries / "wandb", "sweep", "--project", PROJECT, tmp_path / "sweep.yaml"], **quiet)
    assert f"wandb agent {ENTITY}/{PROJECT}/sweep1" in made.stderr, made.stderr
    done = subprocess.run([binaries / "wandb", "agent", f"{ENTITY}/{PROJECT}/sweep1"], **quiet)
    assert done.returncode == 0, done.stderr
    folders = {(run / "wandb_id").read_text().strip(): run for run in (tmp_path / "x3_constructed").iterdir()}
    asked = {command["run_id"]: command["args"] for command in server.sent}
    assert len(asked) == 1 and asked.keys() == server.runs.keys() == folders.keys()
    for name, args in asked.items():
        stored, run = server.runs[name], folders[name]
        assert (stored.state, stored.fields["sweepName"]) == ("finished", "sweep1")
        settings = yaml.safe_load((run / "config.yaml").read_text())["model"]["init_args"]
        for key, entry in args.items():
            assert settings[key.removeprefix("model.")] == stored.config[key]["value"] == entry["value"]
        assert stored.summary["test/mse"] == json.loads((run / "summary.json").read_text())["test/mse"]
    assert {run.config["model.wiring"] for run in read_hosted(ADDRESS)} == {"difference"}


def test_an_offline_run_is_read_from_all_of_its_segments(fit, monkeypatch: pytest.MonkeyPatch) -> None:
    run = fit("r", *ONE_BY_ONE, *signal_at(1, 1), code=75)
    fit("", *ONE_BY_ONE, "--ckpt_path", str(run / "checkpoints" / "last.ckpt"))
    wandb.teardown()  # its process has then written everything
    files = segments(run, (run / "wandb_id").read_text().strip())
    assert len(files) == 2
    for path in (run / "wandb", files[0].parent, files[1]):
        (found,) = read_offline(path, [])
        assert (found.name, found.experiment, found.state) == ("x3_minus_x/r", "x3_minus_x", "finished")
        assert_is_the_history(found.history(), run)
    summary = json.loads((run / "summary.json").read_text())
    for key in ("test/mse", "linear_regions/final", "stage"):
        assert found.summary[key] == summary[key]
    assert not any("figures" in key or key.startswith("_") for key in (*found.summary, *found.config))
    # Without its end it is cut off.
    other = run.parent / "copy" / files[0].parent.name
    other.mkdir(parents=True)
    (other / files[0].name).write_bytes(files[0].read_bytes()[:-200])
    (cut,) = read_offline(other, [])
    assert cut.state == "cut off" and cut.history()["step"].tolist() == list(range(len(cut.history()["step"])))


def test_damaged_offline_runs_are_named_and_the_others_are_read(fit, tmp_path: Path) -> None:
    with pytest.raises(TriwaveError, match="must contain W&B runs .* but has none"):
        read_offline(tmp_path, [])
    folder = tmp_path / "some"
    places = {name: folder / f"run-20260101_000001-{name}" / f"run-{name}.wandb" for name in "abcd"}
    for place in places.values():
        place.parent.mkdir(parents=True)
    places["d"].write_bytes(b"something else, and long enough to look into")
    with pytest.raises(TriwaveError, match=r"run-d.wandb is no file of W&B's, or damaged"):
        read_all([str(places["d"])], lambda done, total: None, [])
    run = fit("r")
    wandb.teardown()
    (whole,) = run.glob("wandb/*run-*/*.wandb")
    content = whole.read_bytes()
    places["a"].write_bytes(content)
    places["b"].write_bytes(content[:7])  # as of a run that has just begun
    middle = len(content) // 2
    places["c"].write_bytes(content[:middle] + bytes(100 * [255]) + content[middle + 100 :])
    skipped: list[str] = []
    found = {Path(other.source).stem: other for other in read_all([str(folder)], lambda done, total: None, skipped)}
    assert found.keys() == {"run-a", "run-c"}
    assert (found["run-a"].state, found["run-a"].notes) == ("finished", [])
    assert found["run-c"].notes and all("damaged" in note for note in found["run-c"].notes)
    assert len(skipped) == 2 and any("none yet" in line for line in skipped)

    above = tmp_path / "above" / "b"
    above.mkdir(parents=True)
    folder.rename(above / "wandb")
    assert len(read_all([str(above.parent)], lambda done, total: None, [])) == 2
