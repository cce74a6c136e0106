"""From the candidates to the labels that are kept: measured overlap, then held-out predictive gain, one at a time.

A candidate that orders documents almost as a chosen one does says nothing new and is dropped (rank correlation). Among
the rest, the one joins that most improves what a ridge regression over the chosen labels predicts of documents it did
not see.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

# Shapes: D documents or pairs of a task, L candidates.

RIDGE = 0.3
"""Penalty per row of the regression, on standardised labels."""


class Candidate(NamedTuple):
    """What selection found out about one candidate; `order` is 1 for the first chosen, 0 for one not chosen."""

    name: str
    kind: str
    order: int
    gain: float
    alone: float
    overlap: float
    overlaps_with: str
    reason: str


def rank_correlations(grades_DL: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the Spearman correlation of every two candidates [L, L]; 0 where one is constant."""
    ranks_DL = rankdata(grades_DL, axis=0)
    ranks_DL -= ranks_DL.mean(axis=0)
    norms_L = np.linalg.norm(ranks_DL, axis=0)
    ranks_DL /= np.where(norms_L > 0, norms_L, 1.0)
    return ranks_DL.T @ ranks_DL


class Task(NamedTuple):
    """Something that labels should predict: labels [D, L] or their differences, what is known [D], and folds [D]."""

    labels_DL: NDArray[np.float64]
    target_D: NDArray[np.float64]
    fold_D: NDArray[np.int64]


class HeldOutFit:
    """Ridge regressions of every task on any subset of labels, scored on the fold that they did not see.

    The Gram matrix of each fold is computed once, so that one subset costs the solution of a system of its size.
    `folds` are those that are scored; by default every one is.
    """

    def __init__(self, tasks: Sequence[Task], folds: Sequence[int] | None = None) -> None:
        self._parts = [
            [
                _fold_terms(task.labels_DL, task.target_D, task.fold_D == fold)
                for fold in (np.unique(task.fold_D) if folds is None else folds)
                if (task.fold_D == fold).any()
            ]
            for task in tasks
        ]

    def score(self, chosen: Sequence[int]) -> float:
        """Return the mean over tasks of the held-out R squared of the labels `chosen`; 0 for none."""
        return float(np.mean([self._task_score(parts, np.array(chosen, np.int64)) for parts in self._parts]))

    @staticmethod
    def _task_score(parts: list[tuple[NDArray[np.float64], ...]], chosen: NDArray[np.int64]) -> float:
        error = total = 0.0
        for gram, cross, held, goal, count in parts:
            system = gram[np.ix_(chosen, chosen)] + RIDGE * count[0] * np.eye(len(chosen))
            weights = np.linalg.solve(system, cross[chosen]) if len(chosen) else np.empty(0)
            error += float(np.sum((goal - held[:, chosen] @ weights) ** 2))
            total += float(np.sum(goal**2))
        return 1 - error / total if total else 0.0


def select_dimensions(
    names: Sequence[str],
    kinds: Sequence[str],
    grades_DL: NDArray[np.float64],
    fit: HeldOutFit,
    *,
    quotas: dict[str, int],
    overlap_limit: float,
) -> list[Candidate]:
    """Return every candidate with its fate: overlap by `grades_DL`, gain by `fit`; `quotas` are chosen of each kind.

    Raises ValueError when overlap leaves fewer candidates of a kind than its quota.
    """
    correlation_LL = np.abs(rank_correlations(grades_DL))
    chosen: list[int] = []
    gains: dict[int, float] = {}
    dropped: dict[int, int] = {}
    constant = {index for index in range(len(names)) if np.ptp(grades_DL[:, index]) == 0}
    score = 0.0
    while sum(quotas.values()) > len(chosen):
        full = {kind for kind, quota in quotas.items() if sum(kinds[index] == kind for index in chosen) >= quota}
        open_ = [
            index
            for index in range(len(names))
            if index not in chosen and index not in dropped and index not in constant and kinds[index] not in full
        ]
        lacking = sorted(set(quotas) - full - {kinds[index] for index in open_})
        if lacking:
            raise ValueError(
                f"overlap below {overlap_limit:g} leaves fewer than {quotas[lacking[0]]} {lacking[0]} dimensions of "
                f"{sum(kind == lacking[0] for kind in kinds)}. Raise overlap_limit, lower the quota, or add candidates."
            )
        scores = {index: fit.score([*chosen, index]) for index in open_}
        # a tie goes to the earlier candidate, so the result does not depend on the order of a dictionary
        best = max(open_, key=lambda index: (scores[index], -index))
        chosen.append(best)
        gains[best], score = scores[best] - score, scores[best]
        for index in range(len(names)):
            if index not in chosen and index not in dropped and correlation_LL[index, best] >= overlap_limit:
                dropped[index] = best
    return [
        _describe(index, names, kinds, chosen, gains, dropped, constant, correlation_LL, fit)
        for index in range(len(names))
    ]


def _fold_terms(
    grades_DL: NDArray[np.float64], target_D: NDArray[np.float64], held_D: NDArray[np.bool_]
) -> tuple[NDArray[np.float64], ...]:
    """Return what one fold needs: Gram matrix and cross products of the rest, and its own labels and targets."""
    seen_DL = grades_DL[~held_D]
    centre_L, scale_L = seen_DL.mean(axis=0), np.maximum(seen_DL.std(axis=0), 1e-9)
    seen_DL = (seen_DL - centre_L) / scale_L
    mean = target_D[~held_D].mean()
    held_DL = (grades_DL[held_D] - centre_L) / scale_L
    return (
        seen_DL.T @ seen_DL,
        seen_DL.T @ (target_D[~held_D] - mean),
        held_DL,
        target_D[held_D] - mean,
        np.array([len(seen_DL)]),
    )


def _describe(
    index: int,
    names: Sequence[str],
    kinds: Sequence[str],
    chosen: list[int],
    gains: dict[int, float],
    dropped: dict[int, int],
    constant: set[int],
    correlation_LL: NDArray[np.float64],
    fit: HeldOutFit,
) -> Candidate:
    others = [other for other in chosen if other != index]
    nearest = max(others, key=lambda other: correlation_LL[index, other])
    order = chosen.index(index) + 1 if index in chosen else 0
    if order:
        reason = "chosen" if gains[index] > 0 else "chosen to fill the quota: no gain"
        gain = gains[index]
    elif index in constant:
        reason, gain = "every document has one grade", 0.0
    elif index in dropped:
        reason, gain = f"overlaps {names[dropped[index]]}", 0.0
    else:
        reason, gain = "adds less than what was chosen", fit.score([*chosen, index]) - fit.score(chosen)
    return Candidate(
        name=names[index],
        kind=kinds[index],
        order=order,
        gain=gain,
        alone=0.0 if index in constant else fit.score([index]),
        overlap=float(correlation_LL[index, nearest]),
        overlaps_with=names[nearest],
        reason=reason,
    )
