import json
import random
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import nanbeige_core.data.dedup.settings as dedup_settings
from nanbeige_core.data.dedup.audit import shingle_sets
from nanbeige_core.data.dedup.candidates import DuplicateIdError
from nanbeige_core.data.dedup.kernels import fold_document
from nanbeige_core.data.dedup.run import DedupError, DedupResult, apply_source_cap, deduplicate
from nanbeige_core.data.dedup.settings import DedupSettings
from nanbeige_core.data.dedup.shards import Columns
from nanbeige_core.data.dedup.signatures import SignatureError
from nanbeige_core.data.dedup.units import hash_units_utf8, lower_table
from nanbeige_core.data.executors import ArrayRank, ExecutorError, LocalPool
from nanbeige_core.data.hashing import unit_hashes
from nanbeige_core.data.tables import TableError

WORDS = [f"word{number}" for number in range(400)]
HAN = [chr(0x4E00 + number) for number in range(900)]
COLUMNS = Columns(quality="quality", source="source")


class Document(NamedTuple):
    id: str
    text: str
    quality: float = 5.0
    source: str = "s"


def prose(seed: int, length: int = 120) -> str:
    return " ".join(random.Random(seed).choices(WORDS, k=length))


def edit(text: str, *places: int) -> str:
    words = text.split()
    for place in places:
        words[place] = f"changed{place}"
    return " ".join(words)


def corpus() -> list[Document]:
    """Originals, near copies, exact copies, chains of copies of copies, short texts, and Chinese."""
    documents = [Document(f"d{n}", prose(n), float(n % 7)) for n in range(60)]
    documents += [Document(f"e{n}", edit(prose(n), 50), 3.0) for n in range(0, 60, 3)]
    documents += [Document(f"x{n}", prose(n).upper(), 1.0) for n in range(0, 60, 5)]
    chain = prose(99, 200)
    for step in range(1, 12):
        chain = edit(chain, *range(step * 15, step * 15 + 4))
        documents.append(Document(f"chain{step}", chain, float(step % 3)))
    chinese = "".join(random.Random(3).choices(HAN, k=300))
    documents += [Document("zh1", chinese), Document("zh2", chinese[:150] + "改" + chinese[151:])]
    return [*documents, Document("s1", "Hello there"), Document("s2", "hello, there!"), Document("s3", "bye")]


def write(folder: Path, documents: Iterable[Document], shards: int = 1, kind: str = "parquet") -> list[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    rows = list(documents)
    paths: list[Path] = []
    for shard in range(shards):
        mine = [document._asdict() for document in rows[shard::shards]]
        path = folder / f"{shard}.{kind}"
        if kind == "jsonl":
            path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in mine))
        else:
            names = Document._fields
            types = [pa.string(), pa.string(), pa.float64(), pa.string()]
            pq.write_table(pa.Table.from_pylist(mine, pa.schema(list(zip(names, types, strict=True)))), path)
        paths.append(path)
    return paths


def find(folder: Path, documents: Iterable[Document], mode: str = "lsh", **changes: object) -> DedupResult:
    return deduplicate(
        write(folder / "in", documents), folder / "work", DedupSettings(mode=mode, **changes), columns=COLUMNS
    )


def evidence(result: DedupResult) -> list[dict[str, object]]:
    return pq.ParquetFile(result.evidence).read().to_pylist()


def similarity(first: str, second: str) -> float:
    a, b = (set(shingle_sets([text], DedupSettings()).values.tolist()) for text in (first, second))
    return len(a & b) / max(1, len(a | b))


SNIPPETS = ("a", "_9", "Word", "x" * 70, " ", "\n\n", ". ", "é", "改", "🎉", "plain words, and more of them " * 5)


@settings(deadline=None)
@given(
    st.one_of(
        st.text(st.characters(exclude_categories=["Cs"], exclude_characters="İΣς")),
        st.lists(st.sampled_from(SNIPPETS), max_size=40).map("".join),
    )
)
def test_the_kernel_on_bytes_sees_the_units_of_the_string(text: str) -> None:
    data = np.frombuffer(text.encode() + b" ", np.uint8)
    units = np.empty(len(data), np.uint64)
    count, cjk = hash_units_utf8(data, 0, len(data) - 1, lower_table(), units)
    expected, share = unit_hashes(text)
    assert units[:count].tolist() == expected.tolist()
    assert cjk / max(1, count) == share


@settings(deadline=None)
@given(st.binary(max_size=60))
def test_broken_utf8_never_reads_past_its_end(raw: bytes) -> None:
    units = np.empty(len(raw) + 1, np.uint64)
    alone = hash_units_utf8(np.frombuffer(raw + b"\xff", np.uint8), 0, len(raw), lower_table(), units)
    followed = hash_units_utf8(np.frombuffer(raw + "改".encode(), np.uint8), 0, len(raw), lower_table(), units)
    assert alone == followed


