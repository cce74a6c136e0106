# pyright: reportIncompatibleVariableOverride=false
# (the classes are frozen, so narrowing `kind` to one value is safe)
"""Typed references: the small values that cross a task boundary in place of data.

One class per artifact kind, so that a task's signature says what it takes and gives and a wrong type is refused
before any work starts. `AnyRef` is the discriminated union for (de)serialisation.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from nanbeige_core.artifacts.kinds import Kind


class ArtifactRef(BaseModel):
    """Point at one sealed artifact.

    `fingerprint` (64 hex digits) says what the artifact is; `digest` (64 hex digits) what its files hold.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Kind
    stage: str
    fingerprint: str = Field(pattern=r"^[0-9a-f]{64}$")
    digest: str = Field(pattern=r"^[0-9a-f]{64}$")

    @property
    def address(self) -> str:
        """Return the readable address `<stage>/<fingerprint16>`."""
        return address(self.stage, self.fingerprint)


def address(stage: str, fingerprint: str) -> str:
    """Return the readable address of a stage's artifact: `<stage>/<first 16 digits of the fingerprint>`."""
    return f"{stage}/{fingerprint[:16]}"


class CorpusRef(ArtifactRef):
    """Point at raw documents."""

    kind: Literal[Kind.CORPUS] = Kind.CORPUS


class QualityDimensionsRef(ArtifactRef):
    """Point at the dimensions that become labels."""

    kind: Literal[Kind.QUALITY_DIMENSIONS] = Kind.QUALITY_DIMENSIONS


class EmbeddingRef(ArtifactRef):
    """Point at a text embedding."""

    kind: Literal[Kind.EMBEDDING] = Kind.EMBEDDING


class TaggedCorpusRef(ArtifactRef):
    """Point at labelled documents."""

    kind: Literal[Kind.TAGGED_CORPUS] = Kind.TAGGED_CORPUS


class CuratedCorpusRef(ArtifactRef):
    """Point at kept documents in two tiers."""

    kind: Literal[Kind.CURATED_CORPUS] = Kind.CURATED_CORPUS


class TokenizerRef(ArtifactRef):
    """Point at a tokenizer."""

    kind: Literal[Kind.TOKENIZER] = Kind.TOKENIZER


class TokenizedMixtureRef(ArtifactRef):
    """Point at indexed token data with phase weights."""

    kind: Literal[Kind.TOKENIZED_MIXTURE] = Kind.TOKENIZED_MIXTURE


class CheckpointRef(ArtifactRef):
    """Point at a Megatron distributed checkpoint."""

    kind: Literal[Kind.CHECKPOINT] = Kind.CHECKPOINT


class SFTDatasetRef(ArtifactRef):
    """Point at chat samples."""

    kind: Literal[Kind.SFT_DATASET] = Kind.SFT_DATASET


class PreferencePairsRef(ArtifactRef):
    """Point at chosen and rejected responses."""

    kind: Literal[Kind.PREFERENCE_PAIRS] = Kind.PREFERENCE_PAIRS


class TeacherLogitsRef(ArtifactRef):
    """Point at cached teacher distributions."""

    kind: Literal[Kind.TEACHER_LOGITS] = Kind.TEACHER_LOGITS


class PassRatesRef(ArtifactRef):
    """Point at measured pass rates."""

    kind: Literal[Kind.PASS_RATES] = Kind.PASS_RATES


class PromptSetRef(ArtifactRef):
    """Point at prompts with what their verifier needs."""

    kind: Literal[Kind.PROMPT_SET] = Kind.PROMPT_SET


class RolloutsRef(ArtifactRef):
    """Point at sampled responses with log-probabilities."""

    kind: Literal[Kind.ROLLOUTS] = Kind.ROLLOUTS


class RewardModelRef(ArtifactRef):
    """Point at a pairwise judge."""

    kind: Literal[Kind.REWARD_MODEL] = Kind.REWARD_MODEL


class EvalReportRef(ArtifactRef):
    """Point at scores with standard errors."""

    kind: Literal[Kind.EVAL_REPORT] = Kind.EVAL_REPORT


class SweepReportRef(ArtifactRef):
    """Point at compared arms."""

    kind: Literal[Kind.SWEEP_REPORT] = Kind.SWEEP_REPORT


class HFModelRef(ArtifactRef):
    """Point at a Hugging Face model folder."""

    kind: Literal[Kind.HF_MODEL] = Kind.HF_MODEL


AnyRef = Annotated[
    CorpusRef
    | QualityDimensionsRef
    | EmbeddingRef
    | TaggedCorpusRef
    | CuratedCorpusRef
    | TokenizerRef
    | TokenizedMixtureRef
    | CheckpointRef
    | SFTDatasetRef
    | PreferencePairsRef
    | TeacherLogitsRef
    | PassRatesRef
    | PromptSetRef
    | RolloutsRef
    | RewardModelRef
    | EvalReportRef
    | SweepReportRef
    | HFModelRef,
    Field(discriminator="kind"),
]

_ADAPTER: TypeAdapter[Any] = TypeAdapter(AnyRef)


def make_reference(kind: Kind, *, stage: str, fingerprint: str, digest: str) -> ArtifactRef:
    """Build the reference class that belongs to `kind`."""
    return parse_reference({"kind": kind, "stage": stage, "fingerprint": fingerprint, "digest": digest})


def parse_reference(value: object) -> ArtifactRef:
    """Validate a plain mapping into its reference class; raise pydantic's ValidationError otherwise."""
    return _ADAPTER.validate_python(value)
