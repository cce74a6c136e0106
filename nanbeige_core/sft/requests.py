"""What refinement asks of a model, each as a conversation with worked turns first, and how its replies are read.

A large model needs no worked turns; they let small ones keep the form too. A reply out of form is no reply: the caller
counts it and goes on without.
"""

import re
from collections.abc import Sequence
from typing import NamedTuple

from nanbeige_core.rl.prompts import PromptRow
from nanbeige_core.sft.chat import Message, split_response

QUESTION_WORDS = range(3, 31)
"""Words of a usable checklist question."""
OVERALL = "Is the response right, complete and to the point?"
"""Asked by every model judge, whatever the checklist holds."""
NUMBERING = re.compile(r"^\s*(?:\d+[.)]|[-*•])\s*")
YES_NO = re.compile(r"^\W*(yes|no|是|否|不)\b|^\W*(是|否|不)", re.IGNORECASE)
CHAIN = re.compile(r"Summary:\s*(?P<summary>.+?)\s*\n\s*Reasoning:\s*(?P<reasoning>.+)", re.DOTALL | re.IGNORECASE)
PLAIN_HINTS = {
    "math": "Work out the answer in one or two short lines and end with it in \\boxed{}.",
    "code": "Answer with one Python function in a ```python code block and nothing else.",
}
PLAIN_TURNS: dict[str, tuple[tuple[str, str], ...]] = {
    "math": (
        ("What is 20+14?", "20 + 14 = 34.\n\\boxed{34}"),
        ("A force of 3 N acts over 5 m. What is the work in joules?", "W = F * s = 3 * 5 = 15.\n\\boxed{15}"),
    ),
    "code": (
        (
            "Write a Python function f(x) that returns x times 3.",
            "```python\ndef f(x):\n    return x * 3\n```",
        ),
    ),
}


class Completed(NamedTuple):
    """A chain of thought as its writer gave it."""

    summary: str
    reasoning: str


def _turns(pairs: Sequence[tuple[str, str]]) -> list[Message]:
    return [
        turn
        for ask, reply in pairs
        for turn in ({"role": "user", "content": ask}, {"role": "assistant", "content": reply})
    ]


def ask_plainly(row: PromptRow) -> list[Message]:
    """Return an instruction for a model that does not know the project's format: what a verifier needs, by example."""
    hint = PLAIN_HINTS.get(row.verifier)
    lead: list[Message] = [{"role": "system", "content": hint}] if hint else []
    return [*lead, *_turns(PLAIN_TURNS.get(row.verifier, ())), {"role": "user", "content": row.prompt}]


def ask_checklist(row: PromptRow, count: int) -> list[Message]:
    """Ask for yes-or-no questions that tell a good response to this one instruction (TICK, arXiv 2410.03608)."""

    def wanted(instruction: str) -> str:
        return (
            f"Instruction: {instruction}\n\nWrite {count} yes-or-no questions, one a line, that check whether a "
            "response follows this instruction."
        )

    shown = [
        (wanted("Name two fruits."), "Does the response name two things?\nAre both of them fruits?"),
        (
            wanted("Explain in one sentence why ice floats."),
            "Is the response a single sentence?\nDoes it say that ice is less dense than water?",
        ),
    ]
    return [*_turns(shown), {"role": "user", "content": wanted(row.prompt)}]


def read_checklist(reply: str, count: int) -> list[str]:
    """Return at most `count` distinct questions of a reply; none where it holds none."""
    questions: list[str] = []
    for line in split_response(reply).answer.splitlines():
        text = NUMBERING.sub("", line).strip()
        known = text.lower() in (question.lower() for question in questions)
        if text.endswith(("?", "？")) and len(text.split()) in QUESTION_WORDS and not known:
            questions.append(text)
    return questions[:count]


def ask_judgement(row: PromptRow, response: str, question: str) -> list[Message]:
    """Ask one yes-or-no question about a response; its reasoning is not shown."""

    def wanted(instruction: str, shown: str, asked: str) -> str:
        return f"Instruction: {instruction}\n\nResponse: {shown}\n\n{asked} Answer yes or no."

    examples = [
        (wanted("What is 3+4?", "9", OVERALL), "no"),
        (wanted("Name a fruit.", "Apple.", "Does the response name a fruit?"), "yes"),
    ]
    answer = split_response(response).answer
    return [*_turns(examples), {"role": "user", "content": wanted(row.prompt, answer, question)}]


def read_judgement(reply: str) -> bool | None:
    """Return what a judge said, None when it said neither yes nor no."""
    found = YES_NO.match(split_response(reply).answer)
    return None if found is None else found.group(0).strip("\"'*.(: \n").lower() in ("yes", "是")


def ask_critique(row: PromptRow, response: str, failed: Sequence[str]) -> list[Message]:
    """Ask what is wrong with a response and how to mend it, given the questions it failed."""
    points = "".join(f"\n- {text}" for text in failed)
    content = (
        f"Instruction: {row.prompt}\n\nResponse: {split_response(response).answer}\n\n"
        f"The response did not satisfy:{points or ' its reader'}\n\n"
        "Say in one or two sentences what is wrong with it and what a better response would do."
    )
    return [{"role": "user", "content": content}]


def ask_chain(row: PromptRow, solution: str) -> list[Message]:
    """Give prompt and final solution; ask for a short summary of the reasoning, then for the reasoning itself."""

    def wanted(prompt: str, final: str) -> str:
        return (
            f"{prompt}\n\nFinal solution: {final}\n\nWrite a line that starts with Summary: and gives the idea in a "
            "few words. Then write Reasoning: and the reasoning step by step, so that it ends in exactly this "
            "solution. Write as if you had found it yourself; do not mention that you have it."
        )

    shown = [
        (
            wanted("What is 30+12?", "\\boxed{42}"),
            "Summary: add the tens, then the ones.\n"
            "Reasoning: 30 and 10 make 40, 2 more make 42, so the result is \\boxed{42}",
        ),
        (
            wanted("Which planet is known for its rings?", "Saturn"),
            "Summary: recall the planets with rings.\nReasoning: Several planets have faint rings, but only one has "
            "wide bright ones that are seen in every picture of it: Saturn",
        ),
    ]
    return [*_turns(shown), {"role": "user", "content": wanted(row.prompt, solution)}]


def read_chain(reply: str) -> Completed | None:
    """Return the summary and the reasoning of a reply, None when it has not both."""
    found = CHAIN.search(split_response(reply).answer)
    return found and Completed(found["summary"].strip(), found["reasoning"].strip())
