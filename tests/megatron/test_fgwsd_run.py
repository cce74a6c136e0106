"""The four phases as one run: in one process, in other layouts, and killed on the way."""

import functools
import json
import multiprocessing
import os
import random
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch

from nanbeige_core.artifacts.kinds import Kind
from nanbeige_core.contract import InputArtifact, Job, Runtime
from nanbeige_core.megatron import parallel, parity
from nanbeige_core.megatron.convert import load_full_weights
from nanbeige_core.megatron.pretrain import rate_schedule, run
from nanbeige_core.recipe.configs.pretrain import PHASES, AbfConfig, FgwsdConfig, Phase, PhaseTokens
from tests.megatron.conftest import write_mixture

LAYOUTS: dict[Phase, Runtime] = {
    "warmup": Runtime(processes=2, micro_batch_size=2, checkpoint_seconds=1e-9),
    "diverse_stable": Runtime(processes=2, tensor_parallel=2, micro_batch_size=4, checkpoint_seconds=1e9),
    "hq_stable": Runtime(processes=2, pipeline_parallel=2, micro_batch_size=1, checkpoint_seconds=1e9),
    "decay": Runtime(
        processes=2, tensor_parallel=2, sequence_parallel=True, micro_batch_size=2, checkpoint_seconds=1e9
    ),
}
"""Another layout in every phase."""


def config(phase: Phase, shape: Any = "linear") -> FgwsdConfig:
    return FgwsdConfig(
        phase=phase,
        phase_tokens=PhaseTokens(warmup=128, diverse_stable=256, hq_stable=192, decay=256),
        peak_lr=1e-2,
        floor_lr=1e-4,
        decay_shape=shape,
        model=parity.MODEL,
        sequence_length=16,
        global_batch_size=4,
        abf=AbfConfig(theta=1e6, sequence_length=32, fraction=0.5),
        validation_sequences=8,
    )


def job(phase: Phase, root: Path, mixture: Path, runtime: Runtime, **rest: Any) -> Job:
    inputs = {"mixture": InputArtifact("mixture", Kind.TOKENIZED_MIXTURE, "m", mixture)}
    if phase != "warmup":
        previous = root / PHASES[PHASES.index(phase) - 1]
        inputs["checkpoint"] = InputArtifact("checkpoint", Kind.CHECKPOINT, "c", previous)
    work = root / phase
    work.mkdir(parents=True, exist_ok=True)
    return Job(f"fgwsd_{phase}", config(phase), runtime, inputs, work, work, **rest)


class Run(NamedTuple):
    """Where a run's phases lie and what their steps recorded."""

    root: Path
    states: list[dict[str, Any]]

    @property
    def history(self) -> list[dict[str, float]]:
        return [entry for state in self.states for entry in state["history"]]


def finished(root: Path) -> Run:
    return Run(root, [json.loads((root / phase / "state.json").read_text()) for phase in PHASES])


def run_phase(rank: int, *, phase: Phase, root: Path, mixture: Path, runtime: Runtime) -> None:
    del rank
    parallel.reset()
    run(job(phase, root, mixture, runtime))


@pytest.fixture(scope="module")
def mixture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_mixture(tmp_path_factory.mktemp("data") / "mixture")


def one_process(rank: int, *, root: Path, mixture: Path) -> None:
    for phase in PHASES:
        run_phase(rank, phase=phase, root=root, mixture=mixture, runtime=Runtime(micro_batch_size=2))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, mixture: Path) -> Run:
    """All four phases in one process, undisturbed."""
    root = tmp_path_factory.mktemp("whole")
    parity.run_ranks(1, functools.partial(one_process, root=root, mixture=mixture), root)
    return finished(root)


def other_layouts(rank: int, *, root: Path, mixture: Path) -> None:
    for phase, runtime in LAYOUTS.items():
        run_phase(rank, phase=phase, root=root, mixture=mixture, runtime=runtime)


