"""The processes of a run: where they come from (SLURM, torchrun, Lightning itself), and which of them says an error."""

from __future__ import annotations

import os
import re
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

ONE_FOR_EACH_TASK = "LIT_TRIWAVE_TASKS"
"""Environment variable by which slurm/job.sh says that each task is a process of the run, also if there is but one."""
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
            word = "task" if counts == "1" else "tasks"
            raise TriwaveError(
                f"trainer.devices {num_devices}: SLURM's step has {counts} {word} on a node (srun --ntasks-per-node)"
            )


def tasks_per_node(text: str) -> list[int]:
    """SLURM's short form as a list: `2(x3),1` ↦ [2, 2, 2, 1]."""
    return [int(count) for count, times in re.findall(r"(\d+)(?:\(x(\d+)\))?", text) for _ in range(int(times or 1))]


def in_slurm_step() -> bool:
    """Whether this process is one of several that `srun` started, or the only one and slurm/job.sh says so.

    The other variables are no sign of that: a batch script, `salloc` and `srun --pty bash` leave them in the
    environment of whatever runs there.
    """
    several = int(os.environ.get("SLURM_STEP_NUM_TASKS", "1")) > 1
    return "SLURM_PROCID" in os.environ and (several or ONE_FOR_EACH_TASK in os.environ)


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


def check_meeting_point(trainer: Trainer) -> None:
    """Refuses several nodes where nothing says where the first of them is.

    Raises:
        TriwaveError: each would wait for the others at an address of its own.
    """
    environment = getattr(trainer.strategy, "cluster_environment", None)
    known = {"MASTER_ADDR", "MASTER_PORT"} <= os.environ.keys()
    if trainer.num_nodes > 1 and isinstance(environment, LightningEnvironment) and not known:
        raise TriwaveError(
            f"trainer.num_nodes {trainer.num_nodes}: nothing says where the other nodes are; start it on each by "
            "torchrun or by srun, or set MASTER_ADDR, MASTER_PORT and NODE_RANK there"
        )


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


def leave_ranks() -> None:
    """Closes the connections to the other ranks, once all is well and done.

    Lightning does so for NCCL only, and gloo's threads must not outlive the interpreter: a process that ends with one
    of them at work is aborted ("terminate called without an active exception"), rarely, and its run with it.
    """
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
