"""Backbones by name: torchvision, timm, code of the user; frozen, and with weights from a file."""

from __future__ import annotations

import sys
import types
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lit_triwave import ImageClassifier
from lit_triwave.analysis.costs import count_parameters
from lit_triwave.modules.stages import Stage
from lit_triwave.nn.named_models import cut_classifier
from tests.conftest import PIXEL

MINE = """
import torch
from torch import nn

class Features(nn.Module):
    def __init__(self, image_shape, width=6):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(image_shape[0], width, 3), nn.BatchNorm2d(width)
    def forward(self, x):
        return self.norm(self.conv(x))

class Tokens(Features):
    def forward(self, x):
        return super().forward(x).flatten(2).transpose(1, 2)

class Net(nn.Module):
    def __init__(self, num_classes):
        super().__init__()
        self.body, self.fc1, self.fc2 = nn.Conv2d(3, 4, 3), nn.Linear(4, 8), nn.Linear(8, num_classes)
    def forward(self, x):
        return self.fc2(torch.relu(self.fc1(self.body(x).mean((2, 3)))))

class Lazy(nn.Module):
    def __init__(self, num_classes):
        super().__init__()
        self.body = nn.Sequential(nn.LazyConv2d(4, 3), nn.LazyBatchNorm2d(), nn.Flatten(), nn.LazyLinear(7), nn.ReLU())
        self.fc1, self.fc2 = nn.LazyLinear(8), nn.LazyLinear(num_classes)
    def forward(self, x):
        return self.fc2(torch.relu(self.fc1(self.body(x))))

class Pair(Features):
    def forward(self, x):
        return x, x

def number(): return 3
broken = 7
class Fails(Features):
    def __init__(self): raise RuntimeError("not today")
"""
IMAGES = (3, 16, 16)


@pytest.fixture(autouse=True)
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mynets.py").write_text(MINE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "mynets", raising=False)


def classifier(backbone: str, head: str = "block_diagonal", **options: Any) -> ImageClassifier:
    stage = Stage(epochs=0) if head in ("dense", "original") else Stage(epochs=1)
    sizes: dict[str, Any] = {"num_nets": 2, "depth": 2, "pretrain": stage, "image_shape": IMAGES, "num_classes": 5}
    return ImageClassifier(backbone=backbone, head=head, **sizes | options)  # type: ignore[arg-type]


@pytest.mark.parametrize("head", ["block_diagonal", "dense", "replaced"])
def test_the_momentum_of_norms_reaches_every_head_and_no_backbone(head: str) -> None:
    options = {"batch_norm": True} if head == "dense" else {}
    model = classifier("cnn" if head != "replaced" else "mynets.Net", head, norm_momentum=0.5, **options)
    of_head = [part.momentum for part in model.modules() if isinstance(part, torch.nn.BatchNorm1d)]
    of_backbone = [part.momentum for part in model.modules() if isinstance(part, torch.nn.BatchNorm2d)]
    assert of_head and set(of_head) == {0.5}
    assert set(of_backbone) <= {0.1}


@pytest.mark.parametrize(
    ("backbone", "head", "features"),
    [
        ("mynets.Features", "block_diagonal", 6),
        ("mynets.Tokens", "dense", 6),
        ("mynets.Net", "block_diagonal", 8),
        ("mynets.Net", "replaced", 4),
        ("mynets.Net", "original", None),
        ("mynets.Lazy", "block_diagonal", 8),
        ("mynets.Lazy", "replaced", 784),
        ("mobilenet_v3_small", "replaced", 576),
        ("resnet18", "original", None),
    ],
)
def test_the_features_of_a_model_by_name_are_found(backbone: str, head: str, features: int | None) -> None:
    model = classifier(backbone, head)
    assert model(torch.rand(2, *IMAGES)).shape == (2, 5)
    projections = [m.in_features for n, m in model.named_modules() if n.endswith("projection")]
    assert projections == ([features] if features and head != "dense" else [])


def test_a_classifier_that_is_a_convolution_is_cut() -> None:
    model = classifier("squeezenet1_1", image_shape=(3, 32, 32))
    assert model(torch.rand(2, 3, 32, 32)).shape == (2, 5)
    assert model.network.head.layers.projection.in_features == 512
    with pytest.raises(ValueError, match="Sequential does not end in a dense layer: no head can take its place"):
        cut_classifier(nn.Sequential(nn.Conv2d(3, 4, 1)), 5)


