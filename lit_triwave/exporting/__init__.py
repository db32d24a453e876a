"""`export`: a trained network without this project: plain PyTorch, a `torch.export` program, or ONNX."""

from lit_triwave.exporting.command import run

__all__ = ["run"]
