"""Rows of the problem set; a problem's id is what every later row refers to as `prompt_id`."""

from nanbeige_core.lineage.declare import RowTable, StageRows

ROWS: dict[str, StageRows] = {
    "problems": StageRows(
        tables=(
            RowTable(
                "problem", "prompts.parquet", ("id",), text=("prompt", "reasoning", "answer"),
                columns=("split", "domain", "language", "source", "verifier"),
                says="built by {source} for split {split}: {domain}, {language}, verifier {verifier}",
            ),
        )
    )
}  # fmt: skip
