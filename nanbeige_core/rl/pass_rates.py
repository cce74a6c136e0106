"""Measure how often a policy solves each problem: the unfiltered table the on-policy filter reads.

Problems are drawn in chunks. A chunk is committed by an atomic rename and never drawn twice; an uncommitted chunk is
redrawn whole, so no problem is half measured. A verifier failure and a prompt that does not fit are unscored, never
zero; a truncated response is wrong and counted apart. The samples are kept with the rates.
"""

import math
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple, Protocol

import pyarrow as pa
import pyarrow.parquet as pq

from nanbeige_core.contract import Job, Outcome, Plot, Section
from nanbeige_core.evals.exact_match import encode_fitting
from nanbeige_core.generate.protocol import Completion, Engine
from nanbeige_core.launch.ranks import barrier, rank, world_size
from nanbeige_core.recipe.configs.base import SamplingConfig
from nanbeige_core.recipe.configs.rl import PassRatesConfig
from nanbeige_core.report.counting import count_rows
from nanbeige_core.rl.judge import PairwiseJudge, judged_answer
from nanbeige_core.rl.policy import Policy, open_judge, open_policy, open_scorer
from nanbeige_core.rl.prompts import RATES, STAGE_DOMAINS, PromptRow, load_prompts
from nanbeige_core.rl.rewards import VerifiedRewards
from nanbeige_core.rl.rollout_table import FILE as ROLLOUTS
from nanbeige_core.rl.rollout_table import (
    StoredRollout,
    describe_sampler,
    policy_name,
    to_table,
    write_table,
)
from nanbeige_core.rl.scoring import Scorer

RATE_SCHEMA = pa.schema(
    [
        ("prompt_id", pa.string()),
        *((name, pa.int64()) for name in ("samples", "correct", "wrong", "unscored", "truncated")),
        ("rate", pa.float64()),
    ]
)
NOT_FITTING = "the prompt does not fit the window"


class Outcomes(NamedTuple):
    """Three outcomes and a reason for each response of one prompt."""

    outcomes: list[str]
    reasons: list[str]
    texts: list[str]


class Grader(Protocol):
    """Say which responses are correct."""

    def grade(
        self, rows: Sequence[PromptRow], ids: Sequence[Sequence[int]], drawn: Sequence[Sequence[Completion]]
    ) -> list[Outcomes]:
        """Return outcomes for every response of every prompt."""
        ...


class VerifiedGrader:
    """Correct is what the verifier accepts."""

    def __init__(self, engine: Engine, scorer: Scorer) -> None:
        self._rewards = VerifiedRewards(engine, scorer)

    def grade(
        self, rows: Sequence[PromptRow], ids: Sequence[Sequence[int]], drawn: Sequence[Sequence[Completion]]
    ) -> list[Outcomes]:
        """Verify every response."""
        del ids
        names = {1.0: "correct", 0.0: "wrong"}
        return [
            Outcomes(
                [names.get(rollout.reward, "unscored") for rollout in group],
                [rollout.reason for rollout in group],
                [rollout.text for rollout in group],
            )
            for group in self._rewards.reward(rows, drawn, step=0)
        ]


class JudgedGrader:
    """Correct is what the judge prefers to the opponent: the reference, or the policy's own greedy answer."""

    def __init__(self, engine: Engine, judge: PairwiseJudge, config: PassRatesConfig) -> None:
        self._engine, self._judge, self._config = engine, judge, config

    def grade(
        self, rows: Sequence[PromptRow], ids: Sequence[Sequence[int]], drawn: Sequence[Sequence[Completion]]
    ) -> list[Outcomes]:
        """Compare every response, both orders averaged."""
        opponents = self._opponents(rows, ids)
        texts = [[self._engine.text(item) for item in group] for group in drawn]
        triples = [
            (row.prompt, judged_answer(text), opponent)
            for row, group, opponent in zip(rows, texts, opponents, strict=True)
            for text in group
        ]
        wins = self._judge.win_probability(*([triple[part] for triple in triples] for part in range(3)))
        size = self._config.samples
        return [
            Outcomes(
                [_preferred(win) for win in wins[index * size : (index + 1) * size]],
                [f"win probability {win:.3f}" for win in wins[index * size : (index + 1) * size]],
                group,
            )
            for index, group in enumerate(texts)
        ]

    def _opponents(self, rows: Sequence[PromptRow], ids: Sequence[Sequence[int]]) -> list[str]:
        if self._config.opponent == "reference":
            return [row.answer for row in rows]
        greedy = SamplingConfig(temperature=0, max_new_tokens=self._config.sampling.max_new_tokens)
        drawn = self._engine.generate(ids, greedy, n=1, seed=0)
        return [judged_answer(self._engine.text(group[0])) for group in drawn]


