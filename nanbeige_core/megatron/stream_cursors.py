"""Where each set's stream stands while a phase trains: every sample taken once, in the order the ledger holds.

The phase's ledger (`ledger.npz`) says which samples each step takes. The cursors are told of each step that was taken,
refuse a sample out of order, travel with every resume point, and must stand where the ledger ends before it is kept:
so what the ledger tells of a checkpoint is what was trained on, resumed or not.
"""

from nanbeige_core.megatron.blend import BlendedSource, Position
from nanbeige_core.recipe.phase_plan import Span


class LedgerError(RuntimeError):
    """Report a sample that was skipped or would be trained on twice."""


class StreamCursors:
    """Where each set's stream stands after the steps taken so far, in tokens."""

    def __init__(self, source: BlendedSource) -> None:
        self.names = [stream.name for stream in source.streams]
        self.ends = source.ends
        self.at = list(source.offsets[0])

    def record(self, span: Span, positions: list[Position], *, step: int) -> None:
        """Count one step's samples, of all data-parallel ranks; raises LedgerError at the first out of order."""
        for chosen, token in positions:
            stands = self.at[chosen]
            if token != stands:
                raise LedgerError(
                    f"step {step} takes tokens {token} on of set {self.names[chosen]}, which stands at {stands}: a "
                    f"sample would be {'skipped' if token > stands else 'seen twice'}. The resume point does not "
                    "belong to this plan: delete the stage's scratch directory."
                )
            self.at[chosen] += span.sequence_length

    def finish(self) -> dict[str, int]:
        """Return tokens consumed of each set's stream since the run began; raises LedgerError short of the end."""
        if self.at != self.ends:
            raise LedgerError(
                f"the phase took its last step with its sets {self.names} at {self.at} tokens; its plan ends at "
                f"{self.ends}. The resume point does not belong to this plan: delete the stage's scratch directory."
            )
        return dict(zip(self.names, self.at, strict=True))
