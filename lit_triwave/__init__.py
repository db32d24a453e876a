"""ReLU networks that are constructed instead of drawn at random, for PyTorch Lightning (arXiv 2311.18022)."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lit_triwave.analysis.regions import breakpoints as breakpoints
    from lit_triwave.analysis.regions import count_linear_regions as count_linear_regions
    from lit_triwave.modules.classifier import ImageClassifier as ImageClassifier
    from lit_triwave.modules.regressor import FunctionRegressor as FunctionRegressor
    from lit_triwave.modules.staged import StagedModule as StagedModule
    from lit_triwave.modules.stages import Limit as Limit
    from lit_triwave.modules.stages import Polish as Polish
    from lit_triwave.modules.stages import Stage as Stage
    from lit_triwave.nn.bank import TriangleBank as TriangleBank
    from lit_triwave.nn.baselines import DenseNetwork as DenseNetwork
    from lit_triwave.nn.heads import BlockDiagonalHead as BlockDiagonalHead
    from lit_triwave.nn.networks import TriangleNetwork as TriangleNetwork
    from lit_triwave.nn.replacement import replace_dense as replace_dense

__version__ = "0.1.0"

_HOME = {
    "BlockDiagonalHead": "nn.heads",
    "DenseNetwork": "nn.baselines",
    "FunctionRegressor": "modules.regressor",
    "ImageClassifier": "modules.classifier",
    "Limit": "modules.stages",
    "Polish": "modules.stages",
    "Stage": "modules.stages",
    "StagedModule": "modules.staged",
    "TriangleBank": "nn.bank",
    "TriangleNetwork": "nn.networks",
    "breakpoints": "analysis.regions",
    "count_linear_regions": "analysis.regions",
    "replace_dense": "nn.replacement",
}

__all__ = [*_HOME]


def __getattr__(name: str) -> Any:
    """Imports a public name at its first use, because torch takes seconds and `--help` does not need it."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
