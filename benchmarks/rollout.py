"""Rollout tokens per second: the in-process engine against transformers' own generate, same weights and prompts.

    python benchmarks/rollout.py CHECKPOINT TOKENIZER PROMPTS [--prompts 16] [--group 8] [--equal 48] [--longest 192]

CHECKPOINT, TOKENIZER and PROMPTS are artifact directories of a run (a Checkpoint, a Tokenizer, the PromptSet of a
filter). Equal lengths: nothing may stop before the limit, and prompts are cut to one length. Uneven: both stop where
the policy does, under one limit, and only tokens up to the stop count. Both sides take turns in one process and one
thread; medians of CPU-seconds.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from transformers import LlamaForCausalLM

from nanbeige_core.generate.transformers_engine import TransformersEngine
from nanbeige_core.recipe.configs.base import SamplingConfig
from nanbeige_core.rl.prompts import load_prompts
from nanbeige_core.sft.chat import encode_prompt

REPEATS = 3


def measure(generate: Callable[[int], int], seed: int) -> float:
    """Return the tokens drawn per CPU-second."""
    started = time.process_time()
    tokens = generate(seed)
    return tokens / (time.process_time() - started)


def compare(
    engine: TransformersEngine,
    theirs: LlamaForCausalLM,
    prompts: list[list[int]],
    *,
    group: int,
    limit: int,
    stop: bool,
) -> tuple[float, float, float]:
    """Return tokens a second of both sides and the mean length ours drew, medians over the repeats."""
    stop_id = engine.stop_id
    if not stop:
        # no row needs padding then, and an id that is no token can stand for "never stop"
        prompts = [prompt[-min(map(len, prompts)) :] for prompt in prompts]
    widest = max(map(len, prompts))
    ids = torch.tensor([[stop_id] * (widest - len(prompt)) + prompt for prompt in prompts])
    mask = torch.tensor([[0] * (widest - len(prompt)) + [1] * len(prompt) for prompt in prompts])
    lengths: list[float] = []

    def ours(seed: int) -> int:
        engine.stop_id = stop_id if stop else -1
        drawn = engine.generate(prompts, SamplingConfig(max_new_tokens=limit), n=group, seed=seed)
        engine.stop_id = stop_id
        sizes = [len(item.token_ids) for answers in drawn for item in answers]
        lengths.append(sum(sizes) / len(sizes))
        return sum(sizes)

    def reference(seed: int) -> int:
        torch.manual_seed(seed)
        with torch.inference_mode():
            drawn = theirs.generate(
                input_ids=ids,
                attention_mask=mask,
                do_sample=True,
                temperature=1.0,
                top_p=1.0,
                top_k=0,
                num_return_sequences=group,
                max_new_tokens=limit,
                eos_token_id=stop_id if stop else None,
                pad_token_id=stop_id,
            )[:, widest:]
        ends = (drawn == stop_id).int()
        first = torch.where(ends.any(1), ends.argmax(1) + 1, drawn.size(1))
        return int(first.sum()) if stop else drawn.numel()

    ours(0), reference(0)
    rates = [(measure(ours, seed), measure(reference, seed)) for seed in range(1, REPEATS + 1)]
    mine, other = (statistics.median(column) for column in zip(*rates, strict=True))
    return mine, other, statistics.mean(lengths)


def main() -> None:
    """Measure both at equal and at uneven lengths."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    for name in ("checkpoint", "tokenizer", "prompts_artifact"):
        parser.add_argument(name, type=Path)
    for name, default in (("prompts", 16), ("group", 8), ("equal", 48), ("longest", 192)):
        parser.add_argument(f"--{name}", type=int, default=default)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    engine = TransformersEngine.open(arguments.checkpoint, arguments.tokenizer)
    theirs = LlamaForCausalLM(engine.model.config.__class__.from_dict(engine.model.config.to_dict())).eval()
    theirs.load_state_dict(engine.model.state_dict())
    theirs.set_attn_implementation("sdpa")
    rows = load_prompts(arguments.prompts_artifact, splits={"rl"}, limit=arguments.prompts)
    prompts = [encode_prompt(engine.tokenizer, [{"role": "user", "content": row.prompt}]) for row in rows]
    for name, limit, stop in (("equal lengths", arguments.equal, False), ("uneven lengths", arguments.longest, True)):
        mine, other, length = compare(engine, theirs, prompts, group=arguments.group, limit=limit, stop=stop)
        print(
            f"{name}: {len(prompts)} prompts x {arguments.group}, limit {limit}, mean length {length:.0f}: ours "
            f"{mine:,.0f} tok/CPU-s, transformers generate {other:,.0f}, ratio {mine / other:.2f}"
        )


if __name__ == "__main__":
    main()