@pytest.mark.parametrize("mode", ["lsh", "exact"])
def test_a_document_goes_only_for_a_kept_one_that_verifies(tmp_path: Path, mode: str) -> None:
    documents = {document.id: document for document in corpus()}
    rows = evidence(find(tmp_path, documents.values(), mode))
    removed = {row["id"] for row in rows}
    chain = {name for name in removed if str(name).startswith("chain")}
    assert 0 < len(chain) < 10
    for row in rows:
        assert row["kept_id"] not in removed
        first, second = documents[str(row["id"])].text, documents[str(row["kept_id"])].text
        if row["reason"] == "near_duplicate":
            assert row["score"] == pytest.approx(similarity(first, second))
            assert similarity(first, second) >= 0.8
        else:
            assert unit_hashes(first)[0].tolist() == unit_hashes(second)[0].tolist()


def test_exact_mode_leaves_no_twin(tmp_path: Path) -> None:
    documents = corpus()
    removed = find(tmp_path, documents, "exact").removed_ids()
    kept = [document for document in documents if document.id not in removed]
    assert max(similarity(a.text, b.text) for a in kept for b in kept if a.id < b.id) < 0.8


def test_minhash_finds_nearly_what_the_exact_mode_finds(tmp_path: Path) -> None:
    documents = [Document(f"d{n}", prose(n, 200)) for n in range(150)]
    documents += [Document(f"e{n}", edit(prose(n, 200), 7, 90)) for n in range(150)]
    found = len(find(tmp_path / "lsh", documents).removed_ids())
    assert find(tmp_path / "exact", documents, "exact").removed == {"near_duplicate": 150}
    assert found >= 0.95 * 150


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    order=st.randoms(use_true_random=False),
    shards=st.integers(1, 6),
    workers=st.integers(1, 3),
    mode=st.sampled_from(["lsh", "exact"]),
    kind=st.sampled_from(["parquet", "jsonl"]),
)
def test_ids_depend_on_neither_order_nor_sharding_nor_workers(
    tmp_path_factory: pytest.TempPathFactory,
    order: random.Random,
    shards: int,
    workers: int,
    mode: str,
    kind: str,
) -> None:
    folder = tmp_path_factory.mktemp("dedup")
    rows = corpus()
    reference = evidence(find(folder / "one", rows, mode))
    order.shuffle(rows)
    result = deduplicate(
        write(folder / "in", rows, shards, kind),
        folder / "work",
        DedupSettings(mode=mode),  # pyright: ignore[reportArgumentType]
        columns=COLUMNS,
        executor=LocalPool(workers),
    )
    assert evidence(result) == reference


ARRAY = """
import sys
from pathlib import Path
from nanbeige_core.data.dedup.run import deduplicate
from nanbeige_core.data.dedup.settings import DedupSettings
from nanbeige_core.data.dedup.shards import Columns
from nanbeige_core.data.executors import ArrayRank

shards, work = sorted(Path(sys.argv[1]).glob("*.parquet")), Path(sys.argv[2])
columns = Columns(quality="quality", source="source")
deduplicate(shards, work, DedupSettings(), columns=columns, executor=ArrayRank(int(sys.argv[3]), 3, 120))
"""


def test_the_ranks_of_an_array_find_what_one_process_finds(tmp_path: Path) -> None:
    write(tmp_path / "in", corpus(), 4)
    command = [sys.executable, "-c", ARRAY, str(tmp_path / "in"), str(tmp_path / "array")]
    ranks = [subprocess.Popen([*command, str(rank)]) for rank in range(3)]
    assert [rank.wait(300) for rank in ranks] == [0, 0, 0]
    alone = evidence(find(tmp_path / "one", corpus()))
    assert pq.ParquetFile(tmp_path / "array" / "evidence.parquet").read().to_pylist() == alone


def test_a_rank_that_waits_in_vain_says_for_whom(tmp_path: Path) -> None:
    shards = write(tmp_path / "in", corpus(), 2)
    with pytest.raises(ExecutorError, match=r"ranks \[1\]"):
        deduplicate(shards, tmp_path / "w", DedupSettings(), columns=COLUMNS, executor=ArrayRank(0, 2, 0.1, 0.02))


def test_a_run_that_was_cut_off_goes_on_without_reading_again(tmp_path: Path) -> None:
    shards = write(tmp_path / "in", corpus(), 3)
    whole = evidence(deduplicate(shards, tmp_path / "a", DedupSettings(), columns=COLUMNS))
    with pytest.raises(ExecutorError):
        deduplicate(shards, tmp_path / "b", DedupSettings(), columns=COLUMNS, executor=ArrayRank(0, 2, 0.1, 0.02))
    done = tmp_path / "b" / "shards" / "00000" / "keys.npy"
    written = done.stat().st_mtime_ns
    assert evidence(deduplicate(shards, tmp_path / "b", DedupSettings(), columns=COLUMNS)) == whole
    assert done.stat().st_mtime_ns == written


