"""Identity configs of the data stages: ingest, quality tagging, retrieval and dedup, tokenizer, mixture."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from nanbeige_core.recipe.configs.base import IdentityConfig
from nanbeige_core.recipe.fingerprint import added_field

Category = Literal["web", "book", "paper", "code", "math", "synthetic_qa", "long_cot"]
Language = Literal["en", "zh", "code", "other"]


class PackagedSource(IdentityConfig):
    """A source that ships inside a package; its name is looked up in `nanbeige_core.data.sources`."""

    type: Literal["packaged"] = "packaged"
    name: str = Field(min_length=1, description="Name in the source registry. ours")
    documents: int = Field(2000, ge=1, description="Most documents taken from it, after cutting. ours")
    characters: int = Field(2_000_000, ge=1, description="Most characters taken from it. ours")


class PathSource(IdentityConfig):
    """A user's own table: JSONL (also .gz), Parquet, or a folder written by `datasets.save_to_disk`."""

    type: Literal["path"] = "path"
    path: str = Field(min_length=1, description="File, directory, or glob of .jsonl[.gz] / .parquet. ours")
    category: Category = Field(description="What kind of text it holds. ours")
    name: str = Field("", description="Source name in reports; empty means the file name. ours")
    text_field: str = Field("text", min_length=1, description="Column that holds the text. ours")
    language: Language | None = Field(None, description="None detects it for each document. ours")
    licence: str = Field("unknown", description="Recorded with every document. ours")
    documents: int | None = Field(None, ge=1, description="Most documents taken; None takes all. ours")
    characters: int | None = Field(None, ge=1, description="Most characters taken; None takes all. ours")


Source = Annotated[PackagedSource | PathSource, Field(discriminator="type")]


def default_sources() -> tuple[PackagedSource | PathSource, ...]:
    """Return every packaged source with its default budget."""
    sizes = {
        "libreoffice-help-zh": 1100,
        "libreoffice-help-en": 900,
        "manpages-zh": 700,
        "debian-reference-zh": 250,
        "debian-reference-en": 250,
        "fortunes-zh": 800,
        "stdlib-code": 1300,
        "codeio-programs": 1300,
        "docstrings-scientific": 600,
        "docstrings-math": 350,
        "package-readmes": 350,
    }
    return tuple(PackagedSource(name=name, documents=count, characters=count * 1400) for name, count in sizes.items())


class IngestConfig(IdentityConfig):
    """Which documents enter the pool (report section 2: web, books, papers, code)."""

    sources: tuple[Source, ...] = Field(default_factory=default_sources, min_length=1, description="ours")
    document_characters: int = Field(
        2000, ge=200, description="Longer texts are cut at paragraph borders into documents this long. ours"
    )
    minimum_characters: int = Field(60, ge=1, description="Shorter documents are dropped as empty. ours")
    gigantic_characters: int = Field(
        5_000_000, ge=1000, description="A single text longer than this is dropped, not cut. ours"
    )
    when_unavailable: Literal["skip", "error"] = Field(
        "skip", description="A packaged source this machine cannot get is reported and skipped, or fails. ours"
    )
    seed: int = Field(11, ge=0, description="Which documents a budget keeps. ours")

    @model_validator(mode="after")
    def validate_sources(self) -> "IngestConfig":
        """Refuse a source that is listed twice: its documents would have the same ids."""
        keys = [source.path if isinstance(source, PathSource) else source.name for source in self.sources]
        twice = sorted({key for key in keys if keys.count(key) > 1})
        if twice:
            raise ValueError(
                f"sources lists {', '.join(twice)} twice, so two documents would have one id. List each source once."
            )
        return self


class QualityTaggingConfig(IdentityConfig):
    """Twenty 0-9 labels a document: annotators on a sample, distilled into one student (report section 2)."""

    annotated_documents: int = Field(2400, ge=50, description="Documents the annotators label. ours")
    corrupted_share: float = Field(
        0.4, gt=0, lt=1, description="Share of them that is corrupted with a known severity. ours"
    )
    held_out_share: float = Field(0.2, gt=0, lt=0.9, description="Share never seen by the student. ours")
    hash_buckets: int = Field(16384, ge=256, description="Hashed n-gram features of the student. ours")
    feature_characters: int = Field(1200, ge=100, description="Prefix the student reads, in characters. ours")
    ridge: float = Field(0.5, gt=0, description="L2 penalty of the student. ours")
    aggregate: Literal["mean", "ridge"] = Field(
        "ridge", description="tag_score: plain mean of the content labels, or ridge to the clean score. ours"
    )
    label_scale: Literal["0-9", "binary"] = added_field(
        "0-9", description="What annotators answer; binary keeps only whether a grade is 4.5 or more. paper: 0-9"
    )
    score_labels: Literal["content", "format", "all"] = added_field(
        "content", description="Labels that make up the tag score. paper: content predicts quality better"
    )
    gates: dict[str, int] = Field(
        default_factory=lambda: {
            "readability": 1,
            "markup_noise": 1,
            "boilerplate": 1,
            "truncation": 1,
            "repetition": 1,
            "language_purity": 1,
        },
        description="Format labels below these values gate the document. ours",
    )
    seed: int = Field(12, ge=0, description="ours")


