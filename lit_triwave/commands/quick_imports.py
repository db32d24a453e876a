"""Imports Lightning without some packages that this project does not need.

The compiler of torch, torchvision and `scipy.signal` would take half of the time of all imports. While Lightning is
imported, stand-ins replace them. A stand-in imports the real module when it is used.
"""

from __future__ import annotations

import functools
import inspect
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pkgutil import resolve_name
from types import ModuleType
from typing import Any

from lit_triwave.errors import TriwaveError, address_space

_COMPILER = "torch._dynamo"
_TRIED_WITHOUT_COMPILER = ("2.15.",)
"""Versions of torch in which only Lightning imports the compiler while Lightning is imported."""


class _Late:
    """Replaces `module:attribute`; the module is imported when the attribute is used."""

    def __init__(self, place: str) -> None:
        self._place = place

    def __getattr__(self, name: str) -> Any:
        return getattr(resolve_name(self._place), name)

    def __call__(self, *args: Any, **options: Any) -> Any:
        return resolve_name(self._place)(*args, **options)


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
    found: dict[str, dict[str, Any]] = {name: {part: _Late(f"{name}:{part}") for part in late[name]} for name in late}
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
    """Refuses a memory limit that is too low to load the libraries, which would end the process themselves.

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
    # `StageSwitch` makes DDP search for unused parameters, and each rank would then warn that there are none.
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    # Threads that wait for each other in a loop take the cores of other programs: beside four of them, a fit of small
    # networks with two threads took 155 s in place of 20.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        with _replaced():
            import_module("lightning.pytorch.cli")
    except PackageNotFoundError as error:
        raise ModuleNotFoundError(f"No module named {error.name!r}") from error
    if _COMPILER not in sys.modules and version("torch").startswith(_TRIED_WITHOUT_COMPILER):
        _spare_compiler()


def _spare_compiler() -> None:
    """Keeps optimizers and the counter of operations from importing the compiler only to be hidden from it."""
    optim, counter = import_module("torch.optim"), import_module("torch.utils.flop_counter")
    for method in (*vars(optim.Optimizer).values(), *vars(counter._FlopCounterMode).values()):
        hidden = getattr(method, "__wrapped__", None)
        if hidden is not None:
            hidden.__dict__.setdefault("__dynamo_disable", _disable(hidden))
    for kind in vars(optim).values():
        step: Any = vars(kind).get("step") if isinstance(kind, type) else None
        if getattr(step, "__name__", "") == "step" and step.__code__.co_name == "_use_grad":
            kind.step = _step(step)


def _step(hidden: Callable[..., Any]) -> Callable[..., Any]:
    """Returns a step of an optimizer that is hidden from the compiler only if the compiler has been imported."""
    from torch import set_grad_enabled

    plain = inspect.unwrap(hidden)

    @functools.wraps(hidden)
    def step(optimizer: Any, *args: Any, **options: Any) -> Any:
        if _COMPILER in sys.modules:
            return hidden(optimizer, *args, **options)
        with set_grad_enabled(optimizer.defaults["differentiable"]):
            return plain(optimizer, *args, **options)

    return step
