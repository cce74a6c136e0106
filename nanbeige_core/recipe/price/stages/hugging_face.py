"""Costs of taking an existing model into the pipeline."""

from collections.abc import Mapping
from typing import cast

from nanbeige_core.recipe.configs.hugging_face import ImportModelConfig, ImportTokenizerConfig
from nanbeige_core.recipe.load import Stage
from nanbeige_core.recipe.price.memory import checkpoint_bytes
from nanbeige_core.recipe.price.ranges import Range
from nanbeige_core.recipe.price.rates import Assumptions
from nanbeige_core.recipe.price.stages.data import BYTES_PER_PIECE
from nanbeige_core.recipe.price.transformer import Decoder
from nanbeige_core.recipe.price.work import Cost, Made, Reading


def import_tokenizer(stage: Stage, made: Mapping[str, Made], assume: Assumptions) -> Cost:
    """Nothing is learned: files are copied."""
    del made, assume
    config = cast(ImportTokenizerConfig, stage.config)
    return Cost(
        made=Made(vocab_size=config.vocab_size),
        documents=Range.exactly(1),
        counts={"vocabulary": Range.exactly(config.vocab_size)},
        storage_bytes=BYTES_PER_PIECE * config.vocab_size,
    )


def import_model(stage: Stage, made: Mapping[str, Made], assume: Assumptions) -> Cost:
    """The weights once, and a comparison of logits with the original."""
    del made, assume
    config = cast(ImportModelConfig, stage.config)
    decoder = Decoder(config.model, config.vocab_size)
    probe = Range.exactly(config.probe_tokens)
    return Cost(
        made=Made(decoder=decoder, vocab_size=config.vocab_size),
        documents=Range.exactly(1),
        work=(Reading("compare logits", decoder, 2 * probe, probe, config.probe_tokens),),
        counts={"parameters": Range.exactly(decoder.unpadded_parameters), "probe_tokens": probe},
        storage_bytes=Range.exactly(checkpoint_bytes(decoder, with_optimizer=False)),
    )
