"""Rows of the SFT data sets, and what the SFT stages trained on."""

from nanbeige_core.lineage.declare import RowTable, StageRows, Trained

_PROBLEM = {"prompt_id": ("problems",)}
_WRITTEN_BY = ("teacher", "checkpoint")
_TUNED = StageRows(trained=(Trained("data", "sft.ledgers:open_ledger", "samples"),), starts_from="checkpoint")

ROWS: dict[str, StageRows] = {
    "sft_data": StageRows(
        tables=(
            RowTable(
                "sample", "samples.parquet", ("id",), _PROBLEM, text=("messages",), columns=("source",),
                says="a cold-start sample, its answer verified ({source})",
            ),
            RowTable(
                "validation sample", "validation.parquet", ("id",), _PROBLEM, text=("messages",), columns=("source",),
                says="a held-out sample, never trained on ({source})",
            ),
            RowTable(
                "dropped sample", "dropped.parquet", ("prompt_id",), _PROBLEM, columns=("outcome", "reason"),
                says="dropped by the answer check: {outcome}, {reason}",
            ),
        )
    ),
    "refinement": StageRows(
        tables=(
            RowTable(
                "sample", "samples.parquet", ("id",), _PROBLEM, text=("messages",), columns=("source",),
                written_by=_WRITTEN_BY, subject="prompt_id", says="a refined sample ({source})",
            ),
            RowTable(
                "validation sample", "validation.parquet", ("id",), _PROBLEM, text=("messages",), columns=("source",),
                written_by=_WRITTEN_BY, subject="prompt_id", says="a refined sample, held out ({source})",
            ),
            RowTable(
                "rejected sample", "rejected.json:", ("prompt_id",), _PROBLEM, columns=("reason",),
                written_by=_WRITTEN_BY, says="rejected after refinement: {reason}",
            ),
        )
    ),
    "cold_start_sft": _TUNED,
    "overall_sft": _TUNED,
}  # fmt: skip
