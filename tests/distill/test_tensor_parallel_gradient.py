import os
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from nanbeige_core.distill.top_k import sharded_top_k, top_k_tail_kl
from nanbeige_core.distill.vocabulary import VocabularyShard
from tests.distill.differentiable import divergence

V, PADDED = 11, 14
KINDS = ("forward_kl", "reverse_kl", "jsd")


def logits(seed: int) -> torch.Tensor:
    return 2 * torch.randn(2, 4, PADDED, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def losses_and_gradients(shard: VocabularyShard, columns: slice) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    teacher, found = logits(2)[..., columns], {}
    for kind in (*KINDS, "top_k"):
        student = logits(1)[..., columns].clone().requires_grad_()
        if kind == "top_k":
            value = top_k_tail_kl(student, sharded_top_k(teacher, shard, 4), shard, chunk=3)
        else:
            value = divergence(student, teacher, shard, kind=kind)
        value.sum().backward()
        found[kind] = (value.detach(), student.grad)
    return found


def run_rank(rank: int, folder: str) -> None:
    os.environ.update(MASTER_ADDR="localhost", GLOO_SOCKET_IFNAME="lo")
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    half = slice(rank * PADDED // 2, (rank + 1) * PADDED // 2)
    found = losses_and_gradients(VocabularyShard(V, dist.group.WORLD), half)
    torch.save(found, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def test_split_vocabulary_gives_the_loss_and_the_gradient_of_the_whole(tmp_path: Path):
    mp.start_processes(run_rank, args=(str(tmp_path),), nprocs=2, start_method="spawn")
    whole = losses_and_gradients(VocabularyShard(V), slice(None))
    parts = [torch.load(tmp_path / f"{rank}.pt") for rank in range(2)]
    for kind, (value, gradient) in whole.items():
        joined = torch.cat([part[kind][1] for part in parts], -1)
        torch.testing.assert_close(parts[0][kind][0], value, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(joined, gradient, rtol=1e-10, atol=1e-12)
