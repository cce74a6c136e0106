"""Build preference pairs: positives of the teacher, negatives of the student (report, preference distillation).

A pair is kept only where the positive is far better: the teacher's response verified correct, the student's verified
wrong, both finished by themselves; or, where nothing can be verified, by the verdict of a judge (`judged_pairs`).
Everything else is counted by its reason; an unscored response is never a wrong one.
"""

from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from typing import NamedTuple, cast

import numpy as np
import pyarrow as pa
from transformers import PreTrainedTokenizerFast

from nanbeige_core.contract import Job, Outcome
from nanbeige_core.data.tables import write_rows
from nanbeige_core.distill.judged_pairs import Compares, Judged, judge_pairs, open_judge
from nanbeige_core.distill.pairs_report import pairs_report
from nanbeige_core.generate.engines import open_engine
from nanbeige_core.launch.ranks import barrier, rank
from nanbeige_core.recipe.configs.distill import PreferencePairsConfig
from nanbeige_core.rl.prompts import PromptRow, load_prompts
from nanbeige_core.rl.scoring import Answered, Scorer
from nanbeige_core.sft.chunks import Row, run_chunks
from nanbeige_core.sft.heldout import VERIFIABLE
from nanbeige_core.sft.sampling import Drawn, Sampler, ask

SCHEMA = pa.schema(
    [
        *((name, pa.string()) for name in ("id", "domain", "prompt", "chosen", "rejected")),
        ("chosen_score", pa.float64()),
        ("rejected_score", pa.float64()),
        ("source", pa.string()),
        ("prompt_id", pa.string()),
    ]
)


class Scored(NamedTuple):
    """One response with its verdict: correct, wrong or unscored."""

    drawn: Drawn
    outcome: str


class Policies(NamedTuple):
    """Who answers, and who decides."""

    teacher: Sampler
    student: Sampler
    scorer: Scorer
    judge: Compares | None


def run(job: Job) -> Outcome:
    """Sample teacher and student on the same prompts and keep the pairs far enough apart."""
    config = cast(PreferencePairsConfig, job.config)
    rows = choose_prompts(job, config)
    with ExitStack() as stack:
        policies = _open(job, config, stack)
        results = run_chunks(
            rows,
            lambda number, chunk: _work(policies, config, chunk, seed=config.seed + 1000 * number),
            chunk_items=config.chunk_prompts,
            directory=job.scratch / "chunks",
            progress=job.progress,
        )
    if rank() != 0:
        barrier()
        return Outcome(summary="see rank 0")
    outcome = _write(job, config, rows, results)
    barrier()
    return outcome


def choose_prompts(job: Job, config: PreferencePairsConfig) -> list[PromptRow]:
    """Choose prompts evenly over the domains, mixed so that chunks cost alike.

    Raises ValueError when nothing that can be verified, or judged, is there.
    """
    judged = bool(config.judge) or "reward_model" in job.inputs
    chosen: list[PromptRow] = []
    for number, domain in enumerate(config.domains):
        share = (config.prompts - len(chosen)) // (len(config.domains) - number)
        rows = load_prompts(job.inputs["problems"].path, splits=config.splits, domains={domain})
        rows = [row for row in rows if row.verifier in VERIFIABLE or judged]
        order = np.random.default_rng([config.seed, number]).permutation(len(rows)).tolist()
        chosen += [rows[index] for index in order[:share]]
    if not chosen:
        raise ValueError(
            f"{job.inputs['problems'].path}: no prompt that can be verified or judged in domains "
            f"{config.domains} and splits {config.splits}, expected at least one. Check the problems stage or widen "
            "the splits."
        )
    order = np.random.default_rng([config.seed, len(config.domains)]).permutation(len(chosen)).tolist()
    return [chosen[index] for index in order]


def select_pairs(
    teacher: Sequence[Scored], student: Sequence[Scored], *, most: int
) -> tuple[list[tuple[Drawn, Drawn]], str]:
    """Pair correct teacher responses with wrong student ones; return them and the reason for the number.

    Only finished, well-formed positives and finished negatives count. Reasons: `kept`, `no_prompt_room`,
    `unscored`, `swapped` (student right, teacher wrong), `both_right`, `teacher_never_right`, `student_unfinished`.
    """
    positives = [item.drawn for item in teacher if item.outcome == "correct" and item.drawn.usable]
    wrong = [item.drawn for item in student if item.outcome == "wrong"]
    negatives = [drawn for drawn in wrong if not drawn.truncated and drawn.trainable]
    if positives and negatives:
        return list(zip(positives, negatives, strict=False))[:most], "kept"
    return [], _why_none(teacher, student, bool(positives), bool(wrong))


def _why_none(teacher: Sequence[Scored], student: Sequence[Scored], positives: bool, wrong: bool) -> str:
    if not teacher or not student:
        return "no_prompt_room"
    if all(item.outcome == "unscored" for item in (*teacher, *student)):
        return "unscored"
    if not positives:
        right = any(item.outcome == "correct" for item in student)
        return "swapped" if right else "teacher_never_right"
    return "student_unfinished" if wrong else "both_right"


