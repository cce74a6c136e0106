import pytest

from nanbeige_core.recipe.configs.rl import MonitorConfig, RlConfig
from nanbeige_core.recipe.fingerprint import fingerprint, identity_values
from nanbeige_core.rl.held_out import Measured
from nanbeige_core.rl.monitor import Monitor, earlier_domains, find_regressions, plateaued


class Scores:
    """A measurement that gives the next of its values each time."""

    metric = "pass rate"

    def __init__(self, *values: float) -> None:
        self.values = list(values)

    def measure(self, *, seed: int) -> Measured:
        return Measured([self.values.pop(0)], [], 0.0, {})


def run(monitor: Monitor, steps: int) -> list[dict[str, float]]:
    history: list[dict[str, float]] = []
    while len(history) < steps and not monitor.should_stop(history):
        history.append({"step": float(len(history))} | monitor.after_step(len(history)))
    return history


def test_a_stage_stops_when_patience_brings_no_new_best() -> None:
    monitor = Monitor(Scores(0.1, 0.3, 0.3, 0.2), {}, MonitorConfig(every=2, patience=2), seed=0)
    assert len(run(monitor, 20)) == 8


def test_a_late_rise_keeps_the_stage_going() -> None:
    assert not plateaued([0.1, 0.3, 0.2, 0.4], 2)
    assert not plateaued([0.3, 0.2], 2)
    assert not plateaued([0.3] * 50, 0)


def test_a_fall_of_more_than_a_point_is_reported_and_a_smaller_one_is_not() -> None:
    history = [{"step": 4.0, "validation_stem": 0.46, "validation_coding": 0.295}]
    found = find_regressions({"stem": 0.5, "coding": 0.3}, history, 0.01)
    assert [str(item) for item in found] == ["stem fell from 0.500 to 0.460 at step 4"]


def test_a_domain_that_recovers_is_no_regression() -> None:
    history = [{"step": 4.0, "validation_stem": 0.4}, {"step": 9.0, "validation_stem": 0.5}]
    assert find_regressions({"stem": 0.5}, history, 0.01) == []


def test_the_report_says_regression_loudly() -> None:
    monitor = Monitor(Scores(0.1), {"stem": Scores(0.5, 0.4)}, MonitorConfig(every=1), seed=0)
    (section,) = monitor.sections(run(monitor, 1))
    assert section.text.startswith("REGRESSION: stem fell from 0.500 to 0.400")


def test_later_stages_watch_all_earlier_domains() -> None:
    assert earlier_domains("stem") == []
    assert earlier_domains("preference") == ["stem", "coding"]


def test_a_monitor_at_its_default_changes_no_fingerprint() -> None:
    assert "monitor" not in identity_values(RlConfig())
    changed = RlConfig(monitor=MonitorConfig(every=5))
    assert fingerprint(identity_values(changed)) != fingerprint(identity_values(RlConfig()))


def test_patience_without_measurements_is_refused() -> None:
    with pytest.raises(ValueError, match=r"monitor\.every"):
        MonitorConfig(patience=3)
