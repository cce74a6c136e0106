"""Rows of the RL stages: pass rates, filtered prompts, rollouts; and what trained policy and judge."""

from nanbeige_core.lineage.declare import RowTable, StageRows, Trained

_OUTCOMES = {"correct": 1.0, "wrong": 0.0, "unscored": None}
_POLICY = StageRows(
    tables=(
        RowTable(
            "rollout", "rollouts/*.parquet", ("step", "prompt_id", "sample"), {"prompt_id": ("prompts",)},
            text=("text",), columns=("policy", "reward", "verdict", "reason", "finish_reason"),
            says="{verdict}, reward {reward:.3f} ({reason}, ended by {finish_reason}); written by policy {policy}",
            written_by=("checkpoint",), score="reward", subject="prompt_id",
        ),
    ),
    trained=(Trained("prompts", "rl.ledgers:open_rollout_ledger", "prompts"),),
    starts_from="checkpoint",
    inherits=("reward_model",),
)  # fmt: skip

ROWS: dict[str, StageRows] = {
    "pass_rates": StageRows(
        tables=(
            RowTable(
                "pass rate", "pass_rates.parquet", ("prompt_id",), {"prompt_id": ("problems",)},
                columns=("samples", "correct", "unscored", "rate"), written_by=("checkpoint",),
                says="solved {correct} of {samples} times, {unscored} unscored", score="rate", subject="prompt_id",
            ),
            RowTable(
                "measured response", "rollouts.parquet", ("prompt_id", "sample"), {"prompt_id": ("problems",)},
                text=("text",), columns=("verdict", "reason"), written_by=("checkpoint",),
                says="{verdict}: {reason}", score="verdict", values=_OUTCOMES, subject="prompt_id",
            ),
        ),
        inherits=("reward_model",),
    ),
    "on_policy_filter": StageRows(
        tables=(
            RowTable(
                "prompt", "prompts.parquet", ("id",), {"id": ("problems", "pass_rates")}, text=("prompt",),
                columns=("split", "source"), says="passed on for split {split} ({source})",
            ),
        )
    ),
    "rl_stem": _POLICY,
    "rl_coding": _POLICY,
    "rl_preference": _POLICY,
    "reward_model": StageRows(
        trained=(Trained("problems", "rl.ledgers:open_judge_ledger", "prompts of judged pairs"),),
        starts_from="checkpoint",
    ),
}  # fmt: skip
