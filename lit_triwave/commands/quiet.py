"""Hides messages of Lightning that do not concern the user."""

from __future__ import annotations

import logging
import warnings

QUIET = (
    # `main(args)` is called from Python by tests and notebooks, whose own command line is not ours.
    ".*LightningCLI's args parameter is intended.*",
    # The data are tensors in memory; worker processes would only be slower.
    ".*does not have many workers.*",
    # Epochs of one full batch are the paper's protocol.
    ".*smaller than the logging interval.*",
    # A resumed run writes into its own folder; the loggers write the earlier rows again.
    ".*Experiment logs directory.*exists and is not empty.*",
    ".*Checkpoint directory.*exists and is not empty.*",
    # A run folder may be moved or copied.
    ".*The dirpath has changed from.*",
    # Evaluation needs no checkpoint callback.
    ".*callbacks used to create the checkpoint need to be provided.*",
    # Predictions are written in the loader's order.
    ".*Couldn't infer the batch indices.*",
    # Runs for a table keep their own results.
    ".*no logger configured.*",
    # Started without srun on purpose, or on a machine that has SLURM's commands only.
    ".*The `srun` command is available.*",
    # The user asked for no validation images.
    ".*Total length of `list` across ranks is zero.*",
    # A saved config leaves out a device, which is the default of some of Lightning's callbacks.
    "(?s).*Unable to serialize instance.*",
    # A fit says so itself.
    ".*AMP with fp16 is not supported on CPU.*",
    # Lightning 2.6 uses a function of PyTorch's pytree that PyTorch has deprecated.
    ".*LeafSpec.*is deprecated.*",
)


def quiet() -> None:
    """Hides Lightning's messages about itself, and warnings that do not apply here."""
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    logging.getLogger("lightning.fabric").setLevel(logging.WARNING)
    # The report that --trainer.profiler asks for.
    logging.getLogger("lightning.pytorch.profilers").setLevel(logging.INFO)
    # Lightning's launcher reports here that a rank is gone, if it is the first to notice.
    logging.getLogger("lightning.fabric.strategies.launchers.subprocess_script").setLevel(logging.INFO)
    for message in QUIET:
        warnings.filterwarnings("ignore", message=message)
