"""Where a training stage's numbers go while it runs: TensorBoard, Weights & Biases, MLflow, all under the same names.

    train/loss  train/learning_rate  train/gradient_norm  train/<any metric of the stage>
    speed/tokens_per_second  speed/mfu  memory/peak_bytes

Which of them is runtime, never identity. Event files carry times and host names, so they are kept beside the cache
and never sealed into an artifact.
"""

import importlib
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Protocol

MetricSink = Literal["tensorboard", "wandb", "mlflow"]


class MetricWriter(Protocol):
    """Takes numbers under names, at a step."""

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Record the values of one step."""
        ...

    def close(self) -> None:
        """Flush and end."""
        ...


class TensorBoardWriter:
    """Event files for `tensorboard --logdir`; the package's own writer, without torch's wrapper around it."""

    def __init__(self, directory: Path) -> None:
        from tensorboard.summary.writer.event_file_writer import EventFileWriter

        directory.mkdir(parents=True, exist_ok=True)
        self._file: Any = EventFileWriter(str(directory))

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Record the values of one step."""
        # generated modules: a type checker knows none of their names
        event: Any = importlib.import_module("tensorboard.compat.proto.event_pb2")
        summary: Any = importlib.import_module("tensorboard.compat.proto.summary_pb2")
        parts = [summary.Summary.Value(tag=name, simple_value=value) for name, value in values.items()]
        self._file.add_event(event.Event(wall_time=time.time(), step=step, summary=summary.Summary(value=parts)))

    def close(self) -> None:
        """Flush and end."""
        self._file.close()


class WandbWriter:
    """A Weights & Biases run in `directory`/wandb; project and mode follow wandb's own settings."""

    def __init__(self, directory: Path, name: str) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        # one id per stage artifact: a resumed stage goes on in the same run
        self._run = _package("wandb").init(dir=str(directory), name=name, id=name.replace("/", "-"), resume="allow")

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Record the values of one step."""
        self._run.log(dict(values), step=step)

    def close(self) -> None:
        """Flush and end."""
        self._run.finish()


class MlflowWriter:
    """An MLflow run; the tracking server and the experiment follow mlflow's own settings."""

    def __init__(self, name: str) -> None:
        self._mlflow = _package("mlflow")
        # a resumed stage goes on in the same run; MLflow itself would start a second one of that name
        query = f"attributes.run_name = '{name}'"
        found = self._mlflow.search_runs(filter_string=query, max_results=1, output_format="list")
        self._mlflow.start_run(**({"run_id": found[0].info.run_id} if found else {"run_name": name}))

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Record the values of one step."""
        self._mlflow.log_metrics(dict(values), step=step)

    def close(self) -> None:
        """Flush and end."""
        self._mlflow.end_run()


def open_writers(sinks: tuple[MetricSink, ...], *, directory: Path, name: str) -> list[MetricWriter]:
    """Open the chosen writers; raises ModuleNotFoundError saying what to install."""
    makers: dict[MetricSink, Any] = {
        "tensorboard": lambda: TensorBoardWriter(directory / "tensorboard" / name),
        "wandb": lambda: WandbWriter(directory, name),
        "mlflow": lambda: MlflowWriter(name),
    }
    return [makers[sink]() for sink in sinks]


def _package(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"runtime.metrics names {name}, which is not installed: pip install {name}, or leave it out of the list"
        ) from error
