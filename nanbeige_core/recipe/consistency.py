"""What only several stages together can get wrong, and the recipe alone can say: before anything runs."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from nanbeige_core.artifacts.kinds import Kind
from nanbeige_core.errors import RecipeError
from nanbeige_core.recipe.configs.base import ModelConfig
from nanbeige_core.recipe.configs.data import IngestConfig, RetrievalDedupConfig
from nanbeige_core.recipe.configs.distill import DpdConfig, PreferencePairsConfig, TeacherLogitsConfig
from nanbeige_core.recipe.configs.rl import RlConfig, RolloutsConfig
from nanbeige_core.recipe.configs.sft import RefinementConfig
from nanbeige_core.recipe.layout import LayoutError, require_same_shape, validate_layout

OPEN_DOMAIN = "general"
"""Domain of prompts whose answers have no verifier."""

if TYPE_CHECKING:
    from nanbeige_core.recipe.load import Stage


def check_layouts(stages: "Mapping[str, Stage]", path: Path) -> None:
    """Raise RecipeError for a stage whose parallel layout does not divide the model it works on, or that would go on
    with weights of another shape.

    The model is the stage's own, or that of the checkpoint it reads, and for distillation the teacher's as well; an
    adopted checkpoint's is not known here.
    """
    models: dict[str, ModelConfig] = {}
    for name, stage in stages.items():
        own, read = getattr(stage.config, "model", None), models.get(stage.inputs.get("checkpoint", ""))
        model = own if isinstance(own, ModelConfig) else read
        if model is not None and read is not None:
            _check_shape(model, read, f"{path}: stages.{name}: {stage.inputs['checkpoint']}")
        if model is not None:
            models[name] = model
            _check_layout(model, stage, f"{path}: stages.{name}")
        teacher = models.get(stage.inputs.get("teacher", ""))
        if teacher is not None and isinstance(stage.config, DpdConfig | TeacherLogitsConfig):
            _check_layout(teacher, stage, f"{path}: stages.{name}, the teacher ({stage.inputs['teacher']})")
        if isinstance(stage.config, RefinementConfig) and stage.runtime.pipeline_parallel > 1:
            raise RecipeError(
                f"{path}: stages.{name}: runtime.pipeline_parallel is {stage.runtime.pipeline_parallel}, 1 was "
                "expected: drafts are sampled from whole models, and their likelihood wants logits on every rank. Use "
                "runtime.tensor_parallel."
            )


def _check_shape(model: ModelConfig, read: ModelConfig, place: str) -> None:
    try:
        require_same_shape(model, read, place)
    except ValueError as error:
        raise RecipeError(str(error)) from error


def _check_layout(model: ModelConfig, stage: "Stage", place: str) -> None:
    try:
        # how many ranks there are, several machines may decide
        ranks = stage.runtime.tensor_parallel * stage.runtime.pipeline_parallel
        validate_layout(model, stage.runtime, world_size=ranks)
    except LayoutError as error:
        raise RecipeError(f"{place}: {error}") from error


def check_judges(stages: "Mapping[str, Stage]", path: Path) -> None:
    """Raise RecipeError where preference pairs of open answers lack a judge, or a judge has nothing to compare."""
    for name, stage in stages.items():
        config = stage.config
        if not isinstance(config, PreferencePairsConfig):
            continue
        judges = [*config.served_models(), *(["the input reward_model"] if "reward_model" in stage.inputs else [])]
        place, is_open = f"{path}: stages.{name}", OPEN_DOMAIN in config.domains
        if is_open and not judges:
            raise RecipeError(
                f"{place}.domains has {OPEN_DOMAIN}, whose answers no verifier can judge: set {name}.judge to a served "
                f"model, give {name} the input reward_model, or leave the domain out."
            )
        if judges and not is_open:
            raise RecipeError(
                f"{place} has a judge ({', '.join(judges)}), but its domains {', '.join(config.domains)} are verified: "
                f"add {OPEN_DOMAIN} to {name}.domains, or take the judge away."
            )
        if len(judges) > 1:
            raise RecipeError(f"{place} has two judges ({', '.join(judges)}), one was expected: take one away.")


def check_tokenizers(stages: "Mapping[str, Stage]", path: Path) -> None:
    """Raise RecipeError where DPD compares token distributions over two vocabularies without being told to."""
    for name, stage in stages.items():
        if not isinstance(stage.config, DpdConfig) or "teacher" not in stage.inputs:
            continue
        student, teacher = (tokenizer_of(stages, stage.inputs[model]) for model in ("checkpoint", "teacher"))
        if student is None or teacher is None or student == teacher:
            continue
        place = f"{path}: stages.{name}"
        if stage.config.cross_tokenizer == "refuse":
            raise RecipeError(
                f"{place}: the teacher ({stage.inputs['teacher']}) reads tokenizer {teacher}, the student "
                f"({stage.inputs['checkpoint']}) {student}: token-level KL needs one tokenizer. Choose a teacher made "
                f"with {student}, or set {name}.cross_tokenizer to gold or uld and {name}.in.teacher_tokenizer to "
                f"{teacher}."
            )
        if stage.inputs.get("teacher_tokenizer") != teacher:
            raise RecipeError(
                f"{place}.in.teacher_tokenizer is {stage.inputs.get('teacher_tokenizer', 'missing')}, the teacher "
                f"({stage.inputs['teacher']}) reads {teacher}: it must be given its own tokens."
            )


def check_rollouts(stages: "Mapping[str, Stage]", path: Path) -> None:
    """Raise RecipeError for an RL stage that cannot sample its policy, or cannot train on the rollouts it is given."""
    for name, stage in stages.items():
        config, place = stage.config, f"{path}: stages.{name}"
        if not isinstance(config, RlConfig):
            continue
        if stage.runtime.engine == "openai":
            raise RecipeError(
                f"{place}.runtime.engine is openai, an endpoint that keeps its own weights: on-policy training samples "
                "the trainer's. Choose transformers, vllm or vllm_server."
            )
        if "rollouts" not in stage.inputs:
            continue
        if config.loss.importance_cap is None:
            raise RecipeError(
                f"{place} trains on stored rollouts, but loss.importance_cap is none: from the second step on they "
                "are another policy's, and nothing would weigh that. Set loss.importance_cap (2.0 is the default)."
            )
        made = stages.get(stage.inputs["rollouts"])
        if made is not None and isinstance(made.config, RolloutsConfig):
            _check_stored(place, config, made.name, made.config)


def _check_stored(place: str, config: RlConfig, maker: str, made: RolloutsConfig) -> None:
    """Raise RecipeError where rollouts of a `rollouts` stage do not fit the stage that trains on them."""
    wanted = {"domain": config.domain, "sampling.temperature": config.sampling.temperature}
    found = {"domain": made.domain, "sampling.temperature": made.sampling.temperature}
    for value, expected in wanted.items():
        if found[value] != expected:
            raise RecipeError(
                f"{place} has {value} {expected}, but its rollouts ({maker}) have {found[value]}: the trainer would "
                "take them for what they are not. Set both to one value."
            )
    if made.steps < config.steps:
        raise RecipeError(
            f"{place}.steps is {config.steps}, but its rollouts ({maker}) hold {made.steps} steps. Raise "
            f"{maker}.steps, or lower the other to {made.steps}."
        )


def check_sources(stages: "Mapping[str, Stage]", path: Path) -> None:
    """Raise RecipeError where seeds may only recall documents of a source that the corpus does not have."""
    for name, stage in stages.items():
        if not isinstance(stage.config, RetrievalDedupConfig) or not stage.config.trusted_sources:
            continue
        tagged = stages.get(stage.inputs.get("tagged", ""))
        corpus = stages.get(tagged.inputs.get("corpus", "")) if tagged else None
        if corpus is None or not isinstance(corpus.config, IngestConfig):
            continue  # an adopted corpus has sources of its own
        known = {source.name or Path(getattr(source, "path", "")).stem for source in corpus.config.sources}
        unknown = [source for source in stage.config.trusted_sources if source not in known]
        if unknown:
            raise RecipeError(
                f"{path}: stages.{name}.trusted_sources names {', '.join(unknown)}, which {corpus.name} does not read: "
                f"no seed could recall a document of it. Its sources are {', '.join(sorted(known))}."
            )


def tokenizer_of(stages: "Mapping[str, Stage]", name: str) -> str | None:
    """Return the stage that made the tokenizer a stage's output is written with; None behind an adopted artifact."""
    found: str | None = name
    while found is not None and found in stages:  # no recursion: a chain of stages may be longer than Python's stack
        if stages[found].spec.produces == Kind.TOKENIZER:
            return found
        inputs = stages[found].inputs
        found = next((inputs[key] for key in ("tokenizer", "mixture", "checkpoint") if key in inputs), None)
    return None
