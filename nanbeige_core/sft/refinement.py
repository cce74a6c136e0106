"""Build overall SFT data: deliberative refinement, CoT reconstruction, then the mixture (report, overall SFT)."""

import json
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any, NamedTuple, cast

import numpy as np
from transformers import PreTrainedTokenizerFast

from nanbeige_core.contract import Job, Outcome
from nanbeige_core.data.tables import write_rows
from nanbeige_core.generate.engines import open_endpoint, open_engine
from nanbeige_core.launch.ranks import barrier, rank
from nanbeige_core.megatron.frozen import FrozenModel
from nanbeige_core.recipe.configs.sft import RefinementConfig
from nanbeige_core.rl.prompts import PromptRow, load_prompts
from nanbeige_core.rl.scoring import Scorer
from nanbeige_core.sft.chat import Response, split_response
from nanbeige_core.sft.chunks import Row, run_chunks
from nanbeige_core.sft.deliberation import Deliberation, Draft, Writers, deliberate
from nanbeige_core.sft.evaluators import FluencyJudge, FormatJudge, Judge, ModelJudge, VerifierJudge
from nanbeige_core.sft.likelihood import Likelihood
from nanbeige_core.sft.reconstruction import Reconstruction, Target, reconstruct
from nanbeige_core.sft.refined_mixture import GROUPS, REFINED_SCHEMA, mix, sample_row
from nanbeige_core.sft.refinement_report import refinement_report
from nanbeige_core.sft.sampling import PlainWriter, Sampler, ServedWriter, Writer

SPLIT = "overall"
"""Split of the prompt set that overall SFT may use."""


class Workshop(NamedTuple):
    """Everybody who works on a chunk."""

    writers: Writers
    judges: list[Judge]
    likelihood: Likelihood
    scorer: Scorer


def run(job: Job) -> Outcome:
    """Refine responses, reconstruct their reasoning, and mix them into an SFTDataset with traces."""
    config = cast(RefinementConfig, job.config)
    rows = choose_instructions(job, config)
    with ExitStack() as stack:
        workshop = _open(job, config, stack)
        results = run_chunks(
            rows,
            lambda number, chunk: refine(chunk, workshop, config, seed=config.seed + 1000 * number),
            chunk_items=config.chunk_prompts,
            directory=job.scratch / "chunks",
            progress=job.progress,
        )
    outcome = _write(job, config, results) if rank() == 0 else Outcome(summary="see rank 0")
    barrier()
    return outcome


def choose_instructions(job: Job, config: RefinementConfig) -> list[PromptRow]:
    """Choose instructions by the mixture's shares, in one mixed order so that chunks cost alike.

    Raises ValueError when the split holds no instruction.
    """
    chosen: list[PromptRow] = []
    rows = load_prompts(job.inputs["problems"].path, splits={SPLIT})
    for number, (group, share) in enumerate(config.mixture.shares().items()):
        members = [row for row in rows if GROUPS[row.domain] == group]
        order = np.random.default_rng([config.seed, number]).permutation(len(members)).tolist()
        chosen += [members[index] for index in order[: round(share * config.prompts)]]
    if not chosen:
        raise ValueError(
            f"{job.inputs['problems'].path}: no instruction in split {SPLIT!r}, expected at least one. Give the "
            "problems stage an overall split."
        )
    order = np.random.default_rng([config.seed, len(GROUPS)]).permutation(len(chosen)).tolist()
    return [chosen[index] for index in order]


def refine(rows: Sequence[PromptRow], workshop: Workshop, config: RefinementConfig, *, seed: int) -> list[Row]:
    """Refine one chunk; return one JSON-able result per instruction, kept or not, with its trace."""
    cases = deliberate(rows, workshop.writers, workshop.judges, config, seed=seed)
    good = [case for case in cases if reject_draft(case.best, config) == ""]
    targets = [
        Target(case.row, best.text, best.evaluation.verified) for case in good if (best := case.best) is not None
    ]
    chains = reconstruct(
        targets, workshop.writers.teacher, workshop.likelihood, workshop.scorer, config, seed=seed + 500
    )
    found = dict(zip((case.row.id for case in good), chains, strict=True))
    return [_result(case, found.get(case.row.id), config) for case in cases]


def reject_draft(best: Draft | None, config: RefinementConfig) -> str:
    """Return why an instruction's best draft cannot enter the data set; empty when it can."""
    if best is None:
        return "no_draft"
    if best.evaluation.verified in ("wrong", "unscored"):
        return best.evaluation.verified
    if best.evaluation.vetoed:
        return f"must_pass_{best.evaluation.failed[0] if best.evaluation.failed else 'truncated'}"
    return "" if best.evaluation.score >= config.keep_score else "low_score"


def reject_chain(case: Deliberation, reconstruction: Reconstruction) -> str:
    """Return why a refined response has no reasoning to stand on; empty when it has or needs none.

    General and agent answers keep the reasoning they came with when no chain is accepted (marked `own_untested` in
    the trace): a greeting has no derivation, and a perplexity test says little about a call the teacher cannot make.
    """
    untested = case.row.domain in ("general", "agent")
    return "no_chain_accepted" if reconstruction.chain is None and not untested else ""