def _preferred(win: float) -> str:
    if math.isnan(win):
        return "unscored"
    return "correct" if win > 0.5 else "wrong"


def run(job: Job) -> Outcome:
    """Sample every problem of the domain several times and record what became of each response."""
    config: PassRatesConfig = job.config
    policy = open_policy(job)
    rows = load_prompts(
        job.inputs["problems"].path,
        splits={config.split},
        domains=STAGE_DOMAINS[config.domain],
        limit=config.limit,
    )
    if not rows:
        raise ValueError(
            f"the problems hold no row of split {config.split!r} in {sorted(STAGE_DOMAINS[config.domain])}: there is "
            "nothing to measure. Build problems of these domains or choose another pass_rates.split."
        )
    chunks = [rows[start : start + config.chunk_prompts] for start in range(0, len(rows), config.chunk_prompts)]
    directory = job.scratch / "rollouts"
    directory.mkdir(exist_ok=True)
    with ExitStack() as opened:
        grader = _open_grader(job, config, policy.engine, opened)
        for number in range(rank(), len(chunks), world_size()):
            path = directory / f"{number:05d}.parquet"
            if not path.exists():
                write_table(path, to_table(_measure_chunk(job, policy, grader, chunks[number], number)))
            job.progress((number + 1) / len(chunks), f"{number + 1} of {len(chunks)} chunks measured")
    barrier()
    return _merge(job, config, rows, [directory / f"{number:05d}.parquet" for number in range(len(chunks))])


def _open_grader(job: Job, config: PassRatesConfig, engine: Engine, opened: ExitStack) -> Grader:
    if config.domain == "preference":
        return JudgedGrader(engine, open_judge(job), config)
    return VerifiedGrader(engine, open_scorer(job, opened, agent=config.verifier_agent))


def _measure_chunk(
    job: Job, policy: Policy, grader: Grader, rows: Sequence[PromptRow], number: int
) -> list[StoredRollout]:
    """Draw and grade one chunk; its seed is its number's, so a redrawn chunk is the same."""
    config: PassRatesConfig = job.config
    engine = policy.engine
    prompts = encode_fitting(
        policy.tokenizer, rows, window=engine.window, max_new_tokens=config.sampling.max_new_tokens
    )
    seed = config.seed * 1_000_003 + number
    drawn = engine.generate(prompts.ids, config.sampling, n=config.samples, seed=seed) if prompts.ids else []
    graded = grader.grade(prompts.rows, prompts.ids, drawn)
    blank = StoredRollout(
        stage=job.stage,
        step=number,
        prompt_id="",
        sample=0,
        prompt_tokens=(),
        tokens=(),
        logprobs=(),
        text="",
        reward=None,
        verdict="unscored",
        reason=NOT_FITTING,
        finish_reason="",
        policy=policy_name(job.inputs["checkpoint"].fingerprint, 0),
        sampler=describe_sampler(config.sampling, seed),
    )
    return [
        _graded(blank, row, index, item, result)
        for row, completions, result in zip(prompts.rows, drawn, graded, strict=True)
        for index, item in enumerate(completions)
    ] + [blank._replace(prompt_id=row.id) for row in prompts.too_long]


def _graded(blank: StoredRollout, row: PromptRow, index: int, item: Completion, result: Outcomes) -> StoredRollout:
    truncated = item.finish_reason == "length"
    verdict = "wrong" if truncated else result.outcomes[index]
    return blank._replace(
        prompt_id=row.id,
        sample=index,
        prompt_tokens=item.prompt_ids,
        tokens=item.token_ids,
        logprobs=item.logprobs,
        text=result.texts[index],
        reward={"correct": 1.0, "wrong": 0.0}.get(verdict),
        verdict=verdict,
        reason="truncated" if truncated else result.reasons[index],
        finish_reason=item.finish_reason,
    )


