"""Reads runs from a W&B server by the public API of its client."""

from __future__ import annotations

import io
import os
import re
from contextlib import redirect_stderr
from functools import partial
from typing import Any
from urllib.parse import unquote_plus

import numpy as np

from lit_triwave.commands.compare.read.compared_run import ComparedRun
from lit_triwave.commands.compare.read.sources import HOSTED
from lit_triwave.commands.compare.read.wandb_fields import about, columns, flat_config, flat_summary
from lit_triwave.errors import TriwaveError, reason
from lit_triwave.tracking.run_files import CUT_SHORT
from lit_triwave.tracking.wandb_settings import has_login

_ADDRESS = re.compile(HOSTED + r"([^/?]+/[^/?]+)(?:\?group=(.*))?")
REACH_SECONDS = 10
"""Longest time to the first answer of the server; W&B's client would try for minutes."""
_PAGE_SECONDS = 60
"""Longest time for each page of runs."""
_PER_PAGE = 100
_MOST_ROWS = 10_000
"""Most rows of a history; the server leaves out rows of longer histories, evenly."""
_STATES = {"finished": "finished", "running": "running", "pending": "running", "failed": "failed", "crashed": "cut off"}
"""W&B's state ↦ ours; its other states (killed, preempting, preempted) are `stopped` here."""
_REFUSALS = ("401", "403", "permission", "unauthorized", "invalid credentials", "api key", "relogin")
"""Parts of messages of W&B's client, in lower case, when the server refuses the login."""
_OFFLINE = "runs on disk (run folders, offline-run-*) are compared without it"


def read_hosted(address: str) -> list[ComparedRun]:
    """Returns the runs of a W&B project, oldest first; their histories are fetched when needed.

    Args:
        address: `wandb:ENTITY/PROJECT`, or `wandb:ENTITY/PROJECT?group=NAME` for one experiment.

    Raises:
        TriwaveError: there is no login, no server, no such project, or no run in it.
    """
    path, group = _parsed(address)
    runs = _fetch(address, path, {"group": group} if group else {})
    if not runs:
        raise TriwaveError(f"{address} must contain runs, but there are none{' in this group' if group else ''}")
    return [_compared(address, path, run) for run in runs]


def _parsed(address: str) -> tuple[str, str | None]:
    """Returns `ENTITY/PROJECT` and the wanted group, None for all groups.

    Raises:
        TriwaveError: the address has another form.
    """
    parts = _ADDRESS.fullmatch(address)
    if not parts:
        raise TriwaveError(f"address must be wandb:ENTITY/PROJECT or wandb:ENTITY/PROJECT?group=NAME, got {address}")
    return parts[1], parts[2] and unquote_plus(parts[2])


def _fetch(address: str, path: str, filters: dict[str, Any]) -> list[Any]:
    """Returns the runs as objects of the client.

    Raises:
        TriwaveError: see `read_hosted`.
    """
    import wandb

    try:
        with redirect_stderr(io.StringIO()):  # W&B prints where the login comes from
            login = has_login()
    except Exception as error:  # for example a malformed key
        raise TriwaveError(f"{address}: the W&B login can't be used ({reason(error)}); run wandb login") from error
    if not login:
        raise TriwaveError(f"{address}: no W&B login; run wandb login, or set WANDB_API_KEY; {_OFFLINE}")
    try:
        with redirect_stderr(io.StringIO()):
            wandb.Api(timeout=REACH_SECONDS)  # checks the login
            return list(wandb.Api(timeout=_PAGE_SECONDS).runs(path, filters=filters, per_page=_PER_PAGE, lazy=False))
    except Exception as error:
        raise TriwaveError(f"{address}: {_what_is_wrong(path, error)}") from error


def _what_is_wrong(path: str, error: Exception) -> str:
    """Returns the meaning of an error of W&B's client, and what to do."""
    text = re.sub(r"^Failed to verify credentials with \S+: ", "", reason(error))
    if "could not find project" in text.lower() or "not found" in text.lower():
        return f"no such W&B project {path}, or none that this login may see"
    if any(word in text.lower() for word in _REFUSALS):
        return f"W&B refuses this login ({text}); run wandb login --relogin"
    if "service process is busy" in text:  # it repeats a request without an answer
        text = "no answer"
    server = os.environ.get("WANDB_BASE_URL", "W&B's server")
    return f"{server} can't be reached ({text}); {_OFFLINE}"


def _compared(address: str, path: str, run: Any) -> ComparedRun:
    """Returns a run of the client as `compare` sees it."""
    title = run.name or run.id
    state = _STATES.get(run.state, "stopped")
    return ComparedRun(
        name=title,
        source=f"{path}/{run.id}",
        state=CUT_SHORT if state == "finished" and run.config.get("cut_short") else state,
        experiment=title.rpartition("/")[0] or run.group or path.rpartition("/")[2],
        config=flat_config(run.config),
        summary=flat_summary(dict(run.summary)),
        history=partial(_history, address, run),
        tags=list(run.tags or []),
        about=about(run.config, run.group, run.job_type),
        wandb_id=run.id,
    )


def _history(address: str, run: Any) -> dict[str, np.ndarray]:
    """Returns the history of a run, see `columns`; at most `_MOST_ROWS` rows.

    Raises:
        TriwaveError: the server does not send it.
    """
    try:
        return columns(run.history(samples=_MOST_ROWS, pandas=False))
    except Exception as error:
        raise TriwaveError(f"{address}: the history of {run.name or run.id} can't be read ({reason(error)})") from error
