"""Trains programs in several processes at once, because one program does not keep more than one core busy."""

from __future__ import annotations

import multiprocessing
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from typing import Any

import torch

from datamodules.images import end_with_trainer
from lit_triwave.commands.quiet import quiet
from lit_triwave.commands.reproduce.programs import Program
from lit_triwave.errors import TriwaveError

_POLL_SECONDS = 0.2
"""Seconds between two looks at the progress of the processes."""

_START_METHOD = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
"""A server imports PyTorch and Lightning once, where new interpreters would each need seconds for it."""

_work_done: Any = None
"""In a process of the pool: the queue for the work that it has done."""


def train_in_processes(
    todo: Sequence[Program], jobs: int, train: Callable[..., dict[str, Any]], tell: Callable[[float], None]
) -> Iterator[tuple[Program, dict[str, Any]]]:
    """Trains programs in processes, those with the most work first.

    Args:
        todo: the programs.
        jobs: number of processes; they share PyTorch's threads.
        train: `programs.train`.
        tell: called with each step's share of the work, in units of `Program.cost`.

    Yields:
        Each program and the result of `train`, as soon as it is finished.

    Raises:
        TriwaveError: a process ended before its program, for example for want of memory.
    """
    context = multiprocessing.get_context(_START_METHOD)
    if _START_METHOD == "forkserver":
        context.set_forkserver_preload([__name__])
    queue = context.SimpleQueue()
    threads = max(1, torch.get_num_threads() // jobs)
    pool = ProcessPoolExecutor(jobs, context, _begin, (queue, threads))
    try:
        running = {pool.submit(_train, train, one): one for one in sorted(todo, key=lambda one: -one.cost)}
        while running:
            done, _ = wait(running, _POLL_SECONDS, FIRST_COMPLETED)
            while not queue.empty():
                tell(queue.get())
            for future in done:
                yield running.pop(future), future.result()
    except BrokenProcessPool as error:
        raise TriwaveError("a process of --jobs ended, perhaps for want of memory: try --jobs 1") from error
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
        for process in multiprocessing.active_children():  # after Ctrl-C: their programs start again from the beginning
            process.kill()  # SIGTERM ends only the fit that Lightning is at, and the process goes on with the next one


def _begin(queue: Any, threads: int) -> None:
    """Prepares a process of the pool: it leaves Ctrl-C to the first process, and ends with it."""
    global _work_done
    _work_done = queue
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(threads)
    quiet()
    end_with_trainer(0)


def _train(train: Callable[..., dict[str, Any]], program: Program) -> dict[str, Any]:
    return train(program, lambda share: _work_done.put(share * program.cost))
