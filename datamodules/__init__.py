"""Data for `lit_triwave`; knows nothing of the models."""

from datamodules.digits import DigitsDataModule
from datamodules.function import FunctionDataModule
from datamodules.regression import RegressionDataModule
from datamodules.table import TableDataModule

__all__ = ["DigitsDataModule", "FunctionDataModule", "RegressionDataModule", "TableDataModule"]
