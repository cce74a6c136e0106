"""Rows of the evaluation: every response with its verdict."""

from nanbeige_core.lineage.declare import RowTable, StageRows

ROWS: dict[str, StageRows] = {
    "evaluate": StageRows(
        tables=(
            RowTable(
                "evaluated response", "report.json:attempts", ("checkpoint", "suite", "prompt_id"),
                {"prompt_id": ("problems",)}, text=("text",), columns=("outcome", "reason"),
                written_by=("{checkpoint}",), says="{outcome}: {reason}", score="outcome",
                values={"correct": 1.0, "wrong": 0.0, "unscored": None}, subject="prompt_id",
                groups=("checkpoint", "suite"),
            ),
        )
    )
}  # fmt: skip
