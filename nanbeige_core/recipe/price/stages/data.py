"""Costs of the data stages: ingest, quality tagging, retrieval and deduplication, tokenizer, mixture."""

from collections.abc import Mapping
from typing import cast

from nanbeige_core.recipe.configs.data import (
    BilingualEmbeddingConfig,
    IngestConfig,
    MixtureConfig,
    QualityDimensionsConfig,
    QualityTaggingConfig,
    RetrievalDedupConfig,
    TokenizerConfig,
)
from nanbeige_core.recipe.load import Stage
from nanbeige_core.recipe.price.problem_counts import count_problems, mean_problem_tokens
from nanbeige_core.recipe.price.ranges import NOTHING, Range
from nanbeige_core.recipe.price.rates import Assumptions
from nanbeige_core.recipe.price.work import Cost, Made, Processing

BYTES_PER_LABELLED_ROW = 110
"""Twenty labels, scores and provenance of a document in the tagged tables. ours: laptop run"""
MEASURES_PER_LABEL = 4
"""Candidate dimensions for each label that is kept, roughly. ours"""
BYTES_PER_PIECE = Range(35, 55, 100)
"""Vocabulary and merges of one piece in tokenizer.json. ours: laptop run"""
SIDECAR_BYTES = 40
"""One row of the mixture's sidecar. ours: laptop run"""
SMALL_VOCABULARY = 65_500
"""Up to here Megatron's indexed dataset stores a token in two bytes."""


def ingest(stage: Stage, made: Mapping[str, Made], assume: Assumptions) -> Cost:
    """Documents of every source within its budget."""
    del made
    config = cast(IngestConfig, stage.config)
    longest = float(config.document_characters)
    documents = NOTHING
    unbounded: list[str] = []
    for source in config.sources:
        if source.documents is None:
            unbounded.append(source.path)
            bound = assume.unbounded_documents.range
        else:
            bound = assume.kept_budget.range * source.documents
        if source.characters is not None:
            bound = bound.at_most(Range.exactly(source.characters) / assume.document_characters.range.at_most(longest))
        documents += bound
    characters = documents * assume.document_characters.range.at_most(longest)
    return Cost(
        made=Made(rows=documents, characters=characters),
        documents=documents,
        work=(Processing("extract", documents, assume.ingest_seconds.range),),
        counts={"kept": documents},
        storage_bytes=characters * assume.row_bytes.range,
    ).noting(*(f"{name} names no bound: its documents are assumed" for name in unbounded))


def quality_dimensions(stage: Stage, made: Mapping[str, Made], assume: Assumptions) -> Cost:
    """A sample annotated with every candidate dimension."""
    config = cast(QualityDimensionsConfig, stage.config)
    annotated = made["corpus"].rows.at_most(config.annotated_documents)
    cost = Cost(
        made=Made(),
        documents=annotated,
        work=(Processing("annotate", annotated, assume.tagging_seconds.range * MEASURES_PER_LABEL),),
        counts={"chosen": Range.exactly(config.content_labels + config.format_labels)},
        storage_bytes=annotated * BYTES_PER_LABELLED_ROW * MEASURES_PER_LABEL,
    )
    return cost.noting(*([f"what {config.annotator} generates is not priced"] if config.annotator else []))


def bilingual_embedding(stage: Stage, made: Mapping[str, Made], assume: Assumptions) -> Cost:
    """Terms of aligned pages and of documents, decomposed."""
    config = cast(BilingualEmbeddingConfig, stage.config)
    documents = made["corpus"].rows.at_most(config.documents) + config.held_out_pages
    return Cost(
        made=Made(),
        documents=documents,
        work=(Processing("embed", documents, assume.tagging_seconds.range),),
        storage_bytes=Range.exactly(4 * config.hash_buckets * (config.vector_size + 1)),
    )


def quality_tagging(stage: Stage, made: Mapping[str, Made], assume: Assumptions) -> Cost:
    """Every document labelled by the student, a sample of them by the annotators."""
    config = cast(QualityTaggingConfig, stage.config)
    corpus = made["corpus"]
    annotated = corpus.rows.at_most(config.annotated_documents)
    return Cost(
        made=corpus,
        documents=corpus.rows,
        work=(Processing("label", corpus.rows, assume.tagging_seconds.range),),
        counts={"read": corpus.rows, "annotated": Range(0.8 * annotated.low, annotated.expected, annotated.high)},
        storage_bytes=corpus.characters * assume.row_bytes.range + corpus.rows * BYTES_PER_LABELLED_ROW,
    )


def retrieval_dedup(stage: Stage, made: Mapping[str, Made], assume: Assumptions) -> Cost:
    """What deduplication, decontamination and gates keep of the corpus, in two tiers."""
    config = cast(RetrievalDedupConfig, stage.config)
    corpus, share = made["tagged"], assume.distinct_documents.range
    kept = corpus.rows * share
    return Cost(
        made=Made(rows=kept, characters=corpus.characters * share),
        documents=corpus.rows,
        work=(Processing("deduplicate", corpus.rows, assume.deduplication_seconds.range),),
        counts={"read": corpus.rows, "kept": kept, "hq": kept * Range(0.5, 1, 1.5) * config.hq_token_share},
        storage_bytes=corpus.characters * share * assume.row_bytes.range,
    )


def tokenizer(stage: Stage, made: Mapping[str, Made], assume: Assumptions) -> Cost:
    """Merges learned from a bounded amount of text."""
    config = cast(TokenizerConfig, stage.config)
    available = made["corpus"].characters * (1 / (1 - config.problem_share))
    characters = available.at_most(config.training_characters)
    return Cost(
        made=Made(vocab_size=config.vocab_size),
        documents=made["corpus"].rows,
        work=(Processing("learn merges", characters, assume.tokenizer_seconds.range),),
        counts={"vocabulary": Range.exactly(config.vocab_size)},
        storage_bytes=BYTES_PER_PIECE * config.vocab_size,
    )


def mixture(stage: Stage, made: Mapping[str, Made], assume: Assumptions) -> Cost:
    """Every curated document and every pretraining problem, encoded once."""
    config = cast(MixtureConfig, stage.config)
    corpus, vocab_size = made["corpus"], made["tokenizer"].vocab_size
    problems = made["problems"].problems
    assert problems is not None
    told = count_problems(problems, {"pretrain"})
    tokens_told = mean_problem_tokens(problems, {"pretrain"}, assume) * told
    documents = corpus.rows + told
    tokens = corpus.characters / assume.characters_per_token.range + tokens_told
    training = tokens * (1 - config.validation_share)
    token_bytes = 2 if vocab_size <= SMALL_VOCABULARY else 4
    return Cost(
        made=Made(
            rows=documents,
            row_tokens=tokens * (1 / documents.expected),
            held_out=documents * config.validation_share,
            vocab_size=vocab_size,
        ),
        documents=documents,
        tokens=Range(0.9 * training.low, training.expected, tokens.high),
        work=(Processing("encode", documents, assume.mixture_seconds.range),),
        storage_bytes=tokens * token_bytes + documents * SIDECAR_BYTES,
    )
