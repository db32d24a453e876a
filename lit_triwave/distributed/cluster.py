"""Finds out how a run's processes were started (SLURM, torchrun, Lightning), and which of them reports an error."""

from __future__ import annotations

import os
import re
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from lightning.fabric.plugins.environments.cluster_environment import ClusterEnvironment
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from lightning.pytorch import Trainer

from lit_triwave.distributed.ranks import leave_it_to_the_first_rank
from lit_triwave.errors import TriwaveError, one_line

_EACH_TASK_IS_A_RANK = "LIT_TRIWAVE_TASKS"
"""Environment variable by which slurm/job.sh says that each task is a rank, even if there is only one."""
LOST = re.compile("gloo|nccl|connection (was )?(closed|reset)|broken pipe|failed to recv", re.IGNORECASE)
"""Errors of torch.distributed that mean that another rank is gone."""
_ADDRESS_SECONDS = 20.0
"""Time for name servers to find the address of the first node."""


class _SLURMTasks(SLURMEnvironment):
    """Makes each task of an `srun` step a rank. The batch script requeues the job, not Lightning."""

    def __init__(self) -> None:
        super().__init__(auto_requeue=False)

    @staticmethod
    def _validate_srun_used() -> None:
        """Does nothing. Lightning's method ignores the tasks of a job with the name "interactive"."""

    @staticmethod
    def _validate_srun_variables() -> None:
        """Does nothing. Lightning's method requires --ntasks-per-node; `validate_settings` checks the step itself."""

    @property
    def main_address(self) -> str:
        # The step need not be on the job's first node.
        return os.environ.get("MASTER_ADDR") or self.resolve_root_node_address(os.environ["SLURM_STEP_NODELIST"])

    def world_size(self) -> int:
        return int(os.environ["SLURM_STEP_NUM_TASKS"])

    def validate_settings(self, num_devices: int, num_nodes: int) -> None:
        """Raises TriwaveError unless the trainer's nodes and devices are the step's nodes and tasks."""
        nodes = int(os.environ["SLURM_STEP_NUM_NODES"])
        if num_nodes != nodes:
            raise TriwaveError(f"trainer.num_nodes must be {nodes}, as srun --nodes, got {num_nodes}")
        # SLURM's short form: 2(x3),1 is three nodes with 2 tasks and one with 1.
        tasks = {int(count) for count in re.findall(r"(\d+)(?:\(x\d+\))?", os.environ["SLURM_STEP_TASKS_PER_NODE"])}
        if tasks != {num_devices}:
            counts = " and ".join(map(str, sorted(tasks)))
            raise TriwaveError(f"trainer.devices must be {counts}, the tasks on each node of srun, got {num_devices}")


def in_slurm_step() -> bool:
    """Whether `srun` started this process as one of several, or as the only one and slurm/job.sh says so.

    SLURM's other variables cannot decide this: a batch script, `salloc` and `srun --pty bash` set them for all programs
    that run there.
    """
    several = int(os.environ.get("SLURM_STEP_NUM_TASKS", "1")) > 1
    return "SLURM_PROCID" in os.environ and (several or _EACH_TASK_IS_A_RANK in os.environ)


def requeued() -> bool:
    """Whether SLURM has started this job before: after a time limit, a pre-emption, or the failure of a node."""
    return int(os.environ.get("SLURM_RESTART_COUNT", "0")) > 0


def cluster_environment(num_nodes: int, devices: Any) -> ClusterEnvironment | None:
    """Returns the object by which this process finds the other ranks; None leaves this to Lightning.

    Args:
        num_nodes: `trainer.num_nodes`.
        devices: `trainer.devices`: a number, or another value that Lightning understands.

    Raises:
        TriwaveError: these numbers differ from the nodes and tasks of SLURM.
    """
    if TorchElasticEnvironment.detect() or "SLURM_JOB_ID" not in os.environ:
        return None
    if in_slurm_step():
        tasks = _SLURMTasks()
        if str(devices).isdigit():  # before anything is printed or written; Lightning checks again
            tasks.validate_settings(int(devices), num_nodes)
        return tasks
    if num_nodes > 1 and "MASTER_ADDR" not in os.environ:
        needed = f"must be 1 for a single process of SLURM job {os.environ['SLURM_JOB_ID']}"
        advice = "start it by srun, or by sbatch slurm/fit.sbatch"
        raise TriwaveError(f"trainer.num_nodes {needed}, got {num_nodes}: {advice}")
    return LightningEnvironment()


def check_meeting_point(trainer: Trainer) -> None:
    """Refuses several nodes without an address of the first node, and several ranks with an unknown address.

    Raises:
        TriwaveError: the ranks could not meet: without the address each node would wait for the others at its own.
    """
    environment = getattr(trainer.strategy, "cluster_environment", None)
    known = {"MASTER_ADDR", "MASTER_PORT"} <= os.environ.keys()
    if trainer.num_nodes > 1 and isinstance(environment, LightningEnvironment) and not known:
        needed = f"must be 1 without the address of the first node, got {trainer.num_nodes}"
        advice = "start the run by torchrun or srun, or set MASTER_ADDR, MASTER_PORT and NODE_RANK on each node"
        raise TriwaveError(f"trainer.num_nodes {needed}: {advice}")
    if environment is not None and trainer.world_size > 1:
        environment.validate_settings(trainer.num_devices, trainer.num_nodes)  # as Lightning does, when it starts ranks
        address = environment.main_address
        unknown = _why_unknown(address)
        if unknown:
            raise TriwaveError(f"MASTER_ADDR must be the name or address of the first node, got {address} ({unknown})")


def _why_unknown(address: str) -> str:
    """Returns why the network does not know an address, "" if it does."""
    found = f"no name server has answered for {_ADDRESS_SECONDS:.0f} s"

    def ask() -> None:
        nonlocal found
        try:
            socket.getaddrinfo(address, None)
            found = ""
        except (OSError, UnicodeError) as error:  # a label that is too long has no encoding
            found = getattr(error, "strerror", None) or "no name of a host"

    # In a thread, because the system may wait for minutes for name servers that do not answer.
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(_ADDRESS_SECONDS)
    return found


@contextmanager
def one_message() -> Iterator[None]:
    """Reports an error common to all ranks once; an error on a single rank is prefixed with that rank."""
    try:
        yield
    except Exception as error:
        rank = leave_it_to_the_first_rank()
        if not rank:
            raise
        if LOST.search(str(error)):  # another rank failed; the process that started the ranks reports it
            raise SystemExit(1) from error
        raise TriwaveError(f"on rank {rank}: {one_line(error)}") from error


def leave_ranks() -> None:
    """Closes the connections to the other ranks at the end of a run.

    Lightning does this only for NCCL. If a thread of gloo is active while the interpreter ends, the process is
    aborted ("terminate called without an active exception").
    """
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
