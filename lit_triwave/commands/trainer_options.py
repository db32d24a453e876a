"""Trainer options for the runs that a command makes for a table of its own."""

from __future__ import annotations

from typing import Any

UNRECORDED: dict[str, Any] = {
    "max_epochs": -1,  # as many as the stages ask for
    "logger": False,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "num_sanity_val_steps": 0,
    "use_distributed_sampler": False,  # the data modules shard their batches themselves
}
"""Leaves no run folder: the command keeps the results itself."""
