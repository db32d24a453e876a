from __future__ import annotations

import copy
import shutil
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from datamodules.augmentation import Augmentation, PixelTable
from lit_triwave.construction.triangle import nodes
from lit_triwave.construction.wave_kernels import _rows_at_a_time
from lit_triwave.nn.backbones import SmallCNN
from lit_triwave.nn.bank import TriangleBank
from lit_triwave.nn.constructed import ConstructedNetwork
from lit_triwave.nn.heads import BlockDiagonalHead
from lit_triwave.nn.networks import TriangleNetwork
from lit_triwave.nn.stack import StackNetwork
from lit_triwave.optim import jacobian
from tests.gpu.devices import TOLERANCE, assert_agrees, on_a_gpu, on_each_device, without_waiting

F64 = torch.float64
NARROW, WIDE = 3, 520  # subnetworks, on either side of `wave_kernels.WIDE`
FORMS = [("peaks", NARROW), ("blocks", NARROW), ("dense", NARROW), ("peaks", WIDE), ("blocks", WIDE)]
on_each_form = pytest.mark.parametrize(("form", "nets"), FORMS)
SQUARE = {"x": (-1.0, 1.0), "y": (0.0, 2.0)}


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def new_bank(form: str, nets: int, depth: int = 3) -> tuple[TriangleBank, Tensor]:
    """A float64 bank on the CPU, and the middles of the linear pieces of its subnetworks, (2^depth, nets)."""
    bank = TriangleBank(nets, depth, margin=0.1, generator=seeded(), dtype=F64)
    ends = nodes(bank.peaks[..., :-1]).detach()
    if form != "peaks":
        bank.release(form)  # type: ignore[arg-type]
    return bank, ((ends[:, 1:] + ends[:, :-1]) / 2).T.contiguous()


def outcome(module: nn.Module, call: Any, x: Tensor) -> dict[str, Tensor]:
    """Values, and gradients of the inputs and of all parameters."""
    x = x.clone().requires_grad_()
    y = call(x)
    y.backward(torch.linspace(1, 2, y.numel(), dtype=y.dtype, device=y.device).view_as(y))
    assert x.grad is not None
    gradients = {name: p.grad for name, p in module.named_parameters() if p.grad is not None}
    module.zero_grad()
    return {"values": y, "inputs": x.grad, **gradients}


@on_each_device
@on_each_form
@pytest.mark.parametrize("dtype", [torch.float32, F64], ids=["float32", "float64"])
def test_every_form_has_the_values_and_gradients_of_the_cpu(
    device: str, form: str, nets: int, dtype: torch.dtype
) -> None:
    bank, u = new_bank(form, nets)
    expected = outcome(bank, bank, u)
    there = copy.deepcopy(bank).to(device, dtype)
    assert_agrees(outcome(there, there, u.to(device, dtype)), expected, TOLERANCE[dtype])


@on_each_device
@pytest.mark.parametrize("kind", ["blocks", "dense"])
@pytest.mark.parametrize("recruited", [False, True])
def test_the_release_on_the_device_keeps_the_function(device: str, kind: Any, recruited: bool) -> None:
    bank, u = new_bank("peaks", NARROW)
    expected = bank(u)
    bank.to(device).release(kind, recruited)
    assert {p.device.type for p in bank.parameters()} == {device}
    assert_agrees({"values": bank(u.to(device))}, {"values": expected}, TOLERANCE[F64])


@on_each_device
@on_each_form
def test_no_form_waits_for_the_device(device: str, form: str, nets: int) -> None:
    bank, u = new_bank(form, nets)
    bank, u = bank.to(device), u.to(device)
    outcome(bank, bank, u)  # the first pass loads libraries
    with without_waiting(device):
        outcome(bank, bank, u)


def new_network(wiring: str) -> ConstructedNetwork:
    if wiring == "stack":
        return StackNetwork(SQUARE, (0.0, 3.0), layers=[2, 3], replicas=2, generator=seeded())
    domain: Any = {"x": (-1.0, 1.0)} if wiring == "single" else SQUARE
    return TriangleNetwork(
        domain,
        (0.0, 3.0),
        wiring=wiring,
        depth=3,
        margin=0.1,
        replicas=2,
        generator=seeded(),  # type: ignore[arg-type]
    )


@on_each_device
@pytest.mark.parametrize("wiring", ["single", "difference", "sum", "composition", "stack"])
def test_every_wiring_has_the_values_and_jacobian_of_the_cpu_in_all_its_lives(device: str, wiring: str) -> None:
    here = new_network(wiring)
    there = copy.deepcopy(here).to(device)
    lower, span = here.scaling.lower, here.scaling.span
    x = lower + span * torch.rand(20, here.scaling.in_features, generator=seeded(1), dtype=F64)
    for life in ("limit", "peaks", "blocks") if wiring == "stack" else ("peaks", "blocks"):
        if life == "blocks":
            here.release()
            there.release()
        elif wiring == "stack" and life == "peaks":
            for network in (here, there):
                network.build(3)  # type: ignore[operator]
        found, expected = {"values": there(x.to(device))}, {"values": here(x)}
        if life != "limit":
            found["jacobian"], expected["jacobian"] = (
                jacobian(network, point)[1] for network, point in ((there, x.to(device)), (here, x))
            )
        assert_agrees(found, expected, 1e-8)  # the stack's ranges are found by a search
    plain = there.to_sequential(1)
    assert_agrees({"values": plain(x.to(device))}, {"values": here(x)[:, 1:]}, 1e-8)


