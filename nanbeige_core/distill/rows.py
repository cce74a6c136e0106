"""Rows of the preference pairs, and what DPD trained on."""

from nanbeige_core.lineage.declare import RowTable, StageRows, Trained


def _pairs(what: str, file: str, says: str) -> RowTable:
    return RowTable(
        what, file, ("id",), {"prompt_id": ("problems",)}, text=("prompt", "chosen", "rejected"), columns=("source",),
        written_by=("teacher", "checkpoint"), says=says, subject="prompt_id",
    )  # fmt: skip


ROWS: dict[str, StageRows] = {
    "preference_pairs": StageRows(
        tables=(
            _pairs("pair", "pairs.parquet", "chosen from the teacher, rejected from the student ({source})"),
            _pairs("validation pair", "validation.parquet", "a held-out pair, never trained on ({source})"),
        )
    ),
    "dpd": StageRows(
        trained=(Trained("pairs", "distill.ledgers:open_ledger", "pairs"),),
        starts_from="checkpoint",
        inherits=("teacher",),
    ),
}
