"""Models by name, from torchvision, timm or the user's own code, with weights from a file."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from pickle import UnpicklingError
from typing import Any
from zipfile import is_zipfile

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from lit_triwave.errors import did_you_mean, reason, some

BUILT_IN = ("cnn", "none")
"""Names of the backbones that this project has itself."""
_TIMM = "timm/"
_INSTALL_TIMM = "pip install 'lit_triwave[timm]'"
_INSTEAD = {
    "pretrained": "give a file as weights",
    "weights": "give a file as weights",
    "num_classes": "it is the number of classes of the data",
    "features_only": "the features are found without it",
}
"""Options of models that are set elsewhere ↦ what to do instead."""
_NESTED = ("state_dict", "model_state_dict", "model")  # what training scripts call a state dict in a checkpoint
_WRAPPED = ("module.", "_orig_mod.")  # what DistributedDataParallel and torch.compile put before names


class NamedModel:
    """A model by name, with its own classifier where it has one.

    Args:
        name: name of a classification model of torchvision; `timm/NAME` or the name of another model of timm; or the
            path of a class of the user, `package.Class`. The class is called with `num_classes` and `image_shape` if it
            takes them.
        num_classes: number of classes.
        image_shape: (C, H, W).
        options: further arguments of the model.

    Attributes:
        model: the model.
        classifies: whether its outputs are logits. A class that takes no `num_classes` returns features.

    Raises:
        ValueError: there is no such model, or it cannot be built so.
    """

    def __init__(self, name: str, num_classes: int, image_shape: Sequence[int], options: Mapping[str, Any]) -> None:
        self.name, self.num_classes, self.image_shape, self.classifies = name, num_classes, tuple(image_shape), True
        for key in () if is_class_path(name) else sorted({*_INSTEAD} & {*options}):
            raise ValueError(f"backbone_options must not have {key}: {_INSTEAD[key]}")
        if is_class_path(name):
            build, self.classifies = _own(name, num_classes, image_shape, options)
        elif _is_torchvision(name):
            build = _torchvision(name, num_classes, image_shape, options)
        else:
            build = _timm(name, num_classes, image_shape, options)
        try:
            model = build()
        except Exception as error:  # any: the builders are not ours
            raise ValueError(f"backbone {name!r} cannot be built: {reason(error, 200)}") from error
        if not isinstance(model, nn.Module):
            raise ValueError(f"backbone must be the class path of an nn.Module, got {name!r}")
        self.model = model
        if any(is_lazy(tensor) for tensor in (*model.parameters(), *model.buffers())):
            output_shape(model, image_shape, name)  # gives lazy layers their sizes
        self._keys = {*model.state_dict()}

    def cut(self) -> None:
        """Removes the model's classifier, so that its outputs are features.

        Raises:
            ValueError: it does not end in a dense layer.
        """
        if not self.classifies:
            return
        if hasattr(self.model, "reset_classifier"):  # as all of timm's have
            self.model.reset_classifier(0)  # type: ignore[operator]
        else:
            cut_classifier(self.model, self.num_classes)

    def load(self, path: str) -> None:
        """Loads the weights from a file. The file may have the weights of a classifier that was removed, or not.

        Args:
            path: file with a state dict, as `torch.save` or safetensors writes it.

        Raises:
            ValueError: the file cannot be read, or belongs to another model.
        """
        state, own = _read_weights(path), self.model.state_dict()
        unfit = [key for key in own if key not in state] or [key for key in state if key not in self._keys]
        if unfit:
            there = f"it {'also has' if unfit[0] in state else 'has no'} {unfit[0]}"
            raise ValueError(f"weights must be those of {self.name}, got {path}: {there}")
        for key, value in own.items():
            if value.shape != state[key].shape:
                raise ValueError(
                    f"weights must fit the model, got {path}: {key} is {tuple(state[key].shape)} in the file and "
                    f"{tuple(value.shape)} in the model of {self.num_classes} classes"
                )
        self.model.load_state_dict({key: state[key] for key in own})

    def features(self) -> tuple[nn.Module, int]:
        """Returns the model, after `cut`, with outputs (batch, features), and the number of features.

        Outputs with more dimensions are averaged: over the positions of (batch, features, height, width), and over the
        tokens of (batch, tokens, features).

        Raises:
            ValueError: the model cannot take the images, or returns something else.
        """
        shape = output_shape(self.model, self.image_shape, self.name)
        if len(shape) == 2:
            return self.model, shape[1]
        if len(shape) == 4:
            return nn.Sequential(self.model, nn.AdaptiveAvgPool2d(1), nn.Flatten()), shape[1]
        if len(shape) == 3:
            return nn.Sequential(self.model, MeanOfTokens()), shape[2]
        raise ValueError(f"backbone {self.name!r} must return (batch, features), got {tuple(shape)}")


class MeanOfTokens(nn.Module):
    """Averages tokens (batch, tokens, features) to (batch, features)."""

    def forward(self, x: Tensor) -> Tensor:
        """Returns the mean over the tokens."""
        return x.mean(1)


def is_class_path(name: str) -> bool:
    """Whether the name of a backbone is the path of a class of the user."""
    return "." in name and not name.startswith(_TIMM)


def torchvision_options(name: str, image_shape: Sequence[int], given: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the arguments to build a torchvision model with: no auxiliary classifiers, and the size of the images."""
    options: dict[str, Any] = {}
    if name in ("googlenet", "inception_v3"):
        options = {"aux_logits": False, "init_weights": True}
    elif name.startswith("vit_"):
        options = {"image_size": image_shape[1]}
    elif name.startswith("maxvit"):
        options = {"input_size": tuple(image_shape[1:])}
    return options | dict(given)