class QualityDimensionsConfig(IdentityConfig):
    """Which twenty of the candidate dimensions become labels: overlap, then held-out gain (report section 2)."""

    annotator: str = Field(
        "", description="Model served at runtime.endpoint_url that annotates; empty takes the offline measures. ours"
    )
    attempts: int = Field(3, ge=1, description="Times a served annotator is asked for a readable answer. ours")
    max_new_tokens: int = Field(1200, ge=16, description="Longest answer of a served annotator. ours")
    chunk_documents: int = Field(50, ge=1, description="Documents annotated between two commits. ours")
    annotated_documents: int = Field(2400, ge=100, description="Documents that are annotated. ours")
    corrupted_share: float = Field(0.4, gt=0, lt=1, description="Share of them damaged with a known severity. ours")
    held_out_share: float = Field(0.25, gt=0, lt=0.9, description="Share that selection never sees. ours")
    folds: int = Field(4, ge=2, description="Folds of the rest, between which candidates are compared. ours")
    content_labels: int = Field(14, ge=1, description="Content dimensions that are kept. ours")
    format_labels: int = Field(6, ge=1, description="Format dimensions that are kept. ours")
    overlap_limit: float = Field(
        0.8, gt=0, le=1, description="Rank correlation with a chosen one from which a candidate is dropped. ours"
    )
    seed: int = Field(16, ge=0, description="ours")


class BilingualEmbeddingConfig(IdentityConfig):
    """A text embedding in which a page and its translation lie together, tested before it is used (ours)."""

    aligned: str = Field(
        "libreoffice-help",
        min_length=1,
        description="Aligned pages: the packaged ones, or a Parquet table with key, first and second. ours",
    )
    documents: int = Field(5000, ge=0, description="Documents of the pool that it is fitted on as well. ours")
    vector_size: int = Field(128, ge=2, description="Dimensions. ours")
    hash_buckets: int = Field(32768, ge=256, description="Hashed terms. ours")
    characters: int = Field(2000, ge=100, description="Prefix of a text that it reads. ours")
    pair_weight: float = Field(2.0, gt=0, description="What an aligned page counts against a document. ours")
    held_out_pages: int = Field(300, ge=10, description="Pages of the retrieval test. ours")
    required_recall: float = Field(
        0.8, ge=0, le=1, description="Held-out recall@10 in both directions below which it is refused. ours"
    )
    seed: int = Field(17, ge=0, description="Which pages are held out, and the decomposition. ours")


class EvaluationTable(IdentityConfig):
    """Evaluation items of your own that no training document may quote: JSONL, Parquet, or a `datasets` folder."""

    path: str = Field(min_length=1, description="File, directory, or glob of .jsonl[.gz] / .parquet. ours")
    text_field: str = Field("text", min_length=1, description="Column that holds the item. ours")