@pytest.fixture(scope="module")
def relaid(tmp_path_factory: pytest.TempPathFactory, mixture: Path) -> Run:
    """The same run on two ranks, laid out differently in every phase."""
    root = tmp_path_factory.mktemp("relaid")
    parity.run_ranks(2, functools.partial(other_layouts, root=root, mixture=mixture), root)
    return finished(root)


def test_the_rate_read_back_from_the_optimizer_is_one_schedule_over_all_phases(whole: Run) -> None:
    schedule = rate_schedule(config("warmup"))
    assert [entry["tokens"] for entry in whole.history] == [64 * (step + 1) for step in range(13)]
    assert [entry["lr"] for entry in whole.history] == pytest.approx(
        [schedule.rate(entry["tokens"]) for entry in whole.history], rel=1e-9
    )


def test_the_rate_has_no_step_at_a_phase_boundary(whole: Run) -> None:
    rates = [state["history"] for state in whole.states]
    assert rates[0][-1]["lr"] == rates[1][0]["lr"] == rates[2][0]["lr"] == 1e-2
    assert rates[2][-1]["lr"] - rates[3][0]["lr"] == pytest.approx((1e-2 - 1e-4) / 4)
    assert rates[3][-1]["lr"] == pytest.approx(1e-4)


def test_decay_extends_window_and_rope_base(whole: Run) -> None:
    cards = [json.loads((whole.root / phase / "model.json").read_text()) for phase in PHASES]
    assert [(card["rope_theta"], card["max_positions"]) for card in cards] == [(1e4, 16)] * 3 + [(1e6, 32)]


def test_another_layout_in_every_phase_trains_the_same_run(whole: Run, relaid: Run) -> None:
    for name, tolerance in (("tokens", 0), ("lr", 1e-12), ("loss", 1e-4), ("gradient_norm", 2e-3)):
        ours, theirs = ([entry[name] for entry in one.history] for one in (relaid, whole))
        assert ours == pytest.approx(theirs, rel=tolerance, abs=0), name
    assert relaid.states[-1]["ledger"] == whole.states[-1]["ledger"]


def test_the_ledger_holds_every_token_of_the_run_once(whole: Run) -> None:
    totals = [sum(state["ledger"].values()) for state in whole.states]
    assert totals == [state["trained_tokens"] for state in whole.states] == [128, 384, 576, 832]
    # phases of high quality alone leave the other set where it stood
    assert [state["ledger"]["mq-web"] for state in whole.states[1:]] == [whole.states[1]["ledger"]["mq-web"]] * 3


def kill_self_at(step: int, done: float, text: str) -> None:
    del done
    if text.startswith(f"step {step} of"):
        os.kill(os.getpid(), signal.SIGKILL)


def phase_in_process(phase: Phase, root: Path, mixture: Path, kill_at: int | None) -> None:
    torch.set_num_threads(1)
    progress: Callable[[float, str], None] = (
        functools.partial(kill_self_at, kill_at) if kill_at else lambda done, text: None
    )
    run(job(phase, root, mixture, Runtime(micro_batch_size=2, checkpoint_seconds=1e-9), progress=progress))


def test_a_run_killed_at_random_steps_ends_in_bit_identical_weights(whole: Run, mixture: Path, tmp_path: Path) -> None:
    processes = multiprocessing.get_context("forkserver")
    steps = random.Random(4).sample(range(1, 5), 2)
    # the last kill falls where the window has just grown
    kills: dict[Phase, list[int]] = {"warmup": [2], "diverse_stable": sorted(steps), "hq_stable": [], "decay": [3]}
    for phase in PHASES:
        for kill_at in [*kills[phase], None]:
            process = processes.Process(target=phase_in_process, args=(phase, tmp_path, mixture, kill_at))
            process.start()
            process.join()
            assert process.exitcode == (-signal.SIGKILL if kill_at else 0)
        undisturbed, resumed = (load_full_weights(root / phase / "weights") for root in (whole.root, tmp_path))
        assert all(torch.equal(undisturbed[name], resumed[name]) for name in undisturbed), phase
    run = finished(tmp_path)
    assert run.history == whole.history
    assert run.states[-1]["ledger"] == whole.states[-1]["ledger"]
    parallel.teardown()
