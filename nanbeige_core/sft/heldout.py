"""Exact match on held-out problems before and after a stage, and its table by domain."""

import json
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerFast

from nanbeige_core.contract import Gain, Job, Section
from nanbeige_core.evals.exact_match import Attempt, Scores, gain, measure
from nanbeige_core.evals.records import write_records
from nanbeige_core.generate.engines import open_engine
from nanbeige_core.launch.ranks import barrier, gather_objects, rank
from nanbeige_core.recipe.configs.sft import HeldoutConfig
from nanbeige_core.rl.prompts import load_prompts
from nanbeige_core.rl.scoring import Scorer

MEASURE = "heldout_exact_match"
VERIFIABLE = ("math", "code")
"""Verifiers that give right or wrong without a judge."""
RECORD = "heldout.json"
"""Every held-out response of a checkpoint, beside its weights."""


def measure_input(job: Job, heldout: HeldoutConfig) -> Scores:
    """Return what the stage's input checkpoint scores on the held-out problems; collective, equal on every rank.

    A checkpoint that measured itself in the same way when it was made is not measured again.
    """
    checkpoint = job.inputs["checkpoint"].path
    recorded = gather_objects(_read(checkpoint / RECORD, _key(job, heldout)))[0]
    return recorded if recorded is not None else _measure(job, heldout, checkpoint)


def measure_output(job: Job, heldout: HeldoutConfig) -> Scores:
    """Return what the saved checkpoint scores, and keep every response beside it; collective, equal on every rank."""
    scores = _measure(job, heldout, job.work)
    if rank() == 0:
        content = {"how": _key(job, heldout), **scores._asdict()}
        (job.work / RECORD).write_text(json.dumps(content, ensure_ascii=False) + "\n", encoding="utf-8")
        write_records(job.work, {MEASURE: scores.by_problem()})
    barrier()
    return scores


def _key(job: Job, heldout: HeldoutConfig) -> dict[str, Any]:
    fingerprints = {name: job.inputs[name].fingerprint for name in ("problems", "tokenizer")}
    return {"config": heldout.model_dump(mode="json"), **fingerprints}


def _read(path: Path, key: dict[str, Any]) -> Scores | None:
    if not path.exists():
        return None
    content = json.loads(path.read_text(encoding="utf-8"))
    if content["how"] != key:
        return None
    return Scores(content["prompt_ids"], content["values"], [Attempt(*item) for item in content["attempts"]])


def _measure(job: Job, heldout: HeldoutConfig, checkpoint: Path) -> Scores:
    """Sample and verify; problems are spread evenly over those of the split that a verifier can decide."""
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
    return gain(MEASURE, before, after) if before.values else None


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
