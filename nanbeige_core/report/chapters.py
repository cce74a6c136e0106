"""The chapters of a run's page, each made of what the artifacts keep; what cannot be read is named, not passed over."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TypeVar

from nanbeige_core.artifacts.kinds import Kind
from nanbeige_core.errors import ArtifactError
from nanbeige_core.recipe.load import Recipe
from nanbeige_core.report.artifact_files import ArtifactFiles
from nanbeige_core.report.blocks import Block, Card, Chapter, as_card, holds_samples, section_block
from nanbeige_core.report.curves import dpd_blocks, loss_block, pass_rate_block, read_history, rl_blocks, sft_blocks
from nanbeige_core.report.pretraining import PhaseCurve, measured_phase, phase_legend, plan_phases, pretraining_svg
from nanbeige_core.report.scores import Matrix, compared_answers, problem_ids, score_matrix

T = TypeVar("T")

_CARDS_PER_STAGE = 4
_EXAMPLES_PER_DECILE = 2
_TEXT_CHARACTERS = 1200
_MOST_BYTES = 2_000_000_000
"""A larger artifact is not read through for a page; `nanbeige show` does it when asked."""


@dataclass(frozen=True)
class Evidence:
    """The artifacts a page is about by stage, and what could not be read of them."""

    files: Mapping[str, ArtifactFiles]
    problems: list[str] = field(default_factory=list)

    def of_kind(self, *kinds: Kind) -> list[ArtifactFiles]:
        """Return the artifacts of these kinds."""
        return [one for one in self.files.values() if one.manifest.kind in kinds]

    def using(self, *uses: str) -> list[ArtifactFiles]:
        """Return the artifacts of these stage types."""
        return [one for one in self.files.values() if one.manifest.uses in uses]

    def read(self, make: Callable[[ArtifactFiles], T], one: ArtifactFiles, otherwise: T) -> T:
        """Return what `make` finds in an artifact; `otherwise`, and the reason kept, when it has another form."""
        try:
            return make(one)
        except ArtifactError as error:
            self.problems.append(str(error))
        except (LookupError, TypeError, ValueError) as error:
            self.problems.append(f"{one.manifest.reference.address}: {type(error).__name__}: {error}")
        return otherwise

    def blocks(self, make: Callable[[ArtifactFiles], list[Block]], *uses: str) -> list[Block]:
        """Return the blocks of every artifact of these stage types."""
        return [block for one in self.using(*uses) for block in self.read(make, one, [])]


def evaluation_matrix(evidence: Evidence) -> Matrix | None:
    """Return the scores of the evaluation, None when there is none."""
    for one in evidence.of_kind(Kind.EVAL_REPORT):
        return evidence.read(score_matrix, one, None)
    return None


def all_chapters(recipe: Recipe, evidence: Evidence) -> list[Chapter]:
    """Return the chapters in the order of the recipe; those without blocks have nothing to show."""
    prompts = _prompts(evidence)
    return [
        _data(evidence),
        Chapter("pretraining", "Pretraining: FG-WSD", "", _pretraining(recipe, evidence)),
        Chapter(
            "sft", "Supervised fine-tuning", "The teacher is tuned on the same cold-start samples.",
            evidence.blocks(sft_blocks, "cold_start_sft", "overall_sft")
            + evidence.blocks(lambda one: loss_block(one, "nats per supervised token"), "teacher"),
        ),
        Chapter("dpd", "Dual Preference Distillation", "", evidence.blocks(dpd_blocks, "dpd")),
        Chapter(
            "filters", "On-policy filters",
            "Before each RL stage every prompt is sampled several times; only prompts that the model sometimes solves "
            "are kept.",
            evidence.blocks(_filter, "on_policy_filter"),
        ),
        Chapter(
            "rl", "Reinforcement learning", "",
            evidence.blocks(rl_blocks, "rl_stem", "rl_coding", "rl_preference")
            + evidence.blocks(lambda one: loss_block(one, "cross-entropy, nats"), "reward_model"),
        ),
        Chapter(
            "answers", "The same problems through training",
            "One problem of each suite: the first that one checkpoint solved and another did not, else the first.",
            _answers(evidence, prompts),
        ),
        Chapter("samples", "Samples of every stage", "As the stages reported them; folded.",
                _samples(evidence, prompts)),
    ]  # fmt: skip


def _data(evidence: Evidence) -> Chapter:
    """Show what is in the documents that tagging and curation left."""
    # imported here: NumPy and Arrow would slow the start of every command
    from nanbeige_core.report.inspection.registry import inspect

    blocks: list[Block] = []
    for one in evidence.of_kind(Kind.TAGGED_CORPUS, Kind.CURATED_CORPUS):
        if one.manifest.bytes > _MOST_BYTES:
            continue
        for section in evidence.read(lambda it: inspect(it.store, it.manifest, _EXAMPLES_PER_DECILE), one, []):
            block = section_block(section, folded=section.plot is None)
            blocks.append(replace(block, title=f"{one.manifest.stage}: {section.title}"))
    text = "The same of every data artifact, with more examples: nanbeige show STAGE --html FILE."
    return Chapter("data", "Data", text, blocks)


def _pretraining(recipe: Recipe, evidence: Evidence) -> list[Block]:
    made = {
        str(one.manifest.identity.get("config", {}).get("phase")): one
        for one in evidence.files.values()
        if one.manifest.uses.startswith("fgwsd")
    }

    def measured(curve: PhaseCurve, one: ArtifactFiles) -> PhaseCurve:
        return evidence.read(lambda it: measured_phase(curve, it.manifest, read_history(it)), one, curve)

    shown = [measured(curve, made[curve.phase]) if curve.phase in made else curve for curve in plan_phases(recipe)]
    if not shown:
        return []
    paler = " Paler: the medium-quality tier of the same category." if any(curve.measured for curve in shown) else ""
    text = f"Loss, learning rate and mixture against tokens. {phase_legend(shown)}{paler}"
    return [Block(title="One schedule, four mixtures", text=text, svg=pretraining_svg(shown))]


def _filter(files: ArtifactFiles) -> list[Block]:
    config = files.manifest.identity["config"]
    measured = files.input_files("pass_rates")
    if measured is None:
        return []
    block = Block(title=files.manifest.stage, text=files.manifest.outcome.summary)
    return pass_rate_block(measured, low=float(config["low"]), high=float(config["high"]),
                           strict=bool(config.get("strict", True)), block=block)  # fmt: skip


def _answers(evidence: Evidence, prompts: Mapping[str, str]) -> list[Block]:
    cards = [
        card
        for one in evidence.of_kind(Kind.EVAL_REPORT)
        for card in evidence.read(lambda it: compared_answers(it, prompts), one, [])
    ]
    return [Block(title="First answer of each checkpoint", cards=cards, wide=True)] if cards else []


def _samples(evidence: Evidence, prompts: Mapping[str, str]) -> list[Block]:
    return [
        Block(title=f"{name}: {section.title}", text=section.text, folded=True, wide=True,
              cards=[_readable(as_card(row), prompts) for row in section.table[:_CARDS_PER_STAGE]])
        for name, one in evidence.files.items()
        for section in one.manifest.outcome.sections
        if holds_samples(section)
    ]  # fmt: skip


def _readable(card: Card, prompts: Mapping[str, str]) -> Card:
    texts = {name: prompts.get(text, text)[:_TEXT_CHARACTERS] for name, text in card.texts.items()}
    return Card(texts, card.chips, card.verdicts)


def _prompts(evidence: Evidence) -> dict[str, str]:
    """Return the texts of the problems that samples name by id."""
    wanted = {
        str(row["prompt"])
        for one in evidence.files.values()
        for section in one.manifest.outcome.sections
        for row in section.table
        if "prompt" in row
    }
    for one in evidence.of_kind(Kind.EVAL_REPORT):
        wanted |= evidence.read(problem_ids, one, set())
    found: dict[str, str] = {}
    for one in evidence.of_kind(Kind.PROMPT_SET):
        if one.manifest.bytes <= _MOST_BYTES:
            found |= evidence.read(lambda it: _texts(it, wanted), one, {})
    return found


def _texts(files: ArtifactFiles, wanted: set[str]) -> dict[str, str]:
    return {
        key: text
        for batch in files.batches("prompts.parquet", ["id", "prompt"])
        for key, text in zip(batch.column("id").to_pylist(), batch.column("prompt").to_pylist(), strict=True)
        if key in wanted
    }
