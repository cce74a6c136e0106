import gzip
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Dataset
from pydantic import ValidationError

from nanbeige_core.data.ingest import cut_document, run
from nanbeige_core.data.sources import REGISTRY
from nanbeige_core.data.sources import path as user_files
from nanbeige_core.data.sources.html import html_to_text
from nanbeige_core.data.sources.manpages import roff_to_text
from nanbeige_core.data.sources.path import SourceError
from nanbeige_core.data.sources.programs import parse_module
from nanbeige_core.data.tables import read_rows
from nanbeige_core.recipe.configs.data import IngestConfig, PackagedSource, PathSource
from tests.data.conftest import MakeJob

LONG = "This is a paragraph of an English text that says something.\n\n" * 20
CHINESE = "这是一个关于操作系统的中文段落，用来检验语言识别是否正确。" * 4


def jsonl(path: Path, texts: list[object]) -> Path:
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return path


def ingest(make_job: MakeJob, path: Path, **fields: object) -> tuple[list[dict[str, str]], dict[str, int]]:
    source = PathSource.model_validate({"path": str(path), "category": "web", **fields})
    job = make_job("ingest", IngestConfig(sources=(source,)))
    counts = run(job).counts
    return list(read_rows(job.work / "documents")), counts


def test_a_users_jsonl_becomes_documents(make_job: MakeJob, tmp_path: Path) -> None:
    rows, counts = ingest(make_job, jsonl(tmp_path / "a.jsonl", [LONG, CHINESE]), licence="CC0-1.0")
    assert [row["language"] for row in rows] == ["en", "zh"]
    assert {row["licence"] for row in rows} == {"CC0-1.0"}
    assert counts["kept"] == 2


def test_gzipped_jsonl_is_read(make_job: MakeJob, tmp_path: Path) -> None:
    with gzip.open(tmp_path / "a.jsonl.gz", "wt") as stream:
        stream.write(json.dumps({"text": LONG}) + "\n")
    assert len(ingest(make_job, tmp_path / "a.jsonl.gz")[0]) == 1


def test_a_datasets_folder_is_read(make_job: MakeJob, tmp_path: Path) -> None:
    Dataset.from_dict({"text": [LONG, LONG + "more"]}).save_to_disk(str(tmp_path / "saved"))
    assert len(ingest(make_job, tmp_path / "saved")[0]) == 2


def test_a_parquet_file_is_read(make_job: MakeJob, tmp_path: Path) -> None:
    Dataset.from_dict({"body": [LONG]}).to_parquet(str(tmp_path / "a.parquet"))
    assert len(ingest(make_job, tmp_path / "a.parquet", text_field="body")[0]) == 1


def test_each_drop_has_its_reason(make_job: MakeJob, tmp_path: Path) -> None:
    texts = [LONG, "short", "binary \x00" * 20, "\ufffd bad" * 40, 7]
    _, counts = ingest(make_job, jsonl(tmp_path / "a.jsonl", texts))
    reasons = {name: count for name, count in counts.items() if name.startswith("dropped_")}
    assert reasons == {
        "dropped_empty": 1,
        "dropped_binary": 1,
        "dropped_broken_utf8": 1,
        "dropped_not_text": 1,
    }


def test_the_report_says_where_the_first_text_of_each_reason_stands(make_job: MakeJob, tmp_path: Path) -> None:
    path = jsonl(tmp_path / "a.jsonl", [LONG, "short", 7, 8])
    sections = run(make_job("ingest", IngestConfig(sources=(PathSource(path=str(path), category="web"),)))).sections
    (table,) = (section.table for section in sections if section.title == "Why texts were dropped")
    assert [(row["reason"], row["texts"], row["the first of them"]) for row in table] == [
        ("not_text", 2, "a.jsonl:3"),
        ("empty", 1, "a.jsonl:2"),
    ]


