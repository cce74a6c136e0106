"""Take an existing Hugging Face model into the pipeline: its tokenizer, and its weights as a Megatron checkpoint.

Legend: B sequence, S position, V vocabulary.
"""

import json
from pathlib import Path
from typing import cast

import torch
from torch import Tensor
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from nanbeige_core.contract import Job, Outcome, Runtime, Section
from nanbeige_core.data import special_tokens as names
from nanbeige_core.data.tokenizer import CHAT_TEMPLATE, tokenizer_fingerprint
from nanbeige_core.launch.ranks import barrier, rank
from nanbeige_core.megatron import convert, parallel
from nanbeige_core.megatron.export import compare_logits
from nanbeige_core.megatron.hf_source import (
    ImportFailure,
    load_model,
    load_source_tokenizer,
    locate,
    model_config,
)
from nanbeige_core.megatron.model import build_model, padded_vocab_size
from nanbeige_core.megatron.weights import ModelCard, save_sharded, write_model_card
from nanbeige_core.recipe.configs.base import ModelConfig
from nanbeige_core.recipe.configs.hugging_face import ImportModelConfig, ImportTokenizerConfig
from nanbeige_core.sft.chat import render

CHAT_TOKENS = (names.TURN_START, names.TURN_END, names.END_OF_TEXT)
"""What the chat format needs as single tokens."""


def run_tokenizer(job: Job) -> Outcome:
    """Write the source's tokenizer with the chosen chat template.

    Raises ImportFailure when it lacks a token of the chat format.
    """
    config = cast(ImportTokenizerConfig, job.config)
    tokenizer = load_source_tokenizer(locate(config.source, job.cache))
    if len(tokenizer) != config.vocab_size:
        raise ImportFailure(
            f"the tokenizer has {len(tokenizer)} tokens, the recipe says {config.vocab_size}: not the one it was "
            f"written for. Set {job.stage}.vocab_size, or name another source."
        )
    known = tokenizer.get_vocab()
    if missing := [token for token in CHAT_TOKENS if token not in known]:
        raise ImportFailure(
            f"the tokenizer has no {', '.join(missing)}, which the ChatML format of every stage needs as single "
            "tokens. Choose a model that was tuned with ChatML."
        )
    tokenizer.eos_token, tokenizer.pad_token = names.TURN_END, names.END_OF_TEXT
    if config.chat_template == "project":
        tokenizer.chat_template = CHAT_TEMPLATE.read_text()
    tokenizer.save_pretrained(job.work)
    turns = [{"role": "user", "content": "What is 7 + 5?"}]
    shown = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    return Outcome(
        summary=f"Took over a tokenizer of {len(tokenizer):,} tokens, {tokenizer_fingerprint(job.work)}.",
        counts={"vocabulary": len(tokenizer)},
        sections=[Section(title="A rendered prompt", text=f"```\n{shown}\n```")],
    )


def run(job: Job) -> Outcome:
    """Write the source's weights as a Checkpoint; every rank writes its part.

    Raises ImportFailure when a logit differs from transformers' by more than the tolerance.
    """
    config = cast(ImportModelConfig, job.config)
    source = load_model(locate(config.source, job.cache))
    require_shape(source, config, job.stage)
    tokenizer_dir = job.inputs["tokenizer"].path
    write_checkpoint(source, tokenizer_dir, job.work, job.runtime, dtype=config.model.dtype, stage=job.stage)
    tokens_BS = probe_tokens(tokenizer_dir, config.probe_tokens)
    parallel.reset()
    difference = compare_logits(source, job.work, tokens_BS, job.runtime)
    if config.model.dtype == "float32" and difference > config.tolerance:
        raise ImportFailure(
            f"Megatron's logits differ from transformers' by {difference:.3g}, at most {config.tolerance:.3g} is "
            "allowed: the imported checkpoint is not the same model. Check RoPE base, norm epsilon and head sizes."
        )
    parameters = sum(weight.numel() for weight in source.parameters())
    return Outcome(
        summary=f"Imported {parameters:,} parameters; logits agree with transformers' to {difference:.2g} "
        f"on {tokens_BS.numel()} tokens.",
        counts={"parameters": parameters, "probe_tokens": tokens_BS.numel()},
        metrics={"max_logit_difference": difference},
    )


def require_shape(source: LlamaForCausalLM, config: ImportModelConfig, stage: str) -> None:
    """Refuse a model of another shape than the recipe says, which prices and later stages rest on.

    Raises ImportFailure naming every field that differs.
    """
    found = model_config(source.config, dtype=config.model.dtype).model_dump() | {
        "vocab_size": source.config.vocab_size
    }
    wanted = config.model.model_dump() | {"vocab_size": config.vocab_size}
    differ = [f"{name} {found[name]} (recipe: {wanted[name]})" for name in found if found[name] != wanted[name]]
    if differ:
        raise ImportFailure(
            f"the source has {', '.join(differ)}: another model than the recipe was written for. Set {stage}.model to "
            "the source's shape, or name another source."
        )


@torch.no_grad()
def write_checkpoint(
    source: LlamaForCausalLM, tokenizer_dir: Path, directory: Path, runtime: Runtime, *, dtype: str, stage: str
) -> ModelConfig:
    """Convert a transformers model into a Checkpoint's files under any layout; collective."""
    config = model_config(source.config, dtype=dtype)
    vocab_size = source.config.vocab_size
    parallel.initialize(runtime, seed=0)
    module = build_model(config, vocab_size=vocab_size, runtime=runtime)
    full = convert.hf_to_megatron(source.state_dict(), config, padded_vocab_size=padded_vocab_size(vocab_size))
    convert.copy_into_model(module, full)
    save_sharded({"model": module.sharded_state_dict()}, directory / "weights")
    if rank() == 0:
        write_model_card(directory, ModelCard(config, vocab_size, tokenizer_fingerprint(tokenizer_dir)))
        state = {"stage": stage, "steps": 0, "tokens": 0, "history": []}
        (directory / "state.json").write_text(json.dumps(state, indent=1) + "\n")
    barrier()
    return config


def probe_tokens(tokenizer_dir: Path, count: int) -> Tensor:
    """Return `count` real tokens [1, S]: a rendered conversation, repeated."""
    tokenizer = PreTrainedTokenizerFast.from_pretrained(tokenizer_dir)
    text = render([{"role": "user", "content": "What is 7 + 5?"}, {"role": "assistant", "content": "7 + 5 = 12."}])
    ids: list[int] = tokenizer.encode(text, add_special_tokens=False)
    return torch.tensor([(ids * -(-count // len(ids)))[:count]])
