"""Tells which rank of a run does not answer."""

from __future__ import annotations

import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

RANKS_FOLDER = ".ranks"
"""Folder in the run folder, while several ranks train."""
_BEAT_SECONDS = 1.0
_SILENT_SECONDS = 5.0
"""A rank without a sign of life for this number of seconds is stopped, or blocked outside of Python."""
_PLACES = (
    "torch/distributed/",
    "torch/autograd/graph.py",
    "torch/nn/parallel/distributed.py",
    "lightning/fabric/utilities/distributed.py",
)
"""Files with functions in which a rank waits for others; DDP waits for buffers, and inside the backward pass."""


class Heartbeats:
    """The signs of life of all ranks: each writes a file in a folder that all of them share.

    Args:
        folder: folder of the run.
        rank: rank of this process.
        ranks: number of ranks.
    """

    def __init__(self, folder: Path, rank: int, ranks: int) -> None:
        self._folder, self._rank, self._ranks = folder / RANKS_FOLDER, rank, ranks
        self._beaten = self._since = 0.0
        self._place: object = None  # where this rank waits for others
        if rank == 0:
            for other in range(1, ranks):
                with suppress(OSError):  # files of a process that was killed; a living rank writes its file again
                    self._file(other).unlink()

    def beat(self, progress: object) -> None:
        """Leaves a sign of life, once a second.

        Args:
            progress: progress of the main thread. If it changes, the thread is not waiting in one place.
        """
        now = time.monotonic()
        if now - self._beaten < _BEAT_SECONDS:
            return
        place = _waiting_place()
        if place is None or (place, progress) != self._place:
            self._place, self._since = place and (place, progress), now
        self._beaten = now
        with suppress(OSError):  # a full disk, or a folder that is gone
            self._folder.mkdir(exist_ok=True)
            self._file(self._rank).write_text("works" if place is None else "waits")

    @property
    def waited(self) -> float:
        """Seconds for which this rank has waited in one place for others."""
        return 0.0 if self._place is None else time.monotonic() - self._since

    def silent(self) -> str:
        """Returns the ranks that do not answer, in words; "" if all answer or have not started.

        These ranks have given no sign of life for some seconds. If there are none, they are the ranks that do something
        else while this rank waits for them.
        """
        ages, working = {}, []
        for rank in range(self._ranks):
            with suppress(OSError):  # a rank that has not started, or has ended
                file = self._file(rank)
                # The time of the file system, because the clocks of nodes differ.
                ages[rank] = self._file(self._rank).stat().st_mtime - file.stat().st_mtime
                working += [rank] if rank != self._rank and file.read_text() == "works" else []
        still = {rank: age for rank, age in ages.items() if age > _SILENT_SECONDS}
        if still:
            return "; ".join(f"rank {rank} has not answered for {age:.0f} s" for rank, age in still.items())
        waits = working if self._place is not None else []
        return "; ".join(f"rank {rank} has not come for {self.waited:.0f} s to where the others wait" for rank in waits)

    def absent(self) -> str:
        """Returns the ranks without a sign of life, in words; "" if there are none."""
        missing = [rank for rank in range(self._ranks) if not self._file(rank).exists()]
        if self._rank in missing:  # the folder cannot be written, so missing files say nothing
            return ""
        return "; ".join(f"rank {rank} is not there after {self.waited:.0f} s" for rank in missing)

    def remove(self) -> None:
        """Removes this rank's sign of life; the last rank also removes the folder."""
        with suppress(OSError):
            self._file(self._rank).unlink(missing_ok=True)
            self._folder.rmdir()

    def _file(self, rank: int) -> Path:
        return self._folder / str(rank)


def _waiting_place() -> object:
    """Returns where the main thread waits for other ranks; None if it does something else."""
    frame = sys._current_frames().get(threading.main_thread().ident or 0)
    waits = frame is not None and any(place in frame.f_code.co_filename for place in _PLACES)
    place = []
    while frame is not None:
        place.append((frame.f_code, frame.f_lasti))
        frame = frame.f_back
    return tuple(place) if waits else None
