"""Mode, login and privacy of Weights & Biases."""

from __future__ import annotations

import inspect
import io
import os
import shutil
from contextlib import redirect_stderr
from pathlib import Path
from typing import Any

from lit_triwave.errors import TriwaveError, reason
from lit_triwave.tracking.run import WandbMode

_INIT_TIMEOUT = 20
"""Seconds to wait for the W&B server before the run is tracked offline instead."""


def wandb_mode(asked: WandbMode) -> tuple[WandbMode, str]:
    """Returns the mode and the reason for it.

    `auto` follows WANDB_DISABLED or WANDB_MODE if set. Otherwise it is online with a login and offline without one.

    Raises:
        TriwaveError: WANDB_MODE is not one of W&B's modes.
    """
    if asked != "auto":
        return asked, "run.wandb"
    if os.environ.get("WANDB_DISABLED", "").lower() in ("true", "1"):
        return "disabled", "WANDB_DISABLED"
    mode = os.environ.get("WANDB_MODE", "").lower()
    if mode:
        modes: dict[str, WandbMode] = {"online": "online", "shared": "online", "offline": "offline"}
        modes |= {"dryrun": "offline", "disabled": "disabled"}
        if mode not in modes:
            raise TriwaveError(f"WANDB_MODE must be online, offline or disabled, got {mode!r}")
        return modes[mode], f"WANDB_MODE={mode}"
    os.environ.pop("WANDB_MODE", None)  # W&B refuses an empty value
    try:
        return ("online", "") if has_login() else ("offline", "no login")
    except Exception as error:  # for example a malformed key; W&B has many kinds of errors
        return "offline", f"the login cannot be used: {reason(error, 100)}"


def has_login() -> bool:
    """Whether W&B finds credentials in the environment, its settings or netrc. It does not ask for or use them."""
    import wandb

    if "prompt" in inspect.signature(wandb.login).parameters:
        with redirect_stderr(io.StringIO()):  # W&B prints the login that it found
            return bool(wandb.login(prompt=False, verify=False))
    return bool(wandb.api.api_key)  # wandb before 0.30


def private_settings() -> Any:
    """Returns W&B settings that record no host, user, path, command line or output; the system's load is recorded."""
    import wandb

    settings: dict[str, Any] = {"silent": True, "init_timeout": _INIT_TIMEOUT}
    # The output names the machine and the run folder.
    settings |= {"console": "off", "host": "", "username": "", "email": "", "x_disable_meta": True}
    settings |= {"disable_git": True, "disable_code": True, "save_code": False}
    known = getattr(wandb.Settings, "model_fields", {})  # versions of W&B have different names
    return wandb.Settings(**{name: value for name, value in settings.items() if name in known})


def forget_logs(folder: Path) -> None:
    """Deletes W&B's debug logs, which name paths, from a run folder; WANDB_DEBUG=true keeps them.

    W&B continues to write to the deleted files, so a killed run leaves no logs either."""
    if os.environ.get("WANDB_DEBUG", "").lower() not in ("true", "1"):
        for logs in folder.glob("wandb/*run-*/logs"):
            shutil.rmtree(logs, ignore_errors=True)
        for link in folder.glob("wandb/debug*.log"):
            link.unlink(missing_ok=True)
