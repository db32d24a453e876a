"""Second-order optimizers for many small networks at once (METHOD sections 6 and 7).

`LevenbergMarquardt` trains in the stages `polish` and, if the config says so, `pretrain`. `VariableProjection` trains
in the stage `limit` of a stack.
"""

from lit_triwave.optim.jacobian import LeastSquares, NormalEquations, jacobian
from lit_triwave.optim.levenberg_marquardt import LevenbergMarquardt

__all__ = ["LeastSquares", "LevenbergMarquardt", "NormalEquations", "jacobian"]
