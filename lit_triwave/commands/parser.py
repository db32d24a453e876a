"""The parser of Lightning's commands, with errors in one line instead of a page of usage."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NoReturn

from jsonargparse import Namespace
from lightning.pytorch import Trainer, callbacks, loggers, plugins, profilers, strategies
from lightning.pytorch.cli import LightningArgumentParser

from lit_triwave.commands.config_files import config_paths
from lit_triwave.distributed.ranks import leave_it_to_the_first_rank
from lit_triwave.errors import condense, did_you_mean, printable

_UNKNOWN = re.compile(
    r"Option '([\w.]+)' is not accepted|accept option '([\w.]+)'|unrecognized arguments: --([\w.]+)|key '([\w.]+)'"
)
_DOMAIN = re.compile(r"^domain(?: must be .*, got|: .* Got value:) (.*)")
_EXPRESSION = re.compile(r"^(?:--data\.| +)expression(?:[=\n]|: *)(.+)", re.MULTILINE)
_NAME = re.compile(r"(?<![\w.])[^\W\d]\w*")
_NO_CLASS = re.compile(r"class_path of (?:trainer\.)?(\w+) must name a class, got (\w+)$")
_HOMES = {"callbacks": callbacks, "logger": loggers, "plugins": plugins, "profiler": profilers, "strategy": strategies}
"""Option of the trainer ↦ the module with Lightning's classes for it."""
_PARTS = ("model", "data", "run", "trainer")
"""Parts of a config."""


class OneLineParser(LightningArgumentParser):
    """Lightning's parser, with errors in one line.

    Attributes:
        classes: classes whose arguments are the known keys, for suggestions.
        words: words of the command line, with the full form of keys that jsonargparse shortens.
        further_help: returns the text below the help; None for no text.
    """

    classes: Iterable[type] = ()
    words: Sequence[str] = ()
    further_help: Callable[[], str] | None = None

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, allow_abbrev=False, **options)

    def format_help(self, *args: Any) -> str:
        """Returns the help, as `--help` prints it."""
        text: str = super().format_help(*args)
        return text if self.further_help is None else f"{text}\n{self.further_help()}"

    def dump(self, namespace: Namespace, **options: Any) -> str:
        """Returns a config as text, by default without a second check: it was checked when it was parsed."""
        text: str = super().dump(namespace, **{"skip_validation": True, **options})
        return text

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Prints the error and exits with code 2."""
        text = condense(message)
        if "expected one argument" in text:
            text += "; a value that begins with - needs an equals sign, as in --data.expression=-x**2"
        if "unsupported operand" in text and any(word.rpartition("=")[2] == "?" for word in self.words):
            text = "a value ? needs quotes of its own, as in --data.na_values \"'?'\""  # YAML reads it as a mapping
        no_class = _NO_CLASS.search(text)
        if no_class:
            own = [kind.__name__ for kind in self.classes]
            known = getattr(_HOMES.get(no_class[1]), "__all__", own)
            there = no_class[2] in known  # but its package is not
            text += ": it needs a package that is not installed" if there else did_you_mean(no_class[2], known)
        domain = _DOMAIN.search(text)
        if domain:
            text = f"domain must have two numbers for each variable, such as {self._domain()}, got {domain[1]}"
        unknown = _UNKNOWN.search(text)
        if unknown:
            key = next(group for group in unknown.groups() if group)
            whole = self._whole(key)
            text = text.replace(f"--{key}", f"--{whole}").replace(f"'{key}'", f"'{whole}'")
            text += self._suggestion(whole)
        arguments = re.search(r"arguments are required: ([\w, ]+)$", text)
        part = arguments and self._part_with(arguments[1].split(", "))
        if arguments and part:
            options = ", ".join(f"--{part}.{name}" for name in arguments[1].split(", "))
            text = f"{part} must be given {arguments[1]}: add {options}"
        missing = re.search(r"required: \w+\.(data|model)", text)
        if missing:
            given = any(re.match(r"(-c|--config|--data|--model)\b", word) for word in self.words)
            text = "a config is needed: --config FILE, for example configs/x3_minus_x.yaml"
            if given:
                text = f"{missing[1]} must name a class, got nothing: add {missing[1]}.class_path to the config"
        leave_it_to_the_first_rank()
        self.exit(2, f"error: {printable(text)}\n")
        raise SystemExit(2)  # `exit` does not return; its annotation does not say so

    def _domain(self) -> str:
        """Returns a domain with the variables of the expression on the command line or in a config, as an example."""
        from datamodules.expressions import CONSTANTS, FUNCTIONS  # with torch, which other commands do not need here

        line = "\n".join(self.words)
        texts = [line, *(path.read_text() for path in config_paths(self.words) if path.is_file())]
        given = next(filter(None, (_EXPRESSION.search(text) for text in texts)), None)
        names = dict.fromkeys(_NAME.findall(given[1] if given else ""))
        found = [name for name in names if name not in (*FUNCTIONS, *CONSTANTS)] or ["x"]
        return "{" + ", ".join(f"{name}: [-1, 1]" for name in found) + "}"

    def _whole(self, key: str) -> str:
        """Returns the key in the form of the command line; jsonargparse drops its start and adds keys of its value."""
        given = [word[2:].partition("=")[0] for word in self.words if word.startswith("--")]
        parts = key.split(".")
        ends = ["." + ".".join(parts[:count]) for count in range(len(parts), 0, -1)]
        return next((name for end in ends for name in given if f".{name}".endswith(end)), key)

    def _lightnings(self) -> dict[type, str]:
        """Returns Lightning's classes that the command line names ↦ the option that they are for."""
        kinds = {getattr(home, name): f"trainer.{key}" for key, home in _HOMES.items() for name in home.__all__}
        return {kind: key for kind, key in kinds.items() if any(kind.__name__ in word for word in self.words)}

    def _part_with(self, names: Sequence[str]) -> str:
        """Returns the part of a config whose class has all of these arguments; "" if that is not clear."""
        own = {"datamodules": "data", "lit_triwave": "model"}
        kinds = {kind: own.get(kind.__module__.partition(".")[0], "") for kind in self.classes} | self._lightnings()
        parts = {part for kind, part in kinds.items() if {*names} <= {*inspect.signature(kind).parameters}}
        return parts.pop() if len(parts) == 1 else ""

    def _suggestion(self, key: str) -> str:
        first, (before, dot, last) = key.partition(".")[0], key.rpartition(".")
        kinds = [Trainer] if before == "trainer" else [*self.classes, *self._lightnings()]
        known = {name for kind in kinds for name in inspect.signature(kind).parameters}
        if dot and first not in {*_PARTS, *known}:
            return did_you_mean(first, _PARTS)
        return "" if last in known else did_you_mean(last, known).replace(" '", f" '{before}{dot}")


def known_classes(*classes: Any, words: Sequence[str] = ()) -> type[OneLineParser]:
    """Returns a parser class that suggests arguments of `classes` for unknown words of a command line."""
    return type("Parser", (OneLineParser,), {"classes": classes, "words": words})
