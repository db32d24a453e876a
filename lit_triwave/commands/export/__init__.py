"""`export`: a trained network without this project: plain PyTorch, a `torch.export` program, or ONNX."""
