"""Peers of the duplicate finder, each as its documentation says: near-duplicates by word 5-grams, 14 bands of 8 rows.

    python dedup_peers.py NAME CORPUS OUT

Run by `benchmarks/dedup.py` with the Python of an environment that has the peers; writes the kept ids, one a line.
Imports nothing of this project.
"""

import re
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

WORD = re.compile(r"\w+")
BANDS, ROWS, GRAM = 14, 8, 5


def rows(corpus: Path) -> Iterator[tuple[str, str]]:
    import pyarrow.parquet as pq

    for file in sorted(corpus.glob("*.parquet")):
        table = pq.read_table(file, columns=["id", "text"])
        yield from zip(table["id"].to_pylist(), table["text"].to_pylist(), strict=True)


def grams(text: str) -> list[str]:
    words = WORD.findall(text.lower())
    return [" ".join(words[at : at + GRAM]) for at in range(len(words) - GRAM + 1)]


class Components:
    """Union-find over numbered documents; the lowest number of a component stays."""

    def __init__(self, size: int) -> None:
        self.parent = list(range(size))

    def find(self, item: int) -> int:
        while self.parent[item] != item:
            self.parent[item] = self.parent[self.parent[item]]
            item = self.parent[item]
        return item

    def join(self, first: int, second: int) -> None:
        a, b = self.find(first), self.find(second)
        if a != b:
            self.parent[max(a, b)] = min(a, b)

    def kept(self) -> list[int]:
        return [item for item in range(len(self.parent)) if self.find(item) == item]


def datasketch(corpus: Path, work: Path) -> Iterable[str]:
    from datasketch import MinHash, MinHashLSH

    del work
    ids: list[str] = []
    index = MinHashLSH(params=(BANDS, ROWS), num_perm=BANDS * ROWS)
    signed = []
    for name, text in rows(corpus):
        signature = MinHash(num_perm=BANDS * ROWS)
        signature.update_batch([gram.encode() for gram in grams(text)] or [text.encode()])
        signed.append(signature)
        ids.append(name)
    components = Components(len(ids))
    for number, signature in enumerate(signed):
        for other in index.query(signature):
            components.join(number, other)
        index.insert(number, signature)
    return [ids[number] for number in components.kept()]


def rensa(corpus: Path, work: Path) -> Iterable[str]:
    from rensa import RMinHash, RMinHashLSH

    del work
    ids: list[str] = []
    index = RMinHashLSH(threshold=0.8, num_perm=BANDS * ROWS, num_bands=BANDS)
    signed = []
    for name, text in rows(corpus):
        signature = RMinHash(num_perm=BANDS * ROWS, seed=1)
        signature.update(grams(text) or [text])
        index.insert(len(ids), signature)
        signed.append(signature)
        ids.append(name)
    components = Components(len(ids))
    for number, signature in enumerate(signed):
        for other in index.query(signature):
            components.join(number, other)
    return [ids[number] for number in components.kept()]


def daft(corpus: Path, work: Path) -> Iterable[str]:
    """Signatures, bands, groups and components in the engine, by the steps of its example on minhash.

    Components are found by alternating large and small stars (Kiveris et al. 2014) until the edges stay as they are.
    """
    import daft as engine
    from daft import col
    from daft.functions import monotonically_increasing_id

    del work

    @engine.func()
    def places(bands: list[list[int]]) -> list[int]:
        return list(range(len(bands)))

    frame = engine.read_parquet(str(corpus / "*.parquet")).select("id", "text")
    frame = frame.with_column("node", monotonically_increasing_id()).collect()
    signed = frame.select("node", daft_signature(col("text"), hash_function="xxhash").alias("signature"))
    banded = signed.select("node", col("signature").chunk(ROWS).alias("bands"))
    banded = banded.with_column("place", places(col("bands"))).explode("bands", "place")
    groups = banded.groupby("place", "bands").agg(col("node").list_agg().alias("nodes"))
    edges = groups.with_column("u", col("nodes").list_min()).explode("nodes").select("u", v=col("nodes"))
    edges = edges.where(col("u") != col("v")).distinct().collect()
    before: set[tuple[int, int]] = set()
    while (now := daft_edges(edges)) != before:
        before, edges = now, daft_small_star(daft_large_star(edges))
    removed = edges.select(col("u").alias("node")).distinct()
    return frame.join(removed, on="node", how="anti").select("id").to_pydict()["id"]


def daft_signature(text: Any, **options: Any) -> Any:
    text = text.normalize(remove_punct=True, lowercase=True, nfd_unicode=True, white_space=True)
    return text.minhash(num_hashes=BANDS * ROWS, ngram_size=GRAM, seed=1, **options)


def daft_edges(edges: Any) -> set[tuple[int, int]]:
    columns = edges.to_pydict()
    return {(min(pair), max(pair)) for pair in zip(columns["u"], columns["v"], strict=True)}


def daft_large_star(edges: Any) -> Any:
    """Join every larger neighbour of a node with the least of its neighbourhood."""
    from daft import col

    both = edges.union_all(edges.select(col("v").alias("u"), col("u").alias("v")))
    return daft_star(both, lambda stars: stars.where(col("v") > col("u")))


