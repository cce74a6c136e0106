"""One problem as every family makes it, and the keys that keep splits apart."""

import hashlib
import json
import re
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import Any, Literal

Domain = Literal["math", "science", "code", "general", "agent"]
Language = Literal["en", "zh"]
VerifierName = Literal["math", "code", "pairwise"]

RESERVED_PERCENT = 20
"""Share of operand groups that only the held-out and evaluation splits may use."""


@dataclass(frozen=True)
class Problem:
    """A prompt, its reference response and what its verifier needs.

    `group` names the operands (`sum:12,47`): two problems with one group are the same task in other words.
    """

    domain: Domain
    language: Language
    prompt: str
    reasoning: str
    answer: str
    verifier: VerifierName
    source: str
    group: str
    spec: dict[str, Any] = field(default_factory=dict[str, Any])

    def row(self, split: str) -> dict[str, str]:
        """Return the problem as a row of `prompts.parquet`."""
        return {
            "id": f"{self.domain}-{digest(question_key(self.prompt))[:16]}",
            "domain": self.domain,
            "split": split,
            "language": self.language,
            "prompt": self.prompt,
            "reasoning": self.reasoning,
            "answer": self.answer,
            "verifier": self.verifier,
            "spec": json.dumps(self.spec, ensure_ascii=False, sort_keys=True),
            "source": self.source,
            "group": self.group,
        }


Generate = Callable[[Random, Language], Problem | None]
"""Draw one problem; None when the drawn operands do not suit the family."""


@dataclass(frozen=True)
class Family:
    """A named generator. Easy families are what a small model learns first."""

    name: str
    domain: Domain
    generate: Generate
    weight: float = 1.0
    easy: bool = False


def boxed(value: int | str) -> str:
    """Write a final answer the way the recipe asks for."""
    return f"\\boxed{{{value}}}"


def digest(text: str) -> str:
    """Return the hexadecimal SHA-256 of `text`."""
    return hashlib.sha256(text.encode()).hexdigest()


def question_key(text: str) -> str:
    """Normalise a question so that spacing, case, width and punctuation cannot hide a repetition."""
    plain = unicodedata.normalize("NFKC", text).lower()
    return re.sub(r"[\s.,;:!?。，；：！？、\"'“”‘’`]+", "", plain)


def is_reserved(group: str) -> bool:
    """Say whether only held-out and evaluation splits may use this operand group."""
    return int(digest("reserve " + group)[:8], 16) % 100 < RESERVED_PERCENT
