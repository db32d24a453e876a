"""The parameters of a sweep: W&B's distributions, as values of a grid or as random draws.

The names, bounds and defaults are those of W&B's documentation (docs.wandb.ai, "Sweep configuration options").
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from lit_triwave.errors import TriwaveError, did_you_mean

BOUNDS: dict[str, tuple[str, ...]] = {
    "constant": ("value",),
    "categorical": ("values",),
    "int_uniform": ("min", "max"),
    "uniform": ("min", "max"),
    "q_uniform": ("min", "max"),
    "log_uniform": ("min", "max"),
    "log_uniform_values": ("min", "max"),
    "q_log_uniform": ("min", "max"),
    "q_log_uniform_values": ("min", "max"),
    "inv_log_uniform": ("min", "max"),
    "inv_log_uniform_values": ("min", "max"),
    "normal": (),
    "q_normal": (),
    "log_normal": (),
    "q_log_normal": (),
    "beta": ("a", "b"),
    "q_beta": ("a", "b"),
}
"""Distribution ↦ the keys that it needs."""

KEYS = ("distribution", "value", "values", "probabilities", "min", "max", "mu", "sigma", "q", "a", "b", "parameters")
DISCRETE = ("constant", "categorical", "int_uniform", "q_uniform")
"""Distributions that a grid can take."""


@dataclass(frozen=True)
class Parameter:
    """One swept field of the config.

    Args:
        name: dotted, such as `model.depth`.
        distribution: one of `BOUNDS`.
        settings: the other keys of its entry.
    """

    name: str
    distribution: str
    settings: dict[str, Any] = field(default_factory=dict)

    @property
    def continuous(self) -> bool:
        """Whether no two draws need be alike."""
        return self.distribution not in DISCRETE

    def grid(self) -> list[Any]:
        """All its values.

        Raises:
            TriwaveError: there is no end of them, or none.
        """
        s = self.settings
        if self.continuous:
            raise TriwaveError(
                f"parameter {self.name}: {self.distribution} has no grid; list values, or method: random"
            )
        if "probabilities" in s:
            raise TriwaveError(f"parameter {self.name}: a grid takes each value once; leave probabilities out")
        if self.distribution == "constant":
            return [s["value"]]
        if self.distribution == "categorical":
            return list(s["values"])
        step = 1 if self.distribution == "int_uniform" else s.get("q", 1)
        count = math.floor((s["max"] - s["min"]) / step + 1e-9) + 1
        values = [s["min"] + i * step for i in range(count)]
        return values if all(isinstance(value, int) for value in values) else [round(float(v), 12) for v in values]

    def draw(self, generator: np.random.Generator) -> Any:
        """One random value."""
        s, kind = self.settings, self.distribution
        if kind == "constant":
            return s["value"]
        if kind == "categorical":
            return s["values"][int(generator.choice(len(s["values"]), p=s.get("probabilities")))]
        if kind == "int_uniform":
            return int(generator.integers(s["min"], s["max"], endpoint=True))
        value = self._draw_continuous(generator)
        if kind.startswith("q_"):
            q = s.get("q", 1)
            value = round(value / q) * q
            return value if isinstance(value, int) else float(f"{value:.12g}")
        return float(f"{value:.6g}")  # enough of it for a name and a command line

    def _draw_continuous(self, generator: np.random.Generator) -> float:
        s, kind = self.settings, self.distribution.removeprefix("q_")
        if kind.endswith("normal"):
            value = float(generator.normal(s.get("mu", 0), s.get("sigma", 1)))
            return math.exp(value) if kind == "log_normal" else value
        if kind == "beta":
            return float(generator.beta(s["a"], s["b"]))
        low, high = s["min"], s["max"]
        if kind == "uniform":
            return float(generator.uniform(low, high))
        if kind.endswith("_values"):
            low, high = math.log(low), math.log(high)
        exponent = float(generator.uniform(low, high))
        # inv_log_uniform: log(1/X) is uniform between the bounds; of inv_log_uniform_values between log(1/max) and
        # log(1/min), which is log_uniform_values.
        return math.exp(-exponent if kind == "inv_log_uniform" else exponent)


def parameters(entries: Any, prefix: str = "") -> list[Parameter]:
    """The parameters of a sweep file, nested ones under dotted names, each checked.

    Args:
        entries: name ↦ entry, as under `parameters:`.
        prefix: of the names, with its dot.

    Raises:
        TriwaveError: naming the parameter and what is wrong with it.
    """
    found: list[Parameter] = []
    if not isinstance(entries, dict) or not entries:
        raise TriwaveError(f"{prefix.rstrip('.') + '.' if prefix else ''}parameters: names with values are expected")
    for key, entry in entries.items():
        name = f"{prefix}{key}"
        if not isinstance(entry, dict):
            raise TriwaveError(f"parameter {name} {entry!r}: {{value: …}}, {{values: […]}} or {{min: …, max: …}}")
        if "parameters" in entry:
            found += parameters(entry["parameters"], f"{name}.")
            continue
        unknown = [other for other in entry if other not in KEYS]
        if unknown:
            raise TriwaveError(f"parameter {name}: unknown key {unknown[0]!r}{did_you_mean(str(unknown[0]), KEYS)}")
        found.append(
            checked(Parameter(name, distribution(name, entry), {k: v for k, v in entry.items() if k != KEYS[0]}))
        )
    return found


def distribution(name: str, entry: dict[str, Any]) -> str:
    """Which one an entry means, by W&B's rules where it does not say so.

    Raises:
        TriwaveError: it is unknown or unclear.
    """
    given = entry.get("distribution")
    if given is not None:
        given = {"categorical_w_probabilities": "categorical"}.get(given, given)
        if given not in BOUNDS:
            raise TriwaveError(f"parameter {name}: unknown distribution {given!r}{did_you_mean(str(given), BOUNDS)}")
        return str(given)
    if "value" in entry:
        return "constant"
    if "values" in entry:
        return "categorical"
    if "min" in entry and "max" in entry:
        kinds = {type(entry["min"]), type(entry["max"])}
        if kinds == {int}:
            return "int_uniform"
        if kinds == {float}:
            return "uniform"
        raise TriwaveError(f"parameter {name}: min and max are both whole numbers, or both with a decimal point")
    if "mu" in entry or "sigma" in entry:
        return "normal"
    raise TriwaveError(f"parameter {name}: value, values, or min and max are missing")


def checked(parameter: Parameter) -> Parameter:
    """The parameter, if its settings make sense.

    Raises:
        TriwaveError: they don't.
    """
    s, kind = parameter.settings, parameter.distribution
    start = f"parameter {parameter.name}: "
    for key in BOUNDS[kind]:
        if key not in s:
            raise TriwaveError(f"{start}{kind} needs {' and '.join(BOUNDS[kind])}")
    for key in ("min", "max", "mu", "sigma", "q", "a", "b"):
        if key in s and (isinstance(s[key], bool) or not isinstance(s[key], (int, float))):
            # PyYAML takes 1e-3 for a string.
            raise TriwaveError(f"{start}{key} {s[key]!r} is no number (YAML wants a point in it: 1.0e-3)")
    if kind == "categorical":
        if not isinstance(s["values"], list) or not s["values"]:
            raise TriwaveError(f"{start}values {s['values']!r}: a list with at least one value")
        odds = s.get("probabilities")
        if odds is not None and (len(odds) != len(s["values"]) or not math.isclose(sum(odds), 1, abs_tol=1e-6)):
            raise TriwaveError(f"{start}probabilities {odds}: one for each value, 1 in all")
    if "min" in BOUNDS[kind]:
        if s["min"] > s["max"]:
            raise TriwaveError(f"{start}min {s['min']} is above max {s['max']}")
        if kind.endswith("log_uniform_values") and s["min"] <= 0:
            raise TriwaveError(f"{start}min {s['min']}: {kind} needs numbers above 0")
        if kind == "int_uniform" and not (isinstance(s["min"], int) and isinstance(s["max"], int)):
            raise TriwaveError(f"{start}int_uniform needs whole numbers, not {s['min']} and {s['max']}")
    if s.get("q", 1) <= 0 or s.get("sigma", 1) <= 0 or min(s.get("a", 1), s.get("b", 1)) <= 0:
        raise TriwaveError(f"{start}q, sigma, a and b are above 0")
    return parameter
