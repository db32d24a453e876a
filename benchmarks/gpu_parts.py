"""The parts of `benchmarks.gpu`: each yields its numbers one by one, the most important first.

A part is called with the device and whether to run its tiny version, which only shows that it works.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import torch
import yaml
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn
from torch.nn import functional
from torchvision.models.vgg import VGG, vgg16_bn

from benchmarks.heads import fastest
from benchmarks.vgg import FEATURES, Form, forms
from datamodules import CIFAR10DataModule, DigitsDataModule
from lit_triwave import TriangleBank
from lit_triwave.cli import main
from lit_triwave.commands.quiet import quiet
from lit_triwave.modules import ImageClassifier
from lit_triwave.modules.stages import Stage
from lit_triwave.nn.backbones import SmallCNN
from lit_triwave.nn.networks import TriangleNetwork
from lit_triwave.nn.stack import StackNetwork
from lit_triwave.optim.limit_problem import LimitProblem
from lit_triwave.optim.variable_projection import VariableProjection
from tests.image_data import write_cifar10

REPOSITORY = Path(__file__).parents[1]
DEPTH = 5  # the depth in the shipped configs


@dataclass
class Figure:
    """A measured number.

    Attributes:
        what: description of the measured quantity.
        value: the number.
        unit: unit of the number.
    """

    what: str
    value: float
    unit: str


def wait(device: str) -> None:
    """Waits until the device has finished all work."""
    if device == "cuda":
        torch.cuda.synchronize()


def seconds(work: Callable[[], Any], device: str, times: int, warmup: int = 3) -> float:
    """Returns the mean time of some calls, after a few others."""
    for _ in range(warmup):
        work()
    wait(device)
    begun = time.perf_counter()
    for _ in range(times):
        work()
    wait(device)
    return (time.perf_counter() - begun) / times


class Outcomes:
    """Counts the outcomes of tests, as a plugin of pytest."""

    def __init__(self) -> None:
        self.count = {"passed": 0, "failed": 0, "skipped": 0}
        self.failed: list[str] = []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "call" or report.outcome != "passed":
            self.count[report.outcome] += 1
        if report.failed:
            self.failed.append(report.nodeid.rpartition("::")[2])


def tests(device: str, tiny: bool) -> Iterator[Figure]:
    """The GPU tests; the tiny version runs a single one on the CPU.

    Raises:
        RuntimeError: tests failed, or there were none.
    """
    outcomes, folder = Outcomes(), REPOSITORY / "tests" / "gpu"
    one = f"{folder / 'test_gpu_forms.py'}::test_the_release_on_the_device_keeps_the_function[False-blocks-cpu]"
    chosen = [one] if tiny else [str(folder), "-m", "gpu"]
    code = pytest.main([*chosen, "-p", "no:cacheprovider", "-p", "no:xdist"], plugins=[outcomes])
    for outcome, number in outcomes.count.items():
        yield Figure(outcome, number, "tests")
    if code:
        raise RuntimeError(f"pytest ended with {int(code)}; failed: {', '.join(outcomes.failed) or 'none'}")


class EpochSeconds(Callback):
    """Measures the seconds of each training epoch, work of the device included."""

    def __init__(self, device: str) -> None:
        self.device = device
        self.seconds: list[float] = []

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        wait(self.device)
        self.begun = time.perf_counter()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        wait(self.device)
        self.seconds.append(time.perf_counter() - self.begun)


def classifier(config: str, data: Any, **changes: Any) -> ImageClassifier:
    """Returns the classifier of a shipped config with two epochs a stage."""
    text = (REPOSITORY / "configs" / f"{config}.yaml").read_text()
    arguments = yaml.safe_load(text)["model"]["init_args"] | changes
    stages = {name: Stage(**arguments.pop(name) | {"epochs": 2}) for name in ("pretrain", "train")}
    return ImageClassifier(**arguments, **stages, num_classes=data.num_classes, image_shape=data.image_shape)


def epoch_speed(what: str, model: ImageClassifier, data: Any, device: str, precision: Any) -> Iterator[Figure]:
    """Yields the images a second of both stages in Lightning's loop, each in the second epoch of the stage."""
    timer = EpochSeconds(device)
    trainer = Trainer(
        accelerator="gpu" if device == "cuda" else "cpu",
        devices=1,
        precision=precision,
        max_epochs=4,
        limit_val_batches=0,
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        enable_progress_bar=False,
        use_distributed_sampler=False,
        callbacks=[timer],
    )
    trainer.fit(model, datamodule=data)
    seen = int(trainer.num_training_batches) * data.batch_size
    for form, epoch in (("peaks", 1), ("blocks", 3)):
        yield Figure(f"{what}, {form}", seen / timer.seconds[epoch], "images/s")


