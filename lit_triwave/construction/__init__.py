"""The paper's formulas on plain tensors: triangle waves, their scales and the weights that compute them."""
