"""Write a teacher's best tokens for every supervised position of the preference pairs (artifact TeacherLogits).

Distilling from the cache needs no teacher in memory, and one cache serves every arm of a sweep. Ranks share chunks of
pairs; a chunk is committed by an atomic rename, so a killed run goes on.

Shapes: B sequence, S position, T supervised positions in a row, K kept tokens.
"""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import cast

import numpy as np
import torch
from transformers import PreTrainedTokenizerFast

from nanbeige_core.contract import Job, Outcome, Section
from nanbeige_core.data.tables import read_rows
from nanbeige_core.distill.pair_batches import EncodedPair, encode_pair, make_pair_batches, pack_pairs
from nanbeige_core.distill.teacher_cache import (
    CHAT_FORMAT,
    CacheHeader,
    SampleTops,
    sample_key,
    supervised_positions,
    write_cache,
)
from nanbeige_core.distill.top_k import TeacherTop, sharded_top_k
from nanbeige_core.distill.vocabulary import VocabularyShard
from nanbeige_core.launch.ranks import barrier, rank
from nanbeige_core.megatron import parallel
from nanbeige_core.megatron.batch import Batch
from nanbeige_core.megatron.chunked_head import chunk_spans
from nanbeige_core.megatron.frozen import FrozenModel
from nanbeige_core.recipe.configs.distill import TeacherLogitsConfig

POSITIONS = 1024
"""Positions whose logits exist at once."""


def run(job: Job) -> Outcome:
    """Read every pair with the teacher once and store its best tokens."""
    config = cast(TeacherLogitsConfig, job.config)
    pairs = load_pairs(job, config)
    teacher = FrozenModel.open(job.inputs["teacher"].path / "weights", runtime=job.runtime, pipelined=True)
    shard = VocabularyShard(teacher.card.vocab_size, parallel.tensor_group())
    chunks = [pairs[at : at + config.chunk_pairs] for at in range(0, len(pairs), config.chunk_pairs)]
    paths = [job.scratch / f"{number:06d}.npz" for number in range(len(chunks))]
    for number in range(parallel.data_rank(), len(chunks), parallel.data_size()):
        if not paths[number].exists():
            tops = read_chunk(teacher, chunks[number], config, shard, micro_batch_size=job.runtime.micro_batch_size)
            if parallel.is_first_tensor_rank() and parallel.is_last_stage():
                commit(paths[number], tops)
        job.progress((number + 1) / len(chunks), f"chunk {number + 1} of {len(chunks)}")
    barrier()
    header = CacheHeader(
        teacher=job.inputs["teacher"].fingerprint,
        tokenizer_fingerprint=teacher.card.tokenizer_fingerprint,
        vocab_size=teacher.card.vocab_size,
        chat_format=CHAT_FORMAT,
        top_k=min(config.top_k, teacher.card.vocab_size),
    )
    outcome = Outcome(summary="see rank 0")
    if rank() == 0:
        samples = {key: tops for path in paths for key, tops in read_committed(path)}
        write_cache(job.work, header, samples)
        outcome = report(header, samples, len(pairs))
    barrier()
    return outcome


def load_pairs(job: Job, config: TeacherLogitsConfig) -> list[EncodedPair]:
    """Return the pairs of both splits that fit the window; raises ValueError when none does."""
    tokenizer = PreTrainedTokenizerFast.from_pretrained(job.inputs["tokenizer"].path)
    found: list[EncodedPair] = []
    for name in ("pairs", "validation"):
        table = read_rows(job.inputs["pairs"].path / f"{name}.parquet", ("prompt", "chosen", "rejected"))
        found += [encode_pair(tokenizer, row["prompt"], row["chosen"], row["rejected"]) for row in table]
    packed = pack_pairs(found, config.sequence_length)
    if not packed.pairs:
        raise ValueError(
            f"none of {len(found)} pairs fits {config.sequence_length} tokens: raise teacher_logits.sequence_length"
        )
    return packed.pairs