def images(device: str, tiny: bool) -> Iterator[Figure]:
    """Digits, and generated images in CIFAR-10's layout and number, by the shipped configs."""
    quiet()
    with TemporaryDirectory() as folder:
        checksums = write_cifar10(Path(folder), *((20, 30) if tiny else (10_000, 10_000)))
        small: dict[str, Any] = {"channels": [4, 4], "num_nets": 4} if tiny else {}
        options: dict[str, Any] = {"batch_size": 20, "val_images": 20, "workers": 0} if tiny else {}
        for on_device in (True, False):
            data = CIFAR10DataModule(folder, cutout=8, checksums=checksums, on_device=on_device, **options)
            what = f"CIFAR-10, bf16-mixed, {'on the device' if on_device else 'by workers'}"
            yield from epoch_speed(what, classifier("cifar10", data, **small), data, device, "bf16-mixed")
    digits = DigitsDataModule(batch_size=640 if tiny else 64)
    yield from epoch_speed("digits, float32", classifier("digits", digits, **small), digits, device, "32-true")


def tiny_vgg() -> nn.Module:
    """Returns a network of VGG's kind for images of 8 × 8."""
    backbone = SmallCNN((3, 8, 8), (4, 4))
    hidden = [nn.Linear(backbone.out_features, 16), nn.ReLU(), nn.Dropout(), nn.Linear(16, 16), nn.ReLU(), nn.Dropout()]
    return nn.Sequential(backbone, nn.Sequential(*hidden, nn.Linear(16, 10)))


def vgg(device: str, tiny: bool) -> Iterator[Figure]:
    """Images a second of VGG-16-BN on synthetic batches, dense against constructed in all forms."""
    batch, side, classes, steps = (2, 8, 10, 1) if tiny else (256, 224, 1000, 20)
    torch.backends.cudnn.benchmark = True
    pictures = torch.randn(batch, 3, side, side, device=device).to(memory_format=torch.channels_last)
    labels = torch.randint(classes, (batch,), device=device)
    for form in forms():
        with torch.device(device):
            model: Any = tiny_vgg() if tiny else vgg16_bn()
        form.apply(model, DEPTH)
        speed = batch / seconds(sgd_step(model, pictures, labels, device), device, steps)
        yield Figure(f"VGG-16-BN, batch {batch}, bf16-mixed, {form}", speed, "images/s")
        del model


