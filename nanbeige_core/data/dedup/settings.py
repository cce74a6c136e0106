"""What decides which documents are duplicates; nothing here says where or how fast."""

from dataclasses import asdict, dataclass
from typing import Any, Literal

SIGNATURE_VERSION = 2
"""Raised when the kernels give a text other keys: stored signatures of an older version cannot meet new ones."""


@dataclass(frozen=True)
class DedupSettings:
    """The identity of one deduplication; two runs with equal settings and documents remove the same ids.

    `mode` is how candidates are found: `lsh` from minhash bands, `exact` from the shingles that any twin must share
    (recall 1.0, for corpora up to about a million documents). Either way a document goes only when a kept one verifies.
    """

    mode: Literal["lsh", "exact"] = "lsh"
    bands: int = 14
    rows_per_band: int = 8
    shingle_words: int = 5
    shingle_characters: int = 8
    jaccard: float = 0.8
    bucket_limit: int = 256
    """Kept documents compared per key in `lsh` mode; a guard against templates, what it skips is counted."""
    source_cap: float = 1.0
    """Largest share of one source that near-duplicate removal may take; what exceeds it stays, with an alarm."""
    seed: int = 13

    def __post_init__(self) -> None:
        """Refuse values without a meaning."""
        positive = (self.bands, self.rows_per_band, self.shingle_words, self.shingle_characters, self.bucket_limit)
        if min(positive) < 1 or not 0 < self.jaccard <= 1 or not 0 <= self.source_cap <= 1:
            raise ValueError(
                f"{self}: counts must be at least 1, jaccard in (0, 1] and source_cap in [0, 1]. Correct the values."
            )

    def signature_identity(self) -> dict[str, Any]:
        """Return the values that stored signatures depend on."""
        values = asdict(self) | {"version": SIGNATURE_VERSION}
        for name in ("bucket_limit", "source_cap"):
            del values[name]
        if self.mode == "lsh":
            del values["jaccard"]
        return values