def read_chunk(
    teacher: FrozenModel,
    pairs: Sequence[EncodedPair],
    config: TeacherLogitsConfig,
    shard: VocabularyShard,
    *,
    micro_batch_size: int,
) -> dict[str, SampleTops]:
    """Return the teacher's best tokens of every sample of some pairs; collective over model-parallel ranks.

    Nothing but on the last pipeline rank.
    """
    packed = pack_pairs(pairs, config.sequence_length)
    batches = make_pair_batches(
        packed.pairs, packed.bins, sequence_length=config.sequence_length, micro_batch_size=micro_batch_size
    )
    teacher.read_ahead(batches)
    found: dict[str, SampleTops] = {}
    for number, batch in enumerate(batches if parallel.is_last_stage() else []):
        members = packed.bins[number * micro_batch_size :][: len(batch.tokens_BS)]
        samples = [sample for row in members for index in row for sample in packed.pairs[index]]
        tops = _best_tokens(teacher, batch, config.top_k, shard)
        counts = [len(supervised_positions(sample)) for sample in samples]
        ids, log_probs = (part[0].cpu().split(counts) for part in tops)
        for place, sample in enumerate(samples):
            found[sample_key(sample)] = SampleTops(
                np.array(supervised_positions(sample), dtype=np.int32),
                ids[place].numpy().astype(np.int32),
                log_probs[place].numpy().astype(np.float16),
            )
    return found


@torch.no_grad()
def _best_tokens(teacher: FrozenModel, batch: Batch, top_k: int, shard: VocabularyShard) -> TeacherTop:
    output = teacher.hidden(batch)
    hidden_TH, weight_VH_tp = output.hidden_BSH[batch.extra["side_BS"].to(output.hidden_BSH.device) != 0], output[1]
    parts = [
        sharded_top_k((hidden_TH[span].to(weight_VH_tp.dtype) @ weight_VH_tp.t()).unsqueeze(0), shard, top_k)
        for span in chunk_spans(len(hidden_TH), POSITIONS)
    ]
    return TeacherTop(*(torch.cat(column, 1) for column in zip(*parts, strict=True)))


def commit(path: Path, tops: dict[str, SampleTops]) -> None:
    """Write a chunk so that the file is either absent or whole."""
    arrays = {f"{key}/{name}": getattr(value, name) for key, value in tops.items() for name in SampleTops._fields}
    with path.with_suffix(".partial").open("wb") as file:
        np.savez(file, **arrays)
    os.replace(path.with_suffix(".partial"), path)


def read_committed(path: Path) -> Iterator[tuple[str, SampleTops]]:
    """Yield a committed chunk's samples in order."""
    with np.load(path) as arrays:
        for key in dict.fromkeys(name.split("/")[0] for name in arrays.files):
            yield key, SampleTops(*(arrays[f"{key}/{name}"] for name in SampleTops._fields))


def report(header: CacheHeader, samples: dict[str, SampleTops], pairs: int) -> Outcome:
    """Describe the cache: its size, and how much of the teacher's mass it holds."""
    tokens = sum(len(tops.positions) for tops in samples.values())
    mass = np.concatenate([np.exp(tops.log_probs.astype(np.float32)).sum(-1) for tops in samples.values()])
    low = float(np.quantile(mass, 0.01))
    return Outcome(
        summary=f"Stored the teacher's {header.top_k} best tokens at {tokens:,} positions of {len(samples):,} "
        "responses.",
        counts={"pairs": pairs, "responses": len(samples), "positions": tokens, "top_k": header.top_k},
        metrics={"kept_mass": float(mass.mean()), "kept_mass_p01": low},
        tokens=tokens,
        sections=[
            Section(
                title="How much of the teacher is kept",
                text="The rest goes into one bucket per position, which the loss compares with the student's rest.",
                table=[{"best tokens": header.top_k, "mean mass": float(mass.mean()), "1 % of positions below": low}],
            )
        ],
    )
