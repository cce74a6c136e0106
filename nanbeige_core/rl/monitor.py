"""Watch an RL stage while it trains: its own held-out problems, and every earlier domain that it may forget.

Entries go into the step log, so that a resumed stage still knows them. A stage that stops improving can end early;
an earlier domain that falls by more than the tolerance (a point by default) is reported where nobody can miss it.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from nanbeige_core.contract import Plot, Section
from nanbeige_core.recipe.configs.rl import Domain, MonitorConfig
from nanbeige_core.rl.held_out import HeldOut

ORDER: tuple[Domain, ...] = ("stem", "coding", "preference")
"""The stages' order in the report; preferences have no verifier, so nothing later watches them."""
OWN = "validation"
_EARLIER = "validation_{}"
History = Sequence[Mapping[str, float]]


class Regression(NamedTuple):
    """An earlier domain's pass rate before the stage and at the step where it was lowest."""

    domain: str
    before: float
    lowest: float
    step: int

    def __str__(self) -> str:
        return f"{self.domain} fell from {self.before:.3f} to {self.lowest:.3f} at step {self.step}"


def earlier_domains(domain: Domain) -> list[Domain]:
    """Return the domains whose RL stages come before this one's."""
    return list(ORDER[: ORDER.index(domain)])


class Monitor:
    """Measure every few steps; baselines are measured once, with the weights the stage starts from."""

    def __init__(self, own: HeldOut, earlier: Mapping[str, HeldOut], config: MonitorConfig, *, seed: int) -> None:
        self._own, self._earlier, self._config, self._seed = own, dict(earlier), config, seed
        self.baselines = {
            name: measured.measure(seed=seed).mean for name, measured in (self._earlier if config.every else {}).items()
        }

    def after_step(self, step: int) -> dict[str, float]:
        """Return this step's measurements, empty where none are due; collective over all ranks."""
        if not self._config.every or (step + 1) % self._config.every:
            return {}
        entry = {OWN: self._own.measure(seed=self._seed).mean}
        return entry | {_EARLIER.format(name): m.measure(seed=self._seed).mean for name, m in self._earlier.items()}

    def should_stop(self, history: History) -> bool:
        """Tell whether the last `patience` measurements brought no new best."""
        return plateaued([entry[OWN] for entry in history if OWN in entry], self._config.patience)

    def regressions(self, history: History) -> list[Regression]:
        """Return the earlier domains that have fallen by more than the tolerance."""
        return find_regressions(self.baselines, history, self._config.tolerance)

    def sections(self, history: History) -> list[Section]:
        """Return the report's part about measurements during the stage; nothing when there were none."""
        measured = [entry for entry in history if OWN in entry]
        if not measured:
            return []
        names = [OWN, *(_EARLIER.format(name) for name in self.baselines)]
        fallen = self.regressions(history)
        text = "REGRESSION: " + "; ".join(map(str, fallen)) + "." if fallen else "No earlier domain has fallen."
        steps: list[float | str] = [entry["step"] for entry in measured]
        series = {name: [entry[name] for entry in measured] for name in names}
        plot = Plot(kind="line", x=steps, series=series, x_label="step", y_label="score")
        return [Section(title="Held-out problems during the stage", text=text, plot=plot)]


def plateaued(values: Sequence[float], patience: int) -> bool:
    """Tell whether the best of `values` is older than the last `patience` of them; never with patience 0."""
    if not patience or len(values) <= patience:
        return False
    return max(values[-patience:]) <= max(values[:-patience])


def find_regressions(baselines: Mapping[str, float], history: History, tolerance: float) -> list[Regression]:
    """Return each earlier domain whose latest measurement lies more than `tolerance` below its baseline."""
    found: list[Regression] = []
    for name, before in baselines.items():
        key = _EARLIER.format(name)
        values = [(entry[key], int(entry["step"])) for entry in history if key in entry]
        if values and before - values[-1][0] > tolerance:
            lowest, step = min(values)
            found.append(Regression(name, before, lowest, step))
    return found
