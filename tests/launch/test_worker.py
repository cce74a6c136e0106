from pathlib import Path

import pytest

from nanbeige_core.contract import Job, Outcome, Runtime
from nanbeige_core.launch import worker
from nanbeige_core.launch.job_file import PREEMPTED, JobFile
from nanbeige_core.stages import STAGES, StageSpec
from nanbeige_core.stopping import StopRequest


def load_a_model(job: Job) -> Outcome:
    """As libraries do that catch what they do not know."""
    try:
        StopRequest()(15)
    except Exception as error:
        raise RuntimeError(f"cannot load the model: {error}") from error
    raise AssertionError("the request raises")


def fail(job: Job) -> Outcome:
    raise RuntimeError("cannot load the model")


@pytest.mark.parametrize(("function", "status"), [(load_a_model, PREEMPTED), (fail, 1)])
def test_a_request_to_stop_that_a_library_caught_is_still_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, function: object, status: int
) -> None:
    class Failing(StageSpec):
        def function(self) -> object:
            return function

    spec = STAGES["ingest"]
    monkeypatch.setitem(STAGES, "ingest", Failing(**{name: getattr(spec, name) for name in spec.__dataclass_fields__}))
    file = JobFile(
        stage="ingest", uses="ingest", config={}, runtime=Runtime(), inputs={}, work=str(tmp_path), cache=str(tmp_path)
    )
    file.control.mkdir(parents=True)
    assert worker.run_here(file) == status
    assert (file.control / "error.json").exists() == (status == 1)
