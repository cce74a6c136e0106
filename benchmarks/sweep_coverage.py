"""How often the 95 % interval of a sweep holds the true difference, beside an interval clustered by problem alone.

Both sides judge the same simulated sweeps: `python benchmarks/sweep_coverage.py [sweeps per row]`. Scores are shares of
right answers (2 samples a problem), so their noise is the binomial one of a real held-out set.
"""

import sys
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from nanbeige_core.evals.comparison import compare_arms
from nanbeige_core.evals.statistics import paired_difference

SAMPLES = 2


class Setting(NamedTuple):
    """Seeds, problems, the true difference, and the standard deviations of the seed's and the problem's own effect."""

    seeds: int
    problems: int
    difference: float
    seed_effect: float
    problem_effect: float


SETTINGS = [
    Setting(seeds, problems, difference, seed_effect, problem_effect)
    for seeds in (2, 3, 4, 6)
    for problems, difference, seed_effect, problem_effect in (
        (300, 0.0, 0.0, 0.0),
        (300, 0.0, 0.02, 0.05),
        (300, 0.05, 0.05, 0.05),
        (100, 0.05, 0.02, 0.1),
        (48, -0.05, 0.05, 0.1),
    )
]


class Coverage(NamedTuple):
    """Shares of sweeps whose interval holds the true difference."""

    ours: float
    by_problem: float


def simulate(setting: Setting, *, sweeps: int, random: np.random.Generator) -> Coverage:
    """Draw sweeps of two arms and count how often each interval holds the difference of their expectations."""
    held = np.zeros(2)
    for _ in range(sweeps):
        chance_P = random.uniform(0.35, 0.65, setting.problems)
        effect_P = random.normal(0, setting.problem_effect, setting.problems)
        effect_S1 = random.normal(0, setting.seed_effect, (setting.seeds, 1))
        after_SP = np.clip(chance_P + setting.difference + effect_P + effect_S1, 0, 1)
        before_SP = random.binomial(SAMPLES, np.broadcast_to(chance_P, after_SP.shape)) / SAMPLES
        drawn_SP = random.binomial(SAMPLES, after_SP) / SAMPLES
        found = compare_arms([(as_records(a), as_records(b)) for a, b in zip(before_SP, drawn_SP, strict=True)])
        plain = paired_difference(before_SP.mean(axis=0).tolist(), drawn_SP.mean(axis=0).tolist())
        held += [interval.low <= setting.difference <= interval.high for interval in (found, plain)]
    return Coverage(*(held / sweeps))


def as_records(values: NDArray[np.float64]) -> dict[str, float]:
    return {str(problem): float(value) for problem, value in enumerate(values)}


def main(sweeps: int) -> None:
    random = np.random.default_rng(1)
    print(f"{sweeps} sweeps a row; share of 95 % intervals that hold the true difference")
    print("seeds problems difference seed-sd problem-sd   this project   clustered by problem alone")
    for setting in SETTINGS:
        coverage = simulate(setting, sweeps=sweeps, random=random)
        print(
            f"{setting.seeds:5d} {setting.problems:8d} {setting.difference:10.2f} {setting.seed_effect:7.2f} "
            f"{setting.problem_effect:10.2f} {coverage.ours:14.3f} {coverage.by_problem:28.3f}"
        )


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 2000)
