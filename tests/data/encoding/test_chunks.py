from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tokenizers import Tokenizer

from nanbeige_core.data.encoding import bulk
from nanbeige_core.data.encoding.chunks import EncodedChunks, encode_chunks, read_chunk, report_engines
from nanbeige_core.data.encoding.engine import Encoded
from nanbeige_core.data.tokenizer import train_tokenizer

TEXTS = [f"document {number} <think>42</think>\n" * (1 + number % 3) for number in range(200)]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_tokenizer(TEXTS, 400, kind="byte_level", min_frequency=1)


@pytest.fixture
def chunks(tmp_path: Path) -> list[Path]:
    paths = [tmp_path / f"{number}.parquet" for number in range(4)]
    for number, path in enumerate(paths):
        texts = TEXTS[number * 50 : (number + 1) * 50]
        pq.write_table(pa.table({"text": texts, "controls": [n % 2 == 0 for n in range(50)]}), path)
    return paths


def library_ids(tokenizer: Tokenizer) -> list[list[int]]:
    encoder = bulk.BulkEncoder(tokenizer, fast=False)
    return [encoder.encode([text], controls=n % 2 == 0).tokens.tolist() for n, text in enumerate(TEXTS)]


def ids(paths: Sequence[Path]) -> list[list[int]]:
    read = [read_chunk(path) for path in paths]
    return [row.tolist() for chunk in read for row in np.split(chunk.tokens, np.cumsum(chunk.lengths)[:-1])]


def test_documents_keep_their_places(tokenizer: Tokenizer, chunks: list[Path], tmp_path: Path) -> None:
    encoded = encode_chunks(tokenizer, chunks, tmp_path, lambda _: None)
    assert ids(encoded.paths) == library_ids(tokenizer)
    assert report_engines(encoded).table == [{"engine": "gigatoken", "documents": 200, "compared": 64}]


def test_neither_the_ids_nor_what_is_compared_depend_on_the_threads(
    tokenizer: Tokenizer, chunks: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bulk, "GATE_STRIDE", 16)
    found: dict[int, EncodedChunks] = {}
    for workers in (1, 3):
        folder = tmp_path / str(workers)
        folder.mkdir()
        found[workers] = encode_chunks(tokenizer, chunks, folder, lambda _: None, workers)
    assert ids(found[1].paths) == ids(found[3].paths) == library_ids(tokenizer)
    assert report_engines(found[1]) == report_engines(found[3])


class LateWrong:
    """An engine whose ids are wrong from its hundredth document on."""

    name = "late"

    def __init__(self, engine: bulk.Engine) -> None:
        self.engine, self.seen = engine, 0

    def encode(self, texts: Sequence[str], *, controls: bool) -> Encoded:
        tokens, lengths = self.engine.encode(texts, controls=controls)
        self.seen += len(texts)
        return Encoded(tokens + (self.seen > 100), lengths)


def test_what_an_engine_wrote_before_its_first_difference_is_not_kept(
    tokenizer: Tokenizer, chunks: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = bulk.choose_engine(bulk.describe(tokenizer), 0, np.dtype(np.uint16))
    assert engine is not None
    monkeypatch.setattr(bulk, "choose_engine", lambda *_: LateWrong(engine))
    monkeypatch.setattr(bulk, "GATE_STRIDE", 10)
    encoded = encode_chunks(tokenizer, chunks, tmp_path, lambda _: None)
    assert encoded.differed
    assert ids(encoded.paths) == library_ids(tokenizer)
    assert [row["engine"] for row in report_engines(encoded).table] == ["tokenizers"]
