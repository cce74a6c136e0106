"""Counts as table rows: the one way in which reports say how many of each kind, reason or domain there are."""

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

Key = str | tuple[str, ...]


def count_rows(
    counts: Mapping[Any, int], columns: str | tuple[str, ...], unit: str, *, most: int | None = None
) -> list[dict[str, Any]]:
    """Return one row per key, most frequent first (ties by key), at most `most`.

    `columns` names the key, or each part of a tuple key; `unit` names the count.
    """
    names = (columns,) if isinstance(columns, str) else columns
    ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:most]
    return [
        {**dict(zip(names, (key,) if isinstance(key, str) else key, strict=True)), unit: count} for key, count in ranked
    ]


def cross_rows(pairs: Iterable[tuple[str, str]], column: str, unit: str) -> list[dict[str, Any]]:
    """Return one row per first part with its total, and how often each second part comes with it."""
    return cross_counted(Counter(pairs), column, unit)


def cross_counted(counts: Mapping[tuple[str, str], int], column: str, unit: str) -> list[dict[str, Any]]:
    """Return the same of pairs that are counted already; seconds as columns, the most frequent first."""
    seconds: Counter[str] = Counter()
    by_first: dict[str, Counter[str]] = {}
    for (first, second), count in counts.items():
        seconds[second] += count
        by_first.setdefault(first, Counter())[second] += count
    order = [second for second, _ in sorted(seconds.items(), key=lambda item: (-item[1], item[0]))]
    return [
        {column: first, unit: sum(found.values()), **{second: found[second] for second in order}}
        for first, found in sorted(by_first.items())
    ]
