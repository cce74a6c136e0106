"""Compile the kernels of curation and encoding at set-up; Numba keeps the machine code beside the modules."""

import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from nanbeige_core.data.decontamination import TargetIndex
from nanbeige_core.data.dedup.audit import shingle_sets
from nanbeige_core.data.dedup.run import deduplicate
from nanbeige_core.data.dedup.settings import DedupSettings
from nanbeige_core.data.dedup.shards import Columns
from nanbeige_core.data.encoding.bulk import BulkEncoder
from nanbeige_core.data.retrieval import Ranking
from nanbeige_core.data.terms import count_terms
from nanbeige_core.data.tokenizer import train_tokenizer

TEXTS = ["The answer is \\boxed{42}. " * 40, "The answer is \\boxed{42}. " * 39 + "No.", "答案是四十二。" * 40]


def compile_kernels() -> None:
    """Run every kernel on a few documents; what an earlier call compiled is loaded, not compiled again."""
    rows = [{"id": str(n), "text": text, "quality": 0.5, "source": "x"} for n, text in enumerate(TEXTS)]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        pq.write_table(pa.Table.from_pylist(rows), folder / "documents.parquet")
        for mode in ("lsh", "exact"):
            columns = Columns(quality="quality", source="source")
            deduplicate([folder / "documents.parquet"], folder / mode, DedupSettings(mode=mode), columns=columns)
    for dense in (False, True):
        count_terms(TEXTS, dense=dense)
    shingle_sets(TEXTS, DedupSettings())
    TargetIndex([("item", TEXTS[0])], 13).find_all(TEXTS)
    Ranking.empty(1, 1).add(np.ones((1, 2), np.float32), np.arange(2), np.zeros(1, np.int64))
    BulkEncoder(train_tokenizer(TEXTS, 500)).encode(TEXTS)


if __name__ == "__main__":
    compile_kernels()
