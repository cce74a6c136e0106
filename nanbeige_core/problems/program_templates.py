"""One-line Python functions, easiest first: the solutions from which code problems are synthesised backwards."""

from dataclasses import dataclass
from typing import Literal

from nanbeige_core.problems.problem import Language

InputKind = Literal["int", "list", "text", "pair"]


@dataclass(frozen=True)
class ProgramTemplate:
    """A solution with constants `k` and `m`, and its statement in both languages.

    `level` 1 is one operation on a number, 2 one operation on a list or text, 3 two operations.
    """

    name: str
    level: Literal[1, 2, 3]
    takes: InputKind
    body: str
    statement: dict[Language, str]
    k: tuple[int, int] = (2, 30)
    m: tuple[int, int] = (0, 0)


PARAMETER: dict[InputKind, str] = {"int": "x", "list": "xs", "text": "s", "pair": "a, b"}
READ: dict[InputKind, str] = {
    "int": "int(input())",
    "list": "[int(word) for word in input().split()]",
    "text": "input()",
    "pair": "map(int, input().split())",
}
"""How a script reads its parameters from the one line of standard input."""


def _template(
    name: str,
    level: Literal[1, 2, 3],
    takes: InputKind,
    body: str,
    statements: tuple[str, str],
    **constants: tuple[int, int],
) -> ProgramTemplate:
    """Build a template from its English and Chinese statement."""
    return ProgramTemplate(name, level, takes, body, {"en": statements[0], "zh": statements[1]}, **constants)


