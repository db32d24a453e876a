"""The parameters of a sweep: W&B's distributions, as values of a grid or as random draws.

The names, bounds and defaults are those of W&B's documentation (docs.wandb.ai, "Sweep configuration options").
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from lit_triwave.errors import TriwaveError, did_you_mean, is_number

_Draw = Callable[[np.random.Generator, dict[str, Any]], float]
_RANDOM: dict[str, tuple[tuple[str, ...], _Draw]] = {
    "int_uniform": (("min", "max"), lambda g, s: int(g.integers(s["min"], s["max"], endpoint=True))),
    "uniform": (("min", "max"), lambda g, s: g.uniform(s["min"], s["max"])),
    "log_uniform": (("min", "max"), lambda g, s: math.exp(g.uniform(s["min"], s["max"]))),
    "log_uniform_values": (("min", "max"), lambda g, s: math.exp(g.uniform(math.log(s["min"]), math.log(s["max"])))),
    "inv_log_uniform": (("min", "max"), lambda g, s: math.exp(-g.uniform(s["min"], s["max"]))),
    "normal": ((), lambda g, s: g.normal(s.get("mu", 0), s.get("sigma", 1))),
    "log_normal": ((), lambda g, s: math.exp(g.normal(s.get("mu", 0), s.get("sigma", 1)))),
    "beta": (("a", "b"), lambda g, s: g.beta(s["a"], s["b"])),
}
"""Distribution ↦ the keys that it needs, and a draw of it."""
# log(1/X) is uniform between log(1/max) and log(1/min): X has the distribution of log_uniform_values.
_RANDOM["inv_log_uniform_values"] = _RANDOM["log_uniform_values"]
_ROUNDED = ("uniform", "log_uniform", "log_uniform_values", "normal", "log_normal", "beta")
"""Distributions that W&B also has as `q_…`, rounded to multiples of q."""
_NEEDED: dict[str, tuple[str, ...]] = {
    "constant": ("value",),
    "categorical": ("values",),
    **{name: keys for name, (keys, _) in _RANDOM.items()},
    **{f"q_{name}": _RANDOM[name][0] for name in _ROUNDED},
}
"""Distribution ↦ the keys that it needs."""

_KEYS = ("distribution", "value", "values", "probabilities", "min", "max", "mu", "sigma", "q", "a", "b", "parameters")
_DISCRETE = ("constant", "categorical", "int_uniform", "q_uniform")
"""Distributions that a grid can take."""


@dataclass(frozen=True)
class Parameter:
    """One swept field of a config.

    Args:
        name: dotted, such as `model.depth`.
        distribution: name of one of W&B's distributions.
        settings: the other keys of its entry in the sweep file.
    """

    name: str
    distribution: str
    settings: dict[str, Any]

    @property
    def continuous(self) -> bool:
        """Whether the distribution is continuous, so that a grid cannot list its values."""
        return self.distribution not in _DISCRETE

    def grid(self) -> list[Any]:
        """Returns all values.

        Raises:
            TriwaveError: the distribution is continuous, or has probabilities.
        """
        s = self.settings
        if self.continuous:
            raise TriwaveError(f"parameter {self.name}: a grid must have a list of values, got {self.distribution}")
        if "probabilities" in s:
            advice = "remove probabilities, or set method: random"
            raise TriwaveError(f"parameter {self.name}: a grid takes each value once; {advice}")
        if self.distribution == "constant":
            return [s["value"]]
        if self.distribution == "categorical":
            return list(s["values"])
        step = 1 if self.distribution == "int_uniform" else s.get("q", 1)
        count = math.floor((s["max"] - s["min"]) / step + 1e-9) + 1
        values = [s["min"] + i * step for i in range(count)]
        return values if all(isinstance(value, int) for value in values) else [round(float(v), 12) for v in values]

    def draw(self, generator: np.random.Generator) -> Any:
        """Returns one random value: a float to six digits, so that a name and a command line can hold it."""
        s, kind = self.settings, self.distribution
        if kind == "constant":
            return s["value"]
        if kind == "categorical":
            return s["values"][int(generator.choice(len(s["values"]), p=s.get("probabilities")))]
        value = _RANDOM[kind.removeprefix("q_")][1](generator, s)
        if kind == "int_uniform":
            return value
        if kind.startswith("q_"):
            q = s.get("q", 1)
            value = round(float(value) / q) * q
            return value if isinstance(value, int) else float(f"{value:.12g}")
        return float(f"{value:.6g}")


def parameters(entries: Any, prefix: str = "") -> list[Parameter]:
    """Returns the checked parameters of a sweep file, nested ones under dotted names.

    Args:
        entries: name ↦ entry, as in the file under `parameters:`.
        prefix: beginning of the names, with its dot.

    Raises:
        TriwaveError: a parameter is wrong; the message names it and the reason.
    """
    found: list[Parameter] = []
    if not isinstance(entries, dict) or not entries:
        raise TriwaveError(f"`{prefix}parameters` must have names with values, got {entries!r}")
    for key, entry in entries.items():
        name = f"{prefix}{key}"
        if not isinstance(entry, dict):
            kinds = "{value: …}, {values: […]} or {min: …, max: …}"
            raise TriwaveError(f"parameter {name} must be {kinds}, got {entry!r}")
        if "parameters" in entry:
            found += parameters(entry["parameters"], f"{name}.")
            continue
        unknown = [other for other in entry if other not in _KEYS]
        if unknown:
            raise TriwaveError(f"parameter {name}: unknown key {unknown[0]!r}{did_you_mean(str(unknown[0]), _KEYS)}")
        kind, settings = _distribution(name, entry), {k: v for k, v in entry.items() if k != "distribution"}
        problem = _problem(settings, kind)
        if problem:
            raise TriwaveError(f"parameter {name}: {problem}")
        found.append(Parameter(name, kind, settings))
    return found


def _distribution(name: str, entry: dict[str, Any]) -> str:
    """Returns the distribution of an entry, by W&B's rules if the entry does not name it."""
    given = entry.get("distribution")
    if given is not None:
        given = {"categorical_w_probabilities": "categorical"}.get(given, given)
        if given not in _NEEDED:
            raise TriwaveError(f"parameter {name}: unknown distribution {given!r}{did_you_mean(str(given), _NEEDED)}")
        return str(given)
    if "value" in entry:
        return "constant"
    if "values" in entry:
        return "categorical"
    if "min" in entry and "max" in entry:
        kinds = {type(entry["min"]), type(entry["max"])}
        if kinds not in ({int}, {float}):
            needed = "both be whole numbers, or both have a decimal point"
            raise TriwaveError(f"parameter {name}: min and max must {needed}")
        return "int_uniform" if kinds == {int} else "uniform"
    if "mu" in entry or "sigma" in entry:
        return "normal"
    raise TriwaveError(f"parameter {name} must have value, values, or min and max")