def sgd_step(model: nn.Module, pictures: Tensor, labels: Tensor, device: str) -> Callable[[], None]:
    """Returns a function that takes one step in bf16-mixed and channels-last."""
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)

    def step() -> None:
        with torch.autocast(device, dtype=torch.bfloat16):
            loss = functional.cross_entropy(model(pictures), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


def bandwidth(device: str, tiny: bool) -> float:
    """Returns the bytes a second that the device reads and writes when it copies."""
    source = torch.zeros(1 << (16 if tiny else 28), device=device)  # 1 GiB: far more than any cache
    target = torch.empty_like(source)
    return 2 * 4 * len(source) / seconds(lambda: target.copy_(source), device, 5)


def head(device: str, tiny: bool) -> Iterator[Figure]:
    """Forward and backward passes, against the time in which the device moves the bytes that they need.

    A pass reads the parameters twice and writes their gradients. It reads inputs and gradients of outputs, writes
    outputs and gradients of inputs, and reads the inputs again.
    """
    speed = bandwidth(device, tiny)
    yield Figure("bandwidth of a copy", speed / 1e9, "GB/s")
    nets, batches, repeats = (8, (16,), 1) if tiny else (1024, (512, 16384), 30)
    for batch in batches:
        grad = torch.randn(batch, nets, device=device)
        for form in ("peaks", "blocks"):
            bank = TriangleBank(nets, DEPTH, device=device)
            if form != "peaks":
                bank.release()
            size = 4 * (3 * sum(p.numel() for p in bank.parameters()) + 5 * grad.numel())
            x = torch.rand(batch, nets, device=device, requires_grad=True)
            yield from against_floor(f"{nets} subnetworks, batch {batch}, {form}", bank, x, grad, repeats, size / speed)
    batch = 2 if tiny else 256
    for which in (Form(None, ""), Form(0, "peaks"), Form(0, "blocks")):
        whole, features = tiny_or_whole_head(tiny, device)
        which.apply(whole, DEPTH)
        x = torch.randn(batch, features, device=device, requires_grad=True)
        grad = torch.randn_like(whole(x)).detach()
        size = 4 * (3 * sum(p.numel() for p in whole.parameters()) + 3 * x.numel() + 2 * grad.numel())
        yield from against_floor(f"VGG-16's classifier, batch {batch}, {which}", whole, x, grad, repeats, size / speed)
    if tiny:
        return
    # Compilation may take minutes, so it comes last.
    grad = torch.randn(16384, nets, device=device)
    for form in ("peaks", "blocks"):
        bank = TriangleBank(nets, DEPTH, device=device)
        if form != "peaks":
            bank.release()
        x = torch.rand(16384, nets, device=device, requires_grad=True)
        what = f"{nets} subnetworks, batch 16384, {form}, compiled"
        compiled: Any = torch.compile(bank, fullgraph=True)
        yield from against_floor(what, compiled, x, grad, repeats, 4 * 5 * grad.numel() / speed)


def tiny_or_whole_head(tiny: bool, device: str) -> tuple[nn.Sequential, int]:
    """Returns the dense layers of VGG, and the number of their inputs."""
    with torch.device(device):
        layers: Any = tiny_vgg()[1] if tiny else VGG(nn.Identity(), init_weights=False).classifier  # type: ignore[index]
    return layers, 16 if tiny else FEATURES


def against_floor(what: str, module: Any, x: Tensor, grad: Tensor, repeats: int, floor: float) -> Iterator[Figure]:
    """Yields the time of a forward and backward pass, and its ratio to a floor in seconds."""
    took = fastest(module, x, grad, repeats)
    yield Figure(what, 1e3 * took, "ms")
    yield Figure(f"{what}: of the floor", took / floor, "×")


def fits(device: str, tiny: bool) -> Iterator[Figure]:
    """Functions times seeds, fitted side by side: peaks, then released blocks, against two CPU cores."""
    functions, seeds, points, steps = (4, 2, 20, 2) if tiny else (4096, 10, 500, 200)
    took: dict[str, dict[str, float]] = {}
    for place in (device, "cpu"):
        fitted = Fit(functions, seeds, points, place)
        took[place] = {}
        for form in ("peaks", "blocks"):
            if form == "blocks":
                fitted.release()
            took[place][form] = seconds(fitted.step, place, steps if place == device else 2, warmup=1)
            what = f"{functions} functions × {seeds} seeds, {points} points, float64, {form}"
            yield Figure(f"{what}, a step on {place}", 1e3 * took[place][form], "ms")
        if place == device:
            yield Figure(f"{what}: median MSE after {2 * steps} steps", fitted.median(), "")
            torch.set_num_threads(min(2, torch.get_num_threads()))
    for form, one in took[device].items():
        yield Figure(f"{form}: times faster than two CPU cores", took["cpu"][form] / one, "×")


class Fit:
    """Fits of x^p for many p in [1.5, 12], several seeds each, by subnetworks of their own."""

    def __init__(self, functions: int, seeds: int, points: int, device: str) -> None:
        generator = torch.Generator().manual_seed(0)
        replicas = functions * seeds
        network = TriangleNetwork({"x": (0.0, 1.0)}, depth=DEPTH, replicas=replicas, generator=generator)
        self.network = network.to(device)
        self.x = torch.linspace(0, 1, points, dtype=torch.float64, device=device)[:, None]
        powers = torch.linspace(1.5, 12, functions, dtype=torch.float64, device=device)
        self.y = (self.x**powers).repeat_interleave(seeds, 1)
        self.optimizer = torch.optim.Adam(self.network.parameters(), lr=0.03)

    def release(self) -> None:
        self.network.release()
        self.optimizer = torch.optim.Adam(self.network.parameters(), lr=1e-3)

    def step(self) -> None:
        self.optimizer.zero_grad()
        (self.network(self.x) - self.y).square().mean(0).sum().backward()
        self.optimizer.step()

    @torch.no_grad()
    def median(self) -> float:
        return float((self.network(self.x) - self.y).square().mean(0).median())


def limit(device: str, tiny: bool) -> Iterator[Figure]:
    """A stack's limit stage: iterations on many points, by the size of the chunks that are differentiated at a time."""
    points, layers = (200, [2, 2]) if tiny else (1_000_000, [5] * 6)
    domain = {"x": (-1.0, 1.0), "y": (-1.0, 1.0)}
    generator = torch.Generator().manual_seed(0)
    x = (2 * torch.rand(points, 2, generator=generator, dtype=torch.float64) - 1).to(device)
    y = ((torch.pi * x[:, :1]).sin() + x[:, 1:].square()).exp()
    for chunk, times in ((64, 2),) if tiny else ((65536, 20), (1024, 3)):
        start = torch.Generator().manual_seed(0)
        network = StackNetwork(domain, (0.0, 8.0), layers=layers, replicas=4, generator=start).to(device)
        problem = LimitProblem(network, x, y, chunk=chunk)
        optimizer = VariableProjection(network.parameters())
        what = f"4 seeds, {points} points, layers {'-'.join(map(str, layers))}, chunk {chunk}"
        took = seconds(lambda optimizer=optimizer, problem=problem: optimizer.step(lambda: problem), device, times, 1)
        yield Figure(f"{what}, an iteration", 1e3 * took, "ms")
        with torch.no_grad():
            mse = (network(x) - y).square().mean(0).min()
        yield Figure(f"{what}: lowest MSE after {times + 1} iterations", float(mse), "")


@contextmanager
def own_environment() -> Iterator[None]:
    """Removes the traces of a distributed run from the process: environment variables, and the group of ranks."""
    before = dict(os.environ)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()


def nccl(device: str, tiny: bool) -> Iterator[Figure]:
    """One rank of DDP through all stages of a stack and of a classifier; the tiny version is the stack with gloo.

    Raises:
        RuntimeError: a run failed, or did not reach its last stage.
    """
    few = ["--data.points", "200", "--data.test_points", "100", "--model.layers", "[2, 2]"] if tiny else []
    stack = ["stack", "--model.depth", "4", "--model.limit.epochs", "5", "--model.pretrain.epochs", "2", *few]
    stack += ["--model.train.epochs", "2", "--model.polish.epochs", "2"]
    digits = ["digits", "--model.pretrain.epochs", "1", "--model.train.epochs", "1"]
    ranks = ["--trainer.accelerator", "gpu" if device == "cuda" else "cpu", "--trainer.devices", "1"]
    ranks += ["--trainer.strategy", "ddp", "--trainer.enable_progress_bar", "false", "--run.wandb", "disabled"]
    with TemporaryDirectory() as folder:
        runs = [(stack, "polish", "test/mse"), *([] if tiny else [(digits, "train", "test/accuracy")])]
        for (config, *args), last, metric in runs:
            begun = time.perf_counter()
            path = str(REPOSITORY / "configs" / f"{config}.yaml")
            with own_environment():
                code = main(["fit", "--config", path, *args, *ranks, "--run.root", folder, "--run.id", "one"])
            summary = json.loads((Path(folder) / config / "one" / "summary.json").read_text())
            if code or summary["stage"] != last:
                raise RuntimeError(f"{config} ended with {code} in stage {summary['stage']}")
            yield Figure(f"{config}, one rank of DDP, all stages", time.perf_counter() - begun, "s")
            yield Figure(f"{config}: {metric}", summary[metric], "")


PARTS = {"tests": tests, "images": images, "vgg": vgg, "head": head, "fits": fits, "limit": limit, "nccl": nccl}
