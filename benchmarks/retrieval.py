"""Hybrid queries: what a document table costs to build and to ask, and its recall@10 against a scan of everything.

    python benchmarks/retrieval.py [--documents 200000] [--queries 50] [--characters 600] [--ann]

Documents are real texts that are installed on this machine, queries are runs of words out of some of them. The table
is built and asked in a process of its own, from Parquet files as an artifact has them; so its memory is its alone. The
brute force scores every document with every query term and every vector in float64, sorts all of them, and fuses the
first hundred of each ranking; BM25 counts the documents that have a term, as the table's text index does. Every row
of what is printed is one way to ask: `--ann` builds the approximate index of vectors too, and then hybrid queries use
it. Exit status 1 when the recall@10 of hybrid queries is below 0.99.
"""

import argparse
import functools
import json
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from dedup_corpus import real_documents
from rich.console import Console
from rich.table import Table

from nanbeige_core.data.document_table import COSINE_DECIMALS, EMBEDDING, DocumentTable, load_embedder
from nanbeige_core.data.document_table_build import TableSettings, build_table
from nanbeige_core.data.executors import LocalPool
from nanbeige_core.data.tables import write_shards
from nanbeige_core.data.terms import QUERY_TERMS, TermStatistics, bm25_weights, count_terms, inverse_frequency
from nanbeige_core.resident import peak_resident_bytes

DEPTH, K, COUNT = 100, 60.0, 10
REQUIRED = 0.99
SCHEMA = pa.schema(
    [*((name, pa.string()) for name in ("id", "text", "source", "category", "language")), ("tag_score", pa.float64())]
)


def ask_table(folder: Path, vector_size: int, ann: bool) -> dict[str, Any]:
    """Build the table of `folder/documents` and ask it every query (the body of the measured process)."""
    settings = TableSettings(vector_size=vector_size, ann_from=0 if ann else 1 << 60)
    cost = {"imports_mb": peak_resident_bytes() / 1e6}
    start, wall = time.process_time(), time.perf_counter()
    built = build_table(folder / "documents", folder, embedding=None, executor=LocalPool(), settings=settings)
    cost |= {"build_cpu_s": time.process_time() - start, "build_wall_s": time.perf_counter() - wall}
    cost["build_peak_mb"] = peak_resident_bytes() / 1e6
    start, wall = time.process_time(), time.perf_counter()
    table = DocumentTable(built)
    cost |= {"open_cpu_ms": 1e3 * (time.process_time() - start), "open_wall_ms": 1e3 * (time.perf_counter() - wall)}
    queries: list[str] = json.loads((folder / "queries.json").read_text())
    embed = table.embed

    def hybrid(query: str) -> list[int]:
        return [hit.row for hit in table.search(query, embed([query])[0], COUNT, depth=DEPTH, k=K)]

    ways: dict[str, Callable[[str], list[int]]] = {
        "text": lambda query: table.rank_text(query, DEPTH)[0].tolist()[:COUNT],
        "vectors": lambda query: table.rank_vectors(embed([query])[0], DEPTH)[0].tolist()[:COUNT],
    }
    if ann:
        scan = functools.partial(table.rank_vectors, exact=True)
        ways["vectors, exact"] = lambda query: scan(embed([query])[0], DEPTH)[0].tolist()[:COUNT]
    asked = {name: _measured(way, queries) for name, way in (ways | {"hybrid": hybrid}).items()}
    start = time.process_time()
    table.batch_scan(embed(queries), COUNT)
    cost["batch_ms"] = 1e3 * (time.process_time() - start) / len(queries)
    files = [path.stat().st_size for path in built.rglob("*") if path.is_file()]
    cost["peak_mb"] = peak_resident_bytes() / 1e6
    return {"cost": cost | {"disk_mb": sum(files) / 1e6}, "asked": asked}


def _measured(way: Callable[[str], list[int]], queries: list[str]) -> dict[str, Any]:
    way(queries[0])
    found: list[list[int]] = []
    cpu: list[float] = []
    wall: list[float] = []
    for query in queries:
        start, began = time.process_time(), time.perf_counter()
        found.append(way(query))
        cpu.append(1e3 * (time.process_time() - start))
        wall.append(1e3 * (time.perf_counter() - began))
    return {"found": found, "cpu_ms": statistics.median(cpu), "wall_ms": statistics.median(wall)}