@torch.no_grad()
def output_shape(model: nn.Module, image_shape: Sequence[int], name: str) -> torch.Size:
    """Returns the shape of a model's outputs for two images.

    Args:
        model: maps images (batch, C, H, W) to one tensor.
        image_shape: (C, H, W).
        name: name of the model, for errors.

    Raises:
        ValueError: the model cannot take these images, or does not return one tensor.
    """
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        outputs = _on_zeros(model, image_shape)
    except Exception as error:  # any: the model may be the user's
        shape = " × ".join(map(str, image_shape))
        raise ValueError(f"backbone {name!r} cannot take images of {shape}: {reason(error, 200)}") from error
    finally:
        for module, mode in modes.items():
            module.training = mode
    if not isinstance(outputs, Tensor):
        raise ValueError(f"backbone {name!r} must return one tensor, got {type(outputs).__name__}")
    return outputs.shape


def _on_zeros(model: nn.Module, image_shape: Sequence[int]) -> Any:
    """Applies a model to two black images, on the meta device without computation if the model allows it."""
    tensors = [*model.named_parameters(), *model.named_buffers()]
    like = next((tensor for _, tensor in tensors if tensor.is_floating_point() and not is_lazy(tensor)), torch.zeros(0))
    images = like.new_zeros(2, *image_shape)
    if any(is_lazy(tensor) for _, tensor in tensors):
        return model(images)
    try:
        shapes = {name: torch.empty_like(tensor, device="meta") for name, tensor in tensors}
        return torch.func.functional_call(model, shapes, (images.to("meta"),))
    except Exception:  # for example, `forward` creates tensors on the CPU
        return model(images)


def _is_torchvision(name: str) -> bool:
    if name.startswith(_TIMM):
        return False
    from torchvision import models  # takes seconds

    return name in models.list_models(models)


def _torchvision(
    name: str, num_classes: int, image_shape: Sequence[int], options: Mapping[str, Any]
) -> Callable[[], Any]:
    from torchvision import models

    if image_shape[0] != 3:
        count = f"{image_shape[0]} channel{'s' * (image_shape[0] > 1)}"
        raise ValueError(f"backbone must be {' or '.join(BUILT_IN)} for images of {count}, got {name!r}, which takes 3")
    arguments = torchvision_options(name, image_shape, options)
    return lambda: models.get_model(name, weights=None, num_classes=num_classes, **arguments)


def _timm(name: str, num_classes: int, image_shape: Sequence[int], options: Mapping[str, Any]) -> Callable[[], Any]:
    short = name.removeprefix(_TIMM)
    try:
        import timm
        from timm import is_model  # a folder called timm has none
    except ImportError:
        if name.startswith(_TIMM):
            raise ValueError(f"backbone {name!r} needs timm: {_INSTALL_TIMM}") from None
        from torchvision import models

        near = did_you_mean(name, [*models.list_models(models), *BUILT_IN], most=3)
        raise ValueError(
            f"backbone must be {', '.join(BUILT_IN)}, a model of torchvision such as vgg16_bn, a class path, or with "
            f"{_INSTALL_TIMM} a model of timm, got {name!r}{near}"
        ) from None
    if not is_model(short):
        known = [*(() if name.startswith(_TIMM) else BUILT_IN), *timm.list_models()]
        near = did_you_mean(short, known, most=3)
        raise ValueError(
            f"backbone must be {', '.join(BUILT_IN)}, a model of torchvision or timm, or a class path, "
            f"got {name!r}{near}"
        )
    try:
        config = timm.get_pretrained_cfg(short)
    except RuntimeError as error:  # the part after a dot must be one of its sets of weights
        raise ValueError(f"backbone {name!r} cannot be built: {reason(error, 200)}") from error
    size = {"img_size": tuple(image_shape[1:])} if getattr(config, "fixed_input_size", False) else {}
    arguments = {"num_classes": num_classes, "in_chans": image_shape[0], **size, **options}
    return lambda: timm.create_model(short, pretrained=False, **arguments)