def test_options_reach_the_model_and_a_vit_gets_the_size_of_the_images() -> None:
    model = classifier("mynets.Features", backbone_options={"width": 9})
    assert model.network.head.layers.projection.in_features == 9
    with torch.device("meta"):
        assert classifier("vit_b_16", image_shape=(3, 32, 32)).network.backbone.image_size == 32


@pytest.mark.parametrize(
    ("backbone", "options", "says"),
    [
        ("mynets.Absent", {}, "backbone 'mynets.Absent' cannot be imported: .*has no attribute 'Absent'"),
        ("torch.nn.Linears", {}, "'torch.nn.Linears' cannot be imported: .*; did you mean 'Linear'"),
        ("torch.nn.Linear", {}, "'torch.nn.Linear' needs in_features, out_features: give them in backbone_options"),
        ("os.path.join", {}, "'os.path.join' needs a: give them"),
        ("builtins.dict", {}, "backbone must be the class path of an nn.Module, got 'builtins.dict'"),
        ("torch.optim.Adam", {}, "backbone must be the class path of an nn.Module, got 'torch.optim.Adam'"),
        ("torch.nn.Linear", {"backbone_options": {"in_features": 3, "out_features": 2}}, "cannot take images of 3"),
        ("nosuch.Net", {}, "backbone 'nosuch.Net' cannot be imported: No module named 'nosuch'"),
        ("mynets.broken", {}, "backbone must be the class path of an nn.Module, got 'mynets.broken'"),
        ("mynets.number", {}, "backbone must be the class path of an nn.Module, got 'mynets.number'"),
        ("mynets.Fails", {}, "backbone 'mynets.Fails' cannot be built: not today"),
        ("mynets.Pair", {}, "backbone 'mynets.Pair' must return one tensor, got tuple"),
        ("mynets.Net", {"image_shape": (1, 8, 8)}, "backbone 'mynets.Net' cannot take images of 1 × 8 × 8: "),
        ("mynets.Features", {"head": "replaced"}, "head must be block_diagonal or dense for .*, got 'replaced'"),
        ("mynets.Features", {"backbone_options": {"depth": 3}}, "cannot be built: .* argument 'depth'"),
        ("resnet81", {}, "backbone must be cnn, none, .*, got 'resnet81'; did you mean 'resnet18'"),
        ("inception_v3", {}, "backbone 'inception_v3' cannot take images of 3 × 16 × 16"),
        ("cnn", {"backbone_options": {"width": 3}}, "backbone_options must be null for backbone 'cnn'"),
        ("resnet18", {"backbone_options": {"weights": "DEFAULT"}}, "not have weights: give a file as weights"),
        ("resnet18", {"backbone_options": {"num_classes": 3}}, "num_classes: it is the number of classes of the data"),
        ("timm/x", {"backbone_options": {"pretrained": True}}, "not have pretrained: give a file as weights"),
        ("timm/x", {"backbone_options": {"features_only": True}}, "features_only: the features are found without it"),
        ("squeezenet1_1", {"image_shape": (3, 32, 32), "head": "original", "freeze_backbone": True},
         "freeze_backbone must be false for a SqueezeNet, which has no dense layer, got true"),
        ("none", {"freeze_backbone": True}, "freeze_backbone must be false for backbone 'none'"),
    ],
)  # fmt: skip
def test_a_backbone_that_cannot_be_is_refused_in_one_line(backbone: str, options: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        classifier(backbone, **options)


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("w.csv", b"x,y\n1,2\n", "it is a file of another kind"),
        ("w.txt", b"hello", "it is a file of another kind"),
        ("w.png", PIXEL, "it is a file of another kind"),
        ("w.pt", b"", "it is empty"),
        ("w.pt", 3, "it does not map names to tensors"),
        ("w.pt", torch.nn.Linear(1, 1), "it contains other objects than tensors, so save the model's state_dict()"),
        ("w.pt", None, "it is damaged or incomplete"),
        ("", b"", "it is a folder"),
        ("absent.pt", b"", "no such file"),
    ],
)
def test_a_file_without_weights_is_refused_in_our_words(name: str, content: Any, says: str, tmp_path: Path) -> None:
    path = tmp_path / name
    if isinstance(content, bytes) and name not in ("", "absent.pt"):
        path.write_bytes(content)
    elif not isinstance(content, bytes):
        torch.save(content, path)
        if content is None:
            path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(ValueError) as refusal:
        classifier("mynets.Net", weights=str(path))
    assert str(refusal.value).startswith("weights must be a file with a state dict, ")
    assert str(refusal.value).endswith(f"got {str(path)!r}: {says}{' alone' if 'objects' in says else ''}")


