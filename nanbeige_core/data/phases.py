"""Phase weights of FG-WSD: which sets the tokens of each phase come from (report section 3)."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass

SYNTHETIC = ("synthetic_qa", "long_cot")


@dataclass(frozen=True)
class TokenSet:
    """One training set: tier and category with its size."""

    tier: str
    category: str
    tokens: int
    documents: int

    @property
    def name(self) -> str:
        """Return the file name stem."""
        return f"{self.tier}-{self.category}"


def weigh_phases(
    sets: Collection[TokenSet],
    *,
    hq_token_share: float,
    synthetic_share: float,
    decay_factor: float,
    decay_categories: Collection[str],
) -> dict[str, dict[str, float]]:
    """Return the weight of each set in each phase; every phase sums to one and names only sets it draws from.

    Within a tier and kind the weights follow the tokens, so one pass over a phase is one epoch of its natural text.
    A share whose sets are missing or empty goes to the others in proportion.
    """
    mq = {item.name: float(item.tokens) for item in sets if item.tier == "mq"}
    natural = {i.name: float(i.tokens) for i in sets if i.tier == "hq" and i.category not in SYNTHETIC}
    synthetic = {i.name: float(i.tokens) for i in sets if i.tier == "hq" and i.category in SYNTHETIC}
    diverse = _blend(
        (natural, hq_token_share - synthetic_share), (synthetic, synthetic_share), (mq, 1 - hq_token_share)
    )
    stable = _blend((natural, 1 - synthetic_share), (synthetic, synthetic_share))
    categories = {item.name: item.category for item in sets}
    decay = {
        name: weight * (decay_factor if categories[name] in decay_categories else 1.0)
        for name, weight in stable.items()
    }
    return {
        "warmup": dict(diverse),
        "diverse_stable": diverse,
        "hq_stable": stable,
        "decay": _blend((decay, 1.0)),
    }


def _blend(*parts: tuple[Mapping[str, float], float]) -> dict[str, float]:
    """Return weights where each part has its share, spread over its members by size; shares are renormalised."""
    present = [(sizes, share) for sizes, share in parts if sum(sizes.values()) > 0 and share > 0]
    whole = sum(share for _, share in present)
    return {
        name: share / whole * size / sum(sizes.values())
        for sizes, share in present
        for name, size in sizes.items()
        if size > 0
    }
