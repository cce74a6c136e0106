"""Show that every parallel layout trains the same model: `nanbeige parity`.

All layouts start from the same seed and see the same global batch, cut differently. Losses and gradient norms of
three steps and every weight's first gradient are compared with one rank's. A loss alone proves nothing: a wrong
placement of the all-reduces leaves the loss right and the gradient wrong.
"""

import functools
import multiprocessing
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor
from torch._C._distributed_c10d import FileStore

from nanbeige_core.contract import Runtime
from nanbeige_core.megatron import parallel
from nanbeige_core.megatron.batch import Batch
from nanbeige_core.megatron.schedule import LrSchedule
from nanbeige_core.recipe.configs.base import ModelConfig, OptimizerConfig
from nanbeige_core.recipe.layout import LayoutError, validate_layout

MODEL = ModelConfig(
    layers=4, hidden_size=64, query_heads=4, kv_heads=2, head_size=16, ffn_size=96, max_positions=64, dtype="float32"
)
VOCABULARY = 250
"""Not a multiple of 128, so that padded columns take part."""
SEQUENCES, WIDTH, STEPS = 8, 32, 3


LOSS_TOLERANCE, GRADIENT_TOLERANCE = 1e-6, 1e-5
"""Largest relative differences from one rank: of a loss, and of a gradient or its norm (fp32, sums in other orders)."""


class Layout(NamedTuple):
    """One way to spread a model over ranks; the rest of `ranks` is data parallel."""

    ranks: int
    tp: int = 1
    pp: int = 1
    sp: bool = False
    recompute: bool = False
    vp: int = 1

    @property
    def name(self) -> str:
        """Return the usual short form, such as TP2 PP2 DP1 SP."""
        data = self.ranks // (self.tp * self.pp)
        interleaved = f"x{self.vp}" if self.vp > 1 else ""
        return f"TP{self.tp} PP{self.pp}{interleaved} DP{data}{' SP' * self.sp}{' recompute' * self.recompute}"


LAYOUTS = [
    Layout(1),
    Layout(2),
    Layout(2, tp=2),
    Layout(2, tp=2, sp=True),
    Layout(2, pp=2),
    Layout(4, tp=2),
    Layout(4, pp=2),
    Layout(4, tp=2, pp=2),
    Layout(4, tp=2, pp=2, sp=True),
    Layout(2, pp=2, vp=2),
    Layout(4, pp=2, vp=2),
    Layout(1, recompute=True),
    Layout(4, tp=2, pp=2, vp=2, sp=True, recompute=True),
]
"""The distributed optimizer is on in all of them, and splits its state wherever DP is above 1."""


class Trace(NamedTuple):
    """What one layout did: per step the loss and the gradient norm, and where its first step's state lies."""

    losses: list[float]
    grad_norms: list[float]
    directory: Path


def run_ranks(ranks: int, work: Callable[[int], Any], directory: Path) -> list[Any]:
    """Run `work(rank)` in `ranks` processes that form one gloo group; return every rank's answer.

    `work` must be picklable. The processes are forked from a server that has imported Megatron once: forking this one
    would crash after it has run a backward pass. An exception in any rank is raised here.
    """
    multiprocessing.set_forkserver_preload(["nanbeige_core.megatron.trainer"])
    store = directory / "store"
    torch.multiprocessing.start_processes(  # type: ignore[no-untyped-call]
        _enter, args=(work, ranks, store, directory), nprocs=ranks, start_method="forkserver"
    )
    store.unlink(missing_ok=True)
    return [torch.load(directory / f"answer-{rank}.pt", weights_only=False) for rank in range(ranks)]


def _enter(rank: int, work: Callable[[int], Any], ranks: int, store: Path, directory: Path) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", store=FileStore(str(store), ranks), rank=rank, world_size=ranks)
    torch.save(work(rank), directory / f"answer-{rank}.pt")
    parallel.teardown()


def global_batch(step: int) -> Batch:
    """Return the whole batch of a step: the even steps packed, a part of the targets masked."""
    generator = torch.Generator().manual_seed(1000 + step)
    ids = torch.randint(0, VOCABULARY, (SEQUENCES, WIDTH + 1), generator=generator)
    mask_BS = (torch.rand(SEQUENCES, WIDTH, generator=generator) < 0.7).float()
    segments_BS = torch.randint(0, 2, (SEQUENCES, WIDTH), generator=generator).cumsum(1) // 6
    return Batch(ids[:, :-1].contiguous(), ids[:, 1:].contiguous(), mask_BS, None if step % 2 else segments_BS)