def _own(
    name: str, num_classes: int, image_shape: Sequence[int], options: Mapping[str, Any]
) -> tuple[Callable[[], Any], bool]:
    """Returns the function that builds a model of the user, and whether it takes the number of classes."""
    module, _, attribute = name.rpartition(".")
    names: list[str] = []
    try:
        home = import_module(module)
        names = [*vars(home)]
        kind = getattr(home, attribute)
    except Exception as error:  # any: it runs the user's code
        near = did_you_mean(attribute, names)
        raise ValueError(f"backbone {name!r} cannot be imported: {reason(error, 200)}{near}") from error
    if not callable(kind) or (isinstance(kind, type) and not issubclass(kind, nn.Module)):
        raise ValueError(f"backbone must be the class path of an nn.Module, got {name!r}")
    taken = inspect.signature(kind).parameters
    known: dict[str, Any] = {"num_classes": num_classes, "image_shape": tuple(image_shape)}
    arguments = {key: value for key, value in known.items() if key in taken} | dict(options)
    named = {key: one for key, one in taken.items() if one.kind in (one.POSITIONAL_OR_KEYWORD, one.KEYWORD_ONLY)}
    missing = [key for key, one in named.items() if one.default is one.empty and key not in arguments]
    if missing:
        raise ValueError(f"backbone {name!r} needs {some(missing)}: give them in backbone_options")
    return lambda: kind(**arguments), "num_classes" in taken


def _read_weights(path: str) -> dict[str, Tensor]:
    """Reads a state dict from a file, without unpickling arbitrary objects."""
    file = Path(path).expanduser()
    must = f"weights must be a file with a state dict, as torch.save or safetensors writes it, got {path!r}"
    if not file.is_file():
        raise ValueError(f"{must}: {'it is a folder' if path and file.is_dir() else 'no such file'}")
    try:
        if file.suffix == ".safetensors":
            from safetensors.torch import load_file

            state: Any = load_file(file)
        else:
            state = torch.load(file, map_location="cpu", weights_only=True)
    except ImportError:
        raise ValueError(f"weights {path} need safetensors: pip install safetensors") from None
    except Exception as error:  # PyTorch's messages are pages of advice
        raise ValueError(f"{must}: {_why_unreadable(file, error)}") from error
    for key in _NESTED:
        if isinstance(state, dict) and isinstance(state.get(key), dict):
            state = state[key]
    if not isinstance(state, dict) or not state or not all(isinstance(value, Tensor) for value in state.values()):
        raise ValueError(f"{must}: it does not map names to tensors")
    for prefix in _WRAPPED:
        if all(key.startswith(prefix) for key in state):
            state = {key.removeprefix(prefix): value for key, value in state.items()}
    return dict(state)


def _why_unreadable(file: Path, error: Exception) -> str:
    """Returns why a file of weights could not be read, in a few words."""
    with file.open("rb") as content:
        start = content.read(4)
    if not start:
        return "it is empty"
    if isinstance(error, UnpicklingError) and (is_zipfile(file) or start[:1] == b"\x80"):
        return "it contains other objects than tensors, so save the model's state_dict() alone"
    if file.suffix == ".safetensors" or start[:2] == b"PK":
        return "it is damaged or incomplete"
    return "it is a file of another kind"


def cut_classifier(model: nn.Module, num_classes: int) -> None:
    """Removes the dense layers at a model's end, in place.

    A convolution with an output for each class, with which SqueezeNet ends, is removed too.

    Raises:
        ValueError: the model ends in neither.
    """
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d) and module.out_channels == num_classes and _ends_in(model, name):
            model.set_submodule(name, nn.Identity())
            return
    linears = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    if not linears or not _ends_in(model, linears[-1]):
        raise ValueError(f"{type(model).__name__} does not end in a dense layer: no head can take its place")
    parent = linears[-1].rpartition(".")[0]
    owner = model.get_submodule(parent)
    if parent and isinstance(owner, nn.Sequential):
        del owner[next(i for i, layer in enumerate(owner) if isinstance(layer, nn.Linear)) :]
    else:
        model.set_submodule(linears[-1], nn.Identity())


def _ends_in(model: nn.Module, name: str) -> bool:
    """Whether no module with parameters comes after the named one."""
    names = [key for key, module in model.named_modules() if next(module.parameters(recurse=False), None) is not None]
    return bool(names) and names[-1] == name
