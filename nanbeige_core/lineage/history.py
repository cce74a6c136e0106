"""What is behind a model: the checkpoints its weights went through, and the rows each of them was trained on."""

from collections.abc import Iterator
from dataclasses import dataclass

from nanbeige_core.lineage.ledger import LedgerMissingError, Use
from nanbeige_core.lineage.view import ArtifactView


@dataclass(frozen=True)
class TrainedOn:
    """What one stage took gradients on; `missing` says why that is not known."""

    artifact: str
    what: str
    rows: int = 0
    left_out: int = 0
    groups: tuple[dict[str, object], ...] = ()
    missing: str = ""


@dataclass(frozen=True)
class ModelStep:
    """One checkpoint on the way of the weights."""

    artifact: str
    kind: str
    steps: int
    trained_on: tuple[TrainedOn, ...]
    shaped_by: tuple[str, ...]
    """Models that wrote the rows it learnt from, or that taught it."""
    adopted: bool = False


def model_history(view: ArtifactView) -> list[ModelStep]:
    """Return every checkpoint behind a model, itself first."""
    return [_step(one) for one in view.lineage.model_history(view)]


def rows_behind(view: ArtifactView) -> Iterator[tuple[str, str, Use]]:
    """Yield every row the model's weights were trained on, the first stage first: (checkpoint, what, use).

    Stages whose ledger is missing are skipped; `model_history` names them.
    """
    for one in reversed(view.lineage.model_history(view)):
        for trained in one.trained:
            try:
                ledger = one.open_ledger(trained)
            except LedgerMissingError:
                continue
            for use in ledger.everything():
                yield one.address, trained.what, use


def models_behind(view: ArtifactView) -> list[ArtifactView]:
    """Return the models other than its own past that shaped a checkpoint: writers of its rows, and teachers."""
    found: dict[str, ArtifactView] = {}
    for name in view.rows.inherits:
        teacher = view.input(name)
        if teacher is not None:
            found[teacher.address] = teacher
    for trained in view.trained:
        data = view.input(trained.input)
        if data is not None:
            found |= {writer.address: writer for writer in writers_of(data)}
    past = {one.address for one in view.lineage.model_history(view)}
    return [one for address, one in found.items() if address not in past]


def writers_of(data: ArtifactView) -> list[ArtifactView]:
    """Return the models that wrote rows of an artifact."""
    names = {name for table in data.tables for name in table.written_by}
    if any("{" in name for name in names):
        return [one for one in data.inputs().values() if one.holds_weights]
    return [one for one in (data.input(name) for name in sorted(names)) if one is not None]


def _step(view: ArtifactView) -> ModelStep:
    trained: list[TrainedOn] = []
    steps = 0
    for declared in view.trained:
        data = view.manifest.inputs.get(declared.input)
        address = data.address if data else declared.input
        try:
            totals = view.open_ledger(declared).totals()
        except LedgerMissingError as error:
            trained.append(TrainedOn(address, declared.what, missing=str(error)))
            continue
        steps += totals.steps
        trained.append(TrainedOn(address, declared.what, totals.rows, totals.left_out, tuple(totals.groups)))
    shaped = tuple(one.address for one in models_behind(view))
    return ModelStep(view.address, view.manifest.kind.value, steps, tuple(trained), shaped, view.adopted)