def test_new_documents_meet_what_an_earlier_run_kept(tmp_path: Path) -> None:
    first = [Document("old", prose(1), 1.0), Document("older", edit(prose(1), 3), 0.5), Document("alone", prose(2))]
    deduplicate(write(tmp_path / "1", first), tmp_path / "w1", DedupSettings(), columns=COLUMNS)
    later = [Document("better", edit(prose(1), 9), 9.0), Document("fresh", prose(3)), Document("copy", prose(3), 1.0)]
    result = deduplicate(
        write(tmp_path / "2", later), tmp_path / "w2", DedupSettings(), columns=COLUMNS, known=[tmp_path / "w1"]
    )
    assert {(row["id"], row["kept_id"]) for row in evidence(result)} == {("better", "old"), ("copy", "fresh")}
    assert result.documents == 3


def test_stored_signatures_of_other_settings_are_refused(tmp_path: Path) -> None:
    shards = write(tmp_path / "in", corpus()[:5])
    deduplicate(shards, tmp_path / "w1", DedupSettings(), columns=COLUMNS)
    other = write(tmp_path / "in2", [Document("new", prose(1))])
    with pytest.raises(SignatureError, match="bands"):
        deduplicate(other, tmp_path / "w2", DedupSettings(bands=9), columns=COLUMNS, known=[tmp_path / "w1"])
    with pytest.raises(DedupError, match="lsh"):
        deduplicate(other, tmp_path / "w3", DedupSettings(mode="exact"), columns=COLUMNS, known=[tmp_path / "w1"])


def test_stored_signatures_of_older_kernels_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shards = write(tmp_path / "in", corpus()[:5])
    monkeypatch.setattr(dedup_settings, "SIGNATURE_VERSION", 1)
    deduplicate(shards, tmp_path / "w1", DedupSettings(), columns=COLUMNS)
    monkeypatch.undo()
    other = write(tmp_path / "in2", [Document("new", prose(1))])
    with pytest.raises(SignatureError, match="'version': 1"):
        deduplicate(other, tmp_path / "w2", DedupSettings(), columns=COLUMNS, known=[tmp_path / "w1"])


@given(
    units=st.lists(st.integers(0, 3), min_size=1, max_size=12),
    others=st.lists(st.integers(0, 3), min_size=1, max_size=12),
)
def test_texts_share_a_fold_only_when_their_units_are_the_same_in_order(units: list[int], others: list[int]) -> None:
    def fold(values: list[int]) -> tuple[int, int]:
        hashes = np.array(values, np.uint64)
        first, second = fold_document(np.empty(0, np.uint8), 0, 0, hashes, len(hashes))
        return int(first), int(second)

    one, two = fold(units), fold(others)
    assert (one[0] == two[0], one[1] == two[1]) == (units == others, units == others)
    assert one[0] != one[1]


def test_no_step_imports_pandas_which_takes_longer_than_a_small_corpus(tmp_path: Path) -> None:
    (shard,) = write(tmp_path / "in", corpus())
    code = (
        "import sys; from pathlib import Path; from nanbeige_core.data.dedup.run import deduplicate;"
        "from nanbeige_core.data.dedup.settings import DedupSettings;"
        "deduplicate([Path(sys.argv[1])], Path(sys.argv[2]), DedupSettings()); sys.exit('pandas' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code, str(shard), str(tmp_path / "work")], check=True)


def test_a_work_directory_of_another_run_is_refused(tmp_path: Path) -> None:
    shards = write(tmp_path / "in", corpus()[:5])
    deduplicate(shards, tmp_path / "work", DedupSettings(), columns=COLUMNS)
    with pytest.raises(DedupError, match="empty directory"):
        deduplicate(shards, tmp_path / "work", DedupSettings(seed=1), columns=COLUMNS)


def test_an_id_that_occurs_twice_is_an_error_that_names_both_rows(tmp_path: Path) -> None:
    with pytest.raises(DuplicateIdError, match=r"row 0 and .*row 2"):
        find(tmp_path, [Document("same", prose(1)), Document("b", prose(2)), Document("same", prose(3))])


def test_a_half_written_shard_is_named(tmp_path: Path) -> None:
    shards = write(tmp_path / "in", corpus(), 2)
    shards[1].write_bytes(shards[1].read_bytes()[:-40])
    with pytest.raises(TableError, match=r"1\.parquet.*half written"):
        deduplicate(shards, tmp_path / "work", DedupSettings(), columns=COLUMNS)


def test_a_source_over_its_cap_gets_its_least_similar_documents_back(tmp_path: Path) -> None:
    documents = [Document(f"a{n}", edit(prose(1), *range(n)), 5.0 - n, "template") for n in range(5)]
    result = find(tmp_path, [*documents, *(Document(f"b{n}", prose(n), source="web") for n in range(10, 20))])
    assert result.by_source == {"template": 4}
    assert [alarm._asdict() for alarm in result.alarms] == [
        {"source": "template", "documents": 5, "removed": 4, "put_back": 0}
    ]
    rows = pq.ParquetFile(result.evidence).read()
    left, alarms = apply_source_cap(rows, {"template": 5}, 0.4)
    assert left["id"].to_pylist() == ["a1", "a2"]
    assert (alarms[0].removed, alarms[0].put_back) == (2, 2)
