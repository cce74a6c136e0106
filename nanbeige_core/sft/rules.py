"""The checklist items that a rule can decide from prompt and response alone."""

import ast
import json
import re
from collections.abc import Callable

from nanbeige_core.rl.prompts import PromptRow
from nanbeige_core.sft.chat import is_well_formed, split_response

WORD = re.compile(r"[a-zA-Z]+|\d+|[\u4e00-\u9fff]")
CHINESE = re.compile(r"[\u4e00-\u9fff]")
LATIN_WORD = re.compile(r"[a-zA-Z]{2,}")
FENCE = re.compile(r"```(?:python)?\n(.*?)(?:```|$)", re.DOTALL)
TOOL_CALL = re.compile(r"<tool_call>\s*(.*?)\s*</tool_call>", re.DOTALL)
NOT_PROSE = re.compile(r"```.*?(?:```|$)|<tool_call>.*?</tool_call>|\\[a-zA-Z]+", re.DOTALL)
"""Programs, tool calls and TeX commands have no language."""
REPEATED_GRAM = 6
"""Words in a row that may not occur three times."""
BRIEF_WORDS = 40
SHORT_WORDS = frozenset({"the", "what", "and", "for", "you", "with", "this", "that", "are", "can", "one", "about"})

Rule = Callable[[PromptRow, str, int], bool]
"""(prompt row, response text, longest words) -> passes."""


def words(text: str) -> list[str]:
    """Split into words; a Chinese character counts as one."""
    return [word.lower() for word in WORD.findall(text)]


def program_text(answer: str) -> str:
    """Return the first fenced block of an answer, or all of it."""
    fenced = FENCE.search(answer)
    return fenced.group(1) if fenced else answer


def repeats_itself(text: str) -> bool:
    """Tell whether six words in a row occur three times or more; numbers and code are words too."""
    found = words(text)
    grams: dict[tuple[str, ...], int] = {}
    for start in range(len(found) - REPEATED_GRAM + 1):
        gram = tuple(found[start : start + REPEATED_GRAM])
        grams[gram] = grams.get(gram, 0) + 1
    return max(grams.values(), default=0) >= 3


def matches_language(prompt_language: str, text: str) -> bool:
    """Tell whether prose is in the prompt's language; a response without prose, such as a number, always is."""
    prose = NOT_PROSE.sub(" ", text)
    chinese, latin = len(CHINESE.findall(prose)), len(LATIN_WORD.findall(prose))
    if prompt_language == "zh":
        return chinese > 0 or latin == 0
    return chinese <= latin


def _parses(row: PromptRow, text: str, longest: int) -> bool:
    del row, longest
    program = program_text(split_response(text).answer)
    try:
        return bool(ast.parse(program).body)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False


def _calls_tool(row: PromptRow, text: str, longest: int) -> bool:
    del row, longest
    calls = TOOL_CALL.findall(split_response(text).answer)
    try:
        call = json.loads(calls[0]) if len(calls) == 1 else None
    except json.JSONDecodeError:
        return False
    return isinstance(call, dict) and {"name", "arguments"} <= set(call)


def _on_topic(row: PromptRow, text: str, longest: int) -> bool:
    """Pass when the answer shares a content word, or two Chinese characters, with the prompt."""
    del longest
    shared = set(words(row.prompt)) & set(words(split_response(text).answer)) - SHORT_WORDS
    return any(len(word) > 2 for word in shared) or sum(bool(CHINESE.match(word)) for word in shared) >= 2


RULES: dict[str, Rule] = {
    "well_formed": lambda row, text, longest: is_well_formed(text),
    "language": lambda row, text, longest: matches_language(row.language, split_response(text).answer),
    "no_repetition": lambda row, text, longest: not repeats_itself(text),
    "length": lambda row, text, longest: 0 < len(words(text)) <= longest,
    "brief": lambda row, text, longest: len(words(split_response(text).answer)) <= BRIEF_WORDS,
    "shows_reasoning": lambda row, text, longest: bool(split_response(text).reasoning),
    "code_parses": _parses,
    "tool_call": _calls_tool,
    "boxed": lambda row, text, longest: "\\boxed{" in split_response(text).answer,
    "on_topic": _on_topic,
}