def summarise(samples: pa.Table, prompt_ids: Sequence[str]) -> pa.Table:
    """Return one row per prompt; `rate` is correct / (correct + wrong), null where nothing was scored."""
    counts = {name: dict.fromkeys(prompt_ids, 0) for name in ("samples", "correct", "wrong", "unscored", "truncated")}
    columns = (samples[name].to_pylist() for name in ("prompt_id", "verdict", "finish_reason"))
    for prompt_id, outcome, finish_reason in zip(*columns, strict=True):
        counts["samples"][prompt_id] += 1
        counts[outcome][prompt_id] += 1
        counts["truncated"][prompt_id] += finish_reason == "length"
    records: list[dict[str, object]] = []
    for prompt_id in prompt_ids:
        record = {name: values[prompt_id] for name, values in counts.items()}
        scored = record["correct"] + record["wrong"]
        rate = record["correct"] / scored if scored else None
        records.append({"prompt_id": prompt_id, **record, "rate": rate})
    return pa.Table.from_pylist(records, schema=RATE_SCHEMA)


def _merge(job: Job, config: PassRatesConfig, rows: Sequence[PromptRow], paths: Sequence[Path]) -> Outcome:
    samples = pa.concat_tables([pq.read_table(path) for path in paths])
    rates = summarise(samples, [row.id for row in rows])
    if rank() == 0:
        write_table(job.work / ROLLOUTS, samples)
        write_table(job.work / RATES, rates)
    barrier()
    counts = {
        name: int(sum(rates[name].to_pylist())) for name in ("samples", "correct", "wrong", "unscored", "truncated")
    }
    known = [rate for rate in rates["rate"].to_pylist() if rate is not None]
    mean = sum(known) / len(known) if known else 0.0
    tokens = sum(map(len, samples["tokens"].to_pylist()))
    return Outcome(
        summary=(
            f"{len(rows)} {config.domain} problems sampled {config.samples} times: mean pass rate {mean:.3f}, "
            f"{sum(rate == 0 for rate in known)} never solved, {sum(rate == 1 for rate in known)} always solved."
        ),
        counts={"problems": len(rows), "unmeasured_problems": len(rows) - len(known), **counts},
        metrics={
            "mean_pass_rate": mean,
            "truncated_share": counts["truncated"] / max(1, counts["samples"]),
            "response_tokens": tokens / max(1, counts["samples"]),
        },
        tokens=tokens,
        sections=[_histogram(known), _reasons(samples), _examples(samples, rows)],
    )


def _histogram(rates: Sequence[float]) -> Section:
    bins = [0] * 11
    for rate in rates:
        bins[round(rate * 10)] += 1
    plot = Plot(
        kind="bar",
        x=[f"{index / 10:.1f}" for index in range(11)],
        series={"problems": [float(count) for count in bins]},
        x_label="pass rate (rounded)",
        y_label="problems",
    )
    return Section(title="Pass rates", text="Before any filter.", plot=plot)


def _reasons(samples: pa.Table) -> Section:
    found: Counter[tuple[str, str]] = Counter()
    for outcome, reason in zip(samples["verdict"].to_pylist(), samples["reason"].to_pylist(), strict=True):
        # a number in a reason would make every row its own kind
        kind = " ".join(word for word in reason.split() if not any(c.isdigit() for c in word))
        found[outcome, kind] += 1
    return Section(title="Outcomes", table=count_rows(found, ("outcome", "reason"), "responses", most=12))


def _examples(samples: pa.Table, rows: Sequence[PromptRow]) -> Section:
    prompts = {row.id: row for row in rows}
    step = max(1, samples.num_rows // 8)
    picked = samples.take(list(range(0, samples.num_rows, step))[:8]).to_pylist()
    table = [
        {
            "prompt": prompts[item["prompt_id"]].prompt[:200],
            "response": item["text"][:200],
            "outcome": item["verdict"],
            "reason": item["reason"],
        }
        for item in picked
    ]
    return Section(title="Responses", text="Spread over the run.", table=table)
