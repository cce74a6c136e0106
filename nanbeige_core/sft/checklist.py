"""The dynamic checklist of deliberative refinement: what a good response to this one instruction must show.

Three to eight weighted items (TICK, arXiv 2410.03608): rules that follow from the instruction's domain, language,
verifier and wording, and, where a model writes them, questions about this instruction alone. An item that must pass
vetoes acceptance whatever the score.
"""

import re
from collections.abc import Sequence
from typing import NamedTuple

from nanbeige_core.rl.prompts import PromptRow

BRIEF = re.compile(r"\b(briefly|one sentence|one word|in short|tell me)\b|一句|简单|简短", re.IGNORECASE)
STEPS = re.compile(r"\b(step by step|show your work|explain|why)\b|步骤|解释|为什么", re.IGNORECASE)
CODE_WORDS = re.compile(r"\b(function|python|program|def)\b|函数|程序", re.IGNORECASE)
TOOL_WORDS = re.compile(r"\b(use|call)\b.*\b(tool|calculator)\b|工具计算|调用", re.IGNORECASE)


MOST_ITEMS = 8
ASKED = "asked_"
"""Checks that begin so are questions a model judge answers."""


class Item(NamedTuple):
    """One question about a response. `check` names the rule or judge that answers it."""

    check: str
    weight: float
    must_pass: bool
    text: str


def build_checklist(row: PromptRow, questions: Sequence[str] = ()) -> list[Item]:
    """Derive the checklist of one instruction: its rules, then as many written questions as there is room for."""
    items = [Item("well_formed", 2.0, True, "One closed think block, then an answer.")]
    items += _domain_items(row)
    items.append(Item("language", 1.0, row.language == "zh", f"Answers in the prompt's language ({row.language})."))
    items.append(Item("no_repetition", 1.0, True, "Does not repeat itself."))
    items.append(Item("length", 1.0, False, "Stays within the length limit."))
    if row.domain == "general" and BRIEF.search(row.prompt):
        items.append(Item("brief", 1.0, False, "Is as short as the instruction asks."))
    if STEPS.search(row.prompt):
        items.append(Item("shows_reasoning", 1.0, False, "Gives reasons before the answer."))
    asked = [Item(f"{ASKED}{number}", 1.0, False, text) for number, text in enumerate(questions, start=1)]
    return items + asked[: MOST_ITEMS - len(items)]


def _domain_items(row: PromptRow) -> list[Item]:
    if row.verifier == "code":
        return [
            Item("verified", 4.0, True, "Passes every test."),
            Item("code_parses", 1.0, True, "The program parses."),
        ]
    if row.domain == "agent" and row.verifier == "math" and TOOL_WORDS.search(row.prompt):
        return [
            Item("verified", 4.0, True, "The call computes what was asked."),
            Item("tool_call", 2.0, True, "One tool call in valid JSON with name and arguments."),
        ]
    if row.verifier == "math":
        return [
            Item("verified", 4.0, True, "The final answer is right."),
            Item("boxed", 1.0, False, "The final answer is in a box."),
        ]
    topic = Item("on_topic", 2.0, True, "Takes up what the instruction is about.")
    if CODE_WORDS.search(row.prompt):
        return [topic, Item("code_parses", 1.0, False, "The program parses.")]
    return [topic]
