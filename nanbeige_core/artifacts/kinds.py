"""The artifact types that stages hand to one another, and the files each type must hold.

A kind is a name, a schema version and a file layout. The layout is checked before a manifest is written,
so an artifact of the wrong shape can never be served (design: contracts, "Artifact").
"""

from dataclasses import dataclass
from enum import StrEnum


class Kind(StrEnum):
    """Name one artifact type; the value is what manifests and `pipelines.yaml` carry."""

    CORPUS = "Corpus"
    QUALITY_DIMENSIONS = "QualityDimensions"
    TAGGED_CORPUS = "TaggedCorpus"
    EMBEDDING = "Embedding"
    CURATED_CORPUS = "CuratedCorpus"
    TOKENIZER = "Tokenizer"
    TOKENIZED_MIXTURE = "TokenizedMixture"
    CHECKPOINT = "Checkpoint"
    SFT_DATASET = "SFTDataset"
    PREFERENCE_PAIRS = "PreferencePairs"
    TEACHER_LOGITS = "TeacherLogits"
    PASS_RATES = "PassRates"
    PROMPT_SET = "PromptSet"
    ROLLOUTS = "Rollouts"
    REWARD_MODEL = "RewardModel"
    EVAL_REPORT = "EvalReport"
    SWEEP_REPORT = "SweepReport"
    HF_MODEL = "HFModel"


@dataclass(frozen=True)
class Layout:
    """Describe what files an artifact of one kind must hold (glob patterns, relative to its directory)."""

    schema_version: int
    required: tuple[str, ...]
    holds: str


LAYOUTS: dict[Kind, Layout] = {
    Kind.CORPUS: Layout(1, ("documents/*.parquet",), "raw documents with source, licence and language"),
    Kind.QUALITY_DIMENSIONS: Layout(
        1,
        ("dimensions.json", "candidates.parquet", "overlap.parquet", "annotations.parquet"),
        "the dimensions that become labels, and what decided about every candidate",
    ),
    Kind.EMBEDDING: Layout(1, ("embedding.npz",), "a text embedding that passed its retrieval test"),
    Kind.TAGGED_CORPUS: Layout(1, ("documents/*.parquet",), "documents with twenty 0-9 labels and a tag score"),
    Kind.CURATED_CORPUS: Layout(
        1,
        ("documents/*.parquet", "dropped.parquet"),
        "kept documents in two tiers; every drop with its reason",
    ),
    Kind.TOKENIZER: Layout(1, ("tokenizer.json", "tokenizer_config.json"), "a Hugging Face tokenizer"),
    Kind.TOKENIZED_MIXTURE: Layout(
        1,
        ("mixture.json", "*.bin", "*.idx", "sidecar.parquet"),
        "Megatron indexed datasets and phase weights",
    ),
    Kind.CHECKPOINT: Layout(
        1, ("model.json", "state.json", "weights/metadata.json"), "a Megatron distributed checkpoint"
    ),
    Kind.SFT_DATASET: Layout(1, ("samples.parquet", "validation.parquet"), "chat samples with domains"),
    Kind.PREFERENCE_PAIRS: Layout(1, ("pairs.parquet", "validation.parquet"), "chosen and rejected responses"),
    Kind.TEACHER_LOGITS: Layout(1, ("header.json", "logits/*"), "cached teacher distributions"),
    Kind.PASS_RATES: Layout(1, ("pass_rates.parquet",), "per-prompt pass rates, unfiltered, and their rollouts"),
    Kind.PROMPT_SET: Layout(1, ("prompts.parquet",), "prompts with what their verifier needs"),
    Kind.ROLLOUTS: Layout(1, ("rollouts.parquet",), "sampled responses with log-probabilities"),
    Kind.REWARD_MODEL: Layout(
        1,
        ("model.json", "state.json", "verdict.json", "weights/metadata.json"),
        "a pairwise judge checkpoint",
    ),
    Kind.EVAL_REPORT: Layout(1, ("report.json",), "scores with standard errors"),
    Kind.SWEEP_REPORT: Layout(1, ("report.json",), "arms compared with intervals"),
    Kind.HF_MODEL: Layout(1, ("config.json", "*.safetensors", "tokenizer.json"), "a Hugging Face model folder"),
}
