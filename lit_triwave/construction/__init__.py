"""The paper's formulas on plain tensors: triangle waves, their scales, and the network weights that compute them."""
