"""Second-order optimization of many small networks at once: the last stage of training (METHOD section 6)."""

from lit_triwave.optim.jacobian import LeastSquares, NormalEquations, jacobian
from lit_triwave.optim.levenberg_marquardt import LevenbergMarquardt

__all__ = ["LeastSquares", "LevenbergMarquardt", "NormalEquations", "jacobian"]
