"""Imports Lightning without the packages that it loads for uses that this project does not have.

The compiler of torch, torchvision and `scipy.signal` would take half of the time of all imports. Stand-ins take their
places while Lightning is imported, and import the real modules when they are used.
"""

from __future__ import annotations

import functools
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from types import ModuleType
from typing import Any

from lit_triwave.errors import TriwaveError, address_space

_COMPILER = "torch._dynamo"
_TRIED_WITHOUT_COMPILER = ("2.15.",)
"""Versions of torch in which nothing but Lightning asks for the compiler while Lightning is imported."""


class _Late:
    """Stands for an attribute of a module that is imported when the attribute is used.

    Args:
        module: its full name.
        name: of the attribute.
    """

    def __init__(self, module: str, name: str) -> None:
        self._place = module, name

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real(), name)

    def __call__(self, *args: Any, **options: Any) -> Any:
        return self._real()(*args, **options)

    def _real(self) -> Any:
        module, name = self._place
        return getattr(import_module(module), name)


class _MadeByCompiler(type):
    """Makes a class whose instances are those of `torch.compile`; there are none before the compiler is imported."""

    def __instancecheck__(cls, instance: Any) -> bool:
        compiler = sys.modules.get(_COMPILER)
        return compiler is not None and isinstance(instance, compiler.OptimizedModule)


def _disable(function: Callable[..., Any] | None = None, recursive: bool = True, **options: Any) -> Any:
    """Does what `torch.compiler.disable` does, once the compiler has been imported; there is nothing to do before."""
    if function is None:
        return functools.partial(_disable, recursive=recursive, **options)
    disabled: Callable[..., Any] | None = None

    @functools.wraps(function)
    def call(*args: Any, **named: Any) -> Any:
        nonlocal disabled
        compiler = sys.modules.get(_COMPILER)
        if compiler is None:
            return function(*args, **named)
        disabled = disabled or compiler.disable(function, recursive, **options)
        return disabled(*args, **named)

    return call


def _stand_ins() -> dict[str, dict[str, Any]]:
    """Returns the modules that are replaced ↦ their attributes that are taken while Lightning is imported."""
    late = {
        "scipy.signal": ["hamming"],
        "torchvision": ["transforms"],
        "torchvision.models": ["VGG16_Weights", "resnet50", "vgg16"],
    }
    found: dict[str, dict[str, Any]] = {name: {part: _Late(name, part) for part in late[name]} for name in late}
    if version("torch").startswith(_TRIED_WITHOUT_COMPILER):
        found[_COMPILER] = {"disable": _disable, "OptimizedModule": _MadeByCompiler("OptimizedModule", (), {})}
    return found


@contextmanager
def _replaced() -> Iterator[None]:
    made = {}
    for name, attributes in _stand_ins().items():
        if name not in sys.modules:
            made[name] = ModuleType(name)
            made[name].__dict__.update(attributes)
    sys.modules.update(made)
    try:
        yield
    finally:
        for name in made:
            sys.modules.pop(name, None)


def check_address_space() -> None:
    """Refuses a limit of memory under which the libraries cannot be loaded: they would end the process themselves.

    Raises:
        TriwaveError: another process, which did nothing but load them, has failed.
    """
    limit = address_space()
    if limit and subprocess.run([sys.executable, "-c", "import numpy, torch"], capture_output=True).returncode:
        raise TriwaveError(f"ulimit -v must leave room for PyTorch's libraries, got {limit / 1e9:.1f} GB: raise it")


def import_lightning() -> None:
    """Imports Lightning, if it has not been imported yet.

    Raises:
        TriwaveError: there is too little memory for it.
        ModuleNotFoundError: it is not installed, or something that it needs.
    """
    if "lightning" in sys.modules or "torchmetrics" in sys.modules:
        return
    check_address_space()
    try:
        with _replaced():
            import_module("lightning.pytorch.cli")
    except PackageNotFoundError as error:
        raise ModuleNotFoundError(f"No module named {error.name!r}") from error
    # An optimizer would import the compiler only to hide its methods from it.
    for method in vars(import_module("torch.optim").Optimizer).values():
        hidden = getattr(method, "__wrapped__", None)
        if hidden is not None and _COMPILER not in sys.modules:
            hidden.__dict__.setdefault("__dynamo_disable", _disable(hidden))
