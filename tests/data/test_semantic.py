import random

import numpy as np
import pytest
from numpy.typing import NDArray

from nanbeige_core.data.dedup import semantic
from nanbeige_core.data.dedup.semantic import SemanticDuplicate, exact_cosine, find_semantic_duplicates


def unit(values: NDArray[np.floating]) -> NDArray[np.float32]:
    return (values / np.linalg.norm(values, axis=1, keepdims=True)).astype(np.float32)


def planted(documents: int = 300) -> NDArray[np.float32]:
    """Random directions; every fourth document is another one, slightly turned."""
    source = np.random.default_rng(7)
    vectors = source.normal(size=(documents, 32))
    vectors[::4] = vectors[1::4] + 0.1 * source.normal(size=(documents // 4, 32))
    return unit(vectors)


def find(vectors: NDArray[np.float32], merit: list[int], **changes: object) -> list[SemanticDuplicate]:
    return find_semantic_duplicates(vectors, merit, ["en"] * len(vectors), threshold=0.95, **changes)  # type: ignore[arg-type]


def test_every_planted_twin_goes_for_the_better_of_the_two() -> None:
    vectors = planted()
    found = find(vectors, list(range(len(vectors))))
    assert {(item.removed, item.kept) for item in found} == {(n + 1, n) for n in range(0, 300, 4)}
    assert all(item.cosine == exact_cosine(vectors, item.removed, item.kept) >= 0.95 for item in found)


def test_a_document_goes_only_for_a_kept_one() -> None:
    angles = np.linspace(0, 1.2, 25)
    chain = unit(np.stack([np.cos(angles), np.sin(angles)], axis=1))
    found = find(chain, list(range(25)))
    removed = {item.removed for item in found}
    assert removed
    assert not removed & {item.kept for item in found}
    kept = [n for n in range(25) if n not in removed]
    assert all(exact_cosine(chain, a, b) < 0.95 for a in kept for b in kept if a < b)


@pytest.mark.parametrize("block", [1, 7, 64])
def test_what_goes_does_not_depend_on_blocks_or_order_of_rows(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    vectors = planted()
    whole = {(item.removed, item.kept) for item in find(vectors, list(range(300)))}
    order = list(range(300))
    random.Random(block).shuffle(order)
    monkeypatch.setattr(semantic, "BLOCK", block)
    moved = find(vectors[order], [order.index(n) for n in range(300)])
    assert {(order[item.removed], order[item.kept]) for item in moved} == whole


def test_other_languages_are_not_compared() -> None:
    vectors = np.ones((2, 4), np.float32)
    assert not find_semantic_duplicates(vectors, [0, 1], ["en", "zh"], threshold=0.5)


def test_a_text_without_features_resembles_nothing() -> None:
    assert not find_semantic_duplicates(np.zeros((3, 4), np.float32), [0, 1, 2], ["en"] * 3, threshold=0.5)


def test_clusters_find_most_of_what_all_pairs_find_and_nothing_else() -> None:
    vectors = planted()
    order = list(range(300))
    whole, some = ({item.removed for item in find(vectors, order, clusters=k)} for k in (1, 6))
    assert some <= whole
    assert len(some) > 0.8 * len(whole)