def daft_small_star(edges: Any) -> Any:
    """Join every smaller neighbour of a node, and the node, with the least of them."""
    from daft import col
    from daft.functions import when

    up = col("u") > col("v")
    down = edges.select(
        when(up, col("u")).otherwise(col("v")).alias("u"), when(up, col("v")).otherwise(col("u")).alias("v")
    ).distinct()
    itself = down.select("u", col("u").alias("v")).distinct()
    return daft_star(down.union_all(itself), lambda stars: stars)


def daft_star(neighbours: Any, chosen: Callable[[Any], Any]) -> Any:
    from daft import col
    from daft.functions import when

    stars = neighbours.groupby("u").agg(col("v").list_agg().alias("all"))
    least = col("all").list_min()
    stars = stars.with_column("least", when(least < col("u"), least).otherwise(col("u"))).explode("all")
    stars = chosen(stars.select("u", col("all").alias("v"), "least"))
    return stars.select(col("v").alias("u"), col("least").alias("v")).where(col("u") != col("v")).distinct().collect()


def daft_short(corpus: Path, work: Path) -> Iterable[str]:
    """Signatures and groups in the engine, one band at a time; components outside, in plain Python."""
    import daft as engine
    from daft import col

    del work
    frame = engine.read_parquet(str(corpus / "*.parquet")).select("id", "text").collect()
    ids = frame.select("id").to_pydict()["id"]
    number = {name: at for at, name in enumerate(ids)}
    signed = frame.select("id", daft_signature(col("text")).alias("signature"))
    components = Components(len(ids))
    words = engine.DataType.list(engine.DataType.uint32())
    signed = signed.with_column("signature", col("signature").cast(words)).collect()
    for band in range(BANDS):
        key = col("signature").slice(band * ROWS, (band + 1) * ROWS).hash().alias("key")
        grouped = signed.select("id", key).groupby("key").agg(col("id").list_agg())
        for group in grouped.to_pydict()["id"]:
            for other in group[1:]:
                components.join(number[group[0]], number[other])
    return [ids[at] for at in components.kept()]


def datatrove(corpus: Path, work: Path) -> Iterable[str]:
    import pyarrow.parquet as pq
    from datatrove.executor import LocalPipelineExecutor
    from datatrove.pipeline.dedup import (
        MinhashDedupBuckets,
        MinhashDedupCluster,
        MinhashDedupFilter,
        MinhashDedupSignature,
    )
    from datatrove.pipeline.dedup.minhash import MinhashConfig
    from datatrove.pipeline.readers import ParquetReader
    from datatrove.pipeline.writers import ParquetWriter

    config = MinhashConfig(n_grams=GRAM, num_buckets=BANDS, hashes_per_bucket=ROWS)
    tasks = len(list(corpus.glob("*.parquet")))
    reader = ParquetReader(str(corpus), text_key="text", id_key="id", glob_pattern="*.parquet", recursive=False)
    stages = [
        (tasks, [reader, MinhashDedupSignature(str(work / "sign"), config=config)]),
        (BANDS, [MinhashDedupBuckets(str(work / "sign"), str(work / "buckets"), config=config)]),
        (1, [MinhashDedupCluster(str(work / "buckets"), str(work / "remove"), config=config)]),
        (tasks, [reader, MinhashDedupFilter(str(work / "remove")), ParquetWriter(str(work / "kept"))]),
    ]
    for number, (count, pipeline) in enumerate(stages):
        LocalPipelineExecutor(pipeline, tasks=count, workers=2, logging_dir=str(work / f"log{number}")).run()
    for file in (work / "kept").glob("*.parquet"):
        yield from pq.read_table(file, columns=["id"])["id"].to_pylist()


def text_dedup(corpus: Path, work: Path) -> Iterable[str]:
    from datasets import load_from_disk
    from text_dedup.config.base import load_config_from_toml
    from text_dedup.minhash import main

    settings = work / "settings.toml"
    settings.write_text(
        f"""
        [input]
        input_type = "local_files"
        file_type = "parquet"
        read_arguments = {{path="parquet", data_files="{corpus}/*.parquet", split="train", cache_dir="{work}/cache"}}
        [algorithm]
        algorithm_name = "minhash"
        text_column = "text"
        num_perm = {BANDS * ROWS}
        bands = {BANDS}
        rows = {ROWS}
        ngram_size = {GRAM}
        min_length = 1
        threshold = 0.8
        check_false_positive = true
        num_proc = 2
        [output]
        output_dir = "{work}/kept"
        [debug]
        enable_profiling = false
        """
    )
    main(load_config_from_toml(settings))
    return load_from_disk(str(work / "kept"))["id"]


PEERS = {peer.__name__: peer for peer in (datatrove, datasketch, text_dedup, rensa, daft, daft_short)}

if __name__ == "__main__":
    name, corpus, out = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
    work = out.with_suffix(".work")
    work.mkdir(parents=True, exist_ok=True)
    out.write_text("\n".join(PEERS[name](corpus, work)) + "\n")
