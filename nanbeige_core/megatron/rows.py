"""What pretraining trained on; these stages keep weights and no rows of their own."""

from nanbeige_core.lineage.declare import StageRows, Trained

_PHASE = StageRows(
    trained=(Trained("mixture", "megatron.ledgers:open_phase_ledger", "documents"),), starts_from="checkpoint"
)

ROWS: dict[str, StageRows] = {
    "fgwsd_warmup": _PHASE,
    "fgwsd_diverse_stable": _PHASE,
    "fgwsd_hq_stable": _PHASE,
    "fgwsd_decay": _PHASE,
    "teacher": StageRows(
        trained=(
            Trained("mixture", "megatron.ledgers:open_teacher_ledger", "documents"),
            Trained("data", "megatron.ledgers:open_teacher_samples", "samples"),
        )
    ),
    "export": StageRows(keeps="checkpoint"),
}
