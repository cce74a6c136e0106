"""Tagging of a pool: documents per second, how it scales with processes, and against an encoder of MiniLM's size.

    python benchmarks/tagging.py CORPUS [--documents 8000] [--peer-documents 96]

CORPUS is an artifact of `ingest`. The tagger is distilled from a sample of it first, as the stage does; timed is what
the stage then does with every document: read, all labels, score and gate, write. The peer is one forward pass of a
BERT encoder with the shape of all-MiniLM-L6-v2 (6 layers, 384 wide, 12 heads, inner size 1,536, vocabulary 30,522) in
float32 on one thread. Its weights are random, because only its size matters for time; its input is given to it as
ids, a quarter as many as the document has characters (both sides read the same prefix) and at most the 256 that the
model takes, sorted by length so that nothing is padded in vain. It pays for neither reading, tokenising nor writing.
Speeds are documents per CPU-second; processes are also timed by the clock. Exit status 1 when the goal is missed.
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from nanbeige_core.data.executors import LocalPool, ProcessPool, run_phase
from nanbeige_core.data.tables import read_rows, write_shards
from nanbeige_core.data.tagging.tagger import TagTask, tag_file
from nanbeige_core.recipe.configs.data import QualityTaggingConfig

GOAL = 5.0
TOKENS, BATCH, CHARACTERS_PER_TOKEN = 256, 32, 4


def distil_tagger(folder: Path, path: Path, config: QualityTaggingConfig) -> None:
    """Do what the stage does before it goes through the pool."""
    from nanbeige_core.data.character_model import CharacterModel
    from nanbeige_core.data.quality_tagging import distil, draw
    from nanbeige_core.data.tagging.examples import build_examples
    from nanbeige_core.data.tagging.label_set import BUILT_IN
    from nanbeige_core.data.tagging.tagger import Tagger

    sample, reference = draw(folder, config)
    model = CharacterModel()
    for row in reference:
        model.learn(row["text"][:2000])
    student, weights = distil(build_examples(sample, model, config, BUILT_IN), model, config, BUILT_IN)
    Tagger(model, student, weights).save(path)


def encode(texts: list[str]) -> float:
    """Return the documents per CPU-second of the encoder."""
    import torch
    from transformers import BertConfig, BertModel

    torch.set_num_threads(1)
    shape = BertConfig(
        hidden_size=384, num_hidden_layers=6, num_attention_heads=12, intermediate_size=1536, vocab_size=30522
    )
    model = BertModel(shape).eval()
    lengths = sorted(min(TOKENS, max(2, len(text) // CHARACTERS_PER_TOKEN)) for text in texts)
    rng = np.random.default_rng(0)
    with torch.inference_mode():
        model(torch.zeros(BATCH, 64, dtype=torch.long))
        start = time.process_time()
        for first in range(0, len(lengths), BATCH):
            mine = lengths[first : first + BATCH]
            ids = torch.from_numpy(rng.integers(0, 30522, (len(mine), mine[-1])))
            mask = torch.arange(mine[-1])[None] < torch.tensor(mine)[:, None]
            hidden = model(ids, attention_mask=mask.long()).last_hidden_state
            (hidden * mask[..., None]).sum(1)
    return len(texts) / (time.process_time() - start)


def spin(steps: int) -> int:
    """Do work that needs neither memory nor a disk."""
    value = 1
    for _ in range(steps):
        value = value * 6364136223846793005 % 18446744073709551557
    return value


def clocked(pool: ProcessPool, work: Path, function: Callable[[Any], Any], tasks: Sequence[Any]) -> float:
    """Return the seconds by the clock of a phase, the start of its processes included."""
    start = time.perf_counter()
    run_phase(pool, work, function, tasks)
    return time.perf_counter() - start


def show_scaling(tasks: Sequence[TagTask], documents: int, work: Path, processes: Sequence[int]) -> None:
    """Print documents per second by the clock, and beside it what the cores give to work without any memory."""
    table = Table(title=f"{documents:,} documents by the clock")
    for column in ("processes", "documents/s", "times", "an empty loop, times"):
        table.add_column(column, justify="right")
    first: tuple[float, float] | None = None
    for count in processes:
        pool = ProcessPool(count)
        named = [replace(task, target=work / f"by-{count}" / f"{at}.parquet") for at, task in enumerate(tasks)]
        start = clocked(pool, work / f"start-{count}", spin, [1] * len(named))
        tagged = clocked(pool, work / f"tag-{count}", tag_file, named) - start
        spun = clocked(pool, work / f"spin-{count}", spin, [3_000_000] * len(named)) - start
        first = first or (tagged, spun)
        table.add_row(str(count), f"{documents / tagged:,.0f}", f"{first[0] / tagged:.2f}", f"{first[1] / spun:.2f}")
    Console().print(table)


def main() -> None:
    """Measure and compare."""
    from nanbeige_core.data.ingest import CORPUS_SCHEMA
    from nanbeige_core.data.tagging.label_set import BUILT_IN

    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("corpus", type=Path)
    parser.add_argument("--documents", type=int, default=8000)
    parser.add_argument("--peer-documents", type=int, default=96)
    parser.add_argument("--processes", type=int, nargs="*", default=[1, 2])
    parser.add_argument("--repeats", type=int, default=3, help="How often the documents are tagged by the clock.")
    options = parser.parse_args()
    config = QualityTaggingConfig()
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        distil_tagger(options.corpus / "documents", work / "tagger.npz", config)
        rows = [row for row, _ in zip(read_rows(options.corpus / "documents"), range(options.documents), strict=False)]
        write_shards(work / "in", CORPUS_SCHEMA, rows, rows_per_file=-(-len(rows) // 8))
        files = sorted((work / "in").iterdir())
        tasks = [TagTask(file, work / "out" / file.name, work / "tagger.npz", config, BUILT_IN) for file in files]
        tag_file(tasks[0])
        start = time.process_time()
        run_phase(LocalPool(1), work / "here", tag_file, tasks)
        speed = len(rows) / (time.process_time() - start)
        print(f"tagger, {len(rows):,} documents: {speed:,.0f} documents/CPU-s")
        show_scaling(tasks * options.repeats, len(rows) * options.repeats, work, options.processes)
        spaced = rows[:: max(1, len(rows) // options.peer_documents)]
        peer = encode([row["text"][: config.feature_characters] for row in spaced])
    print(f"encoder of MiniLM's size, {len(spaced)} documents: {peer:.1f} documents/CPU-s")
    print(json.dumps({"ratio": round(speed / peer, 1), "goal": GOAL}))
    sys.exit(0 if speed >= GOAL * peer else 1)


if __name__ == "__main__":
    main()
