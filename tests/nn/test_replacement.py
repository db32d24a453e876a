"""`replace_dense` on typical models: layers as attributes, tokens, channels last, shared layers."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from lit_triwave import TriangleBank, replace_dense


class Swish(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * x.sigmoid()


class Attributes(nn.Module):
    """Layers as attributes with one common activation; the test sets `forward`."""

    def __init__(self, forward: Callable[[Any, Tensor], Tensor]) -> None:
        super().__init__()
        self.conv, self.act, self.drop = nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Dropout(0.2)
        self.fc1, self.bn, self.fc2, self.fc3 = (
            nn.Linear(144, 32),
            nn.BatchNorm1d(32),
            nn.Linear(32, 16),
            nn.Linear(16, 5),
        )
        self.own = forward

    def forward(self, x: Tensor) -> Tensor:
        return self.own(self, self.act(self.conv(x)))


def functions(net: Any, x: Tensor) -> Tensor:
    x = net.drop(functional.relu(net.bn(net.fc1(x.view(len(x), -1)))))
    return functional.log_softmax(net.fc3(net.fc2(x).tanh()), 1)


def shared_activation(net: Any, x: Tensor) -> Tensor:
    assert x.ndim == 4
    if x.shape[1] != 4:
        raise ValueError("four channels")
    x = net.act(net.fc1(x.flatten(1)))
    return net.fc3(net.drop(net.act(net.fc2(x))))


def twice(net: Any, x: Tensor) -> Tensor:
    first, second = (net.fc3(net.fc2(net.act(net.fc1(part.flatten(1))))) for part in (x, x.flip(-1)))
    return first - second


def nested() -> nn.Sequential:
    def block(fan_in: int, out: int) -> nn.Sequential:
        return nn.Sequential(nn.Linear(fan_in, out), nn.BatchNorm1d(out), Swish(), nn.Dropout())

    return nn.Sequential(nn.Flatten(), block(64, 32), block(32, 16), nn.Linear(16, 5))


@pytest.mark.parametrize(
    ("model", "layers", "kept"),
    [
        (lambda: Attributes(functions), ["fc1", "fc2"], ["relu", "tanh"]),
        (lambda: Attributes(shared_activation), ["fc1", "fc2"], ["ReLU"]),
        (lambda: Attributes(twice), ["fc1", "fc2"], ["ReLU"]),
        (nested, ["1.0", "2.0"], []),
        (lambda: nn.Sequential(OrderedDict(body=nn.Flatten(), head=nested()[1:])), ["head.1.0", "head.2.0"], []),
    ],
)
def test_layers_are_found_in_the_order_in_which_forward_applies_them(
    model: Any, layers: list[str], kept: list[str]
) -> None:
    net = model()
    report = replace_dense(net, depth=3)
    assert (list(report.layers), report.kept, report.num_nets) == (layers, kept, 4)
    assert net(torch.rand(6, 1, 8, 8)).shape == (6, 5)
    for module in net.modules():
        if isinstance(module, TriangleBank):
            module.release()
    assert report.model_parameters["released blocks"] == sum(p.numel() for p in net.parameters())


def small_vit() -> nn.Module:
    from torchvision.models import VisionTransformer

    return VisionTransformer(image_size=32, patch_size=16, num_layers=1, num_heads=2, hidden_dim=16, mlp_dim=32)


def small_swin() -> nn.Module:
    from torchvision.models import SwinTransformer

    return SwinTransformer(patch_size=[4, 4], embed_dim=8, depths=[2], num_heads=[2], window_size=[4, 4])


def small_convnext() -> nn.Module:
    from torchvision.models.convnext import CNBlockConfig, ConvNeXt

    return ConvNeXt([CNBlockConfig(8, None, 2)])


@pytest.mark.parametrize(
    ("model", "block"),
    [
        (small_vit, "encoder.layers.encoder_layer_0.mlp"),
        (small_vit, "encoder.layers.encoder_layer_0"),
        (small_swin, "features.1.0"),
        (small_convnext, "features.1.0.block"),
    ],
)
def test_blocks_of_tokens_and_of_channels_last_are_replaced_by_name(model: Any, block: str) -> None:
    net = model()
    with pytest.raises(ValueError, match=f"could be named as classifier: '{block.split('.')[0]}"):
        replace_dense(net, depth=2)
    report = replace_dense(net, depth=2, classifier=block)
    assert report.name.startswith(block)
    assert net(torch.rand(2, 3, 32, 32)).shape == (2, 1000)


@pytest.mark.parametrize("batch_first", [True, False])
def test_a_transformer_layer_computes_with_its_replacement_in_training_and_in_evaluation(batch_first: bool) -> None:
    layer = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.0, batch_first=batch_first)
    model = nn.TransformerEncoder(layer, 2, enable_nested_tensor=batch_first)
    replace_dense(model, depth=3, classifier="layers.1")
    x, padding = torch.rand(3, 7, 16), torch.zeros(3 if batch_first else 7, 7 if batch_first else 3, dtype=torch.bool)
    padding[0, -1] = True  # with such a mask PyTorch evaluates encoders by a path that reads weights
    assert model(x).shape == x.shape
    model.eval()
    with torch.no_grad():
        fast = model(x, src_key_padding_mask=padding)
    torch.testing.assert_close(fast, model(x, src_key_padding_mask=padding))
    (bank,) = (module for module in model.modules() if isinstance(module, TriangleBank))
    bank.alpha.data += 1  # is it used?
    assert not torch.equal(model(x, src_key_padding_mask=padding), fast)


def test_tokens_are_rows_of_their_own() -> None:
    model = nn.Sequential(nn.Linear(6, 16), nn.GELU(), nn.Linear(16, 6)).double()
    replace_dense(model, depth=3)
    x = torch.rand(2, 5, 7, 6, dtype=torch.float64)
    torch.testing.assert_close(model(x), model(x.view(-1, 6)).view(2, 5, 7, 6))
    assert model.eval()(x[:0]).shape == (0, 5, 7, 6)
    assert model(x[0, 0, 0]).shape == (6,)


def test_a_model_in_half_precision_stays_one() -> None:
    model = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 3)).to(torch.bfloat16)
    replace_dense(model, depth=5)
    assert model(torch.rand(4, 6, dtype=torch.bfloat16)).dtype == torch.bfloat16


def test_weights_that_replaced_layers_share_are_one_parameter_in_the_report() -> None:
    model = nn.Sequential(
        nn.Linear(20, 32), nn.ReLU(), nn.Linear(32, 20), nn.ReLU(), nn.Linear(20, 32), nn.ReLU(), nn.Linear(32, 4)
    )
    model[4].weight = model[0].weight
    before = sum(parameter.numel() for parameter in model.parameters())
    report = replace_dense(model, depth=3)
    for bank in model.modules():
        if isinstance(bank, TriangleBank):
            bank.release()
    now = sum(parameter.numel() for parameter in model.parameters())
    assert report.model_parameters["before"] == report.before.parameters == before
    assert now in report.model_parameters.values()


def test_names_of_layers_stay() -> None:
    layers = OrderedDict(fc1=nn.Linear(4, 8), act=nn.ReLU(), drop=nn.Dropout(), fc2=nn.Linear(8, 2), end=nn.Softmax(1))
    model = nn.Sequential(layers)
    replace_dense(model, depth=2)
    assert list(model._modules) == ["fc1", "drop", "fc2", "end"]


def used_twice(net: Any, x: Tensor) -> Tensor:
    hidden = net.fc2(net.fc1(x.flatten(1)))
    return net.fc3(hidden) + hidden.mean()


def weights_read(net: Any, x: Tensor) -> Tensor:
    return net.fc3(net.fc2(net.fc1(x.flatten(1)))) + net.fc2.weight.mean()


def decided_by_values(net: Any, x: Tensor) -> Tensor:
    return net.fc3(net.fc2(net.fc1(x.flatten(1)))) if x.sum() > 0 else x


def softmax_between(net: Any, x: Tensor) -> Tensor:
    return net.fc3(net.fc2(net.fc1(x.flatten(1))).softmax(-1))


def layer_norm_between(net: Any, x: Tensor) -> Tensor:
    return net.fc3(functional.layer_norm(net.fc2(net.fc1(x.flatten(1))), (16,)))


def tied() -> nn.Module:
    model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2))
    model[1].weight = model[0].weight
    return nn.Sequential(nn.Sequential(model[0], nn.Softmax(1)), model[1], nn.ReLU(), model[3])


def hooked(place: int) -> nn.Module:
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    model[place].register_forward_hook(lambda module, args, output: output)
    return model


def hooked_weight(register: str) -> nn.Module:
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    getattr(model[0].weight, register)(lambda grad: None)
    return model


@pytest.mark.parametrize(
    ("model", "says"),
    [
        (lambda: Attributes(used_twice), "the output of 'fc2' is also used by mean"),
        (lambda: Attributes(weights_read), "fc2.weight is read by the model's forward"),
        (lambda: Attributes(decided_by_values), "its forward decides by its inputs which dense layers"),
        (lambda: Attributes(softmax_between), "'fc3', has no other one directly before it, softmax comes before it"),
        (lambda: Attributes(layer_norm_between), "layer_norm comes before it"),
        (
            lambda: nn.Sequential(nn.LazyLinear(8), nn.ReLU(), nn.Linear(8, 2)),
            "'0' is an nn.LazyLinear without weights",
        ),
        (lambda: nn.Sequential(nn.Linear(4, 8), nn.Flatten(), nn.Linear(16, 2)), "has Flatten between"),
        (lambda: nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(16, 2)), "'2' must take the 8 outputs before it"),
        (tied, "'1' must not share its weights, '0.0' has them too"),
        (lambda: nn.MultiheadAttention(8, 2), "it has no dense layer"),
        (lambda: nn.ModuleDict({"a": nn.Linear(4, 2), "b": nn.Linear(4, 3)}), "it only contains modules, without a"),
        (
            lambda: nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(4, 8)), nn.ReLU(), nn.Linear(8, 2)),
            "parametrized layers cannot be replaced",
        ),
        (lambda: hooked(0), "'0' has hooks, which would be lost: register them after the replacement"),
        (lambda: hooked(1), "'1' has hooks, which would be lost"),
        (lambda: hooked_weight("register_hook"), "'0' has hooks, which would be lost"),
        (lambda: hooked_weight("register_post_accumulate_grad_hook"), "'0' has hooks, which would be lost"),
        (
            lambda: nn.Sequential(nn.Linear(4, 8, dtype=torch.complex64), nn.Tanh(), nn.Linear(8, 2)),
            "'0' must have real weights, got torch.complex64",
        ),
        (lambda: nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16), 1, enable_nested_tensor=False), None),
    ],
)
def test_what_cannot_be_replaced_is_refused_at_once(model: Any, says: str | None) -> None:
    net = model()
    before = str(net)
    if says is None:  # the control: it can be
        replace_dense(net, depth=2)
        return
    with pytest.raises(ValueError, match=says):
        replace_dense(net, depth=2)
    assert str(net) == before


@pytest.mark.filterwarnings("ignore:.*torch.jit")
def test_a_scripted_model_is_refused() -> None:
    net = torch.jit.script(nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)))
    with pytest.raises(ValueError, match="got a ScriptModule"):
        replace_dense(net, depth=2)