def test_a_cut_off_gzip_file_says_so(make_job: MakeJob, tmp_path: Path) -> None:
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(json.dumps({"text": LONG}).encode())[:-9])
    with pytest.raises(SourceError, match=r"a\.jsonl\.gz: cannot be read .*cut off"):
        ingest(make_job, tmp_path / "a.jsonl.gz")


def test_a_gigantic_text_is_dropped_and_a_gigantic_line_not_even_held(
    make_job: MakeJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = [json.dumps({"text": text}) for text in (LONG, "word " * 10_000, "word " * 1000, LONG + " again")]
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    monkeypatch.setattr(user_files, "LONGEST_LINE", 20_000)
    job = make_job(
        "ingest",
        IngestConfig(sources=(PathSource(path=str(tmp_path / "a.jsonl"), category="web"),), gigantic_characters=4000),
    )
    counts = run(job).counts
    assert (counts["kept"], counts["dropped_gigantic"]) == (2, 2)


def test_broken_bytes_are_dropped_not_fatal(make_job: MakeJob, tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(b'{"text": "\xff\xfe"}\n' + json.dumps({"text": LONG}).encode() + b"\n")
    assert ingest(make_job, tmp_path / "a.jsonl")[1]["dropped_broken_utf8"] == 1


def test_half_a_surrogate_pair_and_a_line_without_text_are_dropped_not_fatal(make_job: MakeJob, tmp_path: Path) -> None:
    lines = [json.dumps({"text": LONG}), json.dumps({"text": LONG + "\ud83d"}), '{"body": "no text"}', "{"]
    (tmp_path / "a.jsonl").write_text("\n".join(lines) + "\n")
    counts = ingest(make_job, tmp_path / "a.jsonl")[1]
    assert (counts["kept"], counts["dropped_broken_utf8"]) == (1, 1)
    assert (counts["dropped_no_text_field"], counts["dropped_broken_json"]) == (1, 1)


def test_broken_bytes_in_a_parquet_column_are_dropped_not_fatal(make_job: MakeJob, tmp_path: Path) -> None:
    raw = pa.array([LONG.encode(), b"\xff\xfe" * 50, None], pa.binary())
    broken = pa.StringArray.from_buffers(3, raw.buffers()[1], raw.buffers()[2], raw.buffers()[0], 1)
    pq.write_table(pa.table({"text": broken}), tmp_path / "a.parquet")
    counts = ingest(make_job, tmp_path / "a.parquet")[1]
    assert (counts["kept"], counts["dropped_broken_utf8"], counts["dropped_empty"]) == (1, 1, 1)


def test_a_column_of_numbers_is_no_text(make_job: MakeJob, tmp_path: Path) -> None:
    pq.write_table(pa.table({"text": [1, 2], "body": [LONG, LONG]}), tmp_path / "a.parquet")
    with pytest.raises(SourceError, match="holds int64, expected text.*another column: body"):
        ingest(make_job, tmp_path / "a.parquet")


def test_a_half_written_file_is_refused_before_any_other_is_read(make_job: MakeJob, tmp_path: Path) -> None:
    pq.write_table(pa.table({"text": [LONG]}), tmp_path / "a.parquet")
    whole = (tmp_path / "a.parquet").read_bytes()
    (tmp_path / "b.parquet").write_bytes(whole[: len(whole) // 2])
    sources = tuple(PathSource(path=str(tmp_path / name), category="web") for name in ("a.parquet", "b.parquet"))
    job = make_job("ingest", IngestConfig(sources=sources))
    with pytest.raises(SourceError, match=r"b\.parquet.*half written"):
        run(job)
    assert not (job.work / "documents").exists()


def test_an_unreadable_parquet_file_is_named(make_job: MakeJob, tmp_path: Path) -> None:
    (tmp_path / "bad.parquet").write_text("no")
    with pytest.raises(SourceError, match="bad.parquet: not a readable Parquet"):
        ingest(make_job, tmp_path / "bad.parquet")


def test_a_missing_path_says_what_to_correct(make_job: MakeJob, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="Correct `path`"):
        ingest(make_job, tmp_path / "nowhere")


def test_a_missing_text_field_lists_what_is_there(make_job: MakeJob, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"no field 'body'; it has \['text'\]"):
        ingest(make_job, jsonl(tmp_path / "a.jsonl", [LONG]), text_field="body")


def test_a_budget_bounds_the_documents(make_job: MakeJob, tmp_path: Path) -> None:
    path = jsonl(tmp_path / "a.jsonl", [LONG + str(number) for number in range(9)])
    assert len(ingest(make_job, path, documents=4)[0]) == 4


def test_cutting_keeps_all_text_and_the_limit() -> None:
    pieces = cut_document(LONG + "x" * 3000, 500)
    assert max(map(len, pieces)) <= 500
    assert "".join("".join(pieces).split()) == "".join((LONG + "x" * 3000).split())


def test_cutting_prefers_paragraph_borders() -> None:
    assert all(piece.endswith("something.") for piece in cut_document(LONG, 500))


def test_an_unknown_source_lists_the_known_ones(make_job: MakeJob) -> None:
    config = IngestConfig(sources=(PackagedSource(name="nowhere"),))
    with pytest.raises(SourceError, match="stdlib-code"):
        run(make_job("ingest", config))


def test_a_source_needs_no_network_when_it_ships_with_python(make_job: MakeJob) -> None:
    job = make_job("ingest", IngestConfig(sources=(PackagedSource(name="stdlib-code", documents=30),)))
    run(job)
    rows = list(read_rows(job.work / "documents"))
    assert len(rows) == 30
    assert {row["language"] for row in rows} == {"code"}


def test_ingest_is_deterministic(make_job: MakeJob) -> None:
    config = IngestConfig(sources=(PackagedSource(name="docstrings-math", documents=20),))
    first, second = make_job("one", config), make_job("two", config)
    run(first), run(second)
    assert list(read_rows(first.work / "documents")) == list(read_rows(second.work / "documents"))


def test_document_ids_are_unique(make_job: MakeJob) -> None:
    # the methods of a module share names, so its docstrings share a part
    names = ("stdlib-code", "codeio-programs", "package-readmes", "docstrings-math")
    sources = tuple(PackagedSource(name=name, documents=350) for name in names)
    job = make_job("ingest", IngestConfig(sources=sources))
    run(job)
    ids = [row["id"] for row in read_rows(job.work / "documents")]
    assert len(ids) == len(set(ids))


def test_a_source_listed_twice_is_refused() -> None:
    with pytest.raises(ValueError, match="stdlib-code twice"):
        IngestConfig(sources=(PackagedSource(name="stdlib-code"), PackagedSource(name="stdlib-code", documents=5)))


def test_every_registered_source_names_its_licence() -> None:
    assert all(source.licence and source.holds for source in REGISTRY.values())


def test_html_keeps_code_and_drops_page_furniture() -> None:
    page = "<header>Menu</header><h1>Title</h1><p>One &amp; two</p><pre>  a = 1\n  b</pre><script>x</script>"
    assert html_to_text(page) == "Title\n\nOne & two\n\n  a = 1\n  b"


def test_roff_becomes_headings_and_paragraphs() -> None:
    assert roff_to_text('.\\" comment\n.TH X 1\n.SH NAME\n\\fBx\\fP \\- do\n.PP\nMore.') == "NAME\n\nx - do\n\nMore."


def test_a_module_is_cut_into_functions_with_their_decorators() -> None:
    source = b"import os\n\n# why\n@cache\ndef f(x):\n    return x\n\nclass A:\n    pass\n"
    assert [text.text for text in parse_module(source)] == [
        "# why\n@cache\ndef f(x):\n    return x",
        "class A:\n    pass",
    ]


def test_a_source_without_a_category_is_refused() -> None:
    with pytest.raises(ValidationError):
        IngestConfig.model_validate({"sources": [{"type": "path", "path": "x"}]})
