"""The `sft_data` stage: chat samples for the cold start, each answer checked by its verifier before it is kept."""

import json
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from random import Random
from typing import Any

import pyarrow as pa

from nanbeige_core.contract import Job, Outcome, Section
from nanbeige_core.data.tables import read_rows, write_rows
from nanbeige_core.recipe.configs.problems import SftDataConfig
from nanbeige_core.verify.verdict import Verdict, VerificationRequest, open_verifier

Row = dict[str, Any]
SCHEMA = pa.schema([(name, pa.string()) for name in ("id", "domain", "messages", "source", "prompt_id")])
DROPPED = pa.schema([(name, pa.string()) for name in ("prompt_id", "domain", "outcome", "reason", "engine")])


def assistant_text(row: Row) -> str:
    """Return the reference response of a problem as an assistant turn (recipe, chat format)."""
    return f"<think>\n{row['reasoning']}\n</think>\n\n{row['answer']}"


def to_sample(row: Row) -> Row:
    """Turn a problem into a chat sample."""
    messages = [
        {"role": "user", "content": row["prompt"]},
        {"role": "assistant", "reasoning": row["reasoning"], "content": row["answer"]},
    ]
    return {
        "id": f"sft-{row['id']}",
        "domain": row["domain"],
        "messages": json.dumps(messages, ensure_ascii=False),
        "source": row["source"],
        "prompt_id": row["id"],
    }


def mix_by_share(pools: dict[str, list[Row]], shares: dict[str, float], wanted: int) -> list[Row]:
    """Take rows so that domains stand in the given shares exactly, as many as the scarcest pool allows."""
    limits = [len(pools.get(domain, [])) / share for domain, share in shares.items() if share > 0]
    total = min([float(wanted), *limits])
    return [row for domain, share in shares.items() for row in pools.get(domain, [])[: int(total * share + 1e-9)]]


def check_answers(rows: Sequence[Row], *, workers: int, cache: Path) -> list[Verdict]:
    """Judge the reference response of every row with the verifier its problem names."""
    verdicts: dict[int, Verdict] = {}
    with ExitStack() as stack:
        for kind in ("math", "code"):
            numbers = [n for n, row in enumerate(rows) if row["verifier"] == kind]
            if not numbers:
                continue
            verifier = stack.enter_context(open_verifier(kind, workers=workers, cache=cache))
            requests = [
                VerificationRequest(rows[n]["id"], assistant_text(rows[n]), json.loads(rows[n]["spec"]))
                for n in numbers
            ]
            verdicts.update(zip(numbers, verifier.verify(requests), strict=True))
    unchecked = Verdict("unscored", "no verifier for this kind of problem", "none")
    return [verdicts.get(number, unchecked) for number in range(len(rows))]


def run(job: Job) -> Outcome:
    """Write `samples.parquet`, `validation.parquet` and `dropped.parquet` from the input `problems`."""
    config: SftDataConfig = job.config
    rows = list(read_rows(job.inputs["problems"].path / "prompts.parquet"))
    candidates = [row for row in rows if row["split"] in ("sft", "heldout") and row["domain"] in config.shares()]
    job.progress(0.1, f"checking {len(candidates)} answers")
    verdicts = check_answers(candidates, workers=job.runtime.processes, cache=job.cache)
    pools: dict[str, dict[str, list[Row]]] = {"sft": {}, "heldout": {}}
    dropped: list[Row] = []
    for row, verdict in zip(candidates, verdicts, strict=True):
        if verdict.outcome == "correct":
            pools[row["split"]].setdefault(row["domain"], []).append(row)
        else:
            dropped.append({"prompt_id": row["id"], "domain": row["domain"], **vars(verdict)})
    samples = mix_by_share(pools["sft"], config.shares(), config.samples)
    validation = mix_by_share(pools["heldout"], config.shares(), config.validation_samples)
    if not samples or not validation:
        raise ValueError(
            f"{len(samples)} samples and {len(validation)} validation samples are left of {len(candidates)} "
            "candidates, expected both to be positive: one domain of the problem set is empty or all of its answers "
            "failed (see dropped.parquet). Raise its counts in the `problems` stage."
        )
    Random(f"{config.seed}/sft").shuffle(samples)
    write_rows(job.work / "samples.parquet", SCHEMA, map(to_sample, samples))
    write_rows(job.work / "validation.parquet", SCHEMA, map(to_sample, validation))
    write_rows(job.work / "dropped.parquet", DROPPED, dropped)
    return describe(candidates, samples, validation, dropped)


def describe(candidates: list[Row], samples: list[Row], validation: list[Row], dropped: list[Row]) -> Outcome:
    """Report shares, drops by reason, and one sample of each domain."""
    domains = Counter(row["domain"] for row in samples)
    reasons = Counter(f"dropped_{row['outcome']}_{row['reason'].replace(' ', '_')}"[:60] for row in dropped)
    examples = {row["domain"]: row for row in samples}
    return Outcome(
        summary=f"{len(samples)} checked samples ("
        + ", ".join(f"{number / len(samples):.0%} {domain}" for domain, number in domains.items())
        + f"), {len(validation)} held out, {len(dropped)} dropped by the answer check.",
        counts={
            "read": len(candidates),
            "kept": len(samples),
            "validation": len(validation),
            "beyond_shares": len(candidates) - len(samples) - len(validation) - len(dropped),
            "dropped": len(dropped),
            **reasons,
            **{f"samples_{domain}": number for domain, number in domains.items()},
        },
        sections=[
            Section(
                title="One sample of each domain",
                table=[
                    {"domain": d, "user": row["prompt"], "assistant": assistant_text(row)}
                    for d, row in examples.items()
                ],
            )
        ],
    )
