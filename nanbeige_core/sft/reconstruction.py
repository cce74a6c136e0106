"""CoT reconstruction: editing an answer breaks the reasoning behind it, so a chain that leads to it is found anew.

A chain-completion model draws chains; one is accepted only if it reaches the same final answer, does not mention that
it was given the solution, and makes the solution more likely than no chain does (REER, arXiv 2509.06160).
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
from nanbeige_core.sft.sampling import Sampler, ask

LEAK = re.compile(
    r"\b(given|provided|reference|known) (solution|answer)\b|\bsolution (is|was) (given|provided)\b|"
    r"\bas (given|provided) above\b|给定的?(答案|解答)|参考答案|已知答案|题目给出的答案",
    re.IGNORECASE,
)
"""A chain that says it was given the solution."""


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


class Reconstruction(NamedTuple):
    """The accepted chain, if any, and why the other chains fell."""

    chain: Chain | None
    rejections: list[str]


def reconstruct(
    targets: Sequence[Target],
    writer: Sampler,
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
    candidates: list[tuple[int, str, str]] = []
    for at, (target, items) in enumerate(zip(targets, drawn, strict=True)):
        own = split_response(target.text).reasoning
        if own:
            candidates.append((at, "own", own))
        whole = [item for item in items if item.usable]
        results[at].rejections.extend("malformed" for item in items if not item.usable)
        candidates += [(at, "reconstructed", item.text) for item in whole]
    kept = _screen(targets, candidates, results, scorer)
    return _choose(targets, kept, results, likelihood)


def chain_turns(target: Target, config: RefinementConfig) -> list[Message]:
    """Return the conversation that the chain-completion model continues."""
    if config.chain_prompt == "prompt":
        return ask(target.row)
    demand = (
        f"{target.row.prompt}\n\nFinal solution:\n{split_response(target.text).answer}\n\n"
        "Think in a short summary first, then in full, until you reach this solution. Do not mention that you have it."
    )
    return [{"role": "user", "content": demand}]


def _screen(
    targets: Sequence[Target],
    candidates: list[tuple[int, str, str]],
    results: list[Reconstruction],
    scorer: Scorer,
) -> list[tuple[int, str, str]]:
    """Drop chains that leak or reach another answer; return (target, origin, reasoning) of the rest."""
    agrees = _agreements(targets, candidates, scorer)
    kept: list[tuple[int, str, str]] = []
    for (at, origin, text), agree in zip(candidates, agrees, strict=True):
        reasoning = text if origin == "own" else split_response(text).reasoning
        if not reasoning:
            results[at].rejections.append("empty")
        elif LEAK.search(reasoning):
            results[at].rejections.append("mentions_solution")
        elif not agree:
            results[at].rejections.append("other_answer")
        else:
            kept.append((at, origin, reasoning))
    return kept


def _agreements(targets: Sequence[Target], candidates: list[tuple[int, str, str]], scorer: Scorer) -> list[bool]:
    """Tell for each candidate whether it reaches its target's answer: by verifier where there is one."""
    agrees = [origin == "own" or same_answer(text, targets[at].text) for at, origin, text in candidates]
    asked = [
        place
        for place, (at, _, _) in enumerate(candidates)
        if not agrees[place] and targets[at].verified == "correct" and targets[at].row.verifier in VERIFIABLE
    ]
    rows = [targets[candidates[place][0]].row for place in asked]
    verdicts = scorer.score(rows, [Answered(candidates[place][2], False) for place in asked])
    for place, verdict in zip(asked, verdicts, strict=True):
        agrees[place] = verdict.outcome == "correct"
    return agrees


def _choose(
    targets: Sequence[Target],
    kept: list[tuple[int, str, str]],
    results: list[Reconstruction],
    likelihood: Likelihood,
) -> list[Reconstruction]:
    """Accept for each target the chain with the largest gain above zero."""
    plain = likelihood.score([_passage(target, "") for target in targets])
    with_chain = likelihood.score([_passage(targets[at], reasoning) for at, _, reasoning in kept])
    best: dict[int, Chain] = {}
    for (at, origin, reasoning), score in zip(kept, with_chain, strict=True):
        base = plain[at]
        if base is None or score is None:
            results[at].rejections.append("too_long")
        elif score <= base:
            results[at].rejections.append("no_perplexity_gain")
        elif at not in best or score - base > best[at].gain:
            best[at] = Chain(reasoning, origin, score - base)
    return [Reconstruction(best.get(at), result.rejections) for at, result in enumerate(results)]


def _passage(target: Target, reasoning: str) -> Passage:
    return Passage(ask(target.row), render_response(reasoning, ""), split_response(target.text).answer)
