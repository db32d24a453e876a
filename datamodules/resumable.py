"""What all data share: training loaders that go on inside an epoch."""

from __future__ import annotations

import warnings
from typing import Any

from lightning.pytorch import LightningDataModule
from torch.utils.data import DataLoader, Dataset


class ResumableDataModule(LightningDataModule):
    """Data whose training can go on inside an epoch.

    torchdata's `StatefulDataLoader` knows how many batches have been trained on, apart from those that workers hold
    ready. The samplers are functions of (seed, epoch) and count in global batches, so with the epoch that number says
    all there is to say, for every rank. It is kept in checkpoints by this module's own `state_dict`: Lightning would
    restore a loader only if no one had asked for the number of steps before, as schedules do (Lightning issue 20550),
    and would let workers begin with the permutation of epoch 0.

    Attributes:
        batch_size: Training samples in a global batch, or None for all of them.
        seed: Of the order of the training samples.
    """

    batch_size: int | None
    seed: int

    def __init__(self) -> None:
        super().__init__()
        self._train_loader: Any = None
        self._resume: dict[str, Any] = {}

    def check_ranks(self, ranks: int) -> None:
        """Asked before so many processes are started; here any number will do.

        Raises:
            ValueError: A global batch cannot be shared among them.
        """

    def resumable_loader(self, samples: Dataset[Any], sampler: Any, **options: Any) -> DataLoader[Any]:
        """A training loader that goes on where the checkpoint that was loaded left off.

        Args:
            samples: Indexed by what the sampler yields, a whole batch at a time.
            sampler: With `epoch` and `set_epoch`; a function of the epoch and of the seed.
            options: Of the loader, such as `num_workers`.

        Raises:
            ValueError: The checkpoint was taken inside an epoch that is counted in other batches.
        """
        from torchdata.stateful_dataloader import StatefulDataLoader

        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "'set_vital' is deprecated")  # torchdata 0.11 under PyTorch 2.15
            loader = StatefulDataLoader(samples, batch_size=None, sampler=sampler, **options)
        state, self._resume = self._resume, {}
        if state:
            sampler.set_epoch(state["epoch"])
        if "loader" in state:
            here = self._course(loader)
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
        """The epoch and, inside one, the position in it."""
        if self._train_loader is None or self.trainer is None:
            return {}
        loader = self._train_loader
        epoch = loader.sampler.epoch
        if self.trainer.is_last_batch:  # a new loader begins the next epoch
            return {"epoch": epoch + 1}
        return {"epoch": epoch, "loader": loader.state_dict(), **self._course(loader)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keeps the state for the next training loader."""
        self._resume = state_dict

    def _course(self, loader: Any) -> dict[str, int | None]:
        """What the position in an epoch is counted in."""
        return {"batch_size": self.batch_size, "workers": loader.num_workers, "seed": self.seed}
