from __future__ import annotations

import subprocess
import sys

from tests.conftest import REPOSITORY

SCRIPT = """
import sys
from lit_triwave.commands.quick_imports import import_lightning

import_lightning()
import torch
from lightning.fabric.wrappers import _unwrap_compiled

late = ["torchvision", "scipy.signal"] + ["torch._dynamo"] * torch.__version__.startswith("2.15.")
network = torch.nn.Linear(2, 1)
adam = torch.optim.Adam(network.parameters(), lr=0.1)
network(torch.ones(1, 2)).sum().backward()
adam.step()  # which autograd would refuse with gradients
assert adam.state[network.weight]["step"] == 1 and network.weight.requires_grad
from torch.utils.flop_counter import FlopCounterMode
with FlopCounterMode(display=False) as counter:
    network(torch.ones(1, 2))
assert counter.get_total_flops() == 4
import lit_triwave.modules  # whose stages try their optimizers
from datamodules import FunctionDataModule
assert FunctionDataModule("x**3", {"x": [-1, 1]}).free_knot_mse(63) > 0  # as the summary of a fit
assert not [name for name in late if name in sys.modules]
assert _unwrap_compiled(network)[0] is network
compiled = torch.compile(network, backend="eager")
assert _unwrap_compiled(compiled)[0] is network
assert torch.equal(compiled(torch.ones(1, 2)), network(torch.ones(1, 2)))
torch.optim.SGD(network.parameters(), lr=0.1).zero_grad()
network(torch.ones(1, 2)).sum().backward()
adam.step()
assert adam.state[network.weight]["step"] == 2
arniqa = sys.modules["torchmetrics.functional.image.arniqa"]
assert arniqa.transforms.Resize((2, 2))(torch.ones(3, 4, 4)).shape == (3, 2, 2)
"""


def test_what_is_not_imported_at_once_is_imported_when_it_is_used() -> None:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], cwd=REPOSITORY, capture_output=True, text=True, check=False, timeout=200
    )
    assert done.returncode == 0, done.stderr
