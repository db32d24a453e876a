"""Guarantees of `datamodules.expressions`: it reads mathematics in Python's notation and refuses everything else."""

import math
import pickle
import re
import time
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from datamodules.expressions import CONSTANTS, FUNCTIONS, ExpressionError, parse_expression

X = torch.tensor([[0.3, -1.7], [2.0, 0.0], [-0.0, 5.5], [-4.25, -1.0]], dtype=torch.float64)


def value(text: str, **variables: float) -> float:
    x = torch.tensor(list(variables.values()), dtype=torch.float64)
    return float(parse_expression(text, list(variables))(x))


def deeper(texts: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    infix = st.tuples(texts, st.sampled_from([" + ", "-", "*", " / "]), texts).map("".join)
    call = st.tuples(st.sampled_from(["min", "max"]), texts, texts).map(lambda t: f"{t[0]}({t[1]}, {t[2]})")
    return st.one_of(infix, call, texts.map("({})".format), texts.map("-{}".format), texts.map("abs({})".format))


ARITHMETIC = st.recursive(st.sampled_from(["x", "y", "0", "2", "0.5", "1e3", "7"]), deeper, max_leaves=12)


def of_zeros_with_one_sign(choose: np.ufunc) -> Callable[..., np.ndarray]:
    """Rejects examples in which 0 and −0 are compared: which of the two is returned is not defined."""

    def chosen(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        assume(not np.any((a == 0) & (b == 0) & (np.signbit(a) != np.signbit(b))))
        return choose(a, b)

    return chosen


@settings(max_examples=150, deadline=None)
@given(ARITHMETIC)
@example("1 / min(2*x, y)")
def test_arithmetic_is_read_as_python_reads_it(text):
    # These operations are correctly rounded everywhere, so numpy must agree to the last bit.
    numbers = re.sub(r"\d[\d.e]*", lambda m: f"np.float64({m[0]})", text)
    names = {"np": np, "abs": np.abs, "x": X[:, 0].numpy(), "y": X[:, 1].numpy()}
    names |= {"min": of_zeros_with_one_sign(np.minimum), "max": of_zeros_with_one_sign(np.maximum)}
    with np.errstate(all="ignore"):
        expected = np.broadcast_to(eval(numbers, names), 4)
    np.testing.assert_array_equal(parse_expression(text, ["x", "y"])(X).numpy(), expected)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("-x**2", -9.0),
        ("2**x**2", 512.0),
        ("2**-x", 0.125),
        ("+x - -x", 6.0),
        ("x**3 - x", 24.0),
        ("1_000 + 16", 1016.0),
        ("pi * e", math.pi * math.e),
        ("(x\n + 1)\n * 2", 8.0),
    ],
)
def test_powers_signs_and_constants(text, expected):
    assert value(text, x=3.0) == pytest.approx(expected, rel=1e-14)


@pytest.mark.parametrize("name", [name for name, operation in FUNCTIONS.items() if operation.arity == 1])
def test_each_function_is_the_one_of_that_name(name):
    reference = {"abs": abs, "sign": lambda x: math.copysign(1.0, x)}.get(name) or getattr(math, name)
    for x in (0.37, 0.9):
        assert value(f"{name}(x)", x=x) == pytest.approx(reference(x), rel=1e-13)


def test_numbers_that_are_too_large_are_inf_at_once():
    start = time.perf_counter()
    assert value("9**9**9**9 + x", x=0.0) == math.inf
    assert time.perf_counter() - start < 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("text", ["x*y + pi", "3"])
def test_shape_and_dtype_are_those_of_the_inputs(text, dtype):
    result = parse_expression(text, ["x", "y"])(torch.rand(5, 3, 2, dtype=dtype))
    assert result.shape == (5, 3)
    assert result.dtype == dtype


def test_gradients_flow_to_the_inputs():
    x = X[:1].clone().requires_grad_()
    assert torch.autograd.gradcheck(parse_expression("sin(x)*exp(y) + x**3/(2 + y)", ["x", "y"]), (x,))


@pytest.mark.parametrize(
    ("text", "second"),
    [
        ("x**3", lambda x: 6 * x),
        ("x**2", lambda x: 2 + 0 * x),
        ("sin(x)", lambda x: -torch.sin(x)),
        ("3*x + 1", torch.zeros_like),
        ("x", torch.zeros_like),
        ("7", torch.zeros_like),
        ("abs(x)", torch.zeros_like),
    ],
)
def test_second_derivative(text, second):
    x = torch.linspace(0, 1, 9, dtype=torch.float64)  # with 0, where powers are delicate
    with torch.no_grad():
        result = parse_expression(text, ["x"]).second_derivative(x[:, None])
    torch.testing.assert_close(result, second(x))
    assert not result.requires_grad


def test_second_derivative_is_not_finite_where_there_is_none():
    assert not parse_expression("sqrt(x)", ["x"]).second_derivative(torch.zeros(1, 1)).isfinite().any()


def test_second_derivative_wants_one_variable():
    with pytest.raises(ValueError, match="one variable"):
        parse_expression("x*y", ["x", "y"]).second_derivative(X)


def test_a_variable_may_stay_unused():
    assert value("x", x=2.0, y=5.0) == 2.0


def test_inputs_of_another_width_or_dtype_are_refused():
    f = parse_expression("x", ["x"])
    for x in (torch.rand(3, 2), torch.ones(3, 1, dtype=torch.int64), torch.tensor(1.0)):
        with pytest.raises(ValueError, match=r"\(\.\.\., 1\)"):
            f(x)


