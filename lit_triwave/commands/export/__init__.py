"""`export`: writes a trained network as plain PyTorch, a `torch.export` program or ONNX, without this project."""
