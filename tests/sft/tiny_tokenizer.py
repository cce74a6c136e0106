"""A real byte-level tokenizer, built in a millisecond."""

from functools import cache

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from nanbeige_core.data.special_tokens import FIRST, LAST


@cache
def tiny_tokenizer() -> PreTrainedTokenizerFast:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    names = [*FIRST, *alphabet, *LAST]
    backend = Tokenizer(models.BPE(vocab={name: index for index, name in enumerate(names)}, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in [*FIRST, *LAST]])
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<|im_end|>")
