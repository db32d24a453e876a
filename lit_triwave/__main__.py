"""`python -m lit_triwave`, and the command `lit-triwave`."""

import atexit
import gc
import io
import os
import sys
from contextlib import suppress

_codes: list[int] = []
"""The exit code, when the command is over."""


def _leave() -> None:
    """Ends the process without freeing its memory, for which Python needs more than a second after these imports.

    If a file is still open for writing, Python ends as usual, because it then writes what is not yet in the file.
    """
    if not _codes:
        return
    streams = [stream for stream in (sys.__stdout__, sys.__stderr__) if stream is not None]
    own = [id(stream.buffer) for stream in streams]
    # Not `isinstance`, which would run code of the objects.
    files: list[io.BufferedWriter] = [
        one for one in gc.get_objects() if issubclass(type(one), (io.BufferedWriter, io.BufferedRandom))
    ]
    if any(not one.closed and id(one) not in own for one in files):
        return
    for stream in streams:
        with suppress(OSError, ValueError):
            stream.flush()
    os._exit(_codes[0])


def run() -> None:
    """Runs the command line, and ends the process with its exit code."""
    atexit.register(_leave)  # before all other exit functions are registered, so it is called after them
    from lit_triwave.cli import main

    _codes.append(main())
    sys.exit(_codes[0])


if __name__ == "__main__":
    run()
