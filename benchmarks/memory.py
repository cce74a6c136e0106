"""Peak memory and CPU time of the data stages at one and ten times a corpus, each as a process of its own.

    python benchmarks/memory.py [--documents 12000] [--stages quality_tagging retrieval_dedup tokenizer mixture dedup]

The corpus is real: program sources, headers and documentation of this machine, a sixth of them planted twins. Stages
follow one another as in a recipe, on what the one before left. `baseline` is the same process with everything
imported and nothing read. What was measured is kept in the folder, so stages may be measured one by one. Memory is the
largest resident size of the process and of its children; it may hold a few dozen bytes of each document (ids, scores),
so what is shown beside the ratio is how many bytes each further document took. The CPU seconds of each document are
what `nanbeige price` calls core seconds.
"""

import argparse
import importlib
import json
import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

from measured import Taken, measure_command
from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).parent.parent
STAGES = ("quality_tagging", "retrieval_dedup", "tokenizer", "mixture", "dedup")
MODULES = {"tokenizer": "tokenizer_training"}


def write_corpus(folder: Path, documents: int) -> None:
    """Write the benchmark corpus as ingest would, and an empty set of problems beside."""
    import pyarrow as pa
    import pyarrow.parquet as pq
    from dedup_corpus import build

    from nanbeige_core.data.ingest import CORPUS_SCHEMA
    from nanbeige_core.data.tables import read_rows, write_shards

    build(folder / "shards", documents, 8)
    shutil.rmtree(folder / "ingest", ignore_errors=True)

    def rows() -> Any:
        for row in read_rows(folder / "shards", ("id", "text")):
            fields = {"source": "machine", "category": "code", "language": "code", "licence": "", "provenance": "{}"}
            yield {"id": row["id"], "text": row["text"][:2000], **fields}

    write_shards(folder / "ingest" / "documents", CORPUS_SCHEMA, rows(), rows_per_file=4000)
    names = ("id", "domain", "split", "language", "prompt", "reasoning", "answer", "verifier", "spec", "source")
    (folder / "problems").mkdir(exist_ok=True)
    pq.write_table(
        pa.schema([(name, pa.string()) for name in names]).empty_table(), folder / "problems/prompts.parquet"
    )


def run_stage(stage: str, folder: Path) -> None:
    """Run one stage on what the others left (the body of a measured process); the stage `corpus` makes the corpus."""
    if stage == "corpus":
        write_corpus(folder, int(folder.name))
        return
    from nanbeige_core.artifacts.kinds import Kind
    from nanbeige_core.contract import InputArtifact, Job, Runtime
    from nanbeige_core.data import mixture, quality_tagging, retrieval_dedup, tokenizer_training
    from nanbeige_core.data.dedup.run import deduplicate
    from nanbeige_core.data.dedup.settings import DedupSettings
    from nanbeige_core.recipe.configs import data as configs

    del mixture, quality_tagging, retrieval_dedup, tokenizer_training
    if stage == "baseline":
        return
    if stage == "dedup":
        deduplicate(sorted((folder / "ingest/documents").iterdir()), folder / "dedup", DedupSettings())
        return
    made = {
        "corpus": (Kind.CORPUS, "ingest"),
        "tagged": (Kind.TAGGED_CORPUS, "quality_tagging"),
        "curated": (Kind.CURATED_CORPUS, "retrieval_dedup"),
        "problems": (Kind.PROMPT_SET, "problems"),
        "tokenizer": (Kind.TOKENIZER, "tokenizer"),
    }
    reads: dict[str, tuple[Any, dict[str, str]]] = {
        "quality_tagging": (configs.QualityTaggingConfig(), {"corpus": "corpus"}),
        "retrieval_dedup": (configs.RetrievalDedupConfig(), {"tagged": "tagged", "problems": "problems"}),
        "tokenizer": (
            configs.TokenizerConfig(vocab_size=4096, training_characters=3_000_000, alphabet_share=0.1),
            {"corpus": "curated", "problems": "problems"},
        ),
        "mixture": (
            configs.MixtureConfig(),
            {"corpus": "curated", "problems": "problems", "tokenizer": "tokenizer"},
        ),
    }
    config, inputs = reads[stage]
    artifacts = {name: InputArtifact(name, made[of][0], "0" * 16, folder / made[of][1]) for name, of in inputs.items()}
    (folder / stage).mkdir()
    job = Job(stage, config, Runtime(), artifacts, folder / stage, folder / "cache")
    importlib.import_module(f"nanbeige_core.data.{MODULES.get(stage, stage)}").run(job)


def measure(stage: str, folder: Path) -> Taken:
    """Run one stage as a process and return what it and its children took, or what it took before."""
    kept = folder / f"{stage}.json"
    if kept.exists():
        return Taken(**json.loads(kept.read_text()))
    shutil.rmtree(folder / stage, ignore_errors=True)
    command = [sys.executable, str(Path(__file__)), "--run", stage, str(folder)]
    taken = measure_command(command, environment=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"})
    if taken is None:
        raise SystemExit(f"{stage} failed on {folder}")
    kept.write_text(json.dumps(taken._asdict()))
    return taken


def main() -> None:
    """Measure every stage at both sizes and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--documents", type=int, default=12_000)
    parser.add_argument("--stages", nargs="*", default=list(STAGES), choices=STAGES)
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "nanbeige-memory-benchmark")
    parser.add_argument("--run", nargs=2, metavar=("STAGE", "FOLDER"), help="One stage, in this process (internal).")
    options = parser.parse_args()
    if options.run:
        run_stage(options.run[0], Path(options.run[1]))
        return
    sizes = (options.documents, 10 * options.documents)
    taken: dict[str, list[Taken]] = {}
    for size in sizes:
        folder = options.folder / str(size)
        folder.mkdir(parents=True, exist_ok=True)
        measure("corpus", folder)
        for stage in ("baseline", *options.stages):
            taken.setdefault(stage, []).append(measure(stage, folder))
    table = Table(title=f"{sizes[0]:,} and {sizes[1]:,} documents")
    for column in ("stage", "MB at 1x", "MB at 10x", "ratio", "bytes a further document", "core ms a document at 10x"):
        table.add_column(column, justify="left" if column == "stage" else "right")
    for stage, (small, large) in taken.items():
        further = (large.megabytes - small.megabytes) * (1 << 20) / (sizes[1] - sizes[0])
        table.add_row(
            stage, f"{small.megabytes:,.0f}", f"{large.megabytes:,.0f}", f"{large.megabytes / small.megabytes:.2f}",
            f"{further:,.0f}", f"{1000 * (large.cpu_seconds - taken['baseline'][1].cpu_seconds) / sizes[1]:.2f}",
        )  # fmt: skip
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