def split_batch(batch: Batch, *, part: int, parts: int, rows: int) -> list[Batch]:
    """Return the micro-batches of `rows` sequences that belong to data-parallel rank `part` of `parts`."""
    share = batch.tokens_BS.size(0) // parts
    begins = range(part * share, (part + 1) * share, rows)
    return [
        Batch(
            batch.tokens_BS[begin : begin + rows],
            batch.labels_BS[begin : begin + rows],
            batch.loss_mask_BS[begin : begin + rows],
            None if batch.segment_ids_BS is None else batch.segment_ids_BS[begin : begin + rows],
        )
        for begin in begins
    ]


def trace_layout(layout: Layout, directory: Path) -> Trace:
    """Train three steps in this process group under `layout`; the state after the first step goes to `directory`."""
    from nanbeige_core.megatron.trainer import Trainer
    from nanbeige_core.megatron.vocab_parallel import make_cross_entropy

    parallel.reset()
    trainer = Trainer.open(
        model=MODEL,
        vocab_size=VOCABULARY,
        optimizer=OptimizerConfig(),
        schedule=LrSchedule(peak=1e-3, floor=1e-5, total=10, warmup=2, shape="linear"),
        runtime=Runtime(
            tensor_parallel=layout.tp,
            pipeline_parallel=layout.pp,
            sequence_parallel=layout.sp,
            virtual_pipeline=layout.vp,
            recompute=layout.recompute,
            processes=layout.ranks,
            micro_batch_size=2,
        ),
        seed=7,
    )
    losses: list[float] = []
    norms: list[float] = []
    for step in range(STEPS):
        batch = global_batch(step)
        loss = make_cross_entropy(float(batch.loss_mask_BS.sum()))
        rows = 2 if layout.ranks < 4 else 1
        stats = trainer.train_step(split_batch(batch, part=trainer.data_rank, parts=trainer.data_size, rows=rows), loss)
        losses.append(stats.loss)
        norms.append(stats.grad_norm)
        if step == 0:
            trainer.save(directory, tokenizer_fingerprint="", stage="parity", with_optimizer=True)
    return Trace(losses, norms, directory)


def first_gradients(directory: Path) -> dict[str, Tensor]:
    """Return every weight's first (clipped) gradient times 0.1: Adam's first moment after one step."""
    from nanbeige_core.megatron.convert import load_full_weights

    prefix = "optimizer.state.exp_avg."
    full = load_full_weights(directory / "optimizer")
    found = {name.removeprefix(prefix): tensor for name, tensor in full.items() if name.startswith(prefix)}
    assert found, f"no first moments in {directory}: the names of the optimizer state have changed"
    return found


def trace_layouts(layouts: list[Layout], directory: Path) -> dict[str, Trace]:
    """Run all layouts, those with the same number of ranks in one set of processes."""
    traces: dict[str, Trace] = {}
    for ranks in sorted({layout.ranks for layout in layouts}):
        group = [layout for layout in layouts if layout.ranks == ranks]

        answers = run_ranks(ranks, functools.partial(_trace_group, group=group, directory=directory), directory)[0]
        traces |= {layout.name: trace for layout, trace in zip(group, answers, strict=True)}
    return traces


def _trace_group(rank: int, *, group: list[Layout], directory: Path) -> list[Trace]:
    del rank
    return [trace_layout(layout, directory / layout.name.replace(" ", "-")) for layout in group]


def compare(traces: dict[str, Trace]) -> list[dict[str, Any]]:
    """Return one row per layout: its last loss and norm, and the largest relative differences from the first."""
    names = list(traces)
    reference, reference_gradients = traces[names[0]], first_gradients(traces[names[0]].directory)
    rows: list[dict[str, Any]] = []
    for name in names:
        trace, gradients = traces[name], first_gradients(traces[name].directory)
        worst = max(
            float((gradients[key] - wanted).norm() / wanted.norm()) for key, wanted in reference_gradients.items()
        )
        losses, norms = _largest(trace.losses, reference.losses), _largest(trace.grad_norms, reference.grad_norms)
        rows.append(
            {
                "layout": name,
                "loss": trace.losses[-1],
                "gradient norm": trace.grad_norms[-1],
                "loss difference": losses,
                "norm difference": norms,
                "gradient difference": worst,
                "same": losses <= LOSS_TOLERANCE and max(norms, worst) <= GRADIENT_TOLERANCE,
            }
        )
    return rows


def _largest(ours: list[float], wanted: list[float]) -> float:
    return max(abs(a - b) / abs(b) for a, b in zip(ours, wanted, strict=True))


def refused_layouts() -> list[dict[str, str]]:
    """Return one row for each layout that Megatron knows and this project refuses, with the message a user gets."""
    try:
        validate_layout(MODEL, Runtime(context_parallel=2, processes=2), world_size=2)
    except LayoutError as error:
        return [{"layout": "CP2", "refused": str(error)}]
    return []


def run_parity() -> list[dict[str, Any]]:
    """Train in every layout, in processes of their own, and return the rows of `compare`."""
    with tempfile.TemporaryDirectory() as directory:
        return compare(trace_layouts(LAYOUTS, Path(directory)))
