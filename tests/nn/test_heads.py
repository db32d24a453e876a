from __future__ import annotations

import shutil
from collections import OrderedDict
from functools import partial

import pytest
import torch
from torch import nn

from benchmarks import vgg
from lit_triwave import BlockDiagonalHead, TriangleBank, replace_dense
from lit_triwave.construction import block_kernels
from lit_triwave.construction import wave_kernels as kernels
from lit_triwave.nn.heads import SQUASHES, DenseHead, curvature_knots, interpolation_layers


def head(squash: str = "normal", **options) -> BlockDiagonalHead:
    torch.manual_seed(0)
    return BlockDiagonalHead(20, 7, 6, 3, squash=squash, **options)


@pytest.mark.parametrize("kind", ["blocks", "dense"])
def test_release_inside_a_head_keeps_its_function_and_changes_the_parameters(kind: str) -> None:
    model, x = head().double().eval(), torch.randn(9, 20, dtype=torch.float64)
    before, names = model(x), set(dict(model.named_parameters()))
    model.release(kind)
    torch.testing.assert_close(model(x), before)
    assert {name.rpartition(".")[2] for name in names ^ set(dict(model.named_parameters()))} >= {
        "peak_logits",
        "hidden_weight",
    }


@pytest.mark.parametrize("squash", ["normal", "sigmoid", "hard"])
def test_no_part_of_a_head_starves(squash: str) -> None:
    model = head(squash)
    nn.functional.cross_entropy(model(torch.randn(64, 20)), torch.arange(64) % 7).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert bool((parameter.grad.abs().flatten(1) > 0).any(1).all() if parameter.ndim > 1 else True), name


@pytest.mark.parametrize(("squash", "tolerance"), [("hard", 1e-12), ("normal", 1e-4), ("sigmoid", 1e-4)])
@pytest.mark.parametrize("released", [False, True])
def test_a_head_is_exported_to_plain_layers(squash: str, tolerance: float, released: bool) -> None:
    model = head(squash).double()
    model(3 * torch.randn(64, 20, dtype=torch.float64) + 1)  # statistics of the norm other than 0 and 1
    model.eval()
    if released:
        model.release()
    plain = model.to_sequential()
    assert {type(layer) for layer in plain} == {nn.Linear, nn.ReLU}
    x = 3 * torch.randn(50, 20, dtype=torch.float64)
    torch.testing.assert_close(plain(x), model(x), rtol=0, atol=tolerance)


@pytest.mark.parametrize("make", [BlockDiagonalHead, partial(DenseHead, batch_norm=True)])
def test_a_norm_of_momentum_one_evaluates_with_the_statistics_of_its_last_batch(make) -> None:
    torch.manual_seed(0)
    model = make(20, 7, depth=2, norm_momentum=1.0)
    norms = [part for part in model.modules() if isinstance(part, nn.BatchNorm1d)]
    seen: dict[nn.Module, torch.Tensor] = {}
    for norm in norms:
        norm.register_forward_pre_hook(lambda module, inputs: seen.update({module: inputs[0].detach()}))
    for _ in range(2):
        model(torch.randn(50, 20))
    assert norms
    for norm in norms:
        torch.testing.assert_close(norm.running_mean, seen[norm].mean(0))
        torch.testing.assert_close(norm.running_var, seen[norm].var(0))


def test_an_interpolated_squash_is_exact_at_its_knots_and_constant_beyond() -> None:
    (w1, b1), (w2, b2) = interpolation_layers(torch.sigmoid, torch.linspace(-2, 2, 5), 3)
    z = torch.tensor([-9.0, -2, -1, 0, 1, 2, 9])[:, None].expand(-1, 3)
    torch.testing.assert_close((z @ w1.T + b1).relu() @ w2.T + b2, z.clamp(-2, 2).sigmoid())


