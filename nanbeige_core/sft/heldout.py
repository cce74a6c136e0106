"""Exact match on held-out problems before and after a stage, and its table by domain."""

from pathlib import Path

from transformers import PreTrainedTokenizerFast

from nanbeige_core.contract import Gain, Job, Section
from nanbeige_core.evals.exact_match import Scores, gain, measure
from nanbeige_core.generate.engines import open_engine
from nanbeige_core.recipe.configs.sft import HeldoutConfig
from nanbeige_core.rl.prompts import load_prompts
from nanbeige_core.rl.scoring import Scorer

VERIFIABLE = ("math", "code")
"""Verifiers that give right or wrong without a judge."""


def measure_heldout(job: Job, heldout: HeldoutConfig, checkpoint: Path) -> Scores:
    """Sample a checkpoint on the stage's held-out problems and verify; collective, equal on every rank.

    Problems are spread evenly over those of the split that a verifier can decide.
    """
    rows = load_prompts(job.inputs["problems"].path, splits={heldout.split})
    rows = [row for row in rows if row.verifier in VERIFIABLE]
    count = min(heldout.problems, len(rows))
    chosen = [rows[index * len(rows) // count] for index in range(count)]
    if not chosen:
        return Scores([], [], [])
    tokenizer = PreTrainedTokenizerFast.from_pretrained(job.inputs["tokenizer"].path)
    engine = open_engine(checkpoint, job.inputs["tokenizer"].path, job.runtime)
    with Scorer(cache=job.cache, workers=1) as scorer:
        return measure(engine, tokenizer, chosen, heldout.sampling, scorer, n=heldout.samples, seed=heldout.seed)


def heldout_gain(before: Scores, after: Scores) -> Gain | None:
    """Return the paired gain with its 95 % interval, None when nothing was measured."""
    return gain("heldout_exact_match", before, after) if before.values else None


def domain_table(before: Scores, after: Scores) -> Section:
    """Return held-out exact match by domain, before and after, with what else happened to the responses."""
    domains = sorted({attempt.domain for attempt in after.attempts})
    table = [
        {
            "domain": domain,
            "problems": len({attempt.prompt_id for attempt in after.attempts if attempt.domain == domain}),
            "before": _share(before, domain),
            "after": _share(after, domain),
            "truncated before": _truncated(before, domain),
            "truncated after": _truncated(after, domain),
            "unscored after": sum(a.outcome == "unscored" for a in after.attempts if a.domain == domain),
        }
        for domain in domains
    ]
    return Section(
        title="Held-out exact match by domain",
        text="Share of scored responses that are right; a truncated response is wrong.",
        table=table,
    )


def _share(scores: Scores, domain: str) -> float:
    scored = [a for a in scores.attempts if a.domain == domain and a.outcome != "unscored"]
    return sum(attempt.outcome == "correct" for attempt in scored) / max(1, len(scored))


def _truncated(scores: Scores, domain: str) -> int:
    return sum(attempt.truncated for attempt in scores.attempts if attempt.domain == domain)
