"""CoT reconstruction: editing an answer breaks the reasoning behind it, so a chain that leads to it is found anew.

A chain-completion model reads prompt and final solution, writes a short summary and then the full chain, or, where it
is too small for that, solves the problem again. A chain is accepted only if it reaches the same final answer, does not
mention that it was given the solution, says more than prompt and solution do, and makes the solution more likely than
no chain does (REER, arXiv 2509.06160).
"""

import re
from collections.abc import Sequence
from typing import NamedTuple

from nanbeige_core.recipe.configs.sft import RefinementConfig
from nanbeige_core.rl.prompts import PromptRow
from nanbeige_core.rl.scoring import Answered, Scorer
from nanbeige_core.sft.chat import Message, render_response, split_response
from nanbeige_core.sft.evaluators import same_answer
from nanbeige_core.sft.heldout import VERIFIABLE
from nanbeige_core.sft.likelihood import Likelihood, Passage
from nanbeige_core.sft.requests import ask_chain, read_chain
from nanbeige_core.sft.rules import words
from nanbeige_core.sft.sampling import Drawn, Writer, ask

LEAK = re.compile(
    r"\b(given|provided|reference|known) (solution|answer)\b|\bsolution (is|was) (given|provided)\b|"
    r"\bas (given|provided) above\b|给定的?(答案|解答)|参考答案|已知答案|题目给出的答案",
    re.IGNORECASE,
)
"""A chain that says it was given the solution."""
OWN_WORDS = 3
"""Words of a chain written from the solution that stand neither in the prompt nor in the solution, at least."""


class Target(NamedTuple):
    """A refined response whose reasoning is to be found anew; `verified` is its verdict."""

    row: PromptRow
    text: str
    verified: str


class Chain(NamedTuple):
    """The reasoning that was accepted. `gain` is in nats per answer token; `origin` is own or reconstructed."""

    reasoning: str
    origin: str
    gain: float
    summary: str = ""


class Candidate(NamedTuple):
    """A chain before it is judged. `reached` is the text whose final answer must be the target's."""

    target: int
    origin: str
    reasoning: str
    reached: str
    summary: str = ""


class Reconstruction(NamedTuple):
    """The accepted chain, if any, and why the other chains fell."""

    chain: Chain | None
    rejections: list[str]


def reconstruct(
    targets: Sequence[Target],
    writer: Writer,
    likelihood: Likelihood,
    scorer: Scorer,
    config: RefinementConfig,
    *,
    seed: int,
) -> list[Reconstruction]:
    """Draw chains for every target and accept the one that lowers the answer's perplexity most.

    The response's own reasoning competes under the same rules, since it was written together with its answer.
    """
    conversations = [chain_turns(target, config) for target in targets]
    drawn = writer.draw(conversations, config.sampling, n=config.reconstructions, seed=seed)
    results = [Reconstruction(None, []) for _ in targets]
    candidates: list[Candidate] = []
    for at, (target, items) in enumerate(zip(targets, drawn, strict=True)):
        own = split_response(target.text).reasoning
        if own:
            candidates.append(Candidate(at, "own", own, target.text))
        read = [_read(at, item, config) for item in items]
        results[at].rejections.extend("malformed" for candidate in read if candidate is None)
        candidates += [candidate for candidate in read if candidate is not None]
    kept = _screen(targets, candidates, results, scorer, config)
    return _choose(targets, kept, results, likelihood)


def chain_turns(target: Target, config: RefinementConfig) -> list[Message]:
    """Return the conversation that the chain-completion model continues."""
    if config.chain_prompt == "prompt":
        return ask(target.row)
    return ask_chain(target.row, split_response(target.text).answer)


def _read(at: int, item: Drawn, config: RefinementConfig) -> Candidate | None:
    """Return what a writer's turn holds; None when it is cut off or out of form."""
    if config.chain_prompt == "prompt":
        return Candidate(at, "reconstructed", split_response(item.text).reasoning, item.text) if item.usable else None
    completed = read_chain(item.text) if item.trainable and not item.truncated else None
    return completed and Candidate(at, "reconstructed", completed.reasoning, completed.reasoning, completed.summary)


