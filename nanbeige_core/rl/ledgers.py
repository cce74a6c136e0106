"""When each prompt was trained on in RL: read from the stored rollouts; and the reward model's own ledger."""

from collections.abc import Iterator

from nanbeige_core.data.tables import read_rows
from nanbeige_core.lineage.ledger import ROW_LEDGER, TRAINED, LedgerMissingError, RowLedger
from nanbeige_core.lineage.view import ArtifactView

NO_SPREAD = "rolled out, but every reward in its groups was equal: no gradient"


def open_rollout_ledger(view: ArtifactView) -> RowLedger:
    """Return the steps at which a prompt's group had rewards to compare; the others gave no gradient."""
    return RowLedger.of(_prompts(view))


def _prompts(view: ArtifactView) -> Iterator[tuple[str, str, list[int]]]:
    rewards: dict[str, dict[int, set[float]]] = {}
    for row in read_rows(view.path / "rollouts", ("prompt_id", "step", "reward")):
        group = rewards.setdefault(row["prompt_id"], {}).setdefault(row["step"], set())
        if row["reward"] is not None:
            group.add(row["reward"])
    for prompt_id, groups in rewards.items():
        live = sorted(step + 1 for step, seen in groups.items() if len(seen) > 1)
        yield prompt_id, TRAINED if live else NO_SPREAD, live


def open_judge_ledger(view: ArtifactView) -> RowLedger:
    """Open the reward model's ledger; its pairs hold sampled answers, so it cannot be derived afterwards.

    Raises LedgerMissingError.
    """
    file = view.path / ROW_LEDGER
    if not file.exists():
        raise LedgerMissingError(
            f"{view.address} was sealed without {ROW_LEDGER}, and its pairs cannot be drawn again without the policy. "
            f"Run `nanbeige run --only {view.manifest.stage} --force` to make one."
        )
    return RowLedger.read(file)
