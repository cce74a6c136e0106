"""The pairwise judge: a small generative reward model whose verdict is one token, "A" or "B".

P(A is better) = (P(A | A first) + P(B | B first)) / 2 with P over the two verdict tokens at the first position of
the reply, so that a preference for a position cancels. Shapes: P prompts.
"""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from transformers import PreTrainedTokenizerFast

from nanbeige_core.contract import Runtime
from nanbeige_core.generate.transformers_engine import TransformersEngine
from nanbeige_core.sft.chat import render_prompt, split_response

VERDICT_FILE = "verdict.json"
TEMPLATE = "Question: {prompt}\n\nA: {answer_a}\n\nB: {answer_b}\n\nWhich answer is better, A or B?"


class Verdicts(NamedTuple):
    """Win probabilities of A in both orders; nan where the comparison does not fit the window."""

    a_first: list[float]
    b_first: list[float]

    @property
    def averaged(self) -> list[float]:
        """Return the mean over both orders."""
        return [(first + second) / 2 for first, second in zip(self.a_first, self.b_first, strict=True)]


def comparison_text(prompt: str, answer_a: str, answer_b: str) -> str:
    """Render the judge's whole input up to the point where its verdict stands."""
    content = TEMPLATE.format(prompt=prompt, answer_a=answer_a, answer_b=answer_b)
    return render_prompt([{"role": "user", "content": content}])


def verdict_tokens(tokenizer: PreTrainedTokenizerFast) -> tuple[int, int]:
    """Return the ids of the verdicts A and B as they are encoded after the assistant's header.

    Raises ValueError when a verdict is not exactly one token there: its probability would not be one softmax entry.
    """
    stem = comparison_text("", "", "")
    before: list[int] = tokenizer.encode(stem, add_special_tokens=False)
    found: list[int] = []
    for verdict in ("A", "B"):
        ids: list[int] = tokenizer.encode(stem + verdict, add_special_tokens=False)
        if len(ids) != len(before) + 1 or ids[:-1] != before:
            raise ValueError(
                f"the verdict {verdict!r} is encoded as {ids[len(before) :]} after the assistant's header, expected "
                "one token: the judge reads one softmax entry. Train the tokenizer with single letters as pieces."
            )
        found.append(ids[-1])
    return found[0], found[1]


def judged_answer(text: str) -> str:
    """Return the part of a response that is judged: what stands after the thinking."""
    return split_response(text).answer


class PairwiseJudge:
    """Compare answers with a trained reward model."""

    def __init__(self, engine: TransformersEngine, token_a: int, token_b: int) -> None:
        self.engine = engine
        self._tokens = (token_a, token_b)

    @classmethod
    def open(cls, reward_model_dir: Path, tokenizer_dir: Path, runtime: Runtime) -> "PairwiseJudge":
        """Load a RewardModel artifact; `verdict.json` names its two verdict tokens.

        The judge runs in process whatever `runtime.engine` samples with: it reads logits, it does not sample.
        """
        del runtime
        verdict = json.loads((reward_model_dir / VERDICT_FILE).read_text())
        engine = TransformersEngine.open(reward_model_dir, tokenizer_dir)
        return cls(engine, verdict["token_a"], verdict["token_b"])

    def win_probability(
        self, prompts: Sequence[str], answers_a: Sequence[str], answers_b: Sequence[str]
    ) -> list[float]:
        """Return the probability that A is better for each triple, both orders averaged.

        nan marks a comparison that does not fit the model's window: unscored, not lost.
        """
        return self.verdicts(prompts, answers_a, answers_b).averaged

    def verdicts(self, prompts: Sequence[str], answers_a: Sequence[str], answers_b: Sequence[str]) -> Verdicts:
        """Return the probability that A is better in each order."""
        count = len(prompts)
        texts = [comparison_text(*triple) for triple in zip(prompts, answers_a, answers_b, strict=True)]
        texts += [comparison_text(*triple) for triple in zip(prompts, answers_b, answers_a, strict=True)]
        first = self._first_wins(texts)
        return Verdicts(first[:count], [1 - probability for probability in first[count:]])

    def _first_wins(self, texts: Sequence[str]) -> list[float]:
        encoded = [self.engine.tokenizer.encode(text, add_special_tokens=False) for text in texts]
        fitting = [index for index, ids in enumerate(encoded) if len(ids) < self.engine.window]
        probabilities = [math.nan] * len(texts)
        logits_P2 = self.engine.next_logits([encoded[index] for index in fitting], self._tokens)
        for index, value in zip(fitting, torch.softmax(logits_P2, dim=-1)[:, 0].tolist(), strict=True):
            probabilities[index] = value
        return probabilities
