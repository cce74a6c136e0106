"""Whether two arms of a sweep differ: paired by problem and by seed, with the variance of both.

Model of the difference of one problem under one pair of runs: d_sp = delta + seed_s + problem_p + noise_sp. When every
seed measured the same problems,

    Var(mean d) = (MS_seed + max(MS_problem - MS_noise, 0)) / (S P)

with the mean squares of the two-way layout, and Satterthwaite's degrees of freedom. Clustering by problem alone leaves
seed_s out and calls two runs of one recipe different; benchmarks/sweep_coverage.py shows both.

Legend: S seeds, P problems.
"""

from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from nanbeige_core.evals.statistics import CONFIDENCE

POWER = 0.8
SEEDS_FOR_A_CLAIM = 4
"""Fewer pairs of runs give intervals that cover less often than 93 times of 100 (benchmarks/sweep_coverage.py)."""

SHARED_PROBLEMS = 0.5
"""Problems that all runs measured are compared when they are at least this share of all; else each seed's own."""

Records = Mapping[str, float]
Layout = Literal["crossed", "nested", "one seed"]


class Comparison(NamedTuple):
    """An arm minus the baseline: mean difference, two-sided 95 % interval, and what it rests on."""

    difference: float
    low: float
    high: float
    standard_error: float
    degrees_of_freedom: float
    p_value: float
    seeds: int
    problems: int
    layout: Layout
    seed_differences: tuple[float, ...]


class _Spread(NamedTuple):
    variance: float
    degrees_of_freedom: float


def compare_arms(pairs: Sequence[tuple[Records, Records]]) -> Comparison:
    """Compare (baseline, arm) records of one pair of runs per seed.

    With the same problems under every seed the interval covers new problems and new seeds; with other problems under
    each seed it rests on the seeds alone; with one seed it covers new problems for this pair of runs only.

    Raises ValueError when nothing pairs up.
    """
    shared = [[name for name in before if name in after] for before, after in pairs]
    if not pairs or not all(shared):
        raise ValueError(
            f"{len(pairs)} pairs of runs with {[len(names) for names in shared]} problems in common, expected at "
            "least one pair and one problem each: a paired comparison needs the same problems twice."
        )
    everywhere = set(shared[0]).intersection(*shared[1:])
    if len(everywhere) < SHARED_PROBLEMS * len(set().union(*shared)):
        return _compare_nested(pairs, shared)
    names = [name for name in shared[0] if name in everywhere]
    differences_SP = np.array([[after[name] - before[name] for name in names] for before, after in pairs])
    spread = _crossed(differences_SP) if len(pairs) > 1 else _over_problems(differences_SP[0])
    return _conclude(
        differences_SP.mean(axis=1), spread, problems=len(names), layout="crossed" if len(pairs) > 1 else "one seed"
    )


def adjust_for_several(p_values: Sequence[float]) -> list[float]:
    """Return Holm's adjusted p-values: below 0.05 only if the whole family errs at most 5 times of 100."""
    from statsmodels.stats.multitest import multipletests

    return np.asarray(multipletests(list(p_values), method="holm")[1]).tolist() if p_values else []


def detectable_difference(found: Comparison, *, comparisons: int = 1) -> float:
    """Return the smallest true difference that this design finds with 80 % power, in the measure's unit.

    From the noncentral t distribution at the standard error found, at 5 % shared by `comparisons` (Bonferroni, the
    hardest step of Holm's). Infinite where no error can be estimated.
    """
    if not np.isfinite(found.standard_error) or found.degrees_of_freedom < 1:
        return float("inf")
    if found.standard_error == 0:
        return 0.0
    from statsmodels.stats.power import TTestPower

    observations = found.degrees_of_freedom + 1
    alpha = (1 - CONFIDENCE) / comparisons
    effect = TTestPower().solve_power(effect_size=None, nobs=observations, alpha=alpha, power=POWER)
    return float(effect) * observations**0.5 * found.standard_error


def _crossed(differences_SP: NDArray[np.float64]) -> _Spread:
    seeds, problems = differences_SP.shape
    by_seed_S, by_problem_P = differences_SP.mean(axis=1), differences_SP.mean(axis=0)
    seed_square = problems * float(by_seed_S.var(ddof=1))
    if problems == 1:
        return _Spread(seed_square / seeds, seeds - 1)
    noise_SP = differences_SP - by_seed_S[:, None] - by_problem_P[None, :] + differences_SP.mean()
    noise_square = float((noise_SP**2).sum()) / ((seeds - 1) * (problems - 1))
    problem_square = seeds * float(by_problem_P.var(ddof=1))
    of_seeds = seed_square / (seeds * problems)
    of_problems = max(problem_square - noise_square, 0.0) / (seeds * problems)
    variance = of_seeds + of_problems
    if variance == 0:
        return _Spread(0.0, seeds - 1)
    freedom = variance**2 / (of_seeds**2 / (seeds - 1) + of_problems**2 / (problems - 1))
    return _Spread(variance, freedom)


def _over_problems(differences_P: NDArray[np.float64]) -> _Spread:
    if len(differences_P) == 1:
        return _Spread(float("inf"), 1)
    return _Spread(float(differences_P.var(ddof=1)) / len(differences_P), len(differences_P) - 1)


def _compare_nested(pairs: Sequence[tuple[Records, Records]], shared: list[list[str]]) -> Comparison:
    means_S: NDArray[np.float64] = np.array(
        [
            sum(after[name] - before[name] for name in names) / len(names)
            for (before, after), names in zip(pairs, shared, strict=True)
        ]
    )
    spread = _Spread(float(means_S.var(ddof=1)) / len(means_S), len(means_S) - 1)
    return _conclude(means_S, spread, problems=sum(map(len, shared)), layout="nested")


def _conclude(means_S: NDArray[np.float64], spread: _Spread, *, problems: int, layout: Layout) -> Comparison:
    mean, error = float(means_S.mean()), spread.variance**0.5
    reach = float(stats.t.ppf((1 + CONFIDENCE) / 2, spread.degrees_of_freedom)) * error
    if error == 0:
        p_value = 1.0 if mean == 0 else 0.0
    else:
        p_value = float(2 * stats.t.sf(abs(mean) / error, spread.degrees_of_freedom))
    return Comparison(
        difference=mean,
        low=mean - reach,
        high=mean + reach,
        standard_error=error,
        degrees_of_freedom=float(spread.degrees_of_freedom),
        p_value=p_value,
        seeds=len(means_S),
        problems=problems,
        layout=layout,
        seed_differences=tuple(float(value) for value in means_S),
    )
