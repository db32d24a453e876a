"""Trainer options for the runs that a command makes for its tables."""

from __future__ import annotations

from typing import Any

UNRECORDED: dict[str, Any] = {
    "max_epochs": -1,  # the epochs of all stages
    "logger": False,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "num_sanity_val_steps": 0,
    "use_distributed_sampler": False,  # the data modules shard their batches themselves
}
"""Options without a run folder, because the command keeps the results itself."""
