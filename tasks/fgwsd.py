"""FG-WSD: the four pretraining phases, one task each (report section 3)."""

from nanbeige_core.artifacts.references import CheckpointRef, TokenizedMixtureRef
from tasks.hand_off import StageCall, stage_task


@stage_task("fgwsd_warmup")
def fgwsd_warmup(
    call: StageCall, mixture: TokenizedMixtureRef, checkpoint: CheckpointRef | None = None
) -> CheckpointRef:
    """Warm the learning rate up on mixed data."""
    return call.run(mixture=mixture, checkpoint=checkpoint)


@stage_task("fgwsd_diverse_stable")
def fgwsd_diverse_stable(call: StageCall, mixture: TokenizedMixtureRef, checkpoint: CheckpointRef) -> CheckpointRef:
    """Train at the peak rate on both tiers."""
    return call.run(mixture=mixture, checkpoint=checkpoint)


@stage_task("fgwsd_hq_stable")
def fgwsd_hq_stable(call: StageCall, mixture: TokenizedMixtureRef, checkpoint: CheckpointRef) -> CheckpointRef:
    """Train at the peak rate on the high-quality tier."""
    return call.run(mixture=mixture, checkpoint=checkpoint)


@stage_task("fgwsd_decay")
def fgwsd_decay(call: StageCall, mixture: TokenizedMixtureRef, checkpoint: CheckpointRef) -> CheckpointRef:
    """Decay the rate on math, code and synthetic data; extend the window."""
    return call.run(mixture=mixture, checkpoint=checkpoint)