@pytest.mark.parametrize("squash", ["normal", "sigmoid"])
def test_knots_follow_the_curvature_so_that_four_times_as_many_are_off_by_16_times_less(squash: str) -> None:
    z = torch.linspace(-30, 30, 60_001, dtype=torch.float64)
    errors = []
    for pieces in (64, 256):
        knots = curvature_knots(SQUASHES[squash], pieces)
        assert knots.shape == (pieces + 1,) and bool((knots.diff() > 0).all())
        (w1, b1), (w2, b2) = interpolation_layers(SQUASHES[squash], knots, 1)
        values = (z[:, None] @ w1.T + b1).relu() @ w2.T + b2
        errors.append(float((values[:, 0] - SQUASHES[squash](z)).abs().max()))
    assert errors[1] < 2e-5  # as the docstring of `to_sequential` says
    assert errors[0] / errors[1] == pytest.approx(16, rel=0.1)


def test_the_subnetworks_stay_in_single_precision_under_autocast() -> None:
    model, x = head().eval(), torch.randn(9, 20)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        z = model.layers.norm(model.layers.projection(x))
        y = model.layers(x)
    assert z.dtype == torch.bfloat16
    assert y.dtype == torch.float32
    assert torch.equal(y, model.bank(torch.special.ndtr(z.float())))


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: BlockDiagonalHead(5, 3, depth=0), "depth must be at least 1, got 0"),
        (lambda: BlockDiagonalHead(5, 3, num_nets=0), "num_nets must be at least 1, got 0"),
        (lambda: BlockDiagonalHead(5, 3, squash="relu"), "squash must be one of normal, .*, got 'relu'"),
        (lambda: BlockDiagonalHead(5, 3, start="quadratc"), "start must be one of random, quadratic, got 'quadratc'"),
        (lambda: BlockDiagonalHead(5, 3, norm_momentum=0.0), "norm_momentum must be above 0 and at most 1, got 0.0"),
        (lambda: DenseHead(5, 3, norm_momentum=1.1), "norm_momentum must be above 0 and at most 1, got 1.1"),
        (lambda: DenseHead(5, 3, depth=-1), "depth must be at least 0, got -1"),
        (lambda: replace_dense(nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 2)), depth=0), "depth must be"),
        (lambda: replace_dense(nn.Sequential(nn.Conv2d(3, 8, 3), nn.Flatten(), nn.Linear(8, 2)), 5), "no hidden dense"),
        (lambda: replace_dense(nn.Sequential(nn.Linear(3, 7), nn.ReLU(), nn.Linear(7, 2)), 5), "give num_nets"),
        (
            lambda: replace_dense(nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 2)), 5, keep=1),
            "keep must be .* got 1",
        ),
        (lambda: replace_dense(nn.Sequential(nn.Linear(4, 8), nn.Softmax(1), nn.Linear(8, 2)), 5), "Softmax"),
        (lambda: replace_dense(nn.ReLU(), 5, classifier="head"), "'head'"),
        (lambda: BlockDiagonalHead(5, 3, num_nets=10**26), "num_nets must be at most 1048576, got 1000"),
        (lambda: replace_dense(stack(), depth=65), "depth must be at most 64, got 65"),
        (lambda: replace_dense(stack(), 5, keep=-1), "keep must be at least 0, got -1"),
    ],
)
def test_a_bad_argument_is_named(make, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        make()


def stack() -> nn.Sequential:
    return nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2))


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: BlockDiagonalHead(64, 10, 8, 2.5), r"depth must be a whole number, got 2.5 \(float\)"),
        (
            lambda: BlockDiagonalHead(64, 10, squsah="hard"),
            "options must be among .*, got squsah; did you mean 'squash'?",
        ),
        (lambda: DenseHead(64, 10, width="8"), r"width must be a whole number, got '8' \(str\)"),
        (lambda: TriangleBank(3, True), r"depth must be a whole number, got True \(bool\)"),
        (lambda: replace_dense(stack(), depth="5"), "depth must be a whole number, got '5'"),
        (lambda: replace_dense(stack(), depth=2, num_nets=8.0), "num_nets must be a whole number, got 8.0"),
        (lambda: replace_dense(stack(), depth=2, keep=1.5), "keep must be a whole number, got 1.5"),
        (
            lambda: replace_dense(stack(), depth=2, release="foo"),
            "options must be among num_nets, depth, start, .*, got release",
        ),
        (lambda: replace_dense(None, depth=2), "model must be an nn.Module, got None"),
    ],
)
def test_an_argument_of_another_type_is_named(make, says: str) -> None:
    with pytest.raises(TypeError, match=says):
        make()


