"""Runs on a W&B server, by the client's public API."""

from __future__ import annotations

import io
import os
import re
from contextlib import redirect_stderr
from functools import partial
from typing import Any
from urllib.parse import parse_qsl

import numpy as np

from lit_triwave.commands.compare.read.compared_run import ComparedRun
from lit_triwave.commands.compare.read.wandb_fields import about, columns, flat_config, flat_summary
from lit_triwave.errors import TriwaveError, did_you_mean, reason
from lit_triwave.tracking.wandb_settings import has_login

SCHEME = "wandb:"
FILTERS = ("group",)
REACH_SECONDS = 10
"""For the first answer of the server. W&B's client would try for minutes."""
PAGE_SECONDS = 60
"""For each page of runs."""
PER_PAGE = 100
MOST_ROWS = 10_000
"""Rows of one history at most; the server thins longer histories evenly."""
STATES = {"finished": "finished", "running": "running", "pending": "running", "failed": "failed", "crashed": "cut off"}
"""W&B's ↦ ours; the others (killed, preempting, preempted) are stopped."""
REFUSALS = ("401", "403", "permission", "unauthorized", "invalid credentials", "api key", "relogin")
"""What W&B's client says, in lower case, of a login that the server does not take."""
OFFLINE = "runs on disk (run folders, offline-run-*) are compared without it"


def read_hosted(address: str) -> list[ComparedRun]:
    """The runs of a W&B project, oldest first, their histories to be fetched when they are asked for.

    Args:
        address: `wandb:ENTITY/PROJECT`, or `wandb:ENTITY/PROJECT?group=NAME` for one experiment.

    Raises:
        TriwaveError: there is no login, no server, no such project, or no run in it.
    """
    path, group = parsed(address)
    runs = fetch(address, path, {"group": group} if group else {})
    if not runs:
        raise TriwaveError(f"{address}: no runs{' in this group' if group else ''}")
    return [compared(address, path, run) for run in runs]


def parsed(address: str) -> tuple[str, str | None]:
    """`ENTITY/PROJECT`, and the group that is asked for.

    Raises:
        TriwaveError: it is no such address.
    """
    path, _, query = address.removeprefix(SCHEME).partition("?")
    if len([part for part in path.split("/") if part]) != 2 or path.count("/") != 1:
        raise TriwaveError(f"{address}: wandb:ENTITY/PROJECT or wandb:ENTITY/PROJECT?group=NAME is expected")
    filters = dict(parse_qsl(query, keep_blank_values=True))
    for key in filters:
        if key not in FILTERS:
            raise TriwaveError(
                f"{address}: unknown filter {key!r}{did_you_mean(key, FILTERS) or ', only group is known'}"
            )
    return path, filters.get("group")


def fetch(address: str, path: str, filters: dict[str, Any]) -> list[Any]:
    """The runs as the client's objects.

    Raises:
        TriwaveError: see `read_hosted`.
    """
    import wandb

    try:
        with redirect_stderr(io.StringIO()):  # W&B says where it has the login from
            login = has_login()
    except Exception as error:  # a malformed key, say; W&B has many kinds
        raise TriwaveError(f"{address}: the W&B login can't be used ({reason(error)}); run wandb login") from error
    if not login:
        raise TriwaveError(f"{address}: no W&B login; run wandb login, or set WANDB_API_KEY; {OFFLINE}")
    try:
        with redirect_stderr(io.StringIO()):
            wandb.Api(timeout=REACH_SECONDS)  # asks the server who this is
            return list(wandb.Api(timeout=PAGE_SECONDS).runs(path, filters=filters, per_page=PER_PAGE, lazy=False))
    except Exception as error:
        raise TriwaveError(f"{address}: {what_is_wrong(path, error)}") from error


def what_is_wrong(path: str, error: Exception) -> str:
    """An error of W&B's client in words, with what to do."""
    text = re.sub(r"^Failed to verify credentials with \S+: ", "", reason(error))
    if "could not find project" in text.lower() or "not found" in text.lower():
        return f"no such W&B project {path}, or none that this login may see"
    if any(word in text.lower() for word in REFUSALS):
        return f"W&B refuses this login ({text}); run wandb login --relogin"
    if "service process is busy" in text:  # with this request: it repeats what gets no answer
        text = "no answer"
    server = os.environ.get("WANDB_BASE_URL", "W&B's server")
    return f"{server} can't be reached ({text}); {OFFLINE}"


def compared(address: str, path: str, run: Any) -> ComparedRun:
    """A run of the client's as `compare` sees it."""
    title = run.name or run.id
    return ComparedRun(
        name=title,
        source=f"{path}/{run.id}",
        state=STATES.get(run.state, "stopped"),
        experiment=title.rpartition("/")[0] or run.group or path.rpartition("/")[2],
        config=flat_config(run.config),
        summary=flat_summary(dict(run.summary)),
        history=partial(history, address, run),
        tags=list(run.tags or []),
        about=about(run.config, run.group, run.job_type),
        wandb_id=run.id,
    )


def history(address: str, run: Any) -> dict[str, np.ndarray]:
    """What a run has logged, see `columns`; up to `MOST_ROWS` rows.

    Raises:
        TriwaveError: the server does not give them.
    """
    try:
        return columns(run.history(samples=MOST_ROWS, pandas=False))
    except Exception as error:
        raise TriwaveError(f"{address}: the history of {run.name or run.id} can't be read ({reason(error)})") from error
