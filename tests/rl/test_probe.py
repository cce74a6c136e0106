"""What the probe after each sync is for: an engine that does not hold the trainer's weights ends the stage."""

from pathlib import Path

import pytest

from nanbeige_core.generate.transformers_engine import TransformersEngine
from nanbeige_core.megatron import parallel
from nanbeige_core.rl.train import run
from tests.rl.making import CONFIG, make_job, write_inputs


def test_an_engine_that_keeps_old_weights_stops_the_stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_inputs(tmp_path)
    monkeypatch.setattr(TransformersEngine, "update_weights", lambda engine, weights, version: None)
    job = make_job(tmp_path, tmp_path / "stage", CONFIG)
    with pytest.raises(RuntimeError, match="the engine holds stale or wrong weights"):
        run(job)
    parallel.teardown()
    assert not (tmp_path / "stage" / "state.json").exists()
