"""Second-order optimization of many small networks at once: stages `polish` and `limit` (METHOD sections 6 and 7)."""

from lit_triwave.optim.jacobian import LeastSquares, NormalEquations, jacobian
from lit_triwave.optim.levenberg_marquardt import LevenbergMarquardt

__all__ = ["LeastSquares", "LevenbergMarquardt", "NormalEquations", "jacobian"]
