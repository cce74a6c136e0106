"""Write Hugging Face weights as a Checkpoint artifact, and prove that every weight arrived."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from nanbeige_core.contract import Runtime
from nanbeige_core.megatron import convert, parallel, weights
from nanbeige_core.megatron.model import build_model, padded_vocab_size
from nanbeige_core.recipe.configs.base import ModelConfig
from nanbeige_core.rl.judge import TEMPLATE, VERDICT_FILE, verdict_tokens


def write_checkpoint(
    files: list[Path], model: ModelConfig, vocabulary: tuple[str, int], directory: Path, *, stage: str
) -> int:
    """Write weights/, model.json and state.json from safetensors files; return the number of parameters.

    Rows of the vocabulary beyond the tokenizer's are cut: no text has their ids. Runs in one process, which must not
    hold another model. Raises RuntimeError when a weight read back differs from the given one in a single bit.
    """
    fingerprint, vocab_size = vocabulary
    state = _read_state(files, model, vocab_size)
    full = convert.hf_to_megatron(state, model, padded_vocab_size=padded_vocab_size(vocab_size))
    runtime = Runtime.model_validate({})
    parallel.initialize(runtime, seed=0)
    try:
        module = build_model(model, vocab_size=vocab_size, runtime=runtime)
        convert.copy_into_model(module, full)
        weights.save_sharded({"model": module.sharded_state_dict()}, directory / "weights")
        weights.write_model_card(directory, weights.ModelCard(model, vocab_size, fingerprint))
        (directory / "state.json").write_text(
            json.dumps({"stage": stage, "steps": 0, "step": 0, "tokens": 0, "history": []}, indent=1) + "\n"
        )
        _require_equal(state, convert.load_hf_state(directory))
    finally:
        parallel.teardown()
    return sum(tensor.numel() for tensor in state.values())


def write_verdict(tokenizer: Path, directory: Path) -> None:
    """Write verdict.json: which tokens the judge says, and how it is asked."""
    first, second = verdict_tokens(PreTrainedTokenizerFast.from_pretrained(tokenizer))
    verdict: dict[str, Any] = {"token_a": first, "token_b": second, "template": TEMPLATE}
    (directory / VERDICT_FILE).write_text(json.dumps(verdict, indent=1) + "\n")


def _read_state(files: list[Path], model: ModelConfig, vocab_size: int) -> dict[str, Tensor]:
    state: dict[str, Tensor] = {}
    for file in files:
        state |= load_file(str(file))
    if model.tied_embeddings:
        state.pop("lm_head.weight", None)
    dtype = {"float32": torch.float32, "bfloat16": torch.bfloat16}[model.dtype]
    tables = ("model.embed_tokens.weight", "lm_head.weight")
    return {
        name: (tensor[:vocab_size] if name in tables else tensor).to(dtype).contiguous()
        for name, tensor in state.items()
    }


def _require_equal(given: dict[str, Tensor], written: dict[str, Tensor]) -> None:
    wrong = [name for name in given if name not in written or not torch.equal(given[name], written[name])]
    if wrong or set(written) - set(given):
        raise RuntimeError(
            f"{len(wrong)} weights differ after they were written and read back ({', '.join(wrong[:3])}): the "
            "checkpoint is not the model that was given. This is an error of the conversion; please report it."
        )
