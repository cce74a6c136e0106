"""Curation's memory does not grow with the pool, and what its pieces make of that: columns, blocks, spans."""

import os
import random
import subprocess
import sys
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from scipy import sparse

from nanbeige_core.artifacts.kinds import Kind
from nanbeige_core.data import allocation, latent, reordering, retrieval_dedup
from nanbeige_core.data.dedup import candidates, run
from nanbeige_core.data.latent import weigh_in_place
from nanbeige_core.data.pool import Part, Pool, span_among
from nanbeige_core.data.quality_tagging import TAGGED_SCHEMA
from nanbeige_core.data.tables import count_values, write_rows
from nanbeige_core.data.terms import count_documents, count_terms, inverse_frequency, stack_rows
from nanbeige_core.recipe.configs.data import RetrievalDedupConfig
from tests.conftest import ROOT
from tests.data.conftest import MakeJob
from tests.data.test_retrieval_dedup import document, prose

DOCUMENT_BYTES = 3000

BYTES_A_DOCUMENT = 160
"""Ids, scores, lengths, ranks and evidence, with what sorting them takes; 105 were seen."""

SPANS = ((0, 3), (3, 0), (3, 300), (303, 1))


def write_pool(folder: Path, documents: int) -> None:
    """Write documents of one length, of which every third is all but the one before it."""
    source = random.Random(1)
    words = [f"word{number:04d}" for number in range(3000)]

    def rows() -> Iterator[dict[str, Any]]:
        text = ""
        for number in range(documents):
            text = text + " again" if number % 3 == 2 else " ".join(source.choices(words, k=DOCUMENT_BYTES // 9))
            yield document(f"d{number:06d}", text, float(number % 9))

    write_rows(folder / "documents" / "0.parquet", TAGGED_SCHEMA, rows())


def measure_peak(make_job: MakeJob, problems: Path, documents: int) -> int:
    """Return the most bytes that curation held of a pool at any time: Python objects, arrays, Arrow buffers."""
    folder = problems.parent / f"pool-{documents}"
    write_pool(folder, documents)
    inputs = {"tagged": (Kind.TAGGED_CORPUS, folder), "problems": (Kind.PROMPT_SET, problems)}
    job = make_job(f"curated-{documents}", RetrievalDedupConfig(vector_size=8), **inputs)
    usual, arrow = pa.default_memory_pool(), pa.proxy_memory_pool(pa.default_memory_pool())
    pa.set_memory_pool(arrow)
    tracemalloc.start()
    try:
        outcome = retrieval_dedup.curate(job, 1)
        objects = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
        pa.set_memory_pool(usual)
    assert outcome.counts["read"] == documents
    assert outcome.counts["dropped_near_duplicate"] > documents // 4
    return objects + arrow.max_memory()


def test_memory_does_not_grow_with_the_pool(make_job: MakeJob, problems: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # whatever has a size of its own reaches it in the small pool
    monkeypatch.setattr(retrieval_dedup, "ROWS_PER_FILE", 100)
    for module in ("tables", "pool", "dedup.shards"):
        for name in ("ROWS_PER_GROUP", "BATCH_ROWS"):
            monkeypatch.setattr(f"nanbeige_core.data.{module}.{name}", 100, raising=False)
    monkeypatch.setattr(latent, "LATENT_DOCUMENTS", 200)
    monkeypatch.setattr(reordering, "BUFFER_BYTES", 1 << 20)
    monkeypatch.setattr(run, "DOCUMENTS_PER_PARTITION", 200)
    monkeypatch.setattr(run, "DOCUMENTS_PER_VERIFIER", 200)
    monkeypatch.setattr("nanbeige_core.data.dedup.audit.AUDIT_DOCUMENTS", 100)
    # what compiling and importing takes is no part of it
    measure_peak(make_job, problems, 150)
    small, large = (measure_peak(make_job, problems, documents) for documents in (600, 3000))
    assert large - small < BYTES_A_DOCUMENT * 2400


def test_blocks_stack_to_the_rows_that_scipy_makes_of_them() -> None:
    counts = [count_terms([prose(start + number, 30) for number in range(size)], dense=True) for start, size in SPANS]
    stacked, expected = stack_rows(iter(counts), counts[0].shape[1]), sparse.csr_matrix(sparse.vstack(counts))
    assert stacked.shape == expected.shape
    for name in ("data", "indices", "indptr"):
        mine, other = getattr(stacked, name), getattr(expected, name)
        assert (mine.dtype, mine.tobytes()) == (other.dtype, other.tobytes())


def test_no_block_at_all_is_a_matrix_without_rows() -> None:
    assert stack_rows([], 7).shape == (0, 7)


def test_documents_of_a_term_are_counted_alike_in_any_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    indices = np.random.default_rng(0).integers(0, 50, 1000).astype(np.int32)
    monkeypatch.setattr("nanbeige_core.data.terms.COUNTED_TERMS", 37)
    assert count_documents(indices, 60).tolist() == np.bincount(indices, minlength=60).tolist()


def test_weights_take_the_place_of_the_counts_and_are_unit_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [prose(number, 20) for number in range(40)] + [""]
    weights_F = inverse_frequency(count_terms(texts, dense=True))
    whole = weigh_in_place(count_terms(texts, dense=True), weights_F)
    monkeypatch.setattr(latent, "WEIGHED_ROWS", 7)
    counts = count_terms(texts, dense=True)
    expected = np.log1p(counts.toarray()) * weights_F
    expected /= np.maximum(np.linalg.norm(expected, axis=1, keepdims=True), 1e-9)
    blocks = weigh_in_place(counts, weights_F)
    assert np.shares_memory(blocks.data, counts.data)
    assert (blocks.data.tobytes(), blocks.indices.tobytes()) == (whole.data.tobytes(), whole.indices.tobytes())
    assert blocks.toarray() == pytest.approx(expected, abs=1e-6)


def test_a_pool_less_some_ids_yields_the_others_whatever_reads_it(tmp_path: Path) -> None:
    pool = Pool.write(tmp_path, TAGGED_SCHEMA, (document(name, f"text of {name}") for name in "fbdaec"))
    left = pool.without(pa.chunked_array([["d"], ["a", "zz"]])).without(pa.chunked_array([["c"]]))
    assert left.removed.to_pylist() == ["a", "c", "d", "zz"]
    assert [row["id"] for row in left.rows()] == [row["id"] for row in left.rows("text")] == ["f", "b", "e"]
    (part,) = left.parts()
    assert part.documents == 3
    assert part.read() == ["text of f", "text of b", "text of e"]
    assert part.pick([0, 2]) == Part(3, part.read).pick([0, 2]) == ["text of f", "text of e"]


@pytest.mark.parametrize(
    ("column", "expected"), [(["c", "b"], ["b", "b", "c"]), (["x"], []), ([], []), (["a", "z"], ["b", "b", "c", "e"])]
)
def test_the_span_of_ids_is_what_lies_between_the_least_and_the_greatest(
    column: list[str], expected: list[str]
) -> None:
    ids = pa.array(["b", "b", "c", "e"])
    assert ids[span_among(pa.chunked_array([pa.array(column, pa.string())]), ids)].to_pylist() == expected


def test_values_are_counted_in_the_order_in_which_they_first_occur() -> None:
    assert list(count_values(pa.chunked_array([["b", "a"], ["b", "c"]])).items()) == [("b", 2), ("a", 1), ("c", 1)]


def test_components_of_ranges_are_those_of_all_buckets_at_once() -> None:
    parents_D = np.arange(9)
    for members, lengths in (([7, 3, 2, 1], [2, 2]), ([3, 1], [2]), ([8, 5], [2])):
        candidates.join_components(parents_D, np.array(members), np.array(lengths))
    count, labels = candidates.label_components(parents_D, np.array([1, 2, 3, 5, 7, 8]))
    assert (count, labels.tolist()) == (2, [0, 0, 0, 1, 0, 1])


def test_where_the_c_library_is_another_one_only_arrow_returns_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(allocation, "_library", lambda: None)
    allocation.return_large_blocks()
    allocation.return_free_memory()


def test_a_large_block_goes_back_when_it_is_freed(tmp_path: Path) -> None:
    script = tmp_path / "freed.py"
    script.write_text(FREED)
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, str(script)], env=environment, capture_output=True, text=True, check=True)
    grown, bounded = map(int, done.stdout.split())
    assert bounded < 4 << 20
    assert bounded < grown


FREED = """
import numpy as np
from pathlib import Path
from nanbeige_core.data.allocation import return_large_blocks

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

def churn():
    # each large block that is freed lets larger ones stay in the heap; the small one lies above them
    for size in range(1, 24):
        np.ones(size << 17)
    before = resident()
    held = [np.ones(2 << 17) for _ in range(12)]
    above = np.ones(1000)
    del held
    return resident() - before, above

first = churn()
return_large_blocks()
second = churn()
print(first[0], second[0])
"""
