import importlib
import json
import struct
import sys
import types
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from nanbeige_core.contract import Job, Runtime
from nanbeige_core.megatron import parity
from nanbeige_core.megatron.step_metrics import flops_per_token
from nanbeige_core.megatron.trainer import Trainer
from nanbeige_core.megatron.vocab_parallel import make_cross_entropy
from nanbeige_core.recipe.configs.base import ModelConfig
from nanbeige_core.report.metric_writers import open_writers

Open = Callable[..., Trainer]
needs_wandb = pytest.mark.skipif(find_spec("wandb") is None, reason="wandb is not installed")
needs_mlflow = pytest.mark.skipif(find_spec("mlflow") is None, reason="mlflow is not installed")
NAMES = {
    *("train/loss", "train/learning_rate", "train/gradient_norm", "train/nll", "train/tokens"),
    *("speed/tokens_per_second", "speed/mfu", "memory/peak_bytes"),
}


def train(open_trainer: Open, directory: Path, *sinks: str) -> list[Any]:
    job = Job("some_stage", None, Runtime.model_validate({"metrics": sinks}), {}, directory / "abc123", directory)
    trainer = open_trainer()
    trainer.record_steps(job)
    stats = []
    for step in range(3):
        batch = parity.global_batch(step)
        stats.append(trainer.train_step([batch], make_cross_entropy(float(batch.loss_mask_BS.sum()))))
    (directory / "checkpoint").mkdir()
    trainer.save(directory / "checkpoint", tokenizer_fingerprint="", stage="some_stage")
    return stats


def test_tensorboard_reads_back_every_step_under_the_shared_names(open_trainer: Open, tmp_path: Path) -> None:
    stats = train(open_trainer, tmp_path, "tensorboard")
    events = EventAccumulator(str(tmp_path / "tensorboard" / "some_stage" / "abc123"))
    events.Reload()
    assert set(events.Tags()["scalars"]) == NAMES
    for name, attribute in (("loss", "loss"), ("learning_rate", "lr"), ("gradient_norm", "grad_norm")):
        written = [event.value for event in events.Scalars(f"train/{name}")]
        assert written == pytest.approx([getattr(one, attribute) for one in stats], rel=1e-6)
    assert [event.step for event in events.Scalars("train/loss")] == [1, 2, 3]
    assert all(0 < event.value < 1.5 for event in events.Scalars("speed/mfu"))


def test_wandb_and_mlflow_get_the_same_names(
    open_trainer: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which calls they get, where neither is installed; the tests after this one ask the packages themselves."""
    seen: dict[str, list[set[str]]] = {"wandb": [], "mlflow": []}
    run = types.SimpleNamespace(log=lambda values, step: seen["wandb"].append(set(values)), finish=lambda: None)
    monkeypatch.setitem(sys.modules, "wandb", types.SimpleNamespace(init=lambda **kwargs: run))
    mlflow = types.SimpleNamespace(
        search_runs=lambda **query: [],
        start_run=lambda run_name: None,
        log_metrics=lambda values, step: seen["mlflow"].append(set(values)),
        end_run=lambda: None,
    )
    monkeypatch.setitem(sys.modules, "mlflow", mlflow)
    train(open_trainer, tmp_path, "wandb", "mlflow")
    assert seen == {"wandb": [NAMES] * 3, "mlflow": [NAMES] * 3}


@needs_wandb
def test_an_offline_run_of_wandb_itself_holds_every_step(
    open_trainer: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    stats = train(open_trainer, tmp_path, "wandb")
    steps = [values for values in wandb_history(tmp_path) if set(values) >= NAMES]
    assert [values["_step"] for values in steps] == [1, 2, 3]
    assert [values["train/loss"] for values in steps] == pytest.approx([one.loss for one in stats])
    assert {name for name in steps[0] if not name.startswith("_")} == NAMES


def wandb_history(folder: Path) -> list[dict[str, float]]:
    """Read the package's own file: LevelDB's log format after seven bytes, a protobuf record in one or more pieces."""
    messages: Any = importlib.import_module("wandb.proto.wandb_internal_pb2")
    (written,) = folder.glob("wandb/offline-run-*/*.wandb")
    data, at, pieces, block, head = written.read_bytes(), 7, b"", 32768, 7
    found: list[dict[str, float]] = []
    while at + head <= len(data):
        if block - at % block < head:
            at += block - at % block
        length, kind = struct.unpack("<HB", data[at + 4 : at + head])
        pieces += data[at + head : at + head + length]
        at += head + length
        if kind in (1, 4):  # whole, or the last piece
            record, pieces = messages.Record.FromString(pieces), b""
            if record.HasField("history"):
                items = record.history.item
                found.append({item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in items})
    return found


@needs_mlflow
def test_mlflows_own_store_holds_every_step_and_a_resumed_stage_goes_on_in_its_run(
    open_trainer: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    mlflow: Any = importlib.import_module("mlflow")
    mlflow.set_tracking_uri((tmp_path / "mlruns").as_uri())
    stats = train(open_trainer, tmp_path, "mlflow")
    (resumed,) = open_writers(("mlflow",), directory=tmp_path, name="some_stage/abc123")
    resumed.write(4, {"train/loss": 0.5})
    resumed.close()
    (run,) = mlflow.search_runs(output_format="list")
    assert set(run.data.metrics) == NAMES
    history = mlflow.MlflowClient().get_metric_history(run.info.run_id, "train/loss")
    assert [point.step for point in history] == [1, 2, 3, 4]
    assert [point.value for point in history] == pytest.approx([*(one.loss for one in stats), 0.5])


def test_a_sink_that_is_not_installed_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mlflow", None)
    with pytest.raises(ModuleNotFoundError, match="runtime.metrics names mlflow"):
        open_writers(("mlflow",), directory=tmp_path, name="x")


def test_flops_of_the_reports_model_are_six_times_its_multiplying_weights() -> None:
    model = ModelConfig()
    # 3.93 B parameters less the input embedding, which multiplies nothing
    assert flops_per_token(model, vocab_size=166144, window=0) == pytest.approx(6 * (3.93e9 - 166144 * 2560), rel=2e-3)
