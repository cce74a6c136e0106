"""The document table against oracles that scan everything in Python and NumPy, and what it does when it breaks."""

import json
import math
import os
import random
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from nanbeige_core.data import document_table_build
from nanbeige_core.data.document_table import DocumentTable, DocumentTableError, Filters, best_rows
from nanbeige_core.data.document_table_build import TableSettings, build_table, group_files, open_or_build
from nanbeige_core.data.embedding import TextEmbedding
from nanbeige_core.data.executors import LocalPool
from nanbeige_core.data.tables import TableError, write_shards
from nanbeige_core.data.terms import count_terms
from tests.data.test_embedding import DOCUMENT_SCHEMA, documents, fit, pages

Rows = list[dict[str, Any]]
QUERIES = (documents()[20]["text"], documents()[21]["text"], "word3 word17 一丄 word200", "丐 丑", "nobody says this")


def write_corpus(folder: Path, rows: Rows, rows_per_file: int = 45) -> Path:
    write_shards(folder / "documents", DOCUMENT_SCHEMA, rows, rows_per_file=rows_per_file)
    return folder / "documents"


def build(folder: Path, rows: Rows, embedding: Path | None = None, **settings: Any) -> DocumentTable:
    corpus = write_corpus(folder, rows)
    changed = TableSettings(**({"vector_size": 16} | settings))
    return DocumentTable(
        build_table(corpus, folder / "work", embedding=embedding, executor=LocalPool(2), settings=changed)
    )


def corpus() -> Rows:
    """Pages in two languages, a source with a quote in its name, documents without words, one without a score."""
    rows = documents()
    rows[4]["source"] = "s'1"
    rows[7]["text"], rows[90]["text"] = "...", "?!"
    rows[11]["tag_score"] = None
    return rows


