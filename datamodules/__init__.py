"""Data for `lit_triwave`, independent of the models."""

from datamodules.cifar10 import CIFAR10DataModule
from datamodules.cifar100 import CIFAR100DataModule
from datamodules.digits import DigitsDataModule
from datamodules.function import FunctionDataModule
from datamodules.image_folder import ImageFolderDataModule
from datamodules.imagenet import ImageNetDataModule
from datamodules.regression import RegressionDataModule
from datamodules.table import TableDataModule

__all__ = [
    "CIFAR10DataModule",
    "CIFAR100DataModule",
    "DigitsDataModule",
    "FunctionDataModule",
    "ImageFolderDataModule",
    "ImageNetDataModule",
    "RegressionDataModule",
    "TableDataModule",
]
