"""What Lightning says that a user of this suite need not hear."""

from __future__ import annotations

import logging
import warnings

QUIET = (
    # `main(args)` is called from Python by tests and notebooks, whose own command line is not ours.
    ".*LightningCLI's args parameter is intended.*",
    # Data lies in memory as tensors; worker processes would only slow it down.
    ".*does not have many workers.*",
    # Epochs of one full batch are the paper's protocol.
    ".*smaller than the logging interval.*",
    # Resuming writes into the run's own folder; `_loggers` puts the earlier rows back.
    ".*Experiment logs directory.*exists and is not empty.*",
    ".*Checkpoint directory.*exists and is not empty.*",
    # A run folder may be moved or copied.
    ".*The dirpath has changed from.*",
    # Evaluation needs no checkpoint callback.
    ".*callbacks used to create the checkpoint need to be provided.*",
    # Predictions are written in the loader's order.
    ".*Couldn't infer the batch indices.*",
    # The runs that make up a table keep what they need themselves.
    ".*no logger configured.*",
    # Started without srun on purpose, or on a machine that has SLURM's commands only.
    ".*The `srun` command is available.*",
    # No validation images were asked for.
    ".*Total length of `list` across ranks is zero.*",
    # Lightning 2.6 asks PyTorch's pytree in a way that PyTorch has since deprecated.
    ".*LeafSpec.*is deprecated.*",
)


def quiet() -> None:
    """Keeps what Lightning says of itself, and warnings that are none here, from the user's sight."""
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    logging.getLogger("lightning.fabric").setLevel(logging.WARNING)
    # Says that a process which it started is gone, before it ends the others, should it be the first to see that.
    logging.getLogger("lightning.fabric.strategies.launchers.subprocess_script").setLevel(logging.INFO)
    for message in QUIET:
        warnings.filterwarnings("ignore", message=message)
