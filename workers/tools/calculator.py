"""Calculator: arithmetic on numbers, and nothing else that an expression could do."""

from __future__ import annotations

import ast
import math
import operator
import re
from collections.abc import Callable
from typing import Annotated, Final, TypeAlias

from pydantic import Field
from simpleeval import InvalidExpression, SimpleEval

from petiole.events.errors import ToolFailed, invalid_arguments
from petiole.workers.tools.registry import tool
from petiole.workers.tools.tool import Finding

Number: TypeAlias = int | float

MAX_BITS = 1024
"""Size of the largest whole number that is worked with: 308 digits, about where floating point ends too."""

_INT64 = 2**63
_ARITHMETIC = re.compile(r"[0-9\s.+\-*/%()eE_]+")


@tool
def calculator(
    expression: Annotated[str, Field(max_length=200, description="numbers with + - * / // % ** and parentheses")],
) -> Finding:
    """Work out an arithmetic expression.

    Raises: UsageError (invalid_arguments) for what is no arithmetic, ToolFailed for what has no result or too large a
    one.
    """
    tidy = " ".join(expression.split())
    result = _evaluate(tidy)
    # A whole number that fits no event travels as text, with every digit.
    value = str(result) if isinstance(result, int) and not -_INT64 <= result < _INT64 else result
    return Finding(value, f"{tidy} is {_in_digits(result)}")


def _evaluate(expression: str) -> Number:
    if not _ARITHMETIC.fullmatch(expression):
        raise invalid_arguments("calculator", "expression", "holds more than numbers, + - * / // % ** and parentheses")
    try:
        result = _evaluator().eval(expression)  # type: ignore[no-untyped-call]  # simpleeval annotates little
    except ZeroDivisionError as error:
        raise ToolFailed("calculator", f"{expression} divides by zero") from error
    except OverflowError as error:
        raise _too_large(expression) from error
    except (InvalidExpression, SyntaxError, RecursionError, MemoryError) as error:
        raise invalid_arguments("calculator", "expression", "is no complete arithmetic expression") from error
    return _checked(result, expression)


def _checked(result: object, expression: str) -> Number:
    if isinstance(result, complex):
        raise ToolFailed("calculator", f"{expression} is no real number")
    if isinstance(result, bool) or not isinstance(result, int | float):
        raise invalid_arguments("calculator", "expression", "is no number")
    if not math.isfinite(result):
        raise _too_large(expression)
    return result


def _too_large(expression: str) -> ToolFailed:
    return ToolFailed("calculator", f"{expression} is too large; results may have about 308 digits")


def _power(base: Number, exponent: Number) -> Number:
    # Checked before, not after: 9**9**9 would keep a processor busy for hours.
    if isinstance(base, int) and isinstance(exponent, int) and base.bit_length() * abs(exponent) > MAX_BITS:
        raise OverflowError
    result: Number = operator.pow(base, exponent)
    return result


def _product(left: Number, right: Number) -> Number:
    if isinstance(left, int) and isinstance(right, int) and left.bit_length() + right.bit_length() > MAX_BITS:
        raise OverflowError
    return left * right


_OPERATORS: Final[dict[type[ast.AST], Callable[..., Number]]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: _product,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Pow: _power,
    ast.UAdd: operator.pos,
    ast.USub: operator.neg,
}

_NODES: Final = (ast.Expr, ast.BinOp, ast.UnaryOp, ast.Constant)


def _evaluator() -> SimpleEval:
    evaluator = SimpleEval(operators=_OPERATORS, functions={}, names={})  # type: ignore[no-untyped-call]  # as above
    evaluator.nodes = {node: evaluator.nodes[node] for node in _NODES}
    return evaluator


def _in_digits(result: Number) -> str:
    # 0.1 + 0.2 is 0.3 to whoever asked; the value keeps all its digits.
    return str(result) if isinstance(result, int) else f"{result:.12g}"
