"""Score responses with the recipe's verifiers: correct, wrong, or unscored, which is never a zero.

A `Scorer` keeps the verifiers' worker pools open for a whole stage: starting a sandbox costs more than using it.
"""

import json
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, cast, get_args

from nanbeige_core.rl.prompts import PromptRow
from nanbeige_core.verify.agentic import Chats
from nanbeige_core.verify.verdict import Verdict, VerificationRequest, Verifier, VerifierKind, open_verifier


class Answered(NamedTuple):
    """One response as a verifier sees it: the assistant's text, and whether it ran out of tokens."""

    text: str
    truncated: bool


class Scorer:
    """Verify responses of any mix of math and code prompts; use as a context manager."""

    def __init__(self, *, cache: Path, workers: int, agent: Chats | None = None, sandbox_url: str = "") -> None:
        """Open nothing yet; `agent` judges what the ladder for mathematics cannot read."""
        self._cache = cache
        self._workers = workers
        self._agent = agent
        self._sandbox_url = sandbox_url
        self._open = ExitStack()
        self._verifiers: dict[str, Verifier] = {}

    def __enter__(self) -> "Scorer":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open.close()
        self._verifiers.clear()

    def score(self, rows: Sequence[PromptRow], responses: Sequence[Answered]) -> list[Verdict]:
        """Return one verdict per response, in order; `rows[i]` is the prompt that `responses[i]` answers.

        Raises ValueError for a prompt whose verifier is not `math` or `code`: preferences need a judge.
        """
        verdicts: list[Verdict | None] = [None] * len(rows)
        for kind in dict.fromkeys(row.verifier for row in rows):
            places = [index for index, row in enumerate(rows) if row.verifier == kind]
            requests = [_request(rows[index], responses[index]) for index in places]
            for index, verdict in zip(places, self._verifier(kind, rows[places[0]]).verify(requests), strict=True):
                verdicts[index] = verdict
        return [verdict for verdict in verdicts if verdict is not None]

    def _verifier(self, kind: str, row: PromptRow) -> Verifier:
        if kind not in get_args(VerifierKind):
            raise ValueError(
                f"prompt {row.id} has verifier {kind!r}, expected math or code: an answer without a checkable result "
                "is compared by a reward model. Score domain general with rl.judge."
            )
        if kind not in self._verifiers:
            opened = open_verifier(
                cast(VerifierKind, kind),
                workers=self._workers,
                cache=self._cache,
                agent=self._agent,
                sandbox_url=self._sandbox_url,
            )
            self._verifiers[kind] = self._open.enter_context(opened)
        return self._verifiers[kind]


def _request(row: PromptRow, response: Answered) -> VerificationRequest:
    return VerificationRequest(
        prompt_id=row.id, response_text=response.text, spec=json.loads(row.spec), truncated=response.truncated
    )


def score_responses(
    rows: Sequence[PromptRow], responses: Sequence[Answered], *, cache: Path, workers: int
) -> list[Verdict]:
    """Score once, with verifiers opened and closed around the call."""
    with Scorer(cache=cache, workers=workers) as scorer:
        return scorer.score(rows, responses)
