"""Tokens per second of one training step: this project's Trainer against transformers' Llama with torch AdamW.

Both sides run in one process, alternating, one thread: `python benchmarks/pretrain_throughput.py [student|teacher]`.
The share of the peak is the model's FLOPs (6 per weight and token, attention as if not causal) over those of a large
matrix product in the same process. Target: at least 1.0 times transformers.
"""

import statistics
import sys
import time
from collections.abc import Callable

import torch
from transformers import LlamaForCausalLM

from nanbeige_core.contract import Runtime
from nanbeige_core.megatron.batch import Batch
from nanbeige_core.megatron.convert import hf_config
from nanbeige_core.megatron.schedule import LrSchedule
from nanbeige_core.megatron.step_metrics import flops_per_token
from nanbeige_core.megatron.trainer import Trainer
from nanbeige_core.megatron.vocab_parallel import make_cross_entropy
from nanbeige_core.recipe.configs.base import ModelConfig, OptimizerConfig

VOCABULARY, ROWS, WIDTH, REPEATS = 4096, 8, 256, 15
STUDENT = {"layers": 4, "hidden_size": 192, "query_heads": 6, "kv_heads": 2, "head_size": 32, "ffn_size": 512}
TEACHER = {"layers": 6, "hidden_size": 256, "query_heads": 8, "kv_heads": 2, "head_size": 32, "ffn_size": 640}


def measure(step: Callable[[], object]) -> float:
    start = time.process_time()
    step()
    return ROWS * WIDTH / (time.process_time() - start)


def matmul_peak() -> float:
    """Return the FLOPs per CPU-second of a large fp32 matrix product."""
    left, right = torch.randn(2, 1024, 1024)
    seconds: list[float] = []
    for _ in range(5):
        start = time.process_time()
        left @ right
        seconds.append(time.process_time() - start)
    return 2 * 1024**3 / statistics.median(seconds)


def main(name: str) -> None:
    shape = {"student": STUDENT, "teacher": TEACHER}[name]
    model = ModelConfig.model_validate(shape | {"max_positions": WIDTH, "dtype": "float32"})
    trainer = Trainer.open(
        model=model,
        vocab_size=VOCABULARY,
        optimizer=OptimizerConfig(),
        schedule=LrSchedule(peak=1e-3, total=1000),
        runtime=Runtime(),
        seed=0,
    )
    theirs = LlamaForCausalLM(hf_config(model.model_dump() | {"vocab_size": VOCABULARY}))
    adam = torch.optim.AdamW(theirs.parameters(), lr=1e-3, fused=True)
    ids = torch.randint(0, VOCABULARY, (ROWS, WIDTH + 1), generator=torch.Generator().manual_seed(0))
    batch = Batch(ids[:, :-1].contiguous(), ids[:, 1:].contiguous(), torch.ones(ROWS, WIDTH))

    def reference() -> None:
        logits = theirs(batch.tokens_BS).logits
        torch.nn.functional.cross_entropy(logits.flatten(0, 1), batch.labels_BS.flatten()).backward()
        torch.nn.utils.clip_grad_norm_(theirs.parameters(), 1.0)
        adam.step()
        adam.zero_grad()

    def ours() -> None:
        trainer.train_step([batch], make_cross_entropy(float(ROWS * WIDTH)))

    ours(), reference()
    peak = matmul_peak()
    rates = [(measure(ours), measure(reference)) for _ in range(REPEATS)]
    megatron, transformers = (statistics.median(column) for column in zip(*rates, strict=True))
    # of neighbours in time: other programs slow single steps by a fifth
    ratio = statistics.median(mine / other for mine, other in rates)
    parameters = sum(weight.numel() for weight in theirs.parameters())
    print(f"{name}: {parameters:,} parameters, {ROWS} x {WIDTH} tokens a step, per CPU-second of one thread")
    print(f"megatron {megatron:,.0f} tok/s, transformers {transformers:,.0f} tok/s, median of ratios {ratio:.2f}")
    flops = flops_per_token(model, vocab_size=VOCABULARY, window=WIDTH)
    shares = f"megatron {megatron * flops / peak:.0%}, transformers {transformers * flops / peak:.0%}"
    print(f"share of the measured matmul peak of {peak / 1e9:,.0f} GFLOP/s: {shares}")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "student")