@pytest.mark.parametrize("training", [True, False])
def test_what_comes_in_place_of_dense_layers_is_in_their_mode(training: bool) -> None:
    model = stack().train(training)
    assert "require gradients" not in str(replace_dense(model, depth=2))
    assert {module.training for module in model.modules()} == {training}


def test_the_report_names_dense_layers_that_were_not_trained() -> None:
    model = stack()
    model[2].requires_grad_(False)
    report = replace_dense(model, depth=2)
    assert report.frozen == ["2"]
    assert "2 did not require gradients; the new layers do" in str(report)


def test_a_dense_layer_that_is_applied_twice_counts_twice() -> None:
    twice = nn.Linear(8, 8)
    report = replace_dense(nn.Sequential(twice, nn.ReLU(), twice, nn.ReLU(), nn.Linear(8, 3)), depth=2)
    assert report.before.multiply_adds == 2 * 64 + 24
    assert report.before.parameters == 64 + 8 + 24 + 3


# --- kernels for many subnetworks ---


def gradients(bank: TriangleBank, f, x: torch.Tensor, grad: torch.Tensor) -> list[torch.Tensor]:
    y = f(x)
    parameters = [parameter for parameter in bank.parameters() if parameter.numel()]  # depth 1 has no hidden matrices
    return [y.detach(), *torch.autograd.grad(y, [x, *parameters], grad)]