@pytest.mark.parametrize("head", ["block_diagonal", "replaced"])
def test_a_frozen_backbone_stays_as_it_is(head: str) -> None:
    model = classifier("mobilenet_v3_small", head, freeze_backbone=True)
    model.train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    trained = {id(p) for group in model.parameter_groups() for p in group["params"]}  # type: ignore[call-overload]
    model(torch.rand(4, *IMAGES)).sum().backward()
    for name, parameter in model.named_parameters():
        is_head = "head" in name or "classifier" in name
        assert (parameter.grad is not None) == parameter.requires_grad == (id(parameter) in trained) == is_head, name
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert changed and all("layers.norm" in name or "classifier.0.norm" in name for name in changed)
    assert count_parameters(model) == sum(p.numel() for p in model.parameters() if p.requires_grad)


@pytest.mark.parametrize("form", ["plain", "nested", "wrapped", "features"])
def test_weights_of_a_file_are_loaded_in_the_forms_that_they_come_in(tmp_path: Path, form: str) -> None:
    from mynets import Net

    source = {name: torch.rand_like(value) for name, value in Net(7).state_dict().items()}  # its classes do not matter
    saved: Any = dict(source)
    if form == "nested":
        saved = {"epoch": 3, "state_dict": saved}
    elif form == "wrapped":
        saved = {f"module.{name}": value for name, value in saved.items()}
    elif form == "features":
        del saved["fc2.weight"], saved["fc2.bias"]
    torch.save(saved, tmp_path / "w.pt")
    model = classifier("mynets.Net", weights=str(tmp_path / "w.pt"))
    assert torch.equal(model.network.backbone.fc1.weight, source["fc1.weight"])
    torch.save({"conv.weight": torch.zeros(2)}, tmp_path / "w.pt")
    with pytest.raises(ValueError, match="weights must be those of mynets.Net, got .*w.pt: it has no body.weight"):
        classifier("mynets.Net", weights=str(tmp_path / "w.pt"))


class _Timm(types.ModuleType):
    """The parts of timm that are used."""

    class Model(nn.Module):
        def __init__(self, num_classes: int, in_chans: int, img_size: tuple[int, int]) -> None:
            super().__init__()
            self.stem, self.head = nn.Conv2d(in_chans, 6, img_size), nn.Linear(6, num_classes)

        def reset_classifier(self, num_classes: int) -> None:
            self.head = nn.Identity() if not num_classes else nn.Linear(6, num_classes)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.stem(x).flatten(1))

    def is_model(self, name: str) -> bool:
        return name == "small_vit"

    def list_models(self) -> list[str]:
        return ["small_vit"]

    def get_pretrained_cfg(self, name: str) -> Any:
        return types.SimpleNamespace(fixed_input_size=True)

    def create_model(self, name: str, pretrained: bool, **options: Any) -> nn.Module:
        assert not pretrained
        return self.Model(**options)


def test_a_model_of_timm_takes_the_channels_and_the_size_of_the_images(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(ValueError, match=r"backbone 'timm/small_vit' needs timm: pip install 'lit_triwave\[timm\]'"):
        classifier("timm/small_vit")
    monkeypatch.setitem(sys.modules, "timm", types.ModuleType("timm"))  # as Python makes one of a folder
    with pytest.raises(ValueError, match="backbone 'timm/small_vit' needs timm"):
        classifier("timm/small_vit")
    monkeypatch.setitem(sys.modules, "timm", _Timm("timm"))
    grey = (1, 12, 10)
    for name, head in (("small_vit", "block_diagonal"), ("timm/small_vit", "original")):
        assert classifier(name, head, image_shape=grey)(torch.rand(3, *grey)).shape == (3, 5)
    with pytest.raises(ValueError, match="got 'timm/smal_vit'; did you mean 'small_vit'"):
        classifier("timm/smal_vit")


def test_real_timm_models_are_backbones() -> None:
    pytest.importorskip("timm")
    for name in ("timm/test_vit", "timm/test_resnet"):
        model = classifier(name, image_shape=(3, 64, 64), freeze_backbone=True)
        assert model(torch.rand(2, 3, 64, 64)).shape == (2, 5)
    with pytest.raises(ValueError, match=r"backbone 'timm/resnet18.none' cannot be built: Invalid pretrained tag"):
        classifier("timm/resnet18.none", image_shape=(3, 64, 64))
