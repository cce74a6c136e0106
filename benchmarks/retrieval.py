"""Hybrid queries: latency and recall@10 of the index against a brute-force scan of everything.

    python benchmarks/retrieval.py [--documents 200000] [--queries 50] [--characters 600]

Documents are real texts that are installed on this machine, queries are runs of words out of some of them. The brute
force scores every document with every query term and every vector in float64, sorts all of them, and fuses the whole
rankings' first hundred. Prints build cost, CPU-milliseconds of a query (median) on both sides, and the share of the
brute force's ten documents that the index returns. Exit status 1 when that recall is below 0.99.
"""

import argparse
import random
import resource
import statistics
import sys
import time

import numpy as np
import pyarrow as pa
from dedup_corpus import real_documents

from nanbeige_core.data.hybrid_index import HybridIndex
from nanbeige_core.data.latent import latent_embedder
from nanbeige_core.data.terms import QUERY_TERMS, bm25_weights, count_terms, inverse_frequency

DEPTH, K, COUNT = 100, 60.0, 10


def brute_force(weights, rarity, vectors, query: str, vector) -> list[int]:
    """Score everything, sort everything, fuse."""
    terms = np.unique(count_terms([query], dense=False, spelled=True).indices)
    terms = terms[np.argsort(-rarity[terms], kind="stable")[:QUERY_TERMS]]
    asked = np.zeros(weights.shape[1])
    asked[terms] = 1.0
    fused = np.zeros(weights.shape[0])
    for scores in (weights @ asked, vectors @ vector.astype(np.float64)):
        best = np.argsort(-scores, kind="stable")[:DEPTH]
        best = best[scores[best] > 0]
        fused[best] += 1.0 / (K + 1 + np.arange(len(best)))
    return np.argsort(-fused, kind="stable")[:COUNT].tolist()


def main() -> None:
    """Build once, ask both sides, compare."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--documents", type=int, default=200_000)
    parser.add_argument("--queries", type=int, default=50)
    parser.add_argument("--characters", type=int, default=600)
    parser.add_argument("--vector-size", type=int, default=64)
    options = parser.parse_args()
    texts = [text[: options.characters] for text in real_documents(options.documents)]
    rng = random.Random(3)
    start = time.process_time()
    embed = latent_embedder(rng.sample(texts, min(4000, len(texts))), size=options.vector_size, seed=0)
    size = len(texts)
    columns = {name: ["x"] * size for name in ("source", "category", "language")}
    index = HybridIndex.build(pa.table({"text": texts, "tag_score": np.zeros(size), **columns}), embed)
    built = time.process_time() - start
    words = [text.split() for text in rng.sample(texts, options.queries)]
    queries = [" ".join(item[len(item) // 4 : len(item) // 4 + 12]) for item in words if len(item) > 16]
    index.search(queries[0], embed(queries[:1])[0], COUNT)
    ours: list[float] = []
    found: list[list[int]] = []
    for query in queries:
        start = time.process_time()
        found.append([hit.row for hit in index.search(query, embed([query])[0], COUNT, depth=DEPTH, k=K)])
        ours.append(1000 * (time.process_time() - start))
    counts = count_terms(texts, dense=False, spelled=True)
    weights, rarity, vectors = bm25_weights(counts), inverse_frequency(counts), embed(texts).astype(np.float64)
    theirs: list[float] = []
    recalls: list[float] = []
    for query, rows in zip(queries, found, strict=True):
        vector = embed([query])[0]
        start = time.process_time()
        expected = brute_force(weights, rarity, vectors, query, vector)
        theirs.append(1000 * (time.process_time() - start))
        recalls.append(len(set(rows) & set(expected)) / len(expected))
    recall = statistics.mean(recalls)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    print(
        f"{size:,} documents, {len(queries)} queries; built in {built:.1f} CPU-s; peak of the whole run {peak:.1f} GB"
    )
    slow, fast = statistics.median(theirs), statistics.median(ours)
    print(f"brute force   {slow:8.1f} CPU-ms a query")
    print(f"this project  {fast:8.1f} CPU-ms a query, {slow / fast:.1f}x")
    print(f"recall@{COUNT} against brute force {recall:.3f}")
    sys.exit(0 if recall >= 0.99 else 1)


if __name__ == "__main__":
    main()
