"""A tiny random Llama and tokenizer for the tests of this room."""

from functools import cache

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from nanbeige_core.generate.transformers_engine import TransformersEngine

WINDOW = 64


@cache
def tokenizer() -> PreTrainedTokenizerFast:
    """Every character is a token, plus the stop token and the chat marks."""
    names = ["<unk>", "<s>", "</s>", *map(chr, range(32, 127)), "\n"]
    names += ["<|im_start|>", "<|im_end|>", "<think>", "</think>"]
    built = Tokenizer(models.WordLevel({name: index for index, name in enumerate(names)}, unk_token="<unk>"))
    built.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    built.decoder = decoders.Fuse()
    built.add_special_tokens(names[-4:])
    return PreTrainedTokenizerFast(tokenizer_object=built)


def config(*, tied: bool = False) -> LlamaConfig:
    return LlamaConfig(
        vocab_size=len(tokenizer()),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        max_position_embeddings=WINDOW,
        tie_word_embeddings=tied,
    )


def model(seed: int, *, tied: bool = False, scale: float = 8.0) -> LlamaForCausalLM:
    """Return a random model; a large scale makes its distributions far from uniform."""
    torch.manual_seed(seed)
    built = LlamaForCausalLM(config(tied=tied)).eval()
    with torch.no_grad():
        for parameter in built.parameters():
            if parameter.dim() > 1:
                parameter.mul_(scale)
    return built


def engine(seed: int = 0, *, tied: bool = False, scale: float = 8.0) -> TransformersEngine:
    """Return an engine over a random model."""
    state = {name: weight.clone() for name, weight in model(seed, tied=tied, scale=scale).state_dict().items()}
    return TransformersEngine(state, config(tied=tied), tokenizer())


def reference_log_probs(
    seed: int, prompt: tuple[int, ...], response: tuple[int, ...], temperature: float
) -> list[float]:
    """Score a response with transformers' own forward pass, without cache or padding."""
    with torch.no_grad():
        logits = model(seed)(torch.tensor([prompt + response])).logits[0]
    logp = torch.log_softmax(logits / temperature, dim=-1)
    return [float(logp[len(prompt) - 1 + index, token]) for index, token in enumerate(response)]
