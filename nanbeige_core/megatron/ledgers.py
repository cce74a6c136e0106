"""Which documents a pretraining phase or the teacher saw, for checkpoints sealed without a ledger as well.

A missing ledger is derived with the code that trained: the same blend, the same document order, no token read.
"""

import json
from collections.abc import Callable
from typing import cast

from nanbeige_core.lineage.ledger import RowLedger, row_ledger
from nanbeige_core.lineage.view import ArtifactView
from nanbeige_core.megatron.phase_ledger import PHASE_LEDGER, PhaseLedger, PhasePlanned
from nanbeige_core.recipe.configs.pretrain import FgwsdConfig, TeacherConfig


def open_phase_ledger(view: ArtifactView) -> PhaseLedger:
    """Open the ledger of an FG-WSD phase."""
    return _opened(view, _derive_phase)


def open_teacher_ledger(view: ArtifactView) -> PhaseLedger:
    """Open the ledger of the teacher's pretraining."""
    return _opened(view, _derive_teacher)


def open_teacher_samples(view: ArtifactView) -> RowLedger:
    """Open the ledger of the teacher's SFT half."""
    return row_ledger(view, _derive_teacher_samples)


def _opened(view: ArtifactView, derive: Callable[[ArtifactView], PhasePlanned]) -> PhaseLedger:
    mixture = view.need("mixture").path
    cached = view.cached(PHASE_LEDGER)
    for file in (view.path / PHASE_LEDGER, cached):
        if file.exists():
            return PhaseLedger(PhasePlanned.load(file), mixture)
    planned = derive(view)
    cached.parent.mkdir(parents=True, exist_ok=True)
    planned.save(cached.parent)
    return PhaseLedger(planned, mixture)


def _derive_phase(view: ArtifactView) -> PhasePlanned:
    from nanbeige_core.megatron.blend import Mixture
    from nanbeige_core.megatron.pretrain import open_phase

    config = cast(FgwsdConfig, view.config)
    begins: dict[str, int] = {}
    if "checkpoint" in view.manifest.inputs:
        begins = json.loads((view.need("checkpoint").path / "state.json").read_text())["ledger"]
    return open_phase(config, Mixture.open(view.need("mixture").path), begins).source.planned()


def _derive_teacher(view: ArtifactView) -> PhasePlanned:
    from nanbeige_core.megatron.blend import Mixture
    from nanbeige_core.megatron.teacher import open_teacher_phase

    config = cast(TeacherConfig, view.config)
    return open_teacher_phase(config, Mixture.open(view.need("mixture").path)).source.planned()


def _derive_teacher_samples(view: ArtifactView) -> RowLedger:
    from nanbeige_core.sft.ledgers import derive_packed

    config = cast(TeacherConfig, view.config)
    return derive_packed(
        view,
        sequence_length=config.sft_sequence_length,
        overflow="drop",
        epochs=config.sft_epochs,
        global_batch_size=config.sft_global_batch_size,
        seed=config.seed,
    )
