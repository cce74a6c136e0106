"""Rows of the data stages: a document keeps its id from the corpus to the mixture."""

from nanbeige_core.lineage.declare import RowTable, StageRows

_DOCUMENTS, _TEXT = "documents/*.parquet", ("text",)

ROWS: dict[str, StageRows] = {
    "ingest": StageRows(
        tables=(
            RowTable(
                "document", _DOCUMENTS, ("id",), text=_TEXT, columns=("source", "category", "language", "licence"),
                says="read from {source}: {category}, {language}, licence {licence}",
            ),
        )
    ),
    "quality_tagging": StageRows(
        tables=(
            RowTable(
                "document", _DOCUMENTS, ("id",), {"id": ("corpus",)}, text=_TEXT, columns=("tag_score", "gate"),
                says="tagged: score {tag_score:.2f} of 9, format gate {gate:passed}", score="tag_score", subject="id",
            ),
        )
    ),
    "retrieval_dedup": StageRows(
        tables=(
            RowTable(
                "document", _DOCUMENTS, ("id",), {"id": ("tagged",)}, text=_TEXT,
                columns=("tier", "final_score", "similarity"), score="final_score", subject="id",
                says="kept in tier {tier}: final score {final_score:.3f}, similarity to seeds {similarity:.3f}",
            ),
            RowTable(
                "dropped document", "dropped.parquet", ("id",), {"id": ("tagged",)},
                columns=("reason", "kept_id", "score"),
                says="dropped: {reason} (score {score:.2f}, against {kept_id:nothing})",
            ),
            RowTable(
                "cut paragraph", "paragraphs.parquet", ("id", "paragraph"), {"id": ("tagged",), "kept_id": ("tagged",)},
                columns=("kept_id", "characters", "opening"), text=("opening",),
                says="paragraph {paragraph} of {id} cut ({characters} characters), kept in {kept_id}",
            ),
        )
    ),
    "mixture": StageRows(
        tables=(
            RowTable(
                "document", "sidecar.parquet", ("document_id",), {"document_id": ("corpus", "problems")},
                columns=("set", "index", "tokens"), says="tokenised: {tokens} tokens, number {index} of set {set}",
            ),
        )
    ),
}  # fmt: skip