TEMPLATES: tuple[ProgramTemplate, ...] = (
    _template("add", 1, "int", "x + {k}", ("x plus {k}", "x加{k}"), k=(1, 99)),
    _template("subtract", 1, "int", "x - {k}", ("x minus {k}", "x减{k}"), k=(1, 99)),
    _template("multiply", 1, "int", "x * {k}", ("x times {k}", "x乘以{k}"), k=(2, 99)),
    _template("remainder", 1, "int", "x % {k}", ("the remainder of x divided by {k}", "x除以{k}的余数"), k=(2, 50)),
    _template("quotient", 1, "int", "x // {k}", ("the integer quotient of x and {k}", "x除以{k}的整数商"), k=(2, 50)),
    _template("larger", 1, "int", "max(x, {k})", ("the larger of x and {k}", "x和{k}中较大的数"), k=(1, 60)),
    _template("smaller", 1, "int", "min(x, {k})", ("the smaller of x and {k}", "x和{k}中较小的数"), k=(1, 60)),
    _template("above", 1, "int", "x > {k}", ("whether x is greater than {k}", "x是否大于{k}"), k=(1, 60)),
    _template("distance", 1, "int", "abs(x - {k})", ("the distance between x and {k}", "x与{k}的距离"), k=(1, 60)),
    _template("divisible", 1, "int", "x % {k} == 0", ("whether x is divisible by {k}", "x能否被{k}整除"), k=(2, 12)),
    _template(
        "linear",
        3,
        "int",
        "x * {k} + {m}",
        ("x times {k} plus {m}", "x乘以{k}再加{m}"),
        k=(2, 30),
        m=(1, 40),
    ),
    _template(
        "shifted",
        3,
        "int",
        "(x + {k}) * {m}",
        ("the sum of x and {k}, times {m}", "x加{k}的和乘以{m}"),
        k=(1, 30),
        m=(2, 20),
    ),
    _template(
        "clamp",
        3,
        "int",
        "max({k}, min(x, {m}))",
        ("x limited to the range {k} to {m}", "把x限制在{k}到{m}之间的值"),
        k=(0, 20),
        m=(21, 60),
    ),
    _template("square", 3, "int", "x * x + {k}", ("the square of x plus {k}", "x的平方加{k}"), k=(1, 60)),
    _template(
        "weighted",
        3,
        "pair",
        "{k} * a + {m} * b",
        ("{k} times a plus {m} times b", "{k}乘a加{m}乘b"),
        k=(2, 15),
        m=(2, 15),
    ),
    _template("add_all", 2, "list", "[x + {k} for x in xs]", ("xs with {k} added to each number", "xs中每个数加{k}")),
    _template("scale_all", 2, "list", "[x * {k} for x in xs]", ("xs with each number times {k}", "xs中每个数乘以{k}")),
    _template(
        "keep_above",
        2,
        "list",
        "[x for x in xs if x > {k}]",
        ("the numbers of xs greater than {k}", "xs中大于{k}的数"),
    ),
    _template(
        "keep_below",
        2,
        "list",
        "[x for x in xs if x < {k}]",
        ("the numbers of xs less than {k}", "xs中小于{k}的数"),
    ),
    _template(
        "keep_multiples",
        2,
        "list",
        "[x for x in xs if x % {k} == 0]",
        ("the numbers of xs divisible by {k}", "xs中能被{k}整除的数"),
        k=(2, 9),
    ),
    _template("first", 2, "list", "xs[:{k}]", ("the first {k} numbers of xs", "xs的前{k}个数"), k=(1, 5)),
    _template("last", 2, "list", "xs[-{k}:]", ("the last {k} numbers of xs", "xs的后{k}个数"), k=(1, 5)),
    _template("count", 2, "list", "xs.count({k})", ("how often {k} occurs in xs", "{k}在xs中出现的次数"), k=(1, 9)),
    _template("sum_plus", 2, "list", "sum(xs) + {k}", ("the sum of xs plus {k}", "xs的和加{k}"), k=(1, 60)),
    _template("max_plus", 2, "list", "max(xs) + {k}", ("the maximum of xs plus {k}", "xs的最大值加{k}"), k=(1, 60)),
    _template("min_times", 2, "list", "min(xs) * {k}", ("the minimum of xs times {k}", "xs的最小值乘以{k}")),
    _template("repeat", 2, "text", "s * {k}", ("s repeated {k} times", "把s重复{k}次"), k=(2, 20)),
    _template("prefix", 2, "text", "s[:{k}]", ("the first {k} characters of s", "s的前{k}个字符"), k=(1, 6)),
    _template("suffix", 2, "text", "s[-{k}:]", ("the last {k} characters of s", "s的后{k}个字符"), k=(1, 6)),
    _template("long", 2, "text", "len(s) > {k}", ("whether s is longer than {k}", "s的长度是否大于{k}"), k=(2, 9)),
    _template(
        "sum_above",
        3,
        "list",
        "sum(x for x in xs if x > {k})",
        ("the sum of the numbers of xs greater than {k}", "xs中大于{k}的数的和"),
    ),
    _template(
        "count_below",
        3,
        "list",
        "len([x for x in xs if x < {k}])",
        ("how many numbers of xs are less than {k}", "xs中小于{k}的数的个数"),
    ),
    _template(
        "scale_above",
        3,
        "list",
        "[x * {k} for x in xs if x > {m}]",
        ("the numbers of xs greater than {m}, each times {k}", "xs中大于{m}的数各乘以{k}"),
        k=(2, 9),
        m=(2, 20),
    ),
    _template(
        "top",
        3,
        "list",
        "sorted(xs)[-{k}:]",
        ("the {k} largest numbers of xs, sorted", "xs中最大的{k}个数，升序"),
        k=(1, 5),
    ),
    _template(
        "upper",
        3,
        "text",
        "s[:{k}].upper()",
        ("the first {k} characters of s in upper case", "s的前{k}个字符的大写"),
        k=(1, 6),
    ),
)

ASK: dict[Language, tuple[str, ...]] = {
    "en": (
        "Write a Python function f({p}) that returns {s}.",
        "Define f({p}) in Python. It returns {s}.",
        "In Python, f({p}) should return {s}. Write it.",
        "Give a Python function f({p}): return {s}.",
    ),
    "zh": (
        "写一个Python函数f({p})，返回{s}。",
        "用Python定义f({p})，它返回{s}。",
        "请编写Python函数f({p})，结果是{s}。",
        "给出Python函数f({p})，要求返回{s}。",
    ),
}
ASK_SCRIPT: dict[Language, tuple[str, ...]] = {
    "en": (
        "Write a Python program that reads {p} from one line and prints {s}.",
        "A line holds {p}. Read it in Python and print {s}.",
        "In Python, read {p} from standard input and print {s}.",
        "Give a Python script: read {p} from one line, print {s}.",
    ),
    "zh": (
        "写一个Python程序，从一行读入{p}，输出{s}。",
        "一行中给出{p}。用Python读入并输出{s}。",
        "请编写Python程序：从标准输入读入{p}，打印{s}。",
        "给出Python脚本：从一行读{p}，打印{s}。",
    ),
}
SPACES: dict[Language, str] = {"en": " Spaces separate numbers.", "zh": "数字之间用空格分隔。"}
REASON: dict[Language, str] = {"en": "Return {s}: {b}.", "zh": "返回{s}：{b}。"}
