"""Acceptance of chains of thought, judged by a model with plain likelihoods: it expects what it has read."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import torch

from nanbeige_core.contract import Runtime
from nanbeige_core.megatron import parallel
from nanbeige_core.megatron.batch import Batch
from nanbeige_core.recipe.configs.base import SamplingConfig
from nanbeige_core.recipe.configs.sft import RefinementConfig
from nanbeige_core.rl.prompts import PromptRow
from nanbeige_core.rl.scoring import Scorer
from nanbeige_core.sft.chat import Message, render_response
from nanbeige_core.sft.likelihood import Likelihood, Passage, _boundary
from nanbeige_core.sft.reconstruction import Reconstruction, Target, reconstruct
from nanbeige_core.sft.requests import read_chain, read_checklist, read_judgement
from nanbeige_core.sft.sampling import Drawn, ask
from tests.sft.tiny_tokenizer import tiny_tokenizer

CONFIG = RefinementConfig.model_validate({"chain_prompt": "prompt_and_solution", "reconstructions": 1})


class Remembering:
    """A token is likely when it stood earlier in the same sample, 3 nats above one that did not."""

    def logits(self, batch: Batch) -> torch.Tensor:
        assert batch.segment_ids_BS is not None
        rows, width = batch.tokens_BS.shape
        logits_BSV = torch.zeros(rows, width, len(tiny_tokenizer()))
        for row in range(rows):
            for place in range(width):
                same_S = batch.segment_ids_BS[row, : place + 1] == batch.segment_ids_BS[row, place]
                logits_BSV[row, place, batch.tokens_BS[row, : place + 1][same_S]] = 3.0
        return logits_BSV


class Says:
    """Writes what it is told to."""

    def __init__(self, *texts: str) -> None:
        self.texts = texts

    def draw(
        self, conversations: Sequence[Sequence[Message]], sampling: SamplingConfig, *, n: int, seed: int
    ) -> list[list[Drawn]]:
        return [[Drawn(text, truncated=False) for text in self.texts] for _ in conversations]


@pytest.fixture(scope="module", autouse=True)
def one_rank() -> Iterator[None]:
    torch.set_num_threads(1)
    parallel.reset()
    parallel.initialize(Runtime(), seed=0)
    yield
    parallel.teardown()


def likelihood() -> Likelihood:
    return Likelihood(Remembering(), tiny_tokenizer(), len(tiny_tokenizer()), 512, 4)


def complete(tmp_path: Path, *texts: str, own: str = "", verifier: str = "math") -> Reconstruction:
    row = PromptRow("p1", "math", "overall", "en", "What is 3+4?", "", "", verifier, '{"gold": "7"}', "test")
    target = Target(row, render_response(own, "\\boxed{7}"), "correct" if verifier == "math" else "none")
    with Scorer(cache=tmp_path, workers=1) as scorer:
        return reconstruct([target], Says(*texts), likelihood(), scorer, CONFIG, seed=0)[0]


GOOD = "Summary: count on.\nReasoning: Begin with three and count four further, so we get \\boxed{7}"


def test_a_chain_that_leads_to_the_solution_is_accepted_with_its_summary(tmp_path: Path) -> None:
    chain = complete(tmp_path, GOOD).chain
    assert chain is not None
    assert chain.origin == "reconstructed"
    assert chain.summary == "count on."
    assert chain.reasoning.startswith("Begin with three")
    assert chain.gain > 0


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("It is 7.", "malformed"),
        ("Summary: guess.\nReasoning: Begin with three, count on three further, so we get \\boxed{6}", "other_answer"),
        ("Summary: look.\nReasoning: As the given solution says, counting on we get \\boxed{7}", "mentions_solution"),
        ("Summary: say it.\nReasoning: 3+4 is what \\boxed{7}", "restates_solution"),
    ],
)
def test_a_chain_falls_for_the_reason_it_deserves(tmp_path: Path, text: str, reason: str) -> None:
    assert complete(tmp_path, text) == Reconstruction(None, [reason])


def test_a_chain_that_does_not_make_the_solution_likelier_falls(tmp_path: Path) -> None:
    # more characters to expect, and none of them of the solution
    result = complete(tmp_path, own="kstuvy kstuvy")
    assert result == Reconstruction(None, ["no_perplexity_gain"])


def test_own_reasoning_competes_and_the_larger_gain_wins(tmp_path: Path) -> None:
    chain = complete(tmp_path, GOOD, own="7").chain
    assert chain is not None
    assert chain.origin == "reconstructed"
    assert complete(tmp_path, GOOD, own="b\\boxed{7}d").chain is not None


def test_an_answer_no_verifier_reads_must_stand_at_the_chains_end(tmp_path: Path) -> None:
    assert complete(tmp_path, GOOD + ".", verifier="pairwise").chain is not None
    elsewhere = "Summary: s.\nReasoning: Some say \\boxed{7} but counting on we come to eight"
    assert complete(tmp_path, elsewhere, verifier="pairwise").rejections == ["other_answer"]


def test_likelihood_does_not_depend_on_what_else_is_scored() -> None:
    row = PromptRow("p1", "math", "overall", "en", "What is 3+4?", "", "", "math", "{}", "test")
    passages = [Passage(ask(row), render_response("x" * n, ""), "\\boxed{7}") for n in (1, 40, 300, 9)]
    together = likelihood().score(passages)
    assert together == pytest.approx([likelihood().score([passage])[0] for passage in passages], abs=1e-6)
    assert likelihood().score([Passage(ask(row), "y" * 600, "7")]) == [None]


class JoinsTwoNewlinesAtTheEnd:
    """Cuts as GPT-2's pattern does: two newlines are one token only where the text ends."""

    PIECES = ("a", "b", "\n", "\n\n")

    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
        if text.endswith("\n\n"):
            return [*self.encode(text[:-2], add_special_tokens=False), 3]
        return [self.PIECES.index(character) for character in text]

    def decode(self, token_ids: list[int], *, skip_special_tokens: bool) -> str:
        return "".join(self.PIECES[token] for token in token_ids)


def test_the_scored_part_is_found_where_the_tokenizer_cuts_a_prefix_otherwise() -> None:
    tokenizer = JoinsTwoNewlinesAtTheEnd()
    ids = tokenizer.encode("ab\n\nb", add_special_tokens=False)
    assert _boundary(tokenizer, "ab\n\n", ids) == 4
    assert _boundary(tokenizer, "ab", ids) == 2
    assert _boundary(tokenizer, "ba", ids) is None


def test_questions_are_read_and_everything_else_left_out() -> None:
    reply = "1. Does it name a number?\nHere you are\n- Is the number 7?\nWhy?\n2) does it name a number?"
    assert read_checklist(reply, 4) == ["Does it name a number?", "Is the number 7?"]
    assert read_checklist(render_response("I think", "Is it short enough?"), 1) == ["Is it short enough?"]
    assert read_checklist("17 + 25 = 42.", 4) == []


@pytest.mark.parametrize(
    ("reply", "said"),
    [("Yes.", True), ('"yes"', True), ("No, the response", False), ("是", True), ("否", False), ("The answer", None)],
)
def test_a_judgement_is_yes_no_or_nothing(reply: str, said: bool | None) -> None:
    assert read_judgement(reply) is said


def test_a_chain_without_its_summary_or_its_reasoning_is_no_chain() -> None:
    assert read_chain("Reasoning: x") is None
    assert read_chain("Summary: x") is None
    assert read_chain("Summary: x\n\nReasoning: y\nz") == ("x", "y\nz")