def _open(job: Job, config: PreferencePairsConfig, stack: ExitStack) -> Policies:
    folder = job.inputs["tokenizer"].path
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    teacher, student = (
        Sampler(open_engine(job.inputs[name].path, folder, job.runtime), tokenizer)
        for name in ("teacher", "checkpoint")
    )
    scorer = stack.enter_context(Scorer(cache=job.cache, workers=1))
    return Policies(teacher, student, scorer, open_judge(job, config, stack))


def _work(policies: Policies, config: PreferencePairsConfig, rows: Sequence[PromptRow], *, seed: int) -> list[Row]:
    prompts = [ask(row) for row in rows]
    teacher = policies.teacher.draw(prompts, config.teacher_sampling, n=config.teacher_samples, seed=2 * seed)
    student = policies.student.draw(prompts, config.student_sampling, n=config.student_samples, seed=2 * seed + 1)
    results: dict[str, Row] = {}
    drawn = list(zip(rows, teacher, student, strict=True))
    verified = _columns([each for each in drawn if each[0].verifier in VERIFIABLE])
    sides = (_score(policies.scorer, verified.rows, side) for side in (verified.teacher, verified.student))
    for row, ours, theirs in zip(verified.rows, *sides, strict=True):
        results[row.id] = _result(row, ours, theirs, most=config.pairs_per_prompt)
    if policies.judge is not None:
        opened = _columns([each for each in drawn if each[0].verifier not in VERIFIABLE])
        judged = judge_pairs(policies.judge, opened.rows, opened.teacher, opened.student, config)
        results |= {row.id: _judged_result(row, found) for row, found in zip(opened.rows, judged, strict=True)}
    return [results[row.id] for row in rows]


class _Columns(NamedTuple):
    rows: list[PromptRow]
    teacher: list[list[Drawn]]
    student: list[list[Drawn]]


def _columns(drawn: list[tuple[PromptRow, list[Drawn], list[Drawn]]]) -> _Columns:
    return _Columns([each[0] for each in drawn], [each[1] for each in drawn], [each[2] for each in drawn])


def _score(scorer: Scorer, rows: Sequence[PromptRow], drawn: list[list[Drawn]]) -> list[list[Scored]]:
    flat = [(row, item) for row, items in zip(rows, drawn, strict=True) for item in items]
    verdicts = iter(scorer.score([row for row, _ in flat], [Answered(*item) for _, item in flat]))
    return [[Scored(item, next(verdicts).outcome) for item in items] for items in drawn]


def _result(row: PromptRow, teacher: list[Scored], student: list[Scored], *, most: int) -> Row:
    pairs, reason = select_pairs(teacher, student, most=most)
    return {
        "prompt_id": row.id,
        "domain": row.domain,
        "reason": reason,
        "teacher": [item.outcome for item in teacher],
        "student": [item.outcome for item in student],
        "pairs": [[chosen.text, rejected.text] for chosen, rejected in pairs],
    }


def _judged_result(row: PromptRow, judged: Judged) -> Row:
    return {
        "prompt_id": row.id,
        "domain": row.domain,
        "reason": judged.reason,
        "teacher": [],
        "student": [],
        "pairs": [[chosen.text, rejected.text] for chosen, rejected in judged.pairs],
        "scores": [sum(gap) / len(gap) for gap in judged.kept],
        "gaps": [list(gap) for gap in judged.gaps if gap.judged],
    }


def _write(job: Job, config: PreferencePairsConfig, rows: list[PromptRow], results: list[Row]) -> Outcome:
    prompts = {row.id: row for row in rows}
    kept = [result for result in results if result["pairs"]]
    if len(kept) < 2:
        reasons = dict(Counter(result["reason"] for result in results))
        raise ValueError(
            f"{len(kept)} of {len(results)} prompts gave a pair ({reasons}), expected at least 2: one side of the "
            "set would be empty. Sample more prompts, or use a teacher further ahead of the student."
        )
    aside = max(1, round(config.validation_fraction * len(kept)))
    for name, part in (("validation", kept[:aside]), ("pairs", kept[aside:])):
        table = [pair for result in part for pair in _pair_rows(prompts[result["prompt_id"]], result)]
        write_rows(job.work / f"{name}.parquet", SCHEMA, table)
    return pairs_report(results, validation=aside)


def _pair_rows(row: PromptRow, result: Row) -> list[Row]:
    """Return the pairs of a prompt; scores are 1 and 0 by verification, win probabilities where a judge compared."""
    scores: list[float] = result.get("scores") or [1.0] * len(result["pairs"])
    return [
        {
            "id": f"{row.id}-{number}",
            "domain": row.domain,
            "prompt": row.prompt,
            "chosen": chosen,
            "rejected": rejected,
            "chosen_score": score,
            "rejected_score": 1.0 - score,
            "source": row.source,
            "prompt_id": row.id,
        }
        for number, ((chosen, rejected), score) in enumerate(zip(result["pairs"], scores, strict=True))
    ]
