"""Which packed sequences each optimiser step takes, on which rank: a pure function of the recipe.

Nothing is drawn while training, so a resumed run goes on with exactly the next sequence.
"""

from collections.abc import Sequence

import numpy as np

NO_ROW = -1
"""Stands for an empty sequence, where a step's rows do not divide over the ranks."""


def plan_steps(rows: int, *, epochs: int, global_batch_size: int, seed: int) -> list[list[int]]:
    """Return the row numbers of every step; each epoch visits every row once, in its own order.

    The last step of an epoch may be smaller: losses are divided by what a step really holds.
    """
    steps: list[list[int]] = []
    for epoch in range(epochs):
        order = np.random.default_rng([seed, epoch]).permutation(rows).tolist()
        steps += [order[at : at + global_batch_size] for at in range(0, rows, global_batch_size)]
    return steps


def rows_of_rank(step: Sequence[int], data_rank: int, data_size: int) -> list[int]:
    """Return one data-parallel rank's rows of a step, filled up with NO_ROW so that every rank has as many."""
    mine = list(step[data_rank::data_size])
    return mine + [NO_ROW] * (-(-len(step) // data_size) - len(mine))


def bins_of_rows(bins: Sequence[Sequence[int]], rows: Sequence[int]) -> list[list[int]]:
    """Return the sample indices of each row; an empty row holds no sample."""
    return [[] if row == NO_ROW else list(bins[row]) for row in rows]
