"""Read the rows of a PromptSet and choose those a stage may use."""

from collections.abc import Collection
from pathlib import Path
from typing import NamedTuple

import pyarrow.parquet as pq

FILE = "prompts.parquet"
RATES = "pass_rates.parquet"
"""File of a PassRates artifact; named here so that the filter imports no model code."""

STAGE_DOMAINS: dict[str, frozenset[str]] = {
    "stem": frozenset({"math", "science"}),
    "coding": frozenset({"code"}),
    "preference": frozenset({"general"}),
}
"""Problem domains of each RL stage (report: one domain a stage)."""


class PromptRow(NamedTuple):
    """One row of a PromptSet."""

    id: str
    domain: str
    split: str
    language: str
    prompt: str
    reasoning: str
    answer: str
    verifier: str
    spec: str
    source: str


def load_prompts(
    directory: Path,
    *,
    splits: Collection[str] | None = None,
    domains: Collection[str] | None = None,
    limit: int | None = None,
) -> list[PromptRow]:
    """Return the rows of `directory/prompts.parquet` in file order, filtered, at most `limit` of them.

    With a limit the rows are spread evenly over the filtered list, so that every source keeps its share.
    """
    table = pq.read_table(directory / FILE, columns=list(PromptRow._fields))
    rows = [PromptRow(**row) for row in table.to_pylist()]
    kept = [
        row for row in rows if (splits is None or row.split in splits) and (domains is None or row.domain in domains)
    ]
    if limit is None or limit >= len(kept):
        return kept
    return [kept[index * len(kept) // limit] for index in range(limit)]
