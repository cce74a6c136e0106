import random
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from nanbeige_core.data.dedup.paragraphs import cut_paragraphs, find_repeated_paragraphs, split_paragraphs
from nanbeige_core.data.dedup.shards import Columns
from nanbeige_core.data.duplicates import PARAGRAPH_SCHEMA, ParagraphCuts, cut_repeated_paragraphs
from nanbeige_core.data.executors import LocalPool
from nanbeige_core.data.pool import Pool
from nanbeige_core.data.quality_tagging import TAGGED_SCHEMA
from nanbeige_core.data.rows import ROWS
from nanbeige_core.data.tables import read_rows
from nanbeige_core.recipe.configs.data import RetrievalDedupConfig
from tests.data.test_dedup import Document, write
from tests.data.test_retrieval_dedup import document, prose

CONFIG = RetrievalDedupConfig(paragraph_characters=100)
COLUMNS = Columns(quality="quality", source="source")
SHARED = prose(900, 40)


def pool() -> list[Document]:
    """Documents of three own paragraphs each; every third shares one paragraph, with white space of its own."""
    source = random.Random(2)
    documents: list[Document] = []
    for number in range(60):
        paragraphs = [prose(1000 + 3 * number + part, 30) for part in range(3)]
        if number % 3 == 0:
            paragraphs.insert(source.randrange(4), SHARED.replace(" ", source.choice([" ", "\n", "  "])))
        documents.append(Document(f"d{number:02d}", "\n\n".join(paragraphs), float(number % 5)))
    return documents


def test_paragraphs_and_borders_joined_are_the_text() -> None:
    text = "a\n \n\nb\nc\n\n\td\n\n"
    assert "".join(split_paragraphs(text)) == text
    assert split_paragraphs(text)[::2] == ["a", "b\nc", "\td", ""]


def test_a_cut_takes_the_border_behind_it() -> None:
    assert cut_paragraphs("a\n\nb\n\n\nc", {1}) == "a\n\nc"
    assert cut_paragraphs("a\n\nb", {1}) == "a"
    assert cut_paragraphs("a\n\nb\n", set()) == "a\n\nb\n"


def test_every_repeated_paragraph_stays_once_in_the_best_document(tmp_path: Path) -> None:
    documents = pool()
    cuts = find_repeated_paragraphs(write(tmp_path / "in", documents, 3), tmp_path, characters=100, columns=COLUMNS)
    holders = [item for item in documents if SHARED in " ".join(item.text.split())]
    best = min(holders, key=lambda item: (-item.quality, -len(item.text), item.id))
    assert {row["id"] for row in cuts.to_pylist()} == {item.id for item in holders} - {best.id}
    assert {row["kept_id"] for row in cuts.to_pylist()} == {best.id}


@pytest.mark.parametrize(("shards", "workers", "order"), [(1, 1, 1), (4, 2, 2), (7, 1, 3)])
def test_cuts_do_not_depend_on_order_sharding_or_workers(tmp_path: Path, shards: int, workers: int, order: int) -> None:
    documents = pool()
    random.Random(order).shuffle(documents)
    paths = write(tmp_path / "in", documents, shards, "jsonl" if order == 2 else "parquet")
    cuts = find_repeated_paragraphs(paths, tmp_path / "w", characters=100, columns=COLUMNS, executor=LocalPool(workers))
    whole = find_repeated_paragraphs(
        write(tmp_path / "one", pool()), tmp_path / "v", characters=100, columns=COLUMNS, executor=LocalPool(1)
    )
    assert cuts.to_pylist() == whole.to_pylist()
    assert len(cuts) == 19


def test_ranges_of_digests_join_to_the_same_cuts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = write(tmp_path / "in", pool(), 2)
    whole = find_repeated_paragraphs(paths, tmp_path / "a", characters=100, columns=COLUMNS)
    monkeypatch.setattr("nanbeige_core.data.dedup.paragraphs.PARAGRAPHS_PER_RANGE", 20)
    assert find_repeated_paragraphs(paths, tmp_path / "b", characters=100, columns=COLUMNS).equals(whole)


def cut(rows: list[dict[str, Any]], named: set[str], folder: Path) -> ParagraphCuts:
    documents = Pool.write(folder / "documents", TAGGED_SCHEMA, rows)
    return cut_repeated_paragraphs(documents, TAGGED_SCHEMA, pa.array(sorted(named), pa.string()), CONFIG, folder)


def test_no_long_paragraph_is_lost_and_none_is_left_twice(tmp_path: Path) -> None:
    rows = [document(item.id, item.text, item.quality) for item in pool()]
    result = cut(rows, set(), tmp_path)
    counts = Counter(
        " ".join(part.split()) for row in result.kept.rows() for part in split_paragraphs(row["text"])[::2]
    )
    before = {" ".join(part.split()) for row in rows for part in split_paragraphs(row["text"])[::2]}
    assert set(counts) == before
    assert set(counts.values()) == {1}
    assert {row["opening"][:20] for row in read_rows(result.evidence)} >= {SHARED[:20]}


def test_a_document_without_a_long_paragraph_of_its_own_goes_unless_evidence_names_it(tmp_path: Path) -> None:
    rows = [document("good", SHARED + "\n\n" + prose(5, 40), 6.0), document("poor", SHARED + "\n\nshort", 2.0)]
    alone = cut(rows, set(), tmp_path / "a")
    gone = alone.dropped.to_pylist()
    assert [(row["id"], row["reason"], row["kept_id"]) for row in gone] == [("poor", "repeated_paragraphs", "good")]
    named = cut(rows, {"poor"}, tmp_path / "b")
    assert [row["text"] for row in named.kept.rows()] == [row["text"] for row in rows]


def test_programs_keep_their_paragraphs(tmp_path: Path) -> None:
    rows = [document(name, SHARED, language="code") for name in "ab"]
    assert [row["text"] for row in cut(rows, set(), tmp_path).kept.rows()] == [SHARED, SHARED]


def test_trace_reads_columns_that_the_table_of_cuts_has() -> None:
    (table,) = [table for table in ROWS["retrieval_dedup"].tables if table.file == "paragraphs.parquet"]
    assert {*table.key, *table.refers, *table.columns, *table.text} <= set(PARAGRAPH_SCHEMA.names)
    values = {"paragraph": 2, "id": "a", "characters": 120, "kept_id": "b"}
    assert table.says.format(**values) == "paragraph 2 of a cut (120 characters), kept in b"
