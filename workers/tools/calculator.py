"""Calculator: the tool that evaluates arithmetic. Names, functions and attributes are not evaluated."""

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
from petiole.workers.tools.tool import ToolOutput

Operand: TypeAlias = int | float

MAX_BITS = 1024
"""Limit of integers: 308 decimal digits, like the largest floating-point number."""

_INT64 = 2**63
_ARITHMETIC = re.compile(r"[0-9\s.+\-*/%()eE_]+")


@tool
def calculator(
    expression: Annotated[str, Field(max_length=200, description="numbers with + - * / // % ** and parentheses")],
) -> ToolOutput:
    """Work out an arithmetic expression.

    Raises:
        UsageError: The text is not an arithmetic expression (invalid_arguments).
        ToolFailed: The expression has no result, or its result is too large.
    """
    normalized = " ".join(expression.split())
    result = _evaluate(normalized)
    # Events carry integers of 64 bits; a larger one is sent as text.
    value = str(result) if isinstance(result, int) and not -_INT64 <= result < _INT64 else result
    return ToolOutput(value, f"{normalized} is {_format_number(result)}")


def _evaluate(expression: str) -> Operand:
    if not _ARITHMETIC.fullmatch(expression):
        raise invalid_arguments("calculator", "expression", "may only contain numbers, + - * / // % ** and parentheses")
    try:
        result = _evaluator().eval(expression)  # type: ignore[no-untyped-call]  # simpleeval annotates little
    except ZeroDivisionError as error:
        raise ToolFailed("calculator", f"{expression} divides by zero") from error
    except OverflowError as error:
        raise _too_large(expression) from error
    except (InvalidExpression, SyntaxError, RecursionError, MemoryError) as error:
        raise invalid_arguments("calculator", "expression", "is not a complete arithmetic expression") from error
    return _check_size(result, expression)


def _check_size(result: object, expression: str) -> Operand:
    if isinstance(result, complex):
        raise ToolFailed("calculator", f"{expression} is not a real number")
    if isinstance(result, bool) or not isinstance(result, int | float):
        raise invalid_arguments("calculator", "expression", "is not a number")
    if not math.isfinite(result):
        raise _too_large(expression)
    return result


def _too_large(expression: str) -> ToolFailed:
    return ToolFailed("calculator", f"{expression} is too large; results may have about 308 digits")


def _power(base: Operand, exponent: Operand) -> Operand:
    # Checked before the computation, because 9**9**9 would take hours.
    if isinstance(base, int) and isinstance(exponent, int) and base.bit_length() * abs(exponent) > MAX_BITS:
        raise OverflowError
    result: Operand = operator.pow(base, exponent)
    return result


def _product(left: Operand, right: Operand) -> Operand:
    if isinstance(left, int) and isinstance(right, int) and left.bit_length() + right.bit_length() > MAX_BITS:
        raise OverflowError
    return left * right


_OPERATORS: Final[dict[type[ast.AST], Callable[..., Operand]]] = {
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


def _format_number(result: Operand) -> str:
    # Rounded for people, so that 0.1 + 0.2 is 0.3; the value has all digits.
    return str(result) if isinstance(result, int) else f"{result:.12g}"
