"""How Weights & Biases is used: its mode, its login and what it may note."""

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

INIT_TIMEOUT = 20
"""Seconds to wait for the W&B server before the run goes on offline."""


def wandb_mode(asked: WandbMode) -> tuple[WandbMode, str]:
    """The mode, and why. `auto` means WANDB_MODE or WANDB_DISABLED if set, online if there is a login, else offline.

    Raises:
        TriwaveError: WANDB_MODE is none of W&B's modes.
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
            raise TriwaveError(f"WANDB_MODE {mode!r}: online, offline or disabled")
        return modes[mode], f"WANDB_MODE={mode}"
    os.environ.pop("WANDB_MODE", None)  # W&B itself refuses an empty one
    try:
        return ("online", "") if has_wandb_login() else ("offline", "no login")
    except Exception as error:  # a malformed key, say; W&B has many kinds
        return "offline", f"the login can't be used: {reason(error, 100)}"


def has_wandb_login() -> bool:
    """Whether W&B finds credentials (environment, settings or netrc), without asking for them or using them."""
    import wandb

    if "prompt" in inspect.signature(wandb.login).parameters:
        with redirect_stderr(io.StringIO()):  # where it says whose login it found
            return bool(wandb.login(prompt=False, verify=False))
    return bool(wandb.api.api_key)  # wandb before 0.30


def private_settings() -> Any:
    """W&B's settings, with which it notes no host, user, path, command line or output; the system's load it does."""
    import wandb

    settings: dict[str, Any] = {"silent": True, "init_timeout": INIT_TIMEOUT}
    # The output names the machine and the run folder.
    settings |= {"console": "off", "host": "", "username": "", "email": "", "x_disable_meta": True}
    settings |= {"disable_git": True, "disable_code": True, "save_code": False}
    known = getattr(wandb.Settings, "model_fields", {})  # W&B has renamed some, and will again
    return wandb.Settings(**{name: value for name, value in settings.items() if name in known})


def forget_logs(folder: Path) -> None:
    """Takes W&B's debug logs, which name paths, out of a run folder; W&B writes on where no one reads, and a killed run
    has none either. Kept with WANDB_DEBUG=true."""
    if os.environ.get("WANDB_DEBUG", "").lower() not in ("true", "1"):
        for logs in folder.glob("wandb/*run-*/logs"):
            shutil.rmtree(logs, ignore_errors=True)
        for link in folder.glob("wandb/debug*.log"):
            link.unlink(missing_ok=True)
