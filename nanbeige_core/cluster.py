"""How a stage finds machines beyond this one: part of its runtime, never of its identity."""

from pydantic import BaseModel, ConfigDict, Field


class Host(BaseModel):
    """One host of a stage."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    command: str = Field(description="What runs a command there, e.g. `ssh node-1`.")
    address: str = Field(default="", description="Its address for the others, where its host name is not enough.")


class Hosts(BaseModel):
    """Hosts reached by a command each (launcher `hosts`); they share the work directory's file system."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    reach: tuple[Host, ...] = Field(default=(), description="One for each node, the first hosts the rendezvous.")
    rendezvous: str = Field(default="", description="host:port of the first host, on which all meet.")
    interface: str = Field(default="", description="Network interface for collectives; empty: the library chooses.")


class Slurm(BaseModel):
    """A Slurm job for each stage (launcher `slurm`)."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    options: tuple[str, ...] = Field(default=(), description="sbatch options without dashes, e.g. `gpus-per-node=8`.")
    setup: tuple[str, ...] = Field(default=(), description="Shell lines before the step, e.g. `module load cuda/13`.")


class Kubernetes(BaseModel):
    """An Indexed Job for each stage (launcher `kubernetes`)."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    image: str = Field(default="nanbeige-recipe:gpu", description="Image of infra/docker/gpu.Dockerfile.")
    namespace: str = "nanbeige"
    claim: str = Field(
        default="nanbeige-work", description="PersistentVolumeClaim (ReadWriteMany) shared with the flow."
    )
    mount_path: str = Field(default="/data", description="Where the claim is mounted, here as in the flow's pod.")
    secret: str = Field(
        default="", description="Secret whose entries become environment variables (credentials of the store)."
    )
    memory: str = "64Gi"
    gpus: bool = Field(default=True, description="Ask for one GPU for each process.")
    node_selector: dict[str, str] = Field(default_factory=dict)