def _result(case: Deliberation, reconstruction: Reconstruction | None, config: RefinementConfig) -> Row:
    best = case.best
    reason = reject_draft(best, config)
    if not reason and reconstruction is not None:
        reason = reject_chain(case, reconstruction)
    kept = best is not None and not reason
    response = split_response(best.text) if kept and best else Response("", "")
    chain = reconstruction.chain if reconstruction else None
    return {
        "prompt_id": case.row.id,
        "domain": case.row.domain,
        "source": case.row.source,
        "prompt": case.row.prompt,
        "reason": reason or "kept",
        "reasoning": chain.reasoning if kept and chain else response.reasoning,
        "answer": response.answer,
        "trace": _trace(case, reconstruction),
    }


def _trace(case: Deliberation, reconstruction: Reconstruction | None) -> dict[str, Any]:
    student, best = case.first_of("student"), case.best
    chain = reconstruction.chain if reconstruction else None
    return {
        "checklist": {item.check: item.text for item in case.checklist},
        "rounds": case.rounds,
        "drafts": [_draft_trace(draft) for draft in case.drafts],
        "remarks": {str(number): text for number, text in case.remarks.items()},
        "student_score": student.evaluation.score if student else None,
        "best_score": best.evaluation.score if best else None,
        "best_origin": best.origin if best else None,
        "kept_because": _why_kept(case),
        "chain_origin": chain.origin if chain else "own_untested" if reconstruction else None,
        "chain_gain": chain.gain if chain else None,
        "chain_summary": chain.summary if chain else "",
        "chain_rejections": reconstruction.rejections if reconstruction else [],
    }


def _draft_trace(draft: Draft) -> dict[str, Any]:
    evaluation = draft.evaluation
    return {
        "origin": draft.origin,
        "round": draft.round,
        "score": round(evaluation.score, 3),
        "judges": {name: None if score is None else round(score, 3) for name, score in evaluation.scores},
        "failed": list(evaluation.failed),
        "vetoed": evaluation.vetoed,
        "verified": evaluation.verified,
        "critiques": list(evaluation.critiques),
        "text": draft.text,
    }


def _why_kept(case: Deliberation) -> str:
    """Say why the best draft is the best one seen."""
    best = case.best
    if best is None:
        return "no draft could be trained on"
    others = [draft for draft in case.drafts if draft is not best]
    place = f"{best.origin} of round {best.round}, {best.evaluation.score:.2f}"
    if not others:
        return f"{place}: the only draft"
    second = max(others, key=lambda draft: draft.rank)
    if best.rank[0] != second.rank[0]:
        return f"{place}: the others fail a must-pass item ({', '.join(second.evaluation.failed) or 'truncated'})"
    if best.rank[1] > second.rank[1]:
        return f"{place}: the next best, {second.origin} of round {second.round}, has {second.evaluation.score:.2f}"
    return f"{place}: the earliest of equals"


def _open(job: Job, config: RefinementConfig, stack: ExitStack) -> Workshop:
    folder = job.inputs["tokenizer"].path
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    local: dict[str, Writer] = {
        name: Sampler(open_engine(job.inputs[kind].path, folder, job.runtime), tokenizer)
        for name, kind in (("teacher", "teacher"), ("student", "checkpoint"))
        if name == "student" or not config.served_teacher
    }
    model = FrozenModel.open(job.inputs["teacher"].path / "weights", runtime=job.runtime)
    likelihood = Likelihood(
        model, tokenizer, model.card.vocab_size, model.card.model.max_positions, job.runtime.micro_batch_size
    )
    scorer = stack.enter_context(Scorer(cache=job.cache, workers=1))

    def writer(name: str) -> Writer:
        """Return whoever a name of the config means: the teacher may itself be served."""
        served = config.served_teacher if name == "teacher" else name
        if name in local or not served:
            return local[name]
        engine = open_endpoint(served, job.runtime)
        stack.callback(engine.close)
        return ServedWriter(engine)

    teacher = writer("teacher")
    if config.teacher_format == "plain":
        teacher = PlainWriter(teacher)
    judges: list[Judge] = [VerifierJudge(scorer), FormatJudge(config.longest_words), FluencyJudge(likelihood)]
    judges += [ModelJudge(name, teacher if name == "teacher" else writer(name)) for name in config.judges]
    critic = (teacher if config.critic == "teacher" else writer(config.critic)) if config.critic else None
    plain = config.teacher_format == "plain"
    return Workshop(Writers(teacher, local["student"], critic, plain), judges, likelihood, scorer)


def _write(job: Job, config: RefinementConfig, results: list[Row]) -> Outcome:
    kept = [result for result in results if result["reason"] == "kept"]
    if len(kept) < 2:
        raise ValueError(
            f"{len(kept)} of {len(results)} instructions survived refinement, expected at least 2 (one to train on, "
            "one to validate). Look at the reasons in scratch/chunks; lower keep_score or improve the teacher."
        )
    aside = max(1, round(config.validation_fraction * len(kept)))
    mixed = mix(kept[aside:], config)
    for name, part in (("validation", kept[:aside]), ("samples", mixed)):
        write_rows(job.work / f"{name}.parquet", REFINED_SCHEMA, [sample_row(result) for result in part])
    (job.work / "rejected.json").write_text(
        json.dumps([result for result in results if result["reason"] != "kept"], ensure_ascii=False, indent=1),
        encoding="utf-8",
    )
    return refinement_report(results, mixed, validation=aside)
