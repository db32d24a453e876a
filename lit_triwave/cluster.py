"""The processes of a run: where they come from (SLURM, torchrun, Lightning itself), and what happens when one dies."""

from __future__ import annotations

import os
import re
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from subprocess import Popen
from typing import Any

from lightning.fabric.plugins.environments.cluster_environment import ClusterEnvironment
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from lightning.pytorch import Trainer

from lit_triwave.errors import TriwaveError
from lit_triwave.messages import leave_it_to_the_first_rank
from lit_triwave.one_line import one_line

WATCH_SECONDS = 0.1
GONE_SECONDS = 3.0
"""How long a rank that has lost a connection leaves it to the watch to say which rank is gone."""
LOST = re.compile("gloo|nccl|connection (was )?(closed|reset)|broken pipe|failed to recv", re.IGNORECASE)
"""What torch.distributed says when another rank is gone."""


class SLURMTasks(SLURMEnvironment):
    """One process for each task of an `srun` step. The batch script requeues, not Lightning."""

    def __init__(self) -> None:
        super().__init__(auto_requeue=False)

    @staticmethod
    def _validate_srun_used() -> None:
        """Not Lightning's, which takes a job that is named "interactive" for one without tasks."""

    @staticmethod
    def _validate_srun_variables() -> None:
        """Not Lightning's, which insists on --ntasks-per-node; `validate_settings` looks at the step itself."""

    @property
    def main_address(self) -> str:
        # The step may be on other nodes than the first of the job.
        return os.environ.get("MASTER_ADDR") or self.resolve_root_node_address(os.environ["SLURM_STEP_NODELIST"])

    def world_size(self) -> int:
        return int(os.environ["SLURM_STEP_NUM_TASKS"])

    def validate_settings(self, num_devices: int, num_nodes: int) -> None:
        """Raises TriwaveError unless the trainer asks for the step's nodes and tasks."""
        nodes, tasks = int(os.environ["SLURM_STEP_NUM_NODES"]), tasks_per_node(os.environ["SLURM_STEP_TASKS_PER_NODE"])
        if num_nodes != nodes:
            raise TriwaveError(f"trainer.num_nodes {num_nodes}: SLURM's step has {nodes} (srun --nodes)")
        if set(tasks) != {num_devices}:
            counts = " and ".join(str(count) for count in sorted(set(tasks)))
            raise TriwaveError(
                f"trainer.devices {num_devices}: SLURM's step has {counts} tasks on a node (srun --ntasks-per-node)"
            )


def tasks_per_node(text: str) -> list[int]:
    """SLURM's short form as a list: `2(x3),1` ↦ [2, 2, 2, 1]."""
    return [int(count) for count, times in re.findall(r"(\d+)(?:\(x(\d+)\))?", text) for _ in range(int(times or 1))]


def in_slurm_step() -> bool:
    """Whether this process is one of several that `srun` started.

    The other variables are no sign of that: a batch script, `salloc` and `srun --pty bash` leave them in the
    environment of whatever runs there.
    """
    return int(os.environ.get("SLURM_STEP_NUM_TASKS", "1")) > 1 and "SLURM_PROCID" in os.environ


def requeued() -> bool:
    """Whether this job has been started before: after its time limit, a pre-emption, or the failure of a node."""
    return int(os.environ.get("SLURM_RESTART_COUNT", "0")) > 0


def cluster_environment(num_nodes: int, devices: Any) -> ClusterEnvironment | None:
    """How this process finds the others; None leaves it to Lightning.

    Args:
        num_nodes: that the trainer asks for.
        devices: that it asks for on each node: a number, or words that Lightning understands.

    Raises:
        TriwaveError: it asks for other nodes or devices than this process has, or can have.
    """
    if TorchElasticEnvironment.detect() or "SLURM_JOB_ID" not in os.environ:
        return None
    if in_slurm_step():
        tasks = SLURMTasks()
        if str(devices).isdigit():  # before anything is said or made; Lightning asks once more
            tasks.validate_settings(int(devices), num_nodes)
        return tasks
    if num_nodes > 1 and "MASTER_ADDR" not in os.environ:
        raise TriwaveError(
            f"trainer.num_nodes {num_nodes}: this is 1 process on 1 node of SLURM job {os.environ['SLURM_JOB_ID']}; "
            "start it by srun, or by sbatch slurm/fit.sbatch"
        )
    return LightningEnvironment()


@contextmanager
def one_message() -> Iterator[None]:
    """Of an error that all ranks have the first rank's is shown; that of another rank alone, with its number."""
    try:
        yield
    except Exception as error:
        rank = leave_it_to_the_first_rank()
        if not rank:
            raise
        if LOST.search(str(error)):  # not this rank's fault; who started the ranks says which one is gone
            raise SystemExit(1) from error
        raise TriwaveError(f"on rank {rank}: {one_line(error)}") from error


@contextmanager
def ranks_end_together(trainer: Trainer) -> Iterator[None]:
    """Where Lightning started the ranks of this machine: when one is gone, says which, and ends the others.

    A collective that waits for it may do so for half an hour. Under SLURM `srun --kill-on-bad-exit` does the same.

    Raises:
        TriwaveError: the port at which ranks meet is taken.
    """
    environment = getattr(trainer.strategy, "cluster_environment", None)
    is_child = isinstance(environment, LightningEnvironment) and environment.local_rank() > 0
    over = threading.Event()
    parent = os.getppid() if is_child else None
    threading.Thread(target=watch_ranks, args=(trainer, parent, over), daemon=True).start()
    try:
        yield
    except Exception as error:
        if LOST.search(str(error)):
            time.sleep(GONE_SECONDS)  # the watch says which rank
        for child in children(trainer):
            child.kill()
        if "EADDRINUSE" in str(error):
            port = os.environ.get("MASTER_PORT")
            raise TriwaveError(f"MASTER_PORT {port}, where the ranks meet, is in use: set it to a free port") from error
        raise
    finally:
        over.set()


def watch_ranks(trainer: Trainer, parent: int | None, over: threading.Event) -> None:
    """Ends this process, and those that it started, when one of these or `parent`, which started it, is gone."""
    while not over.wait(WATCH_SECONDS):
        gone = "rank 0 was killed" if parent not in (None, os.getppid()) else ""
        for rank, child in enumerate(children(trainer), start=1):
            code = child.poll()
            if code:
                gone = f"rank {rank} " + (f"was killed by {signal.Signals(-code).name}" if code < 0 else "failed")
        if gone:
            print(f"error: {gone}, and the run with it", file=sys.stderr, flush=True)
            for child in children(trainer):
                child.kill()
            os._exit(1)


def children(trainer: Trainer) -> list[Popen[bytes]]:
    """The processes that Lightning started from this one: local ranks 1, 2, ..."""
    found: list[Popen[bytes]] = getattr(trainer.strategy.launcher, "procs", [])
    return found