def _screen(
    targets: Sequence[Target],
    candidates: list[Candidate],
    results: list[Reconstruction],
    scorer: Scorer,
    config: RefinementConfig,
) -> list[Candidate]:
    """Drop chains that leak, only restate, or reach another answer; return the rest."""
    agrees = _agreements(targets, candidates, scorer, config)
    kept: list[Candidate] = []
    for candidate, agree in zip(candidates, agrees, strict=True):
        target = targets[candidate.target]
        rejections = results[candidate.target].rejections
        if not candidate.reasoning:
            rejections.append("empty")
        elif LEAK.search(candidate.reasoning):
            rejections.append("mentions_solution")
        elif not agree:
            rejections.append("other_answer")
        elif config.chain_prompt == "prompt_and_solution" and candidate.origin != "own" and restates(candidate, target):
            rejections.append("restates_solution")
        else:
            kept.append(candidate)
    return kept


def restates(candidate: Candidate, target: Target) -> bool:
    """Tell whether a chain says nothing beyond prompt and solution: of course it makes the solution likely."""
    known = {*words(target.row.prompt), *words(split_response(target.text).answer)}
    return len(set(words(candidate.reasoning)) - known) < OWN_WORDS


def reaches(reasoning: str, answer: str) -> bool:
    """Tell whether a chain ends in an answer's own text, spacing, case and a final full stop aside."""
    end, wanted = ("".join(text.split()).lower().rstrip(".。") for text in (reasoning, answer))
    return bool(wanted) and end.endswith(wanted)


def _agreements(
    targets: Sequence[Target], candidates: list[Candidate], scorer: Scorer, config: RefinementConfig
) -> list[bool]:
    """Tell for each candidate whether it reaches its target's answer: by verifier where there is one."""
    told = config.chain_prompt == "prompt_and_solution"

    def agree(candidate: Candidate) -> bool:
        text = targets[candidate.target].text
        if candidate.origin == "own":
            return True
        return reaches(candidate.reached, split_response(text).answer) if told else same_answer(candidate.reached, text)

    agrees = [agree(candidate) for candidate in candidates]
    asked = [
        place
        for place, candidate in enumerate(candidates)
        if not agrees[place]
        and targets[candidate.target].verified == "correct"
        and targets[candidate.target].row.verifier in VERIFIABLE
    ]
    rows = [targets[candidates[place].target].row for place in asked]
    verdicts = scorer.score(rows, [Answered(candidates[place].reached, False) for place in asked])
    for place, verdict in zip(asked, verdicts, strict=True):
        agrees[place] = verdict.outcome == "correct"
    return agrees


def _choose(
    targets: Sequence[Target],
    kept: list[Candidate],
    results: list[Reconstruction],
    likelihood: Likelihood,
) -> list[Reconstruction]:
    """Accept for each target the chain with the largest gain above zero."""
    plain = likelihood.score([_passage(target, "") for target in targets])
    with_chain = likelihood.score([_passage(targets[candidate.target], candidate.reasoning) for candidate in kept])
    best: dict[int, Chain] = {}
    for candidate, score in zip(kept, with_chain, strict=True):
        at, base = candidate.target, plain[candidate.target]
        if base is None or score is None:
            results[at].rejections.append("too_long")
        elif score <= base:
            results[at].rejections.append("no_perplexity_gain")
        elif at not in best or score - base > best[at].gain:
            best[at] = Chain(candidate.reasoning, candidate.origin, score - base, candidate.summary)
    return [Reconstruction(best.get(at), result.rejections) for at, result in enumerate(results)]


def _passage(target: Target, reasoning: str) -> Passage:
    return Passage(ask(target.row), render_response(reasoning, ""), split_response(target.text).answer)
