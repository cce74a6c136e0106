"""How many problems each part of the recipe finds in a PromptSet, and how long they are expected to be."""

from collections.abc import Collection, Mapping

from nanbeige_core.recipe.configs.problems import DomainCounts, ProblemsConfig
from nanbeige_core.recipe.configs.rl import Domain
from nanbeige_core.recipe.price.ranges import Range
from nanbeige_core.recipe.price.rates import Assumptions

SPLITS = ("pretrain", "sft", "overall", "rl", "heldout", "eval")
VERIFIED = ("math", "science", "code", "agent")
"""Domains whose problems carry a verifier that gives right or wrong."""
STAGE_DOMAINS: Mapping[Domain, frozenset[str]] = {
    "stem": frozenset({"math", "science"}),
    "coding": frozenset({"code"}),
    "preference": frozenset({"general"}),
}
"""Problem domains of each RL stage; `rl.prompts.STAGE_DOMAINS` is what runs, and a test holds the two together."""


def split_counts(config: ProblemsConfig, splits: Collection[str]) -> dict[str, int]:
    """Return the problems of some splits by domain."""
    chosen: list[DomainCounts] = [getattr(config, split) for split in splits]
    return {domain: sum(getattr(counts, domain) for counts in chosen) for domain in DomainCounts.model_fields}


def count_problems(
    config: ProblemsConfig, splits: Collection[str], domains: Collection[str] | None = None, *, limit: int | None = None
) -> int:
    """Return how many problems of some splits and domains there are, at most `limit`."""
    counts = split_counts(config, splits)
    found = sum(count for domain, count in counts.items() if domains is None or domain in domains)
    return found if limit is None else min(found, limit)


def mean_problem_tokens(
    config: ProblemsConfig, splits: Collection[str], assume: Assumptions, *, domains: Collection[str] | None = None
) -> Range:
    """Return the mean tokens of a problem with its answer and the chat format around them."""
    return mean_of_domains(_chosen(config, splits, domains), assume)


def mean_prompt_tokens(
    config: ProblemsConfig, splits: Collection[str], assume: Assumptions, *, domains: Collection[str] | None = None
) -> Range:
    """Return the mean tokens of a problem's prompt in the chat format."""
    counts = _chosen(config, splits, domains)
    return _weighted(counts, {name: each.prompt for name, each in assume.problem_tokens.items()}, assume)


def mean_of_domains(counts: Mapping[str, float], assume: Assumptions) -> Range:
    """Return the mean tokens of samples that stand in these proportions, chat format included."""
    lengths = {name: each.prompt + each.answer for name, each in assume.problem_tokens.items()}
    return _weighted(counts, lengths, assume)


def _chosen(config: ProblemsConfig, splits: Collection[str], domains: Collection[str] | None) -> dict[str, int]:
    return {
        domain: count for domain, count in split_counts(config, splits).items() if domains is None or domain in domains
    }


def _weighted(counts: Mapping[str, float], lengths: Mapping[str, float], assume: Assumptions) -> Range:
    total = sum(counts.values())
    mean = sum(count * lengths[name] for name, count in counts.items()) / total if total else 0.0
    return assume.problem_length.range * mean + assume.chat_tokens.range
