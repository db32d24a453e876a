"""Data for `lit_triwave`; knows nothing of the models."""

from datamodules.function import FunctionDataModule
from datamodules.regression import RegressionDataModule
from datamodules.table import TableDataModule

__all__ = ["FunctionDataModule", "RegressionDataModule", "TableDataModule"]
