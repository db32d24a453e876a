"""Trainer options that commands set for runs of their own."""

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
"""Trainer options of the runs that make up a table, which keeps what it needs of them itself."""
