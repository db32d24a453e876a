"""Starting without what is not needed."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType


@contextmanager
def without_scipy_signal() -> Iterator[None]:
    """Lets torchmetrics be imported without `scipy.signal`, which takes seconds.

    Wherever SciPy is installed (scikit-learn brings it along), torchmetrics imports it for audio metrics, only to see
    whether it has an attribute `hamming`. A stand-in says that it has, and is gone afterwards.
    """
    name = "scipy.signal"
    if name in sys.modules or "torchmetrics" in sys.modules:
        yield
        return
    stand_in = ModuleType(name)
    stand_in.hamming = None  # type: ignore[attr-defined]
    sys.modules[name] = stand_in
    try:
        yield
    finally:
        del sys.modules[name]
