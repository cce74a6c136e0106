import dataclasses
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from nanbeige_core.artifacts.kinds import Kind
from nanbeige_core.contract import InputArtifact, Job, Outcome, Runtime
from nanbeige_core.evals.records import read_records
from nanbeige_core.megatron import parallel, parity
from nanbeige_core.megatron.convert import load_full_weights
from nanbeige_core.megatron.pretrain import run
from nanbeige_core.recipe.configs.pretrain import AbfConfig, FgwsdConfig, Phase, PhaseTokens


@pytest.fixture(autouse=True)
def one_rank() -> Iterator[None]:
    torch.set_num_threads(1)
    yield
    parallel.teardown()


def job(phase: Phase, mixture: Path, work: Path, previous: Path | None = None, **rest: Any) -> Job:
    config = FgwsdConfig(
        phase=phase,
        phase_tokens=PhaseTokens(warmup=128, diverse_stable=512, hq_stable=256, decay=256),
        peak_lr=1e-2,
        floor_lr=1e-4,
        model=parity.MODEL,
        sequence_length=16,
        global_batch_size=4,
        abf=AbfConfig(theta=1e6, sequence_length=32, fraction=0.5),
        validation_sequences=8,
    )
    inputs = {"mixture": InputArtifact("mixture", Kind.TOKENIZED_MIXTURE, "m", mixture)}
    if previous:
        inputs["checkpoint"] = InputArtifact("checkpoint", Kind.CHECKPOINT, "c", previous)
    work.mkdir(parents=True, exist_ok=True)
    runtime = Runtime(micro_batch_size=2, checkpoint_seconds=1e-9)
    return Job(f"fgwsd_{phase}", config, runtime, inputs, work, work, **rest)


def test_two_phases_are_one_run(mixture_dir: Path, tmp_path: Path) -> None:
    warmup = run(job("warmup", mixture_dir, tmp_path / "warmup"))
    stable = run(job("diverse_stable", mixture_dir, tmp_path / "stable", tmp_path / "warmup"))
    assert warmup.gain is not None
    assert stable.gain is not None
    assert stable.gain.before == pytest.approx(warmup.gain.after)
    assert stable.gain.after < stable.gain.before
    state = json.loads((tmp_path / "stable" / "state.json").read_text())
    assert (state["step"], state["trained_tokens"], sum(state["ledger"].values())) == (10, 640, 640)
    assert stable.metrics["learning_rate"] == 1e-2
    # the better half by itself: measured beside, carried from phase to phase like the other, and another number
    measured = read_records(tmp_path / "stable", "validation_loss_hq")
    assert stable.metrics["validation_loss_hq"] == pytest.approx(np.mean(list(measured.values())))
    assert stable.metrics["validation_loss_hq"] != stable.metrics["validation_loss"]
    (table,) = (section.table for section in stable.sections if section.title == "Held-out loss")
    assert table[1]["before"] == pytest.approx(warmup.metrics["validation_loss_hq"])


def test_a_mixture_made_before_the_better_half_was_set_aside_still_trains(mixture_dir: Path, tmp_path: Path) -> None:
    content = json.loads((mixture_dir / "mixture.json").read_text())
    del content["validation_hq"]
    (mixture_dir / "mixture.json").write_text(json.dumps(content))
    outcome = run(job("warmup", mixture_dir, tmp_path / "warmup"))
    assert "validation_loss" in outcome.metrics
    assert "validation_loss_hq" not in outcome.metrics


class Killed(Exception):
    pass


def kill_at(fraction: float) -> Callable[[float, str], None]:
    def progress(done: float, text: str) -> None:
        if done >= fraction:
            raise Killed

    return progress


def test_a_killed_phase_yields_the_weights_of_an_undisturbed_one(mixture_dir: Path, tmp_path: Path) -> None:
    outcome: Outcome = run(job("warmup", mixture_dir, tmp_path / "whole"))
    with pytest.raises(Killed):
        run(job("warmup", mixture_dir, tmp_path / "killed", progress=kill_at(1.0)))
    assert list((tmp_path / "killed" / "scratch" / "resume").glob("step-*/point.json"))
    assert run(job("warmup", mixture_dir, tmp_path / "killed")) == outcome
    whole, resumed = (load_full_weights(tmp_path / name / "weights") for name in ("whole", "killed"))
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_a_run_that_loses_its_loss_stops_at_its_last_resume_point(mixture_dir: Path, tmp_path: Path) -> None:
    stable = job("warmup", mixture_dir, tmp_path / "run")
    # a step at half of this rate leaves weights that are numbers, whose logits are none
    wild = dataclasses.replace(stable, config=stable.config.model_copy(update={"peak_lr": 1e38, "floor_lr": 1e37}))
    for _ in range(2):
        with pytest.raises(FloatingPointError, match=r"at step 2 .*No weight was changed"):
            run(wild)
        assert [path.name for path in (tmp_path / "run" / "scratch" / "resume").iterdir()] == ["step-1"]
        parallel.teardown()
    assert not (tmp_path / "run" / "weights").exists()


def test_a_later_phase_without_checkpoint_is_refused(mixture_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="goes on from the one before"):
        run(job("decay", mixture_dir, tmp_path / "decay"))