@pytest.fixture(scope="module")
def space(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("space")
    fit(pages(300, 1)).save(folder)
    return folder


@pytest.fixture(scope="module")
def table(space: Path, tmp_path_factory: pytest.TempPathFactory) -> DocumentTable:
    return build(tmp_path_factory.mktemp("table"), corpus(), space, fragment_rows=60)


def bm25(rows: Rows, query: str) -> list[float]:
    """Score every document in plain Python: k1 1.2, b 0.75, the statistics of the documents that have a term."""

    def terms_of(text: str) -> Counter[int]:
        row = count_terms([text], dense=False, spelled=True)
        return Counter({int(term): int(times) for term, times in zip(row.indices, row.data, strict=True)})

    counted = [terms_of(row["text"]) for row in rows]
    lengths = [counts.total() for counts in counted if counts]
    having = Counter(term for counts in counted for term in counts)
    asked = sorted((term for term in terms_of(query) if term in having), key=lambda term: (having[term], term))[:48]
    scores: list[float] = []
    for counts in counted:
        norm = 1.2 * (1 - 0.75 + 0.75 * counts.total() * len(lengths) / sum(lengths))
        scores.append(
            sum(
                math.log(1 + (len(lengths) - having[term] + 0.5) / (having[term] + 0.5))
                * counts[term] * 2.2 / (counts[term] + norm)
                for term in asked if counts[term]
            )
        )  # fmt: skip
    return scores


def passes(row: dict[str, Any], filters: Filters) -> bool:
    wanted = ((row["source"], filters.sources), (row["category"], filters.categories))
    wanted = (*wanted, (row["language"], filters.languages))
    score = float("-inf") if row["tag_score"] is None else row["tag_score"]
    return score >= filters.minimum_score and all(value in values for value, values in wanted if values)


def best(scores: list[float] | NDArray[Any], allowed: list[bool], decimals: int) -> list[int]:
    rounded = [round(float(score), decimals) for score in scores]
    rows = [row for row, score in enumerate(rounded) if score > 0 and allowed[row]]
    return sorted(rows, key=lambda row: (-rounded[row], row))


@pytest.mark.parametrize("query", QUERIES)
def test_text_scores_are_those_of_bm25_over_everything_in_both_languages(table: DocumentTable, query: str) -> None:
    expected = bm25(corpus(), query)
    rows, scores = table.rank_text(query, len(table))
    assert sorted(rows.tolist()) == [row for row, score in enumerate(expected) if score > 0]
    assert scores == pytest.approx([expected[row] for row in rows], abs=1e-4)
    assert scores.tolist() == sorted(scores.tolist(), reverse=True)


@pytest.mark.parametrize("query", QUERIES[:3])
def test_vector_ranks_are_those_of_a_product_with_every_vector(table: DocumentTable, space: Path, query: str) -> None:
    embed = TextEmbedding.load(space).embed
    vectors_DV, vector_V = embed([row["text"] for row in corpus()]), embed([query])[0]
    expected = vectors_DV.astype(np.float64) @ vector_V
    rows, cosines = table.rank_vectors(vector_V, len(table))
    assert cosines == pytest.approx(expected[rows], abs=2e-6)
    assert sorted(rows.tolist()) == np.flatnonzero(expected > 1e-6).tolist()


@pytest.mark.parametrize(
    "filters",
    [
        Filters(),
        Filters(languages=("zh",)),
        Filters(sources=("s1", "s2"), languages=("en",), minimum_score=5),
        Filters(sources=("s'1",)),
        Filters(categories=("web",), minimum_score=9),
        Filters(minimum_score=0),
    ],
)
def test_a_query_with_filters_finds_what_a_scan_of_the_documents_that_pass_finds(
    table: DocumentTable, filters: Filters
) -> None:
    rows = corpus()
    allowed = [passes(row, filters) for row in rows]
    assert table.count_allowed(filters) == sum(allowed)
    for query in QUERIES:
        vector_V = table.embed([query])[0]
        cosines = table.embed([row["text"] for row in rows]) @ vector_V
        ranked = [best(bm25(rows, query), allowed, 4)[:30], best(cosines, allowed, 6)[:30]]
        fused: dict[int, float] = {}
        for ranking in ranked:
            for rank, row in enumerate(ranking, start=1):
                fused[row] = fused.get(row, 0.0) + 1 / (60 + rank)
        expected = sorted(fused, key=lambda row: (-fused[row], row))[:12]
        hits = table.search(query, vector_V, 12, filters=filters, depth=30)
        assert [hit.row for hit in hits] == expected
        assert [hit.score for hit in hits] == pytest.approx([fused[row] for row in expected])
        for hit in hits:
            ranks = [ranking.index(hit.row) + 1 if hit.row in ranking else 0 for ranking in ranked]
            assert [hit.text_rank, hit.vector_rank] == ranks


def test_one_query_finds_the_page_itself_by_text_and_its_translation_by_meaning(table: DocumentTable) -> None:
    query = documents()[20]["text"]
    hits = table.search(query, table.embed([query])[0], 10)
    assert (hits[0].row, hits[0].text_rank, hits[0].vector_rank) == (20, 1, 1)
    other = table.search(query, table.embed([query])[0], 10, filters=Filters(languages=("zh",)))
    assert (other[0].row, other[0].text_rank) == (21, 0)
    assert [row["id"] for row in table.take([hit.row for hit in other[:1]])] == [documents()[21]["id"]]


def test_documents_are_taken_in_the_order_asked_for(table: DocumentTable) -> None:
    rows = [100, 3, 159, 60]
    names = ("id", "text", "source", "category", "language", "tag_score")
    assert table.take(rows) == [{name: corpus()[row][name] for name in names} for row in rows]
    assert table.take([]) == []
    assert table.known_values("source") == ["s'1", "s0", "s1", "s2", "s3"]


def test_a_document_or_a_query_without_words_is_found_by_nothing(table: DocumentTable) -> None:
    vector_V = table.embed(["..."])[0]
    assert not table.search("...", vector_V, 10)
    every = table.rank_vectors(table.embed([QUERIES[0]])[0], len(table))[0]
    assert not {7, 90} & set(every.tolist())


def test_equal_documents_stand_in_the_order_of_rows_even_when_they_are_cut_off(tmp_path: Path) -> None:
    rows = [row | {"text": "the very same words"} for row in documents()]
    table = build(tmp_path, rows + [row | {"text": "other words here"} for row in documents()[:5]], fragment_rows=1)
    hits = table.search("the very same words", table.embed(["the very same words"])[0], 9, depth=10)
    assert [(hit.row, hit.text_rank, hit.vector_rank) for hit in hits] == [(n, n + 1, n + 1) for n in range(9)]


def test_ties_fall_by_row_whatever_a_retriever_returns_first() -> None:
    scores_D = np.array([0.5] * 90 + [0.9] * 5 + [0.4] * 5, np.float32)

    def ask(limit: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        rows = np.lexsort((-np.arange(100), -scores_D))[:limit]  # the last row first
        return rows, scores_D[rows]

    for depth in (3, 5, 6, 40, 95, 100, 200):
        rows, scores = best_rows(ask, depth, 100)
        assert rows.tolist() == [*range(90, 95), *range(90), *range(95, 100)][:depth]
        assert scores.tolist() == scores_D[rows].tolist()


@pytest.mark.parametrize("minimum", [0.0, 1.0, 4.5, 9.0, 9.5])
def test_a_minimum_score_holds_where_every_document_has_a_score(tmp_path: Path, minimum: float) -> None:
    table = build(tmp_path, documents())
    vector_V = table.embed([QUERIES[0]])[0]
    hits = table.search(QUERIES[0], vector_V, 160, filters=Filters(minimum_score=minimum), depth=160)
    found = {documents()[hit.row]["tag_score"] for hit in hits}
    assert found == {float(score) for score in range(10) if score >= minimum}


def test_answers_do_not_depend_on_fragments_or_on_the_parts_of_the_text_index(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = random.Random(3)
    rows = [
        row | {"text": " ".join(f"w{int(source.paretovariate(0.3)) % 50021}" for _ in range(150))}
        for row in documents() * 40
    ]
    whole = build(tmp_path / "whole", rows)
    monkeypatch.setattr(document_table_build, "INDEX_MEMORY_MB", 1)
    monkeypatch.setattr(document_table_build, "usable_cores", lambda: 1)
    split = build(tmp_path / "split", rows, fragment_rows=1)
    parts = [len(list(table.folder.rglob("part_*_docs.lance"))) for table in (whole, split)]
    assert parts[0] == 1 < parts[1]
    for row in rows[:20]:
        query = " ".join(row["text"].split()[:12])
        vector_V = whole.embed([query])[0]
        found = [table.search(query, vector_V, 50) for table in (whole, split, split)]
        assert found[0]
        assert found[0] == found[1] == found[2]


@pytest.mark.parametrize("filters", [Filters(), Filters(sources=("s1",), minimum_score=5)])
def test_a_scan_for_many_queries_finds_what_the_product_of_all_vectors_finds(
    table: DocumentTable, filters: Filters, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nanbeige_core.data.document_table.SCANNED_ROWS", 7)
    texts = [row["text"] for row in corpus()]
    vectors_DV = table.embed(texts)
    allowed = [passes(row, filters) for row in corpus()]
    rows_QN, cosines_QN = table.batch_scan(vectors_DV[:9], 25, filters)
    for query, (rows, cosines) in enumerate(zip(rows_QN, cosines_QN, strict=True)):
        scores = vectors_DV @ vectors_DV[query]
        expected = best(scores, allowed, 6)[:25]
        assert rows.tolist() == expected + [-1] * (25 - len(expected))
        assert cosines == pytest.approx([*scores[expected], *[0.0] * (25 - len(expected))], abs=2e-6)


def test_an_approximate_index_finds_nearly_all_and_keeps_to_the_filters(tmp_path: Path) -> None:
    rows = [row | {"text": first} for row, (first, _) in zip(documents() * 10, pages(1600, 8), strict=True)]
    table = build(tmp_path, rows, ann_from=1600, vector_size=32)
    assert (
        "ANN"
        in table._dataset.scanner(
            nearest={"column": "vector", "q": table.embed([rows[0]["text"]])[0], "k": 5}
        ).explain_plan()
    ), "the index exists"
    found = total = 0
    for row in rows[:40]:
        vector_V = table.embed([" ".join(row["text"].split()[:30])])[0]
        exact = table.rank_vectors(vector_V, 10, exact=True)[0].tolist()
        found, total = found + len({*exact} & {*table.rank_vectors(vector_V, 10)[0].tolist()}), total + len(exact)
        few = Filters(sources=("s2",), minimum_score=9)
        wanted = table.rank_vectors(vector_V, 10, few, exact=True)[0].tolist()
        assert table.rank_vectors(vector_V, 10, few)[0].tolist() == wanted
    assert found / total >= 0.99


def test_neighbouring_files_are_grouped_and_none_is_lost() -> None:
    files = [Path(str(number)) for number in range(6)]
    groups = group_files(files, [40, 30, 0, 80, 10, 0], 60)
    assert [[path.name for path in group] for group in groups] == [["0", "1"], ["2", "3"], ["4", "5"]]
    assert group_files(files[:2], [3, 0], 60) == [(files[0], files[1])]


def every_file(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def made(folder: Path, announced: list[int]) -> DocumentTable:
    return open_or_build(
        folder / "documents", folder / "t", embedding=None, executor=LocalPool(1), announce=announced.append
    )


def test_a_table_is_built_once_and_then_opened(tmp_path: Path) -> None:
    write_corpus(tmp_path, documents())
    announced: list[int] = []
    first = made(tmp_path, announced)
    before = {path: path.stat().st_mtime_ns for path in every_file(first.folder)}
    again = made(tmp_path, announced)
    assert announced == [160]
    query, vector_V = QUERIES[0], again.embed([QUERIES[0]])[0]
    assert again.search(query, vector_V, 9) == first.search(query, vector_V, 9)
    assert {path: path.stat().st_mtime_ns for path in every_file(first.folder)} == before
    assert [path.name for path in tmp_path.iterdir() if path.name.endswith(".part")] == []


@pytest.mark.parametrize("place", ["table.json", "data", "_indices", "frequencies.npy", "embedding.npz", "_versions"])
@pytest.mark.parametrize("gone", [False, True])
def test_a_table_that_is_cut_off_is_refused_and_built_again(tmp_path: Path, place: str, gone: bool) -> None:
    write_corpus(tmp_path, documents()[:60])
    announced: list[int] = []
    table = made(tmp_path, announced)
    query, vector_V = QUERIES[0], table.embed([QUERIES[0]])[0]
    expected = table.search(query, vector_V, 9)
    damaged = [path for path in every_file(table.folder) if place in path.relative_to(table.folder).parts][0]
    if gone:
        damaged.unlink()
    else:
        os.truncate(damaged, damaged.stat().st_size // 2)
    with pytest.raises(DocumentTableError, match="Delete the folder; the next question builds the table again"):
        DocumentTable(table.folder)
    assert made(tmp_path, announced).search(query, vector_V, 9) == expected
    assert announced == [60, 60]


def test_a_table_of_another_layout_is_built_again(tmp_path: Path) -> None:
    write_corpus(tmp_path, documents()[:60])
    announced: list[int] = []
    summary = made(tmp_path, announced).folder / "table.json"
    summary.write_text(json.dumps(json.loads(summary.read_text()) | {"layout": 0}))
    with pytest.raises(DocumentTableError, match="layout 0, expected 1"):
        DocumentTable(summary.parent)
    assert len(made(tmp_path, announced)) == 60
    assert len(announced) == 2


def test_bytes_that_changed_inside_a_table_are_an_error_that_says_what_to_do(tmp_path: Path) -> None:
    write_corpus(tmp_path, documents())
    table = made(tmp_path, [])
    vector_V = table.embed([QUERIES[0]])[0]
    (data,) = (table.folder / "documents.lance" / "data").iterdir()
    data.write_bytes(b"\xff" * data.stat().st_size)
    with pytest.raises(DocumentTableError, match="the document table cannot be read"):
        made(tmp_path, []).search(QUERIES[0], vector_V, 9)


@pytest.mark.parametrize("name", ["embedding.npz", "frequencies.npy", "table.json", "*.manifest"])
def test_a_small_file_that_holds_something_else_is_an_error_that_says_what_to_do(tmp_path: Path, name: str) -> None:
    write_corpus(tmp_path, documents()[:60])
    folder = made(tmp_path, []).folder
    for path in folder.rglob(name):
        path.write_bytes(b"[" + b" " * (path.stat().st_size - 2) + b"]")
    with pytest.raises(DocumentTableError, match=r"Delete the folder"):
        open_and_ask(folder)


def open_and_ask(folder: Path) -> None:
    table = DocumentTable(folder)
    table.search(QUERIES[0], table.embed([QUERIES[0]])[0], 9)


TWICE = """
import sys
from pathlib import Path
from nanbeige_core.data.document_table_build import open_or_build
from nanbeige_core.data.executors import LocalPool

folder = Path(sys.argv[1])
table = open_or_build(
    folder / "documents", folder / "t", embedding=None, executor=LocalPool(1), announce=lambda count: print("builds")
)
print(len(table))
"""


def test_of_two_that_ask_at_once_one_builds_and_both_get_the_table(tmp_path: Path) -> None:
    write_corpus(tmp_path, documents())
    command = [sys.executable, "-c", TWICE, str(tmp_path)]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    said = sorted(process.communicate(timeout=120)[0].split() for process in both)
    assert said == [["160"], ["builds", "160"]]


KILLED = """
import os, sys
from pathlib import Path
from nanbeige_core.data import document_table_build as build
from nanbeige_core.data.executors import LocalPool

step, folder = sys.argv[1], Path(sys.argv[2])
setattr(build, step, lambda *arguments: os._exit(9))
build.open_or_build(folder / "documents", folder / "t", embedding=None, executor=LocalPool(1))
"""


@pytest.mark.parametrize("step", ["write_fragment", "make_indexes", "_summarise"])
def test_a_build_that_is_killed_leaves_no_table_and_the_next_one_goes_on(tmp_path: Path, step: str) -> None:
    write_corpus(tmp_path, documents())
    assert subprocess.run([sys.executable, "-c", KILLED, step, str(tmp_path)], check=False).returncode == 9
    assert not (tmp_path / "t").exists()
    assert every_file(tmp_path / ".t.part" / "space"), "what was finished stays"
    orphan = tmp_path / ".t.part/table/documents.lance/data/of-a-killed-task.lance"
    orphan.parent.mkdir(parents=True, exist_ok=True)
    orphan.touch()
    table = made(tmp_path, [])
    assert not list(table.folder.rglob(orphan.name))
    whole = open_or_build(tmp_path / "documents", tmp_path / "t2", embedding=None, executor=LocalPool(1))
    query, vector_V = QUERIES[0], table.embed([QUERIES[0]])[0]
    assert table.search(query, vector_V, 50) == whole.search(query, vector_V, 50)
    assert not (tmp_path / ".t.part").exists()


def test_a_corpus_without_documents_is_refused(tmp_path: Path) -> None:
    write_corpus(tmp_path, [])
    with pytest.raises(DocumentTableError, match="no documents, so there is nothing to query"):
        made(tmp_path, [])
    assert [path.name for path in tmp_path.iterdir() if path.name != ".t.lock"] == ["documents"]


def test_a_broken_file_of_the_corpus_is_named(tmp_path: Path) -> None:
    file = sorted(write_corpus(tmp_path, documents()).iterdir())[1]
    file.write_bytes(file.read_bytes()[:-40])
    with pytest.raises(TableError, match=r"00001\.parquet: not a readable Parquet file"):
        made(tmp_path, [])


def test_a_corpus_without_a_column_is_refused_by_its_name(tmp_path: Path) -> None:
    schema = DOCUMENT_SCHEMA.remove(DOCUMENT_SCHEMA.get_field_index("category"))
    rows = [{name: row[name] for name in schema.names} for row in documents()]
    write_shards(tmp_path / "documents", schema, rows, rows_per_file=50)
    with pytest.raises(TableError, match="column 'category' is missing"):
        made(tmp_path, [])


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("mounting a small file system needs privileges")
    yield folder
    subprocess.run(["umount", str(folder)], check=False)


def test_a_full_disk_is_an_error_that_says_so_and_leaves_nothing(tmp_path: Path, small_disk: Path) -> None:
    corpus = write_corpus(tmp_path, documents())
    ballast = small_disk / "ballast"
    for room in range(1500 << 10, 0, -200 << 10):
        ballast.write_bytes(bytes((3 << 20) - room))
        with pytest.raises(DocumentTableError, match=r"the disk is full.*Free space"):
            open_or_build(
                corpus, small_disk / "t", embedding=None, executor=LocalPool(1), settings=TableSettings(vector_size=16)
            )
        assert sorted(path.name for path in small_disk.iterdir() if path.name != ".t.lock") == ["ballast"]


RANK = """
import sys
from pathlib import Path
from nanbeige_core.data.document_table_build import TableSettings, build_table
from nanbeige_core.data.executors import ArrayRank

folder = Path(sys.argv[1])
rank = ArrayRank(int(sys.argv[2]), 2, 60, 0.02, job="array")
settings = TableSettings(vector_size=16, fragment_rows=1)
built = build_table(folder / "documents", folder / "array", embedding=None, executor=rank, settings=settings)
print(built)
"""


def test_the_ranks_of_an_array_build_the_table_of_one_process(tmp_path: Path) -> None:
    alone = build(tmp_path, corpus())
    command = [sys.executable, "-c", RANK, str(tmp_path)]
    ranks = [subprocess.Popen([*command, str(rank)], stdout=subprocess.PIPE, text=True) for rank in (0, 1)]
    said = {rank.communicate(timeout=120)[0].strip() for rank in ranks}
    assert said == {str(tmp_path / "array" / "table")}
    together = DocumentTable(tmp_path / "array" / "table")
    for query in QUERIES:
        vector_V = alone.embed([query])[0]
        assert np.array_equal(together.embed([query])[0], vector_V)
        assert together.search(query, vector_V, 30) == alone.search(query, vector_V, 30)
