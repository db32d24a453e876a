"""Replaces the hidden layers of your own model, and trains it in your own loop.

python examples/own_model.py
"""

from __future__ import annotations

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from lit_triwave import TriangleBank, replace_dense

DEPTH = 4  # hidden layers of each subnetwork, which has 2^4 linear regions
PEAK_EPOCHS, WEIGHT_EPOCHS = 15, 15  # the first stage finds a good start for the second
PEAK_RATE, WEIGHT_RATE = 1e-2, 1e-3  # peaks are few, and allow larger steps than weights
BATCH = 64


def images() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Returns images (n, 64) and labels (n,) for training, then for the test."""
    digits = load_digits()
    order = torch.randperm(len(digits.target), generator=torch.Generator().manual_seed(0))
    x = torch.from_numpy(digits.data).float()[order] / 16
    y = torch.from_numpy(digits.target).long()[order]
    return x[:1400], y[:1400], x[1400:], y[1400:]


def train(model: nn.Module, x: Tensor, y: Tensor, epochs: int, rate: float) -> None:
    """An ordinary loop. Each call makes a new optimizer, because the release replaces the parameters."""
    optimizer = torch.optim.Adam(model.parameters(), lr=rate)
    model.train()
    for epoch in range(epochs):
        for batch in torch.randperm(len(x)).split(BATCH):
            loss = cross_entropy(model(x[batch]), y[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        print(f"epoch {epoch + 1}: loss of the last batch {loss.item():.3f}")


def main(peak_epochs: int = PEAK_EPOCHS, weight_epochs: int = WEIGHT_EPOCHS) -> float:
    """Returns the accuracy on the test images, 0 to 1."""
    torch.manual_seed(0)
    x, y, test_x, test_y = images()
    model = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 10))
    print(replace_dense(model, depth=DEPTH))

    train(model, x, y, peak_epochs, PEAK_RATE)  # the peaks of the subnetworks are parameters
    for module in model.modules():
        if isinstance(module, TriangleBank):
            module.release()  # from here on the weights are parameters; the function is the same
    train(model, x, y, weight_epochs, WEIGHT_RATE)

    model.eval()
    with torch.no_grad():
        accuracy = float((model(test_x).argmax(1) == test_y).double().mean())
    print(f"accuracy on {len(test_y)} test images: {accuracy:.1%}")
    return accuracy


if __name__ == "__main__":
    main()