def classifier(device: str, depth: int = 3) -> tuple[nn.Sequential, Tensor]:
    """A CNN with a constructed head in training mode, and images."""
    torch.manual_seed(0)
    backbone = SmallCNN((1, 8, 8), (4, 8))
    network = nn.Sequential(backbone, BlockDiagonalHead(backbone.out_features, 10, 8, depth))
    return network.to(device), torch.randn(16, 1, 8, 8, generator=seeded()).to(device)


@on_each_device
def test_channels_last_changes_no_logits(device: str) -> None:
    network, images = classifier(device)
    with torch.no_grad():
        expected = network(images).cpu()
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        found = network(images.to(memory_format=torch.channels_last))
    # A GPU may convolve in TF32, which has ten bits, and by another algorithm for either layout.
    assert_agrees({"logits": found}, {"logits": expected}, 1e-2 if device == "cuda" else 1e-5)


@on_each_device
@pytest.mark.parametrize("form", ["peaks", "blocks", "dense"])
def test_bf16_mixed_keeps_the_subnetworks_in_float32_and_the_logits_near(device: str, form: Any) -> None:
    network, images = classifier(device)
    head = network[1]
    if form != "peaks":
        head.release(form)
    outputs: list[Tensor] = []
    head.bank.register_forward_hook(lambda module, inputs, output: outputs.append(output))
    expected = network(images)
    with torch.autocast(device, dtype=torch.bfloat16):
        logits = network(images)
    assert [y.dtype for y in outputs] == [torch.float32, torch.float32]
    assert logits.dtype == torch.bfloat16
    assert_agrees({"logits": logits}, {"logits": expected.cpu()}, 0.1)  # eight bits, through three layers
    logits.float().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())


@pytest.fixture
def compiler(device: str, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The real compiler on a GPU; on a CPU only its graphs."""
    torch.compiler.reset()
    if device == "cpu":
        monkeypatch.setattr("lit_triwave.construction.block_kernels._compiled", lambda function: function)
        return {"fullgraph": True, "backend": "eager"}
    if shutil.which("gcc") is None:
        pytest.skip("torch.compile needs a C compiler on a GPU")
    return {"fullgraph": True}


@on_a_gpu  # tests/nn/test_heads.py compiles them on a CPU
@pytest.mark.parametrize("form", ["peaks", "blocks", "dense"])
def test_every_form_compiles_without_graph_breaks(device: str, form: str, compiler: dict[str, Any]) -> None:
    bank, u = new_bank(form, NARROW, depth=2)
    expected = outcome(bank, bank, u)
    bank, u = bank.to(device), u.to(device)
    assert_agrees(outcome(bank, torch.compile(bank, **compiler), u), expected, TOLERANCE[F64])


@on_each_device
@pytest.mark.parametrize("form", ["blocks"])
def test_a_classifier_under_bf16_mixed_compiles_without_graph_breaks(
    device: str, form: Any, compiler: dict[str, Any]
) -> None:
    network, images = classifier(device, depth=2)
    if form != "peaks":
        network[1].release(form)
    images = images.to(memory_format=torch.channels_last)
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    compiled = torch.compile(network, **compiler)
    with torch.autocast(device, dtype=torch.bfloat16):
        expected, logits = network(images), compiled(images)
    assert_agrees({"logits": logits}, {"logits": expected.cpu()}, 0.1)
    logits.float().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())


@on_each_device
@pytest.mark.parametrize("crop", ["translate", "pad_crop"])
def test_images_are_augmented_alike_on_every_device(device: str, crop: Any) -> None:
    images = torch.randint(256, (6, 9, 9, 3), generator=seeded(), dtype=torch.uint8)
    numbers, augmentation = torch.tensor([4, 0, 5]), Augmentation(crop=crop, pixels=3, cutout=2)

    def batch(place: str) -> Tensor:
        table = PixelTable(images.to(place), torch.tensor([7, 8, 9], dtype=torch.uint8, device=place))
        return table.look_up(augmentation.pixels_of(table, numbers.to(place), 3, 1)).cpu()

    assert torch.equal(batch(device), batch("cpu"))
    assert torch.equal(PixelTable(images, images[0, 0, 0]).take(numbers), images[numbers].permute(0, 3, 1, 2))


@pytest.mark.parametrize("life", ["limit", "peaks", "blocks"])
@pytest.mark.parametrize("wiring", ["single", "difference", "sum", "composition", "stack"])
def test_no_wiring_makes_a_tensor_on_another_device(wiring: str, life: str) -> None:
    network = new_network(wiring)
    if wiring == "stack" and life != "limit":
        network.build(3)  # type: ignore[operator]
    if life == "blocks":
        network.release()
    network.to("meta")  # a device without data: all operations check their devices, and no number can be read
    found = outcome(network, network, torch.empty(5, network.scaling.in_features, dtype=F64, device="meta"))
    assert {value.device.type for value in found.values()} == {"meta"}


def test_only_a_cpu_computes_wide_banks_in_parts() -> None:
    rows = {device: _rows_at_a_time(torch.empty(1000, 1024, device=device)) for device in ("cpu", "meta")}
    assert rows == {"cpu": 64, "meta": 1000}
