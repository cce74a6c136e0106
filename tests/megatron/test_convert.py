from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import LlamaForCausalLM

from nanbeige_core.megatron import parity
from nanbeige_core.megatron.batch import Batch
from nanbeige_core.megatron.convert import (
    copy_into_model,
    hf_config,
    hf_to_megatron,
    load_full_weights,
    load_hf_state,
    megatron_to_hf,
)
from nanbeige_core.megatron.model import forward_logits
from nanbeige_core.megatron.trainer import Trainer
from nanbeige_core.recipe.vocabulary import padded_vocab_size

Open = Callable[..., Trainer]
PADDED = padded_vocab_size(parity.VOCABULARY)


@pytest.mark.parametrize("layout", ["TP1 PP1 DP1", "TP2 PP2 DP1 SP"])
def test_a_round_trip_through_hugging_face_names_is_bitwise(traces: dict[str, parity.Trace], layout: str) -> None:
    full = load_full_weights(traces[layout].directory / "weights")
    state = megatron_to_hf(full, parity.MODEL, vocab_size=parity.VOCABULARY)
    back = hf_to_megatron(state, parity.MODEL, padded_vocab_size=PADDED)
    assert set(back) == set(full)
    for name, tensor in full.items():
        rows = parity.VOCABULARY if tensor.size(0) == PADDED else tensor.size(0)
        assert torch.equal(back[name][:rows], tensor[:rows]), name


@torch.no_grad()
def test_transformers_computes_megatrons_logits(open_trainer: Open) -> None:
    trainer, tokens = open_trainer(), parity.global_batch(1).tokens_BS
    config = hf_config(parity.MODEL.model_dump() | {"vocab_size": parity.VOCABULARY})
    theirs = LlamaForCausalLM(config).eval()
    theirs.load_state_dict(trainer.hf_state_dict())
    ours = forward_logits(trainer.model.parts[0], Batch(tokens, tokens, torch.ones(tokens.shape)))[
        ..., : parity.VOCABULARY
    ]
    torch.testing.assert_close(theirs(tokens).logits, ours, rtol=1e-5, atol=1e-5)


def test_a_live_models_weights_equal_its_checkpoints(open_trainer: Open, tmp_path: Path) -> None:
    trainer = open_trainer()
    trainer.save(tmp_path, tokenizer_fingerprint="t", stage="s")
    live, stored = trainer.hf_state_dict(), load_hf_state(tmp_path)
    assert live.keys() == stored.keys()
    assert all(torch.equal(live[name], stored[name]) for name in live)


def test_imported_weights_are_the_exported_ones(open_trainer: Open) -> None:
    source, target = open_trainer(), open_trainer(seed=8)
    state = source.hf_state_dict()
    copy_into_model(target.model.parts[0].module, hf_to_megatron(state, parity.MODEL, padded_vocab_size=PADDED))
    assert all(torch.equal(state[name], weight) for name, weight in target.hf_state_dict().items())


def test_the_rope_base_reaches_transformers() -> None:
    config = hf_config(parity.MODEL.model_dump() | {"vocab_size": 250, "rope_theta": 5e6})
    assert config.rope_parameters["rope_theta"] == 5e6
