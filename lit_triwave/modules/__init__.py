"""LightningModules: what is trained, through which stages, on which loss."""

from lit_triwave.modules.classifier import ImageClassifier
from lit_triwave.modules.regressor import FunctionRegressor
from lit_triwave.modules.staged import StagedModule

__all__ = ["FunctionRegressor", "ImageClassifier", "StagedModule"]
