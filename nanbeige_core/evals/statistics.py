"""Means with honest uncertainty: paired differences over problems, and standard errors clustered by problem."""

from collections.abc import Hashable, Sequence
from typing import NamedTuple

import numpy as np
from scipy import stats

from nanbeige_core.contract import Gain

CONFIDENCE = 0.95


class Interval(NamedTuple):
    """A mean and its two-sided 95 % interval."""

    mean: float
    low: float
    high: float


class Estimate(NamedTuple):
    """A mean over samples whose errors are independent between clusters only."""

    mean: float
    standard_error: float
    samples: int
    clusters: int


def paired_difference(before: Sequence[float], after: Sequence[float]) -> Interval:
    """Return mean(after - before) with a 95 % Student interval; the units are problems, in the same order.

    Several samples of one problem must be averaged first: they are not independent. One problem alone has no
    interval, its bounds are infinite.

    Raises ValueError when the two lists do not pair up or are empty.
    """
    if len(before) != len(after) or not before:
        raise ValueError(
            f"{len(before)} scores before and {len(after)} after, expected equally many and at least one: a "
            "paired interval needs the same problems twice. Score both checkpoints on one list of problems."
        )
    differences = np.asarray(after, dtype=np.float64) - np.asarray(before, dtype=np.float64)
    mean = float(differences.mean())
    if len(differences) == 1:
        return Interval(mean, float("-inf"), float("inf"))
    error = float(differences.std(ddof=1)) / len(differences) ** 0.5
    reach = float(stats.t.ppf((1 + CONFIDENCE) / 2, len(differences) - 1)) * error
    return Interval(mean, mean - reach, mean + reach)


def paired_gain(metric: str, before: Sequence[float], after: Sequence[float]) -> Gain:
    """Return the two means and the interval of `paired_difference`, whose errors it raises, as a stage's gain."""
    interval = paired_difference(before, after)
    return Gain(
        metric=metric,
        before=sum(before) / len(before),
        after=sum(after) / len(after),
        n=len(before),
        low=interval.low,
        high=interval.high,
    )


def mean_with_standard_error(values: Sequence[float], clusters: Sequence[Hashable]) -> Estimate:
    """Return the mean of `values` and its standard error clustered by `clusters` (the problem of each sample).

    error^2 = C/(C-1) * sum_c (sum_{i in c} (x_i - mean))^2 / n^2 (arXiv 2411.00640, appendix A, with the small-sample
    factor). One cluster alone has no error: infinite.

    Raises ValueError when lengths differ or nothing is given.
    """
    if len(values) != len(clusters) or not values:
        raise ValueError(
            f"{len(values)} values and {len(clusters)} cluster names, expected equally many and at least one."
        )
    samples = np.asarray(values, dtype=np.float64)
    numbers = {cluster: index for index, cluster in enumerate(dict.fromkeys(clusters))}
    residuals = np.zeros(len(numbers))
    np.add.at(residuals, [numbers[cluster] for cluster in clusters], samples - samples.mean())
    count = len(numbers)
    if count == 1:
        return Estimate(float(samples.mean()), float("inf"), len(samples), 1)
    variance = count / (count - 1) * float((residuals**2).sum()) / len(samples) ** 2
    return Estimate(float(samples.mean()), variance**0.5, len(samples), count)
