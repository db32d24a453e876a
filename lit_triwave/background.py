"""Calls made in another thread, one after the other."""

from __future__ import annotations

import threading
from collections.abc import Callable
from queue import Queue


class Background:
    """A thread that makes calls in the order in which they come, so that who hands them over need not wait.

    The thread begins with the first call and ends with the process.
    """

    def __init__(self) -> None:
        self._calls: Queue[Callable[[], None]] = Queue()
        self._thread: threading.Thread | None = None
        self._error: Exception | None = None

    def call(self, function: Callable[[], None]) -> None:
        """Has a function called soon."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, daemon=True)
            self._thread.start()
        self._calls.put(function)

    def wait(self) -> None:
        """Returns when all calls are made; raises what the first that failed has raised."""
        self._calls.join()
        error, self._error = self._error, None
        if error is not None:
            raise error

    def _work(self) -> None:
        while True:
            function = self._calls.get()
            try:
                function()
            except Exception as error:  # it is raised where someone waits for it
                self._error = self._error or error
            finally:
                self._calls.task_done()
