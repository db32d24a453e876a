"""Mathematical expressions typed by a user, parsed to torch operations; nothing is ever handed to Python to run."""

from __future__ import annotations

import ast
import difflib
import keyword
import math
import operator
import unicodedata
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

MAX_LENGTH = 1000  # characters; keeps Python's own parser far from the limits of its stack

CONSTANTS: dict[str, float] = {"pi": math.pi, "e": math.e}


class ExpressionError(ValueError):
    """The text is not a mathematical expression in the given variables; the message is one line."""


class Operation(NamedTuple):
    """A torch function of `arity` tensors."""

    arity: int
    function: Callable[..., Tensor]


FUNCTIONS: dict[str, Operation] = {
    "sin": Operation(1, torch.sin),
    "cos": Operation(1, torch.cos),
    "tan": Operation(1, torch.tan),
    "asin": Operation(1, torch.asin),
    "acos": Operation(1, torch.acos),
    "atan": Operation(1, torch.atan),
    "sinh": Operation(1, torch.sinh),
    "cosh": Operation(1, torch.cosh),
    "tanh": Operation(1, torch.tanh),
    "exp": Operation(1, torch.exp),
    "log": Operation(1, torch.log),
    "sqrt": Operation(1, torch.sqrt),
    "abs": Operation(1, torch.abs),
    "erf": Operation(1, torch.erf),
    "sign": Operation(1, torch.sign),
    "min": Operation(2, torch.minimum),
    "max": Operation(2, torch.maximum),
}

_OPERATORS: dict[type[ast.AST], Operation] = {
    ast.Add: Operation(2, operator.add),
    ast.Sub: Operation(2, operator.sub),
    ast.Mult: Operation(2, operator.mul),
    ast.Div: Operation(2, operator.truediv),
    ast.Pow: Operation(2, operator.pow),
    ast.UAdd: Operation(1, operator.pos),
    ast.USub: Operation(1, operator.neg),
}

# How the refused parts of Python are called in an error; what is not here is called by its class name.
_REFUSED: dict[type[ast.AST], str] = {
    ast.Attribute: "attribute access",
    ast.Subscript: "a subscript",
    ast.Lambda: "lambda",
    ast.ListComp: "a comprehension",
    ast.SetComp: "a comprehension",
    ast.DictComp: "a comprehension",
    ast.GeneratorExp: "a comprehension",
    ast.Compare: "a comparison",
    ast.BoolOp: "and/or",
    ast.IfExp: "if/else",
    ast.NamedExpr: "an assignment",
    ast.Tuple: "a comma outside min and max",
    ast.List: "a list",
    ast.Set: "a set",
    ast.Dict: "a dictionary",
    ast.JoinedStr: "a string",
    ast.Starred: "a starred argument",
    ast.Mod: "the operator %",
    ast.FloorDiv: "the operator //",
    ast.MatMult: "the operator @",
    ast.BitAnd: "the operator &",
    ast.BitOr: "the operator |",
    ast.LShift: "the operator <<",
    ast.RShift: "the operator >>",
    ast.Invert: "the operator ~",
    ast.Not: "not",
}


