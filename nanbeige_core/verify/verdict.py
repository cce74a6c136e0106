"""What a verifier is asked and what it answers: correct, wrong, or unscored, always with a reason.

Unscored means that no judgement was possible (a limit of the machinery, not of the response). Callers mask it; it is
never counted as wrong. A response without an answer, or cut off, is wrong.
"""

from collections.abc import Generator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

if TYPE_CHECKING:
    from nanbeige_core.verify.agentic import Chats

Judgement = Literal["correct", "wrong", "unscored"]
VerifierKind = Literal["math", "code"]


@dataclass(frozen=True)
class VerificationRequest:
    """A response to one prompt, and the prompt's `spec` as stored in its PromptSet.

    `response_text` is the assistant turn, with or without a think block; only what follows `</think>` is judged.
    """

    prompt_id: str
    response_text: str
    spec: dict[str, Any] = field(default_factory=dict[str, Any])
    truncated: bool = False


@dataclass(frozen=True)
class Verdict:
    """A judgement, a short reason that can be counted, and the rung of the ladder that decided."""

    outcome: Judgement
    reason: str
    engine: str

    @property
    def reward(self) -> float | None:
        """Return 1 for correct, 0 for wrong, None for unscored."""
        return {"correct": 1.0, "wrong": 0.0, "unscored": None}[self.outcome]


class Verifier(Protocol):
    """Anything that judges responses."""

    def verify(self, rows: Sequence[VerificationRequest]) -> list[Verdict]:
        """Return one verdict per row, in order; never raises for what a response contains."""
        ...


@contextmanager
def open_verifier(
    kind: VerifierKind, *, workers: int, cache: Path, agent: "Chats | None" = None, sandbox_url: str = ""
) -> Generator[Verifier]:
    """Yield a verifier with its worker processes; they end with the block.

    With `agent`, a model that may run Python judges the mathematical answers that the ladder cannot read. With
    `sandbox_url`, programs run on the SandboxFusion server there.

    Raises SandboxUnavailable for `code` where no sandbox engine works.
    """
    if kind == "math":
        from nanbeige_core.verify.math_verifier import open_math_verifier

        with ExitStack() as opened:
            ladder = opened.enter_context(open_math_verifier(workers=workers))
            if agent is None:
                yield ladder
                return
            from nanbeige_core.verify.agentic import AgenticVerifier, EscalatingVerifier
            from nanbeige_core.verify.sandbox import open_sandbox

            sandbox = opened.enter_context(open_sandbox(workers=workers, cache=cache, url=sandbox_url))
            yield EscalatingVerifier(ladder, AgenticVerifier(agent, sandbox))
    else:
        from nanbeige_core.verify.code_verifier import open_code_verifier

        with open_code_verifier(workers=workers, cache=cache, sandbox_url=sandbox_url) as verifier:
            yield verifier