class RetrievalDedupConfig(IdentityConfig):
    """Exact and near-duplicate removal, decontamination, seed retrieval, two tiers (report section 2)."""

    bands: int = Field(14, ge=1, description="LSH bands. ours")
    rows_per_band: int = Field(8, ge=1, description="Minhash values a band. ours")
    shingle_words: int = Field(5, ge=1, description="Words a shingle, segmented scripts. ours")
    shingle_characters: int = Field(8, ge=2, description="Characters a shingle, unsegmented scripts. ours")
    jaccard: float = Field(0.8, gt=0, le=1, description="Verified similarity that removes. ours")
    contamination_ngram: int = Field(13, ge=4, description="Words shared with an evaluation item. ours")
    seeds_per_category: int = Field(12, ge=1, description="Curated seeds that query the pool. ours")
    retrieved_per_seed: int = Field(100, ge=1, description="Depth of each ranking. ours")
    fusion_k: float = Field(60.0, gt=0, description="Reciprocal rank fusion constant. ours")
    vector_size: int = Field(64, ge=2, description="LSA dimensions of the dense retriever. ours")
    tag_weight: float = Field(0.7, ge=0, le=1, description="Of the tag score; the rest is similarity. ours")
    hq_token_share: float = Field(0.52, gt=0, lt=1, description="6.5 T of the 12.5 T pool. paper")
    seed: int = Field(13, ge=0, description="Minhash permutation and LSA. ours")
    dedup_mode: Literal["lsh", "exact"] = added_field(
        "lsh", description="Candidates from minhash bands, or all pairs (recall 1.0, up to about 1 M documents). ours"
    )
    source_cap: float = added_field(
        1.0, ge=0, le=1, description="Most of one source that near-duplicates may take; the rest stays. ours"
    )
    paragraph_characters: int = added_field(
        0,
        ge=0,
        description="A paragraph this long stays only in the best document that holds it, code excepted; 0: off. ours",
    )
    semantic_cosine: float = added_field(
        0.0, ge=0, le=1, description="Cosine to a better, kept document of one language that removes; 0: off. ours"
    )
    semantic_vector_size: int = added_field(
        256, ge=2, description="LSA dimensions of semantic deduplication, unless an embedding is read. ours"
    )
    semantic_clusters: int = added_field(
        1, ge=1, description="Only documents of one of so many clusters are compared; 1 compares all. ours"
    )
    trusted_sources: tuple[str, ...] = added_field(
        (), description="Only documents of these sources are recalled by seeds; empty: of all. ours"
    )
    trusted_score: float = added_field(
        0.0, ge=0, le=9, description="Only documents with this tag score or more are recalled by seeds. ours"
    )
    evaluation_tables: tuple[EvaluationTable, ...] = added_field(
        (), description="Evaluation items to decontaminate against, beside the recipe's own and HumanEval. ours"
    )


class TokenizerConfig(IdentityConfig):
    """SentencePiece-style BPE with byte fallback (tokenizer files), or byte-level BPE."""

    vocab_size: int = Field(166_107, ge=512, description="Ids with special tokens; padded to 166144. card")
    training_characters: int = Field(4_000_000_000, ge=1000, description="Text the merges are learned from. ours")
    chinese_weight: float = Field(2.0, gt=0, description="Chinese documents are drawn this often. ours")
    problem_share: float = Field(0.25, ge=0, lt=1, description="Share of that text from problem sets. ours")
    alphabet_share: float = Field(0.3, gt=0, lt=1, description="Ids spent on single characters. ours")
    min_frequency: int = Field(2, ge=1, description="Pairs rarer than this are not merged. ours")
    seed: int = Field(14, ge=0, description="ours")
    kind: Literal["byte_fallback", "byte_level"] = added_field(
        "byte_fallback",
        description="Pieces of characters with bytes for rare ones, or pieces of bytes as GPT-2 and Qwen have, which "
        "encode several times as fast and have no alphabet_share. card: byte_fallback",
    )


class MixtureConfig(IdentityConfig):
    """Tier and category sets with the weights of the four FG-WSD phases (report section 3)."""

    hq_token_share: float = Field(
        0.52, gt=0, le=1, description="HQ share of the diversity-enriched tokens, synthetic text included. paper"
    )
    synthetic_share: float = Field(0.15, ge=0, lt=1, description="Synthetic share of phase tokens. paper")
    decay_factor: float = Field(2.0, ge=1, description="Extra weight of the decay categories. ours")
    decay_categories: tuple[Category, ...] = Field(
        ("math", "code", "synthetic_qa", "long_cot"), description="Emphasised while the rate decays. card"
    )
    long_cot_share: float = Field(0.5, ge=0, le=1, description="Problems told as chat with reasoning. ours")
    worked_share: float = Field(0.3, ge=0, le=1, description="Problems told as worked examples. ours")
    validation_share: float = Field(0.03, gt=0, lt=0.5, description="Held-out share of each set. ours")
    seed: int = Field(15, ge=0, description="Which documents are held out, and their order. ours")

    @model_validator(mode="after")
    def validate_shares(self) -> "MixtureConfig":
        """Refuse shares that exceed their whole and an emphasis that nothing would carry."""
        if self.decay_factor > 1 and not self.decay_categories:
            raise ValueError("decay_factor above 1 needs decay_categories; name some or set the factor to 1.")
        if self.long_cot_share + self.worked_share > 1:
            total = self.long_cot_share + self.worked_share
            raise ValueError(f"long_cot_share + worked_share is {total:g}; the rest is short QA, so at most 1.")
        if self.synthetic_share >= self.hq_token_share:
            raise ValueError(
                f"synthetic_share {self.synthetic_share:g} must be below hq_token_share {self.hq_token_share:g}: "
                "synthetic text is part of the high-quality tier."
            )
        return self
