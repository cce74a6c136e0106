"""Judge a tool call by making it: the calculator's result is compared with the reference."""

import ast
import json
import operator
import re
from collections.abc import Callable
from fractions import Fraction

CALL = re.compile(r"<tool_call>(.*?)</tool_call>", re.DOTALL)
OPERATORS: dict[type[ast.operator], Callable[[Fraction, Fraction], Fraction]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}
LONGEST_EXPRESSION = 200
"""characters"""


class BadCall(ValueError):
    """A response holds no single well-formed calculator call."""


def read_call(text: str) -> str:
    """Return the expression of the only calculator call in `text`; raise BadCall when there is no such call."""
    calls = CALL.findall(text)
    if len(calls) != 1:
        raise BadCall(f"{len(calls)} tool calls")
    try:
        call = json.loads(calls[0])
    except (ValueError, RecursionError) as error:
        raise BadCall("not JSON") from error
    if not isinstance(call, dict) or call.get("name") != "calculator" or not isinstance(call.get("arguments"), dict):
        raise BadCall("not a calculator call")
    expression = call["arguments"].get("expression")
    if not isinstance(expression, str) or len(expression) > LONGEST_EXPRESSION:
        raise BadCall("no expression")
    return expression


def calculate(expression: str) -> Fraction:
    """Evaluate +, -, *, / over numbers exactly; raise BadCall for anything else."""
    try:
        return _value(ast.parse(expression, mode="eval").body)
    except (SyntaxError, ValueError, ZeroDivisionError, RecursionError, MemoryError) as error:
        raise BadCall("cannot be calculated") from error


def _value(node: ast.expr) -> Fraction:
    if isinstance(node, ast.Constant) and type(node.value) in (int, float):
        return Fraction(str(node.value))
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        return -_value(node.operand)
    if isinstance(node, ast.BinOp) and type(node.op) in OPERATORS:
        return OPERATORS[type(node.op)](_value(node.left), _value(node.right))
    raise ValueError(f"{type(node).__name__} is not arithmetic")
