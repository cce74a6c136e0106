"""The contract between an orchestrated stage and the core function that does its work.

A stage's core function has one shape, `run(job: Job) -> Outcome`. It reads `job.config` (identity: what the
artifact is), `job.runtime` (execution: where and how), the directories of its typed inputs, and leaves its files in
`job.work`. It knows nothing of Prefect, of the store, or of environment variables. The same function runs inline or
in every rank of a launched process group; with several ranks only rank 0's Outcome is kept.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from nanbeige_core.artifacts.kinds import Kind
from nanbeige_core.cluster import Hosts, Kubernetes, Slurm
from nanbeige_core.stopping import StopRequest

SCRATCH = "scratch"
"""Name of the directory inside a work directory whose content never becomes part of the artifact."""


class Plot(BaseModel):
    """A picture as data: drawn by the report room, never by a stage.

    An `interval` plot has the series difference, low and high, one point for each name in `x`.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Literal["line", "bar", "interval"]
    x: list[float | str]
    series: dict[str, list[float]]
    x_label: str
    y_label: str
    log_y: bool = False
    stacked: bool = False


class Section(BaseModel):
    """One part of a stage's report: a heading, prose, and optionally a table or a plot."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    title: str
    text: str = ""
    table: list[dict[str, Any]] = Field(default_factory=list)
    plot: Plot | None = None


class Gain(BaseModel):
    """What a stage changed, measured on data it did not train on.

    `low` and `high` bound a 95 % interval of the difference `after - before` where one was computed.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    metric: str
    before: float
    after: float
    n: int = Field(ge=1)
    low: float | None = None
    high: float | None = None
    higher_is_better: bool = True


class Outcome(BaseModel):
    """What a stage's core function reports about the files it left in its work directory."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    summary: str
    counts: dict[str, int] = Field(default_factory=dict)
    metrics: dict[str, float] = Field(default_factory=dict)
    tokens: int = 0
    gain: Gain | None = None
    sections: list[Section] = Field(default_factory=list)


class Runtime(BaseModel):
    """Where and how a stage executes. Never part of a fingerprint."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    launcher: Literal["inline", "process", "elastic", "hosts", "slurm", "kubernetes"] = "process"
    processes: int = Field(default=1, ge=1, description="Ranks on each node.")
    nodes: int = Field(default=1, ge=1, description="Machines of the stage; several need a launcher that reaches them.")
    restarts: int = Field(
        default=0, ge=0, description="How often a stage that lost a rank or a node goes on by itself."
    )
    threads: int = Field(default=1, ge=1, description="Intra-op threads of each rank.")
    tensor_parallel: int = Field(default=1, ge=1)
    pipeline_parallel: int = Field(default=1, ge=1)
    virtual_pipeline: int = Field(
        default=1, ge=1, description="Parts of the model on each pipeline rank; above 1 the schedule is interleaved."
    )
    sequence_parallel: bool = False
    context_parallel: int = Field(default=1, ge=1, description="Ranks that share one sequence; refused above 1.")
    recompute: bool = Field(
        default=False, description="Keep each layer's input only and compute the layer again in the backward pass."
    )
    micro_batch_size: int = Field(default=8, ge=1, description="Sequences per forward pass and rank.")
    engine: Literal["transformers", "vllm", "vllm_server", "openai"] = "transformers"
    policy_url: str = Field(default="", description="vLLM server of engine vllm_server, ending in /v1.")
    policy_directory: str = Field(
        default="",
        description="Where new weights are left for that server: a directory both see; empty = this machine's memory.",
    )
    verifier_url: str = Field(default="", description="Where a stage's verifier_agent is served, ending in /v1.")
    sandbox_url: str = Field(default="", description="SandboxFusion server that runs programs instead of this machine.")
    endpoint_url: str = Field(
        default="", description="Where models that a stage's config names are served, ending in /v1."
    )
    endpoint_key_file: str = Field(default="", description="File whose first line is the endpoint's key; empty = none.")
    endpoint_seconds: float = Field(default=120.0, gt=0, description="Longest wait for one answer of the endpoint.")
    endpoint_retries: int = Field(default=5, ge=0, description="Times an unanswered request is asked again.")
    checkpoint_seconds: float = Field(default=120.0, gt=0, description="Longest time between two resume points.")
    stop_seconds: float = Field(
        default=20.0, gt=0, description="Time to leave a resume point after SIGTERM, before SIGKILL."
    )
    timeout_seconds: float | None = Field(default=None, gt=0)
    retries: int = Field(default=0, ge=0)
    cache_directory: str = ""
    metrics: tuple[Literal["tensorboard", "wandb", "mlflow"], ...] = Field(
        default=("tensorboard",), description="Where a training stage's numbers go while it runs."
    )
    hosts: Hosts = Hosts()
    slurm: Slurm = Slurm()
    kubernetes: Kubernetes = Kubernetes()

    @model_validator(mode="after")
    def validate_policy_server(self) -> Self:
        """A policy's server needs an address."""
        if self.engine == "vllm_server" and not self.policy_url:
            raise ValueError(
                "runtime.engine is vllm_server but runtime.policy_url is empty: set it to a vLLM server's address, "
                "http://HOST:PORT/v1, or choose engine vllm, which runs in the stage's own processes"
            )
        return self

    @model_validator(mode="after")
    def validate_nodes(self) -> Self:
        """Several nodes need a launcher that reaches them; each host its command."""
        if self.nodes > 1 and self.launcher not in ("hosts", "slurm", "kubernetes"):
            raise ValueError(
                f"runtime.nodes is {self.nodes}, but launcher {self.launcher} knows this machine only; choose hosts, "
                "slurm or kubernetes, or put all ranks on one machine with runtime.processes"
            )
        if self.launcher == "hosts" and (len(self.hosts.reach) != self.nodes or not self.hosts.rendezvous):
            raise ValueError(
                f"runtime.hosts names {len(self.hosts.reach)} hosts and the rendezvous {self.hosts.rendezvous!r}; "
                f"launcher hosts needs one for each of runtime.nodes={self.nodes}, and host:port of the first"
            )
        return self


@dataclass(frozen=True)
class InputArtifact:
    """A sealed upstream artifact as a local directory, with what its manifest says."""

    name: str
    kind: Kind
    fingerprint: str
    path: Path
    counts: dict[str, int] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)


Progress = Callable[[float, str], None]
"""Report the finished fraction (0 to 1) and one line of text."""


@dataclass(frozen=True)
class Job:
    """Everything a core function is given."""

    stage: str
    config: Any
    runtime: Runtime
    inputs: dict[str, InputArtifact]
    work: Path
    cache: Path
    progress: Progress = field(default=lambda fraction, text: None)
    stop: StopRequest = field(default_factory=StopRequest)

    @property
    def scratch(self) -> Path:
        """Return a directory for resume state that is never sealed into the artifact."""
        path = self.work / SCRATCH
        path.mkdir(parents=True, exist_ok=True)
        return path