class BruteForce:
    """Every document against every query."""

    def __init__(self, texts: list[str], embedding: Path) -> None:
        counts = count_terms(texts, dense=False, spelled=True)
        lengths = np.asarray(counts.sum(axis=1)).ravel()
        termed = counts[np.flatnonzero(lengths)]
        self.rarity = inverse_frequency(termed)
        self.known = np.bincount(counts.indices, minlength=counts.shape[1]) > 0
        self.weights = bm25_weights(counts, TermStatistics(self.rarity, lengths[lengths > 0].mean())).astype(np.float64)
        self.embed = load_embedder(embedding)
        parts = [self.embed(texts[first : first + 4000]) for first in range(0, len(texts), 4000)]
        self.vectors = np.concatenate(parts).astype(np.float64)

    def rank(self, query: str) -> dict[str, list[int]]:
        """Return the best documents of each way to ask."""
        terms = np.unique(count_terms([query], dense=False, spelled=True).indices)
        terms = terms[self.known[terms]]
        terms = terms[np.argsort(-self.rarity[terms], kind="stable")[:QUERY_TERMS]]
        asked = np.zeros(self.weights.shape[1])
        asked[terms] = 1.0
        fused = np.zeros(self.weights.shape[0])
        found: dict[str, list[int]] = {}
        vector = self.embed([query])[0].astype(np.float64)
        cosines = np.round(self.vectors @ vector, COSINE_DECIMALS)
        for name, scores in (("text", self.weights @ asked), ("vectors", cosines)):
            best = np.argsort(-scores, kind="stable")[:DEPTH]
            best = best[scores[best] > 0]
            fused[best] += 1.0 / (K + 1 + np.arange(len(best)))
            found[name] = best[:COUNT].tolist()
        best = np.argsort(-fused, kind="stable")[:COUNT]
        return found | {"hybrid": best[fused[best] > 0].tolist()}


def _write(folder: Path, texts: list[str], queries: list[str]) -> None:
    fields = {"source": "machine", "category": "web", "language": "en"}
    rows = ({"id": f"{n:07d}", "text": text, "tag_score": float(n % 10), **fields} for n, text in enumerate(texts))
    write_shards(folder / "documents", SCHEMA, rows, rows_per_file=4000)
    (folder / "queries.json").write_text(json.dumps(queries))


def main() -> None:
    """Build and ask in a process of its own, scan everything in this one, compare."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--documents", type=int, default=200_000)
    parser.add_argument("--queries", type=int, default=50)
    parser.add_argument("--characters", type=int, default=600)
    parser.add_argument("--vector-size", type=int, default=64)
    parser.add_argument("--ann", action="store_true", help="build the approximate index of vectors, and use it")
    parser.add_argument("--folder", type=Path, help="where the table goes; empty: a temporary folder")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        print(json.dumps(ask_table(options.folder, options.vector_size, options.ann)))
        return
    texts = [text[: options.characters] for text in real_documents(options.documents)]
    rng = random.Random(3)
    words = [text.split() for text in rng.sample(texts, options.queries)]
    queries = [" ".join(item[len(item) // 4 : len(item) // 4 + 12]) for item in words if len(item) > 16]
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        _write(folder, texts, queries)
        command = [sys.executable, __file__, "--child", "--folder", str(folder), "--vector-size"]
        command += [str(options.vector_size), *(["--ann"] if options.ann else [])]
        measured = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
        brute = BruteForce(texts, folder / "table" / EMBEDDING)
    start = time.process_time()
    expected = [brute.rank(query) for query in queries]
    slow = 1e3 * (time.process_time() - start) / len(queries)
    shown = Table(title=f"{len(texts):,} documents, {len(queries)} queries")
    for column in ("asked by", "CPU-ms a query", "wall ms", f"recall@{COUNT}"):
        shown.add_column(column, justify="left" if column == "asked by" else "right")
    recalls: dict[str, float] = {}
    for name, asked in measured["asked"].items():
        wanted = [ranks[name.partition(",")[0]] for ranks in expected]
        shares = [len({*rows} & {*best}) / len(best) for rows, best in zip(asked["found"], wanted, strict=True)]
        recalls[name] = statistics.mean(shares)
        shown.add_row(name, f"{asked['cpu_ms']:.1f}", f"{asked['wall_ms']:.1f}", f"{recalls[name]:.3f}")
    shown.add_row("brute force, all of it", f"{slow:.1f}", "", "1.000")
    Console().print(shown)
    print(", ".join(f"{name} {value:.1f}" for name, value in measured["cost"].items()))
    sys.exit(0 if recalls["hybrid"] >= REQUIRED else 1)


if __name__ == "__main__":
    main()
