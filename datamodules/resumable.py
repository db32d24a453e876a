"""Common base class of all data modules: training loaders that resume inside an epoch."""

from __future__ import annotations

import sys
import warnings
from typing import Any

from lightning.pytorch import LightningDataModule
from torch.utils.data import DataLoader, Dataset

from datamodules.batches import ShardedBatches
from lit_triwave.errors import TriwaveError


class ResumableDataModule(LightningDataModule):
    """Data whose training can resume inside an epoch.

    torchdata's `StatefulDataLoader` knows how many batches were used for training; batches that workers have prepared
    are not counted. The samplers depend only on (seed, epoch) and count global batches. So the epoch and the number of
    batches are the whole state, for every rank.

    This module's `state_dict` saves the state in checkpoints. Lightning's own mechanism is not used for two reasons
    (https://github.com/Lightning-AI/pytorch-lightning/issues/20550). It restores a loader only if nothing has asked for
    the number of steps before, but schedules do. And it lets workers begin with the order of epoch 0.

    A digest of the training samples tells a resumed run that the files have changed since.

    A resumed run may change the arguments for the path of the data and the way they are read. They are recognised by
    their names, such as `root`, `path` or `workers`; the list is `lit_triwave.tracking.flat_config.DATA_ACCESS`.

    Attributes:
        batch_size: training samples in a global batch, or None for all of them.
        seed: seed of the order of the training samples.
    """

    batch_size: int | None
    seed: int

    def __init__(self) -> None:
        super().__init__()
        self._train_loader: Any = None
        self._resume: dict[str, Any] = {}

    def check_ranks(self, ranks: int) -> None:
        """Checks, before processes are started, that a global batch can be shared among `ranks` of them.

        Raises:
            ValueError: it cannot. Without an override, every number is accepted.
        """

    @property
    def training_digest(self) -> str | None:
        """Digest of the training samples; None if the arguments alone define them."""
        return None

    def sharded(self, size: int, batch_size: int | None, **options: Any) -> ShardedBatches:
        """Returns this rank's share of all batches of `size` samples; `options` are those of `ShardedBatches`."""
        rank, ranks = (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)
        return ShardedBatches(size, batch_size, seed=self.seed, rank=rank, world_size=ranks, **options)

    def resumable_loader(self, samples: Dataset[Any], sampler: ShardedBatches, **options: Any) -> DataLoader[Any]:
        """Returns a training loader that continues where the loaded checkpoint left off.

        Args:
            samples: data set that is indexed by a whole `Shard` at once.
            sampler: the order of the samples.
            options: further arguments of the loader, such as `num_workers`.

        Raises:
            ValueError: the checkpoint was taken inside an epoch of other batches.
        """
        from torchdata.stateful_dataloader import StatefulDataLoader

        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "'set_vital' is deprecated")  # torchdata 0.11 under PyTorch 2.15
            loader = StatefulDataLoader(samples, batch_size=None, sampler=sampler, **options)
        state = self._resume
        # Lightning may ask for a second loader before the first batch.
        if not getattr(self.trainer, "reload_dataloaders_every_n_epochs", 0):
            self._resume = {}
        elif self.trainer and state and self.trainer.current_epoch > state["epoch"]:
            state = self._resume = {}
        if state:
            sampler.set_epoch(state["epoch"])
        if "loader" in state:
            here = self._counted_in(loader)
            differing = [
                f"{name} {state[name]} there and {here[name]} here" for name in here if state[name] != here[name]
            ]
            if differing:
                raise ValueError(f"the checkpoint was taken inside an epoch of other batches: {'; '.join(differing)}")
            loader.load_state_dict(state["loader"])
        self._train_loader = loader
        training: DataLoader[Any] = loader
        return training

    def state_dict(self) -> dict[str, Any]:
        """Returns the epoch and, inside one, the position in it, and the digest of the training samples."""
        loader, trainer = self._train_loader, self.trainer
        if loader is None or trainer is None:
            return {}
        epoch = loader.sampler.epoch
        # A callback may end an epoch before its last batch. A new loader begins the next epoch.
        progress: Any = trainer.fit_loop.epoch_progress.current
        if trainer.is_last_batch or progress.processed > epoch:
            state = {"epoch": epoch + 1}
        else:
            state = {"epoch": epoch, "loader": loader.state_dict(), **self._counted_in(loader)}
        digest = self.training_digest
        return state if digest is None else state | {"samples": digest}

    @staticmethod
    def check_state(state: Any, epoch: int, batches: int) -> None:
        """Refuses a state of another position than the trainer's.

        Args:
            state: state in a checkpoint, see `state_dict`.
            epoch: epoch in which training continues, from 0.
            batches: number of finished batches in this epoch.

        Raises:
            ValueError: the positions differ; the message says where.
        """
        if not isinstance(state, dict) or type(state.get("epoch")) is not int or state["epoch"] != epoch:
            found = state.get("epoch") if isinstance(state, dict) else type(state).__name__
            raise ValueError(f"epoch of the data must be {epoch} as in loops, got {found}")
        loader = state.get("loader", {"_num_yielded": 0})
        if not isinstance(loader, dict):
            raise ValueError(f"loader of the data must be a mapping, got {type(loader).__name__}")
        for name in ("_num_yielded", "_sampler_iter_yielded"):
            if name in loader and (type(loader[name]) is not int or loader[name] != batches):
                raise ValueError(f"{name} of the data must be {batches} as in loops, got {loader[name]}")
        if loader.get("_iterator_finished", False) is not False:
            raise ValueError("_iterator_finished of the data must be false inside an epoch")

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keeps the state for the next training loader.

        Raises:
            TriwaveError: training would continue with other samples.
        """
        state = dict(state_dict)
        there, here = state.pop("samples", None), self.training_digest
        if here is not None and there not in (None, here):
            changed = "the training samples are not those of the checkpoint: files of the data have changed since"
            if self.trainer is not None and self.trainer.state.fn == "fit":
                raise TriwaveError(f"{changed}: begin a new run")
            if self.trainer is None or self.trainer.is_global_zero:
                print(f"{changed}; samples may now be in another split", file=sys.stderr, flush=True)
        self._resume = state

    def _counted_in(self, loader: Any) -> dict[str, int | None]:
        """The values that define the position in an epoch, such as the batch size."""
        return {"batch_size": self.batch_size, "workers": loader.num_workers, "seed": self.seed}
