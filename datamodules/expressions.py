"""Parses a user's mathematical expressions into torch operations, without Python's `eval`."""

from __future__ import annotations

import ast
import keyword
import math
import operator
import re
import unicodedata
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from lit_triwave.errors import did_you_mean

MAX_LENGTH = 1000  # characters; keeps Python's own parser far from the limit of its stack

CONSTANTS: dict[str, float] = {"pi": math.pi, "e": math.e}


class ExpressionError(ValueError):
    """The text is not a mathematical expression in the given variables; the message is one line."""


class Operation(NamedTuple):
    """A torch function of `arity` tensors."""

    arity: int
    function: Callable[..., Tensor]


_UNARY = ["sin", "cos", "tan", "asin", "acos", "atan", "sinh", "cosh", "tanh"]
_UNARY += ["exp", "log", "sqrt", "abs", "erf", "sign"]
FUNCTIONS: dict[str, Operation] = {name: Operation(1, getattr(torch, name)) for name in _UNARY}
FUNCTIONS |= {"min": Operation(2, torch.minimum), "max": Operation(2, torch.maximum)}

_OPERATORS: dict[type[ast.AST], Operation] = {
    ast.Add: Operation(2, operator.add),
    ast.Sub: Operation(2, operator.sub),
    ast.Mult: Operation(2, operator.mul),
    ast.Div: Operation(2, operator.truediv),
    ast.Pow: Operation(2, operator.pow),
    ast.UAdd: Operation(1, operator.pos),
    ast.USub: Operation(1, operator.neg),
}

_NUMBER = re.compile(r"\d(?:[eE][+-]|[\w.])*")
"""A text that begins like a number, up to the end of the number or of a name after it."""

_ALLOWED = "an expression has only numbers, symbols, functions, parentheses and + - * / **"


@dataclass(frozen=True)
class Expression:
    """A real function of named variables, made by `parse_expression`.

    Attributes:
        text: the text that was parsed, on one line.
        variables: names of the inputs, in the order of the last dimension of x.
        program: the expression in postfix order: a float is a constant, a str is a variable.
    """

    text: str
    variables: tuple[str, ...]
    program: tuple[float | str | Operation, ...] = field(repr=False)

    def __call__(self, x: Tensor) -> Tensor:
        """Evaluates with torch operations in the dtype of x, differentiable by autograd.

        Args:
            x: inputs of shape (..., len(variables)), a floating dtype.

        Returns:
            Values of shape (...), dtype and device of x; inf or nan where the expression has no finite value.

        Raises:
            ValueError: x has another last dimension or is not floating.
        """
        if x.ndim == 0 or x.shape[-1] != len(self.variables) or not x.is_floating_point():
            raise ValueError(
                f"inputs of {self.text!r} must be floating of shape (..., {len(self.variables)}), "
                f"got {x.dtype} of shape {tuple(x.shape)}"
            )
        columns = dict(zip(self.variables, x.unbind(-1), strict=True))
        stack: list[Tensor] = []
        for step in self.program:
            if isinstance(step, Operation):
                arguments = stack[-step.arity :]
                del stack[-step.arity :]
                stack.append(step.function(*arguments))
            elif isinstance(step, str):
                stack.append(columns[step])
            else:
                # A tensor, not a Python number: 9**9**9**9 is then inf at once, not an endless integer.
                stack.append(torch.tensor(step, dtype=x.dtype, device=x.device))
        return stack.pop().expand(x.shape[:-1])

    def second_derivative(self, x: Tensor) -> Tensor:
        """Differentiates an expression in one variable twice.

        Args:
            x: inputs of shape (..., 1), a floating dtype.

        Returns:
            f''(x) of shape (...), without a graph; inf or nan where it is not defined, 0 at the kinks of abs, min, max.

        Raises:
            ValueError: the expression has several variables.
        """
        if len(self.variables) != 1:
            raise ValueError(f"second_derivative needs one variable, {self.text!r} has {len(self.variables)}")
        # Not by torch.func, whose derivatives import torch's compiler: that takes longer than a small fit.
        with torch.inference_mode(False), torch.enable_grad():
            at = x.detach().clone().requires_grad_()
            values = self(at)
            for _ in range(2):
                # What does not depend on x has no derivative, but 0 · x has one.
                (derivative,) = torch.autograd.grad((values + 0 * at.squeeze(-1)).sum(), at, create_graph=True)
                values = derivative.squeeze(-1)
        return values.detach()


def parse_expression(text: str, variables: Sequence[str]) -> Expression:
    """Parses + - * / **, parentheses, numbers, pi, e, the functions in `FUNCTIONS` and the given variables.

    A variable hides a constant of the same name: with a variable e, e is that variable. A function of the same name can
    still be used, because a name before a parenthesis is always a function.

    Args:
        text: the expression, at most `MAX_LENGTH` characters, e.g. "x**3 - x".
        variables: names that the expression may use; it need not use all of them.

    Returns:
        A callable on tensors of shape (..., len(variables)).

    Raises:
        ExpressionError: the text is not an expression of this kind, or a variable's name cannot be used.
    """
    _check_variables(variables)
    text = " ".join(text.split())  # a YAML block may break lines
    if not text:
        raise ExpressionError("expression must not be empty: write one such as 'x**3'")
    if len(text) > MAX_LENGTH:
        raise ExpressionError(f"expression must have at most {MAX_LENGTH} characters, got {len(text)}")
    if "#" in text:
        raise ExpressionError(f"{_short(text)}: {_ALLOWED}, got #")
    other_base = re.search(r"(?<![\w.])0[xXoObB]\w+", text)
    if other_base:
        raise ExpressionError(f"{other_base[0]} is not a decimal number: write numbers as 20 or 2e-3")
    program: list[float | str | Operation] = []
    pending: list[ast.expr] = [_parse(text)]
    while pending:  # not recursive: a sum of 500 terms is 500 levels deep
        step, operands = _translate(pending.pop(), text, variables)
        program.append(step)
        pending.extend(operands)
    # Each node came before its operands, and the operands from last to first: reversed, that is postfix order.
    return Expression(text, tuple(variables), tuple(reversed(program)))