@dataclass(frozen=True)
class Expression:
    """A real function of named variables, made by `parse_expression`.

    Attributes:
        text: What was parsed, on one line.
        variables: Names of the inputs, in the order of the last dimension of x.
        program: The expression in postfix order: a float is a constant, a str is a variable.
    """

    text: str
    variables: tuple[str, ...]
    program: tuple[float | str | Operation, ...] = field(repr=False)

    def __call__(self, x: Tensor) -> Tensor:
        """Evaluates with torch operations in the dtype of x, differentiable by autograd.

        Args:
            x: Inputs of shape (..., len(variables)), a floating dtype.

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
                # A tensor, not a Python number: 9**9**9**9 is then inf at once instead of an endless integer.
                stack.append(torch.tensor(step, dtype=x.dtype, device=x.device))
        return stack.pop().expand(x.shape[:-1])

    def second_derivative(self, x: Tensor) -> Tensor:
        """f'' of an expression in one variable, by differentiating twice.

        Args:
            x: Inputs of shape (..., 1), a floating dtype.

        Returns:
            f''(x) of shape (...), without a graph; inf or nan where it is not defined, 0 at the kinks of abs, min, max.

        Raises:
            ValueError: The expression has several variables, or x has another shape.
        """
        if len(self.variables) != 1:
            raise ValueError(f"second_derivative needs one variable, {self.text!r} has {len(self.variables)}")
        with torch.inference_mode(False), torch.enable_grad():
            x = x.detach().clone().requires_grad_()
            derivative = self(x)
            for _ in range(2):
                if not derivative.requires_grad:  # a constant or, the second time, a linear function
                    return torch.zeros_like(x[..., 0])
                (slope,) = torch.autograd.grad(derivative.sum(), x, create_graph=True, allow_unused=True)
                if slope is None:
                    return torch.zeros_like(x[..., 0])
                derivative = slope[..., 0]
        return derivative.detach()


def parse_expression(text: str, variables: Sequence[str]) -> Expression:
    """Parses + - * / **, parentheses, numbers, pi, e, the functions in `FUNCTIONS` and the given variables.

    Args:
        text: The expression, at most `MAX_LENGTH` characters, e.g. "x**3 - x".
        variables: Names the expression may use; one that it does not use is allowed.

    Returns:
        A callable on tensors of shape (..., len(variables)).

    Raises:
        ExpressionError: The text is anything else than such an expression, or a variable's name cannot be used.
    """
    _check_variables(variables)
    text = " ".join(text.split())  # a YAML block may break lines
    if not text:
        raise ExpressionError("the expression is empty: write one such as 'x**3'")
    if len(text) > MAX_LENGTH:
        raise ExpressionError(f"the expression has {len(text)} characters: at most {MAX_LENGTH} are read")
    if "#" in text:
        raise ExpressionError(f"{_short(text)}: # is not part of an expression")
    program: list[float | str | Operation] = []
    pending: list[ast.expr] = [_parse(text)]
    while pending:  # not recursive: a sum of 500 terms is 500 levels deep
        step, operands = _translate(pending.pop(), text, variables)
        program.append(step)
        pending.extend(operands)
    # Each node was met before its operands, and those from last to first; backwards that is postfix order.
    return Expression(text, tuple(variables), tuple(reversed(program)))


def _check_variables(variables: Sequence[str]) -> None:
    for name in variables:
        # Python's parser normalises names, so one that is not normal could never be matched.
        if not name.isidentifier() or keyword.iskeyword(name) or unicodedata.normalize("NFKC", name) != name:
            raise ExpressionError(f"variable {name!r} is not a name: use letters, digits and _, e.g. x or x1")
        if name in FUNCTIONS or name in CONSTANTS:
            kind = "function" if name in FUNCTIONS else "constant"
            raise ExpressionError(f"variable {name!r} hides the {kind} {name}: choose another name")
    if len(set(variables)) < len(variables):
        raise ExpressionError(f"variables {', '.join(variables)}: each name may stand there once")


def _parse(text: str) -> ast.expr:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Python warns of escapes in what is refused as a string anyway
            return ast.parse(text, mode="eval").body
    except SyntaxError as error:
        # Python says 0, or a place past the end, where something is missing at the end.
        position = min(error.offset or len(text), len(text))
        hint = ": write * for products" if "decimal literal" in error.msg else ""  # 2x
        raise ExpressionError(f"{_short(text)}: {error.msg} at position {position}{hint}") from None
    except (RecursionError, MemoryError):
        raise ExpressionError(f"{_short(text)}: nested too deeply") from None
    except ValueError as error:  # null bytes, lone surrogates
        raise ExpressionError(f"{_short(text)}: {error}") from None


def _translate(
    node: ast.expr, text: str, variables: Sequence[str]
) -> tuple[float | str | Operation, Sequence[ast.expr]]:
    """One node of the syntax tree as one step of the program, and the operands that must stand before it."""
    shown = _short(ast.get_source_segment(text, node) or text)
    if isinstance(node, ast.Constant):
        return _number(node.value, shown), ()
    if isinstance(node, ast.Name):
        return _named(node.id, variables), ()
    if isinstance(node, ast.BinOp | ast.UnaryOp):
        if isinstance(node.op, ast.BitXor):
            raise ExpressionError(f"{shown}: ^ is not part of an expression: write ** for powers")
        if type(node.op) not in _OPERATORS:
            raise ExpressionError(f"{shown}: {_called(node.op)} is not part of an expression")
        operands = (node.left, node.right) if isinstance(node, ast.BinOp) else (node.operand,)
        return _OPERATORS[type(node.op)], operands
    if isinstance(node, ast.Call):
        return _function(node, shown, variables), node.args
    raise ExpressionError(f"{shown}: {_called(node)} is not part of an expression")


def _number(value: object, shown: str) -> float:
    if type(value) not in (int, float):  # bool is a subclass of int
        raise ExpressionError(f"{shown} is not a real number")
    try:
        number = float(value)  # type: ignore[arg-type]
    except OverflowError:
        number = math.inf
    if math.isinf(number):
        raise ExpressionError(f"{shown} is too large for a floating-point number")
    return number


def _named(name: str, variables: Sequence[str]) -> float | str:
    if name in variables:
        return name
    if name in CONSTANTS:
        return CONSTANTS[name]
    if name in FUNCTIONS:
        raise ExpressionError(f"{name} is a function: write {name}(...)")
    known = [*variables, *CONSTANTS]
    raise ExpressionError(f"unknown symbol {_short(name)}{near_match(name, known)}; the symbols are {', '.join(known)}")


def _function(node: ast.Call, shown: str, variables: Sequence[str]) -> Operation:
    if not isinstance(node.func, ast.Name):
        if type(node.func) in _REFUSED:
            raise ExpressionError(f"{shown}: {_called(node.func)} is not part of an expression")
        raise ExpressionError(f"{shown}: only a named function can be called: write * for products")
    name = node.func.id
    if name in variables or name in CONSTANTS:
        raise ExpressionError(f"{shown}: {name} is not a function: write * for products")
    if name not in FUNCTIONS:
        near = near_match(name, FUNCTIONS)
        raise ExpressionError(f"unknown function {_short(name)}{near}; the functions are {', '.join(FUNCTIONS)}")
    if node.keywords:
        raise ExpressionError(f"{shown}: a keyword argument is not part of an expression")
    arity = FUNCTIONS[name].arity
    if len(node.args) != arity:
        raise ExpressionError(f"{shown}: {name} takes {arity} argument{'s'[: arity - 1]}, got {len(node.args)}")
    return FUNCTIONS[name]


def _called(node: ast.AST) -> str:
    return _REFUSED.get(type(node), type(node).__name__)


def _short(text: str) -> str:
    return repr(text if len(text) <= 60 else text[:57] + "...")


def near_match(name: str, known: Iterable[str]) -> str:
    """What an error adds when a known name is close to the one that was given, else nothing."""
    near = difflib.get_close_matches(name, known, n=1)
    return f" (did you mean {near[0]}?)" if near else ""
