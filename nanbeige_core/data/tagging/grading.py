"""Grades of 0-9 from measures: ranks among clean documents of a language, and where a damaged copy would stand."""

import numpy as np
from numpy.typing import NDArray

# Shapes: D documents, L dimensions.

TOP = 9.0


class GradeScale:
    """The measures of clean documents by language, against which any document is graded.

    The grade is the middle rank among them, scaled to 0-9: what a clean document gets itself, and what a damaged copy
    with its own measure gets. A language without clean documents uses all of them.
    """

    def __init__(self, measures_DL: NDArray[np.float64], languages: list[str]) -> None:
        labels = np.array(languages)
        self._all = np.sort(measures_DL, axis=0)
        self._sorted = {name: np.sort(measures_DL[labels == name], axis=0) for name in sorted(set(languages))}

    def grade(self, measures_L: NDArray[np.float64], language: str) -> NDArray[np.float64]:
        """Return the grades [L] of one document."""
        table = self._sorted.get(language, self._all)
        below = np.array([np.searchsorted(table[:, at], value, "left") for at, value in enumerate(measures_L)])
        upto = np.array([np.searchsorted(table[:, at], value, "right") for at, value in enumerate(measures_L)])
        return (below + upto) / 2 / len(table) * TOP


def weighted_kappa(first: NDArray[np.float64], second: NDArray[np.float64], grades: int = 10) -> float:
    """Return Cohen's kappa with quadratic weights of two annotators' grades, rounded to whole ones.

    1 is full agreement, 0 what two annotators with these distributions reach by chance; 0 where both are constant.
    """
    a, b = (np.clip(np.rint(values), 0, grades - 1).astype(int) for values in (first, second))
    seen = np.zeros((grades, grades))
    np.add.at(seen, (a, b), 1.0 / max(1, len(a)))
    chance = np.outer(seen.sum(axis=1), seen.sum(axis=0))
    distance = (np.arange(grades)[:, None] - np.arange(grades)[None, :]) ** 2
    expected = float((distance * chance).sum())
    return 1 - float((distance * seen).sum()) / expected if expected else 0.0