def _check_variables(variables: Sequence[str]) -> None:
    for name in variables:
        if not isinstance(name, str):  # YAML reads some words, such as on and no, as True and False
            raise ExpressionError(f"variable must be a name such as x or x1, got {name!r}: write it in quotes")
        # Python's parser normalises names, so a name in another form would never match.
        if not name.isidentifier() or unicodedata.normalize("NFKC", name) != name:
            raise ExpressionError(f"variable must be a name of letters, digits and _ such as x or x1, got {name!r}")
        if keyword.iskeyword(name):
            raise ExpressionError(f"variable must not be a word of the Python language, got {name!r}: write {name}_")
    if len(set(variables)) < len(variables):
        raise ExpressionError(f"variables must differ from each other, each named once, got {', '.join(variables)}")


def _parse(text: str) -> ast.expr:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of escapes in strings, which are refused anyway
            return ast.parse(text, mode="eval").body
    except SyntaxError as error:
        # If something is missing at the end, Python reports 0 or a position past the end.
        if "null bytes" in error.msg:
            raise ExpressionError(f"{text!a}: {_ALLOWED}, got other characters") from None
        position = min(error.offset or len(text), len(text))
        written = next((match[0] for match in _NUMBER.finditer(text) if match.end() >= position), "")
        problem, hint = error.msg, ""
        if "leading zeros" in error.msg:
            problem, hint = "a number must not begin with 0", ": write numbers as 20 or 2e-3"
        if "decimal literal" in error.msg and written:
            named = re.search(r"[^\d._eE+-]", written)  # 2x; others are 1__0, 1e and 1e1e1
            problem = written if named else f"{written} is not a number"
            hint = ": write * for products" if named else ": write numbers as 20 or 2e-3"
        raise ExpressionError(f"{_short(text)}: {problem} at position {position}{hint}") from None
    except (RecursionError, MemoryError):
        raise ExpressionError(f"{_short(text)}: nested too deeply") from None
    except ValueError:  # null bytes, lone surrogates
        raise ExpressionError(f"{text!a}: {_ALLOWED}, got other characters") from None


def _translate(
    node: ast.expr, text: str, variables: Sequence[str]
) -> tuple[float | str | Operation, Sequence[ast.expr]]:
    """Translates one node of the syntax tree to one step of the program and the operands that must come before it."""
    if isinstance(node, ast.Constant):
        return _number(node, text), ()
    if isinstance(node, ast.Name):
        return _named(node.id, variables), ()
    if isinstance(node, ast.BinOp | ast.UnaryOp) and type(node.op) in _OPERATORS:
        operands = (node.left, node.right) if isinstance(node, ast.BinOp) else (node.operand,)
        return _OPERATORS[type(node.op)], operands
    if isinstance(node, ast.Call):
        return _function(node, text, variables), node.args
    powers = ": write ** for powers" if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitXor) else ""
    raise ExpressionError(f"{_source(text, node)}: {_ALLOWED}{powers}")


def _number(node: ast.Constant, text: str) -> float:
    if type(node.value) not in (int, float):  # bool is a subclass of int
        raise ExpressionError(f"{_source(text, node)} is not a real number")
    try:
        number = float(node.value)  # type: ignore[arg-type]
    except OverflowError:
        number = math.inf
    if math.isinf(number):
        raise ExpressionError(f"{_source(text, node)} is too large for a floating-point number")
    return number


def _named(name: str, variables: Sequence[str]) -> float | str:
    if name in variables:
        return name
    if name in CONSTANTS:
        return CONSTANTS[name]
    if name in FUNCTIONS:
        raise ExpressionError(f"{name} is a function: write {name}(...)")
    known = list(dict.fromkeys([*variables, *CONSTANTS]))
    near = did_you_mean(name, known)
    raise ExpressionError(f"unknown symbol {_short(name)}; the symbols are {', '.join(known)}{near}")


def _function(node: ast.Call, text: str, variables: Sequence[str]) -> Operation:
    if not isinstance(node.func, ast.Name):
        hint = " and only a named function can be called: write * for products"
        raise ExpressionError(f"{_source(text, node)}: {_ALLOWED},{hint}")
    name = node.func.id
    if name not in FUNCTIONS and (name in variables or name in CONSTANTS):
        raise ExpressionError(f"{_source(text, node)}: {name} is not a function: write * for products")
    if name not in FUNCTIONS:
        near = did_you_mean(name, FUNCTIONS)
        raise ExpressionError(f"unknown function {_short(name)}; the functions are {', '.join(FUNCTIONS)}{near}")
    if node.keywords:
        raise ExpressionError(f"{_source(text, node)}: {name} takes no keyword argument")
    arity = FUNCTIONS[name].arity
    if len(node.args) != arity:
        count = f"{arity} argument{'s'[: arity - 1]}"
        raise ExpressionError(f"{_source(text, node)}: {name} takes {count}, got {len(node.args)}")
    return FUNCTIONS[name]


def _source(text: str, node: ast.expr) -> str:
    """Returns the text of a node, for an error."""
    return _short(ast.get_source_segment(text, node) or text)


def _short(text: str) -> str:
    return repr(text if len(text) <= 60 else text[:57] + "...")
