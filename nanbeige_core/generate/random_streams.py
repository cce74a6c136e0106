"""Random streams of responses: they follow from prompt, sample number and seed alone.

So neither what a response is batched with nor the number of ranks that share the work changes what is drawn.
"""

import hashlib
from collections.abc import Sequence


def stream_of(prompt: Sequence[int], sample: int, seed: int) -> int:
    """Return the random stream of one response, 0 to 2^63 - 1."""
    text = f"{seed}:{sample}:{','.join(map(str, prompt))}"
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little") >> 1


def vllm_seed(prompt: Sequence[int], seed: int) -> int:
    """Return the seed of a prompt's request; vLLM adds the sample's number, so neighbours must lie far apart."""
    return stream_of(prompt, 0, seed) % 2**31