@pytest.mark.parametrize("released", [False, True])
@pytest.mark.parametrize("theorem31", [False, True])
@pytest.mark.parametrize("depth", [1, 4])  # without and with hidden matrices
def test_wide_and_compiled_banks_have_the_values_and_gradients_of_narrow_ones(
    depth: int, released: bool, theorem31: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    bank = TriangleBank(37, depth, dtype=torch.float64, theorem31=theorem31, generator=torch.Generator().manual_seed(0))
    if released:
        bank.release()
        with torch.no_grad():
            for parameter in bank.parameters():
                parameter.add_(0.01 * torch.randn_like(parameter))
    x = (1.2 * torch.rand(23, 37, dtype=torch.float64) - 0.1).requires_grad_()
    grad = torch.randn(23, 37, dtype=torch.float64)
    narrow = gradients(bank, bank, x, grad)
    monkeypatch.setattr("lit_triwave.construction.block_kernels._compiled", lambda function: function)
    compiled = torch.compile(bank, fullgraph=True, backend="aot_eager")  # what inductor gets; needs no C++ compiler
    torch.testing.assert_close(gradients(bank, compiled, x, grad), narrow)
    monkeypatch.setattr("lit_triwave.construction.triangle.WIDE", 1)
    for module in (kernels, block_kernels):
        monkeypatch.setattr(module, "_CHUNK", 37 * 5)  # several parts, the last of another size
    torch.testing.assert_close(gradients(bank, bank, x, grad), narrow)


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
def test_blocks_compiled_for_real_have_the_values_and_gradients_of_others() -> None:
    bank = TriangleBank(6, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    bank.release()  # of two layers: the compiler takes 10 s for each
    x, grad = torch.rand(50, 6, dtype=torch.float64).requires_grad_(), torch.randn(50, 6, dtype=torch.float64)
    compiled = torch.compile(bank, fullgraph=True)
    torch.testing.assert_close(gradients(bank, compiled, x, grad), gradients(bank, bank, x, grad))


# --- replace_dense ---


def test_vgg16s_hidden_layers_become_1024_subnetworks_at_no_more_than_half_a_per_cent_more_multiply_adds() -> None:
    from torch.utils.flop_counter import FlopCounterMode
    from torchvision.models import vgg16_bn

    with torch.device("meta"):
        model = vgg16_bn()
        with FlopCounterMode(display=False) as counter:
            model(torch.zeros(1, 3, 224, 224))
        whole = counter.get_total_flops() // 2
        assert whole == pytest.approx(15.47e9, rel=0.01)  # torchvision's documentation says 15.47 G
        report = replace_dense(model, depth=5)
        one = replace_dense(vgg16_bn(), depth=5, keep=1)
    assert report.layers == {"classifier.0": (25088, 4096), "classifier.3": (4096, 4096)}
    assert (report.num_nets, report.name) == (1024, "classifier.0")
    assert [type(layer).__name__ for layer in model.classifier] == ["BlockDiagonalLayers", "Dropout", "Linear"]
    assert one.layers == {"classifier.3": (4096, 4096)}
    for made in (report, one):
        assert made.before.multiply_adds == 25088 * 4096 + 4096 * 4096 + 4096 * 1000
        assert made.blocks.multiply_adds < made.before.multiply_adds
        assert whole - made.before.multiply_adds + made.dense.multiply_adds <= 1.005 * whole
    assert "1024 subnetworks, 4096 neurons wide, 5 deep" in str(report)


def test_the_benchmark_of_vgg_counts_both_releases(monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.setattr(vgg, "measure", lambda form, *options: (1.0, 1.0))  # a gigabyte of weights, for its time alone
    vgg.main(["--threads", "1"])  # as the tests after it
    rows = {line.split("│")[1].strip(): line.split("│")[2:-1] for line in capsys.readouterr().out.splitlines()[4:-1]}
    assert int(rows["original"][0].replace(",", "")) == 138_365_992  # torchvision's documentation
    for name, row in rows.items():
        if not name.endswith("peaks"):
            assert float(row[2]) <= 1.005, name


@pytest.mark.parametrize("name", ["convnext_tiny", "swin_t", "resnet18"])
def test_dense_layers_inside_a_model_are_no_classifier(name: str) -> None:
    from torchvision import models

    with torch.device("meta"):
        model = getattr(models, name)()
        with pytest.raises(ValueError, match="has no hidden dense layers to replace"):
            replace_dense(model, depth=2)


@pytest.mark.parametrize("kind", ["blocks", "dense"])
def test_the_reports_parameters_are_those_of_the_model(kind: str) -> None:
    model = nn.Sequential(
        nn.Flatten(),
        nn.Dropout(),
        nn.Linear(12, 16),
        nn.ReLU(),
        nn.Dropout(),
        nn.Linear(16, 8),
        nn.Tanh(),
        nn.Linear(8, 3),
    )
    report = replace_dense(model, depth=3)
    assert report.num_nets == 2
    assert [type(layer).__name__ for layer in model] == ["Flatten", "Dropout", "BlockDiagonalLayers", "Linear"]
    assert model(torch.rand(5, 3, 2, 2)).shape == (5, 3)
    model[2].release(kind)
    assert getattr(report, kind).parameters == sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize("keep", [0, 1])
def test_the_report_counts_the_whole_model_and_a_second_replacement_says_that_it_is_one(keep: int) -> None:
    dense = [nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 3)]
    model = nn.Sequential(OrderedDict(features=nn.Conv2d(2, 2, 3), classifier=nn.Sequential(*dense)))
    before = sum(p.numel() for p in model.parameters())
    report = replace_dense(model, depth=2, keep=keep)
    with pytest.raises(ValueError, match="the dense layers of 'classifier' are already replaced by subnetworks"):
        replace_dense(model, depth=2)
    model.classifier.get_submodule(str(2 * keep)).release()
    after = sum(p.numel() for p in model.parameters())
    assert [report.model_parameters[name] for name in ("before", "released blocks")] == [before, after]
    assert f"{after:,}" in str(report).splitlines()[-2]