def test_expressions_can_be_pickled():
    f = parse_expression("erf(x)**2 + max(x, pi)", ["x"])
    assert pickle.loads(pickle.dumps(f)) == f


NOT_PART = r"an expression has only numbers, symbols, functions, parentheses and \+ - \* / \*\*"
REFUSED = {
    "": "empty",
    "   \n": "empty",
    "x^2": r"write \*\* for powers",
    "2x": r"position 1: write \* for products",
    "0x10*x": "0x10 is not a decimal number: write numbers as 20 or 2e-3",
    "x - 0b1": "0b1 is not a decimal number",
    "1__0": "'1__0': 1__0 is not a number at position 2: write numbers as 20 or 2e-3",
    "1e": "1e is not a number at position 1: write numbers as 20 or 2e-3",
    "x + 1e1e1": "1e1e1 is not a number at position 7",
    "2(x+1)": r"write \* for products",
    "x(2)": r"x is not a function",
    "pi(2)": r"pi is not a function",
    "x +": "position 3",
    "(x": r"'\(x': .* position 1",
    "x = 3": "position",
    "z + 1": "unknown symbol 'z'; the symbols are x, pi, e",
    "foo(x)": "unknown function 'foo'; the functions are sin, cos",
    "sqr(x)": r"did you mean 'sqrt'\?",
    "__import__('os').system('true')": NOT_PART,
    "__import__('os')": "unknown function '__import__'",
    "eval('1')": "unknown function 'eval'",
    "__builtins__": "unknown symbol",
    "x.__class__": f"'x.__class__': {NOT_PART}",
    "sin(x).real": NOT_PART,
    "().__class__.__bases__[0].__subclasses__()": NOT_PART,
    "x[0]": NOT_PART,
    "(lambda: 0)()": NOT_PART,
    "lambda: x": NOT_PART,
    "[x for x in x]": NOT_PART,
    "sum(x for x in x)": "unknown function 'sum'",
    "(y := x)": NOT_PART,
    "x if x else x": NOT_PART,
    "x == 1": NOT_PART,
    "x and x": NOT_PART,
    "not x": NOT_PART,
    "~x": NOT_PART,
    "x % 2": NOT_PART,
    "x // 2": NOT_PART,
    "x @ x": NOT_PART,
    "1,5": NOT_PART,
    "[x]": NOT_PART,
    "{x: x}": NOT_PART,
    "f'{x}'": NOT_PART,
    "'x'": "not a real number",
    "1j*x": "'1j' is not a real number",
    "True": "not a real number",
    "None": "not a real number",
    "...": "not a real number",
    "1e999": "too large",
    "1" * 400: "too large",
    "sin": r"write sin\(\.\.\.\)",
    "sin()": "sin takes 1 argument, got 0",
    "min(x)": "min takes 2 arguments, got 1",
    "max(x, 1, 2)": "max takes 2 arguments, got 3",
    "sin(x=1)": "keyword argument",
    "sin(x, out=x)": "keyword argument",
    "min(*x, x)": NOT_PART,
    "min(x, **x)": "keyword argument",
    "x # x": NOT_PART,
    "x; x": "position",
    "import os": "position",
    "await x": NOT_PART,
    "x\0": "got other characters",
    "\ud800": "got other characters",
    "x+" * 600 + "x": "at most 1000 characters, got 1201",
    "(" * 400 + "x" + ")" * 400: "nested",
}


@pytest.mark.parametrize("text", REFUSED, ids=lambda text: ascii(text[:24]))
def test_anything_else_is_refused_in_one_line_that_says_why(text):
    with pytest.raises(ExpressionError, match=REFUSED[text]) as caught:
        parse_expression(text, ["x"])
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300


@settings(max_examples=300, deadline=None)
@given(st.text(st.sampled_from("xe1 .,+-*/^()[]{}'\"_:=<>!@#%\\\n\tsinmaxj~é²×"), max_size=25))
def test_any_text_is_either_read_or_refused(text):
    try:
        parse_expression(text, ["x"])(torch.rand(2, 1))
    except ExpressionError as error:
        assert "\n" not in str(error)


def test_long_sums_and_deep_calls_are_read():
    assert value("x+" * 499 + "x", x=1.0) == 500
    assert value("-" * 80 + "x", x=1.0) == 1


@pytest.mark.parametrize("name", ["1x", "a b", "", "lambda", "x-y", "ﬁ"])
def test_names_that_cannot_be_variables_are_refused(name):
    with pytest.raises(ExpressionError, match=re.escape(repr(name))):
        parse_expression("1", [name])


def test_a_variable_wins_over_a_constant_of_its_name():
    assert value("e*pi", e=3.0, pi=2.0) == 6
    assert value("e*pi", e=3.0) == pytest.approx(3 * math.pi)


def test_a_name_before_a_parenthesis_is_a_function_whatever_the_variables():
    assert value("sin(sin)*max(sin, 1)", sin=2.0) == pytest.approx(2 * math.sin(2))


def test_a_variable_cannot_stand_twice():
    with pytest.raises(ExpressionError, match="once"):
        parse_expression("x", ["x", "x"])


def test_no_name_is_both_function_and_constant():
    assert not set(FUNCTIONS) & set(CONSTANTS)
