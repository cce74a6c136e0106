"""DPD's joint loss at the report's vocabulary: chunked from hidden states against full logits under autograd.

Both sides run in one call, each measurement in its own process: `python -m benchmarks.dpd_loss`, or of one size
`... POSITIONS HIDDEN [REPEATS [CHUNK]]`. Time is CPU time of forward and backward on one thread; memory is the growth
of the process's peak resident size, weights and inputs excluded. Both sides hold the gradient of the output matrix, so
the growth is also given without it. Target: at most 1/8 of the memory (with that gradient), at most 1.3 times the time,
equal gradient.
"""

import multiprocessing
import resource
import statistics
import sys
import time
from typing import Any

import torch
import torch.nn.functional as F

from nanbeige_core.contract import Runtime
from nanbeige_core.distill.losses import Denominators
from nanbeige_core.distill.objective import make_dpd_loss
from nanbeige_core.distill.teaching import LocalTeaching
from nanbeige_core.distill.vocabulary import VocabularyShard
from nanbeige_core.megatron import parallel
from nanbeige_core.megatron.batch import Batch
from nanbeige_core.megatron.chunked_head import HiddenOutput
from nanbeige_core.recipe.configs.distill import DpdConfig

VOCABULARY, CHUNK, REPEATS = 166_144, 64, 3
SIZES = [(1536, 256, 64), (1024, 1024, 256)]
"""(positions, hidden size, positions of a chunk): in the second, products and the output matrix's gradient weigh more.

Each chunk reads and writes that whole gradient: the larger it is, the longer a chunk should be.

Naive, a position costs 5.4 MiB, so a sequence of 64K would take 350 GB; these are what fits beside it.
"""


class Problem:
    def __init__(self, positions: int, hidden: int, chunk: int) -> None:
        self.chunk = chunk
        generator = torch.Generator().manual_seed(0)
        self.student, self.teacher = (torch.randn(1, positions, hidden, generator=generator) for _ in range(2))
        self.weight, self.teacher_weight = (
            torch.randn(VOCABULARY, hidden, generator=generator).mul_(0.02) for _ in range(2)
        )
        self.student.requires_grad_(), self.weight.requires_grad_()
        labels_BS = torch.randint(0, VOCABULARY, (1, positions), generator=generator)
        side_BS = torch.where(torch.arange(positions) < positions // 2, 1, -1).unsqueeze(0)
        self.batch = Batch(labels_BS, labels_BS, torch.ones(1, positions))
        self.batch.extra |= {
            "side_BS": side_BS,
            "pair_BS": torch.zeros_like(side_BS),
            "reference_BS": torch.full((1, positions), -12.0),
        }
        self.half = positions // 2

    def hidden(self, batch: Batch) -> HiddenOutput:
        return HiddenOutput(self.teacher, self.teacher_weight)

    def ours(self) -> torch.Tensor:
        config = DpdConfig.model_validate({"divergence_chunk": self.chunk})
        shard = VocabularyShard(VOCABULARY)
        loss = make_dpd_loss(config, Denominators(1, self.half, self.half), shard, LocalTeaching(self, config, shard))
        return loss.function(HiddenOutput(self.student, self.weight), self.batch)[0]

    def naive(self) -> torch.Tensor:
        log_q = (self.student[0] @ self.weight.t()).log_softmax(-1)
        with torch.no_grad():
            log_p = (self.teacher[0] @ self.teacher_weight.t()).log_softmax(-1)
        divergence = F.kl_div(log_q, log_p, reduction="none", log_target=True).sum(-1)
        gained = log_q.gather(-1, self.batch.labels_BS[0, :, None])[:, 0] - self.batch.extra["reference_BS"][0]
        margin = gained[: self.half].sum() - gained[self.half :].sum()
        return -F.logsigmoid(0.1 * margin) + divergence.sum() / self.half


def measure(name: str, positions: int, hidden: int, repeats: int, chunk: int, answers: Any) -> None:
    torch.set_num_threads(1)
    parallel.initialize(Runtime(), seed=0)
    problem = Problem(positions, hidden, chunk)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    seconds: list[float] = []
    for _ in range(repeats):
        problem.student.grad = problem.weight.grad = None
        start = time.process_time()
        loss = getattr(problem, name)()
        loss.backward()
        seconds.append(time.process_time() - start)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    gradients = problem.student.grad, problem.weight.grad[::97].clone()
    answers.put((loss.item(), statistics.median(seconds), grown / 1024, *(part.numpy() for part in gradients)))
    parallel.teardown()


def in_process(name: str, positions: int, hidden: int, repeats: int, chunk: int) -> Any:
    context = multiprocessing.get_context("spawn")
    answers = context.Queue()
    process = context.Process(target=measure, args=(name, positions, hidden, repeats, chunk, answers))
    process.start()
    answer = answers.get()
    process.join()
    return answer


def main(*numbers: int) -> None:
    repeats = numbers[2] if len(numbers) > 2 else REPEATS
    chosen = (*numbers[:2], numbers[3] if len(numbers) > 3 else CHUNK)
    for positions, hidden, chunk in [chosen] if numbers else SIZES:
        ours, naive = (in_process(name, positions, hidden, repeats, chunk) for name in ("ours", "naive"))
        apart = max(abs(a - b).max() / abs(b).max() for a, b in zip(ours[3:], naive[3:], strict=True))
        print(f"{positions} positions, hidden {hidden}, vocabulary {VOCABULARY}, chunks of {chunk}:")
        print(f"  peak memory {ours[2]:,.0f} MiB against {naive[2]:,.0f} MiB: 1/{naive[2] / ours[2]:.1f}")
        both = VOCABULARY * hidden * 4 / 2**20
        without = (naive[2] - both) / (ours[2] - both)
        print(f"    of these {both:,.0f} MiB on either side are the output matrix's gradient; without: 1/{without:.1f}")
        print(f"  time {ours[1]:.2f} s against {naive[1]:.2f} s: {ours[1] / naive[1]:.2f}x")
        print(
            f"  loss {ours[0]:.6f} and {naive[0]:.6f}; largest gradient difference {apart:.1e} of the largest gradient"
        )


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
