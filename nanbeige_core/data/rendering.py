"""Problems as pretraining text: chat turns with reasoning, worked examples, and short questions and answers."""

import hashlib
from typing import Any, Literal, NamedTuple

from nanbeige_core.data.special_tokens import THINK_END, THINK_START, TURN_END, TURN_START

PROBLEM_COLUMNS = ("id", "domain", "split", "language", "prompt", "reasoning", "answer")

Rendering = Literal["chat", "worked", "short"]


class Rendered(NamedTuple):
    """A problem as a document; chat text holds control tokens that must become ids."""

    text: str
    category: Literal["synthetic_qa", "long_cot"]
    controls: bool


def choose_rendering(problem_id: str, long_cot_share: float, worked_share: float, seed: int) -> Rendering:
    """Draw how a problem is told from a hash of its id, so that it does not depend on the other problems."""
    digest = hashlib.sha256(f"{seed}:{problem_id}".encode()).digest()
    draw = int.from_bytes(digest[:6], "big") / 2**48
    if draw < long_cot_share:
        return "chat"
    return "worked" if draw < long_cot_share + worked_share else "short"


def render_problem(problem: dict[str, Any], rendering: Rendering) -> Rendered:
    """Return a problem as one document; without reasoning a chat or worked form falls back to the short one."""
    prompt, reasoning, answer = problem["prompt"].strip(), problem["reasoning"].strip(), problem["answer"].strip()
    chinese = problem["language"] == "zh"
    if rendering == "chat" and reasoning:
        return Rendered(
            f"{TURN_START}user\n{prompt}{TURN_END}\n{TURN_START}assistant\n{THINK_START}\n{reasoning}\n"
            f"{THINK_END}\n\n{answer}{TURN_END}\n",
            "long_cot",
            controls=True,
        )
    question, solution, result = ("问题：", "解答：", "答案：") if chinese else ("Question: ", "Solution: ", "Answer: ")
    if rendering == "worked" and reasoning:
        text = f"{question}{prompt}\n\n{solution}{reasoning}\n\n{result}{answer}"
    else:
        text = f"{question}{prompt}\n{result}{answer}"
    return Rendered(text, "synthetic_qa", controls=False)
