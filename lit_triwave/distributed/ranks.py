"""Decides which of several ranks prints."""

from __future__ import annotations

import signal
import time

from lightning.pytorch.utilities import rank_zero_only

from lit_triwave.distributed.launcher import outlive_launcher

_SAME_ERROR_SECONDS = 10.0  # the first rank may have to end a Weights & Biases run first


def leave_it_to_the_first_rank() -> int:
    """Makes the other ranks wait for the first rank to report an error, which most likely all ranks have.

    The first rank's end then ends the other ranks.

    Returns:
        The rank of this process.
    """
    rank = int(getattr(rank_zero_only, "rank", None) or 0)
    if rank > 0:
        outlive_launcher()
        signal.signal(signal.SIGTERM, signal.SIG_DFL)  # srun's way of ending the remaining ranks
        time.sleep(_SAME_ERROR_SECONDS)
    return rank


@rank_zero_only
def say(text: str) -> None:
    """Prints a line on the first rank."""
    print(text, flush=True)
