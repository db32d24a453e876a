"""Fits a formula with a stack of constructed networks, in Python instead of on the command line.

python examples/formula.py
"""

from __future__ import annotations

import torch
from lightning import Trainer

from datamodules import FunctionDataModule
from lit_triwave import FunctionRegressor, Stage
from lit_triwave.modules.stages import Limit

EXPRESSION = "exp(-x*y) * sin(3*x)"
DOMAIN = {"x": (0.0, 1.0), "y": (0.0, 2.0)}
LAYERS = [4, 4, 4]  # neurons; more variables need more
POINTS, TEST_POINTS = 1000, 5000  # about ten training points for each parameter of the network
EPOCHS = 40  # each is one second-order step on all points


def main(epochs: int = EPOCHS) -> float:
    """Returns the largest error at the test points."""
    data = FunctionDataModule(
        EXPRESSION, DOMAIN, points=POINTS, sampling="sobol", test_points=TEST_POINTS, test_sampling="random"
    )
    model = FunctionRegressor(
        wiring="stack",
        layers=LAYERS,
        limit=Limit(epochs=epochs),
        pretrain=Stage(epochs=0),  # the network built from the limit is already accurate
        train=Stage(epochs=0),
        domain=data.domain,
        target_range=data.target_range,
    )
    trainer = Trainer(
        accelerator="cpu",
        precision="64-true",  # float32 would limit the error to about 1e-7
        max_epochs=-1,  # the epochs of all stages
        use_distributed_sampler=False,  # the data module shares its batches among processes itself
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
    )
    trainer.fit(model, datamodule=data)
    (result,) = trainer.test(model, datamodule=data, verbose=False)

    network = model.plain(0)  # contains only nn.Linear and nn.ReLU
    point = torch.tensor([[0.5, 1.0]], dtype=torch.float64)
    print(f"{EXPRESSION} at x = 0.5, y = 1: {network(point).item():.6f}")
    print(f"largest error at {len(data.test_set)} test points: {result['test/max_error']:.1e}")
    return float(result["test/max_error"])


if __name__ == "__main__":
    main()