def _problem(s: dict[str, Any], kind: str) -> str:
    """Returns what is wrong with the settings of a parameter of this distribution; "" if nothing is."""
    needed = _NEEDED[kind]
    if not {*needed} <= s.keys():
        return f"{kind} must have {' and '.join(needed)}"
    for key in ("min", "max", "mu", "sigma", "q", "a", "b"):
        if key in s and not is_number(s[key]):
            # PyYAML reads 1e-3 as a string.
            return f"{key} must be a number, got {s[key]!r}; YAML needs a point: 1.0e-3"
    if kind == "categorical":
        if not isinstance(s["values"], list) or not s["values"]:
            return f"values must be a list with at least one value, got {s['values']!r}"
        odds = s.get("probabilities")
        if odds is not None and (len(odds) != len(s["values"]) or not math.isclose(sum(odds), 1, abs_tol=1e-6)):
            return f"probabilities must be one for each value with sum 1, got {odds}"
    if "min" in needed:
        if s["min"] > s["max"]:
            return f"min must not be above max, got {s['min']} and {s['max']}"
        if kind.endswith("log_uniform_values") and s["min"] <= 0:
            return f"min of {kind} must be above 0, got {s['min']}"
        if kind == "int_uniform" and not (isinstance(s["min"], int) and isinstance(s["max"], int)):
            return f"min and max of int_uniform must be whole numbers, got {s['min']} and {s['max']}"
    positive = all(s.get(key, 1) > 0 for key in ("q", "sigma", "a", "b"))
    return "" if positive else "q, sigma, a and b must be above 0"
