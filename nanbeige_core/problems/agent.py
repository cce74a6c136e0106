"""Turns of a model that may call a calculator: writing the call, and answering from its result."""

import json
from random import Random

from nanbeige_core.problems.problem import Family, Language, Problem, boxed

CALL: dict[Language, tuple[str, ...]] = {
    "en": ("Use the calculator tool to work out {e}.", "Call the calculator for {e}."),
    "zh": ("请用计算器工具计算 {e}。", "调用计算器求 {e}。"),
}
READ: dict[Language, tuple[str, ...]] = {
    "en": (
        "The calculator returned {r} for {e}. Give the final answer.",
        "Tool result: {r}. Question: what is {e}?",
    ),
    "zh": ("计算器对 {e} 返回 {r}。请给出最终答案。", "工具结果：{r}。问题：{e} 等于多少？"),
}
CALL_REASON: dict[Language, str] = {
    "en": "The numbers are large, so call the calculator.",
    "zh": "数字较大，应调用计算器。",
}
READ_REASON: dict[Language, str] = {"en": "The tool says {r}.", "zh": "工具给出{r}。"}


def draw_expression(random: Random) -> tuple[str, int]:
    """Draw an expression with operands too large for the head, and its value."""
    a, b = random.randint(100, 9999), random.randint(12, 999)
    operator = random.choice("+-*")
    return f"{a}{operator}{b}", {"+": a + b, "-": a - b, "*": a * b}[operator]


def tool_call(expression: str) -> str:
    """Write a calculator call as the assistant turn that makes it."""
    call = {"name": "calculator", "arguments": {"expression": expression}}
    return f"<tool_call>\n{json.dumps(call)}\n</tool_call>"


def generate_call(random: Random, language: Language) -> Problem:
    """Ask for a tool call; the verifier runs the call and compares its value."""
    expression, value = draw_expression(random)
    return Problem(
        domain="agent",
        language=language,
        prompt=random.choice(CALL[language]).format(e=expression),
        reasoning=CALL_REASON[language],
        answer=tool_call(expression),
        verifier="math",
        source="tool/call",
        group=f"tool:{expression}",
        spec={"gold": str(value), "tool": "calculator"},
    )


def generate_reading(random: Random, language: Language) -> Problem:
    """Ask for the final answer after the tool has replied."""
    expression, value = draw_expression(random)
    return Problem(
        domain="agent",
        language=language,
        prompt=random.choice(READ[language]).format(e=expression, r=value),
        reasoning=READ_REASON[language].format(r=value),
        answer=boxed(value),
        verifier="math",
        source="tool/result",
        group=f"tool:{expression}",
        spec={"gold": str(value)},
    )


def open_families() -> list[Family]:
    """Return the two agent families."""
    return [Family("tool_call", "agent", generate_call), Family("tool_result", "agent", generate_reading)]
