"""What only one of several ranks says."""

from __future__ import annotations

import signal
import time

from lightning.pytorch.utilities import rank_zero_only

from lit_triwave.distributed.launcher import outlive_launcher

SAME_ERROR_SECONDS = 10.0  # the first rank may have a Weights & Biases run to end


def leave_it_to_the_first_rank() -> int:
    """Gives the first rank the time to say an error, which mostly all have, and to end the others with its own end.

    Returns:
        The rank of this process.
    """
    rank = int(getattr(rank_zero_only, "rank", None) or 0)
    if rank > 0:
        outlive_launcher()
        signal.signal(signal.SIGTERM, signal.SIG_DFL)  # by which srun ends the ranks that are left
        time.sleep(SAME_ERROR_SECONDS)
    return rank


@rank_zero_only
def say(text: str) -> None:
    """One line for the user, from the first process."""
    print(text, flush=True)
