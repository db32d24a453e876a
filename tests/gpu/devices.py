"""Devices for the tests in this folder: the CPU in `make test`, a GPU in `make test-gpu`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor
from torch.autograd.profiler import profile

CUDA = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]
on_each_device = pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=CUDA)])
on_a_gpu = pytest.mark.parametrize("device", [pytest.param("cuda", marks=CUDA)])
TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-4}
"""Largest difference from float64 on the CPU, as a share of the largest number."""


def assert_agrees(found: Mapping[str, Tensor], expected: Mapping[str, Tensor], tolerance: float) -> None:
    """Compares named tensors with the same tensors on the CPU, each in units of its largest number."""
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        here, there = found[name].detach().to("cpu", torch.float64), value.detach().double()
        largest = float(there.abs().max()) if there.numel() else 0.0
        torch.testing.assert_close(
            here, there, rtol=0, atol=tolerance * largest, msg=lambda text, name=name: name + text
        )


@contextmanager
def without_waiting(device: str) -> Iterator[None]:
    """Fails if the block reads a number from the device, because every training step would wait for it."""
    if device == "cuda":
        torch.cuda.set_sync_debug_mode("error")
        try:
            yield
        finally:
            torch.cuda.set_sync_debug_mode("default")
        return
    with profile(use_kineto=False) as seen:
        yield
    assert not {"aten::item", "aten::nonzero"} & {event.name for event in seen.function_events}
