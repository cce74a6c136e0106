"""Deliberative refinement of a batch of instructions: draft, judge against the checklist, revise, keep the best.

Stops for an instruction when its best draft passes every must-pass item and reaches the accepting score, after the
last round, or when a round brought no gain. The best draft ever seen is kept, not the last.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from nanbeige_core.recipe.configs.base import SamplingConfig
from nanbeige_core.recipe.configs.sft import RefinementConfig
from nanbeige_core.rl.prompts import PromptRow
from nanbeige_core.sft.chat import Message, render_response, split_response
from nanbeige_core.sft.checklist import Item, build_checklist
from nanbeige_core.sft.evaluators import Case, Evaluation, Judge, evaluate
from nanbeige_core.sft.requests import ask_checklist, ask_critique, ask_plainly, read_checklist
from nanbeige_core.sft.sampling import Drawn, Writer, ask

COOLER, WARMER = 0.5, 1.3
"""Factors on the temperature: form was broken, so sample more safely; the answer was wrong, so look elsewhere."""


class Draft(NamedTuple):
    """One judged candidate. `origin` is teacher, student, reference or revision."""

    text: str
    origin: str
    round: int
    evaluation: Evaluation

    @property
    def rank(self) -> tuple[bool, float]:
        """Return the sort key: acceptable drafts first, then by score."""
        return not self.evaluation.vetoed, self.evaluation.score


@dataclass
class Deliberation:
    """One instruction on its way: every draft judged so far, best last seen on top."""

    row: PromptRow
    checklist: list[Item]
    drafts: list[Draft] = field(default_factory=list[Draft])
    rounds: int = 0
    active: bool = True
    remarks: dict[int, str] = field(default_factory=dict[int, str])
    """What the critic wrote after each round."""

    @property
    def best(self) -> Draft | None:
        """Return the best draft, the earliest among equals."""
        return max(self.drafts, key=lambda draft: draft.rank, default=None)

    def first_of(self, origin: str) -> Draft | None:
        """Return the first draft of an origin."""
        return next((draft for draft in self.drafts if draft.origin == origin), None)


class Writers(NamedTuple):
    """Who drafts, revises, and, where somebody does, criticises in words of their own.

    `plain` teachers do not know the project's format: they are shown what a verifier needs.
    """

    teacher: Writer
    student: Writer
    critic: Writer | None = None
    plain: bool = False


def deliberate(
    rows: Sequence[PromptRow], writers: Writers, judges: Sequence[Judge], config: RefinementConfig, *, seed: int
) -> list[Deliberation]:
    """Refine every instruction of a chunk together, so that sampling and judging are batched."""
    questions = write_checklists(rows, writers.teacher, config, seed=seed)
    cases = [Deliberation(row, build_checklist(row, asked)) for row, asked in zip(rows, questions, strict=True)]
    for number in range(1, config.max_rounds + 1):
        active = [case for case in cases if case.active]
        if not active:
            break
        drawn = (
            _first_drafts(active, writers, config, seed=seed)
            if number == 1
            else _revisions(active, writers, config, seed=seed + number)
        )
        _judge(active, drawn, judges, number)
        for case in active:
            case.rounds = number
            case.active = not _finished(case, config, number)
        if writers.critic is not None and number < config.max_rounds:
            _criticise([case for case in active if case.active], writers.critic, config, number, seed=seed)
    return cases


def write_checklists(
    rows: Sequence[PromptRow], writer: Writer, config: RefinementConfig, *, seed: int
) -> list[list[str]]:
    """Return the questions a model writes for each instruction; none under `rules` or where it writes no question."""
    if config.checklist == "rules":
        return [[] for _ in rows]
    count = config.checklist_questions
    sampling = config.sampling.model_copy(update={"temperature": 0.0, "max_new_tokens": _room(config)})
    drawn = writer.draw([ask_checklist(row, count) for row in rows], sampling, n=1, seed=seed)
    return [read_checklist(items[0].text, count) if items else [] for items in drawn]


def _room(config: RefinementConfig) -> int:
    """Return the tokens of a checklist or a critique: a few sentences, and never more than a draft."""
    return min(config.sampling.max_new_tokens, 256)


def _criticise(cases: list[Deliberation], critic: Writer, config: RefinementConfig, number: int, *, seed: int) -> None:
    told = [case for case in cases if case.best is not None]
    conversations = [
        ask_critique(case.row, best.text, best.evaluation.critiques) for case in told if (best := case.best) is not None
    ]
    sampling = config.sampling.model_copy(update={"temperature": 0.0, "max_new_tokens": _room(config)})
    drawn = critic.draw(conversations, sampling, n=1, seed=seed + number) if told else []
    for case, items in zip(told, drawn, strict=True):
        remark = split_response(items[0].text).answer if items and items[0].trainable else ""
        if remark:
            case.remarks[number] = remark


def _first_drafts(
    cases: list[Deliberation], writers: Writers, config: RefinementConfig, *, seed: int
) -> list[list[tuple[str, Drawn]]]:
    prompts = [ask(case.row) for case in cases]
    told = [instruct(case.row, plain=writers.plain) for case in cases]
    by_teacher = writers.teacher.draw(told, config.sampling, n=config.teacher_candidates, seed=2 * seed)
    by_student = writers.student.draw(prompts, config.sampling, n=config.student_candidates, seed=2 * seed + 1)
    found: list[list[tuple[str, Drawn]]] = []
    for case, teacher, student in zip(cases, by_teacher, by_student, strict=True):
        drafts = [("student", item) for item in student] + [("teacher", item) for item in teacher]
        if config.reference_candidates and case.row.domain in ("general", "agent") and case.row.answer:
            text = render_response(case.row.reasoning, case.row.answer)
            drafts.append(("reference", Drawn(text, truncated=False)))
        found.append(drafts)
    return found


def _revisions(
    cases: list[Deliberation], writers: Writers, config: RefinementConfig, *, seed: int
) -> list[list[tuple[str, Drawn]]]:
    """Draw a fresh round that the critique conditions, or, for models too small to read one, steers."""
    conversations = [
        critique_turns(case, plain=writers.plain)
        if config.reviser == "conditioned"
        else instruct(case.row, plain=writers.plain)
        for case in cases
    ]
    factors = [_steer(case.best) if config.reviser == "resample" else 1.0 for case in cases]
    found: list[list[Drawn]] = [[] for _ in cases]
    for factor in sorted(set(factors)):
        places = [at for at, value in enumerate(factors) if value == factor]
        drawn = writers.teacher.draw(
            [conversations[at] for at in places],
            _at_temperature(config.sampling, factor),
            n=config.teacher_candidates,
            seed=seed,
        )
        for at, items in zip(places, drawn, strict=True):
            found[at] = items
    return [[("revision", item) for item in items] for items in found]


def instruct(row: PromptRow, *, plain: bool) -> list[Message]:
    """Return an instruction as its writer needs it."""
    return ask_plainly(row) if plain else ask(row)


def critique_turns(case: Deliberation, *, plain: bool = False) -> list[Message]:
    """Return the conversation that asks the reviser for a better response than the best one so far."""
    first = instruct(case.row, plain=plain)
    if case.best is None:
        return first
    remarks = [case.remarks[max(case.remarks)]] if case.remarks else []
    points = "\n".join(f"- {point}" for point in [*case.best.evaluation.critiques, *remarks])
    demand = f"Your response was judged:\n{points}\nWrite a better response in full to: {case.row.prompt}"
    text = split_response(case.best.text).answer if plain else case.best.text
    return [*first, {"role": "assistant", "content": text}, {"role": "user", "content": demand}]


def _steer(best: Draft | None) -> float:
    if best is None:
        return COOLER
    broken = {"well_formed", "no_repetition", "language", "code_parses", "tool_call"} & set(best.evaluation.failed)
    return COOLER if broken else WARMER


def _at_temperature(sampling: SamplingConfig, factor: float) -> SamplingConfig:
    return sampling.model_copy(update={"temperature": sampling.temperature * factor})


def _judge(
    cases: list[Deliberation], drawn: list[list[tuple[str, Drawn]]], judges: Sequence[Judge], number: int
) -> None:
    flat = [
        (case, origin, item)
        for case, drafts in zip(cases, drawn, strict=True)
        for origin, item in drafts
        if item.trainable
    ]
    evaluations = evaluate(
        [Case(case.row, case.checklist, item.text, item.truncated) for case, _, item in flat], judges
    )
    for (case, origin, item), evaluation in zip(flat, evaluations, strict=True):
        case.drafts.append(Draft(item.text, origin, number, evaluation))


def _finished(case: Deliberation, config: RefinementConfig, number: int) -> bool:
    best = case.best
    if best is not None and not best.evaluation.vetoed and best.evaluation.score >= config.accept_score:
        return True
    if number == 1 or best is None:
        return False
    earlier = [draft for draft in case.drafts if draft.round < number]
    previous = max((draft.rank for draft in earlier), default=(False, 0.0))
    return best.rank[0] == previous[0] and best.rank[1] - previous[1] <= config.minimum_gain
