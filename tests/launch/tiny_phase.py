"""A pretraining phase of a tiny model as an order, with its input in the store."""

from pathlib import Path

import torch

from nanbeige_core.artifacts.kinds import Kind
from nanbeige_core.artifacts.references import ArtifactRef
from nanbeige_core.artifacts.store import Store
from nanbeige_core.contract import Runtime
from nanbeige_core.launch.execute import Order
from nanbeige_core.megatron import parity
from nanbeige_core.megatron.convert import load_full_weights
from nanbeige_core.recipe.configs.pretrain import AbfConfig, FgwsdConfig, PhaseTokens
from tests.artifacts.making import draft
from tests.megatron.conftest import write_mixture

STEPS = 40


def seal_mixture(store: Store) -> ArtifactRef:
    """Put a small TokenizedMixture into the store."""
    work = store.work_directory("mixture", "d" * 64)
    work.parent.mkdir(parents=True, exist_ok=True)
    write_mixture(work)
    (work / "sidecar.parquet").write_bytes(b"")  # rows of the documents, which no training step reads
    return store.seal(work, draft("mixture", "d" * 64, Kind.TOKENIZED_MIXTURE)).reference


def phase_order(fingerprint: str, runtime: Runtime) -> Order:
    """The order of a phase of STEPS steps."""
    tokens = 16 * 4 * STEPS
    config = FgwsdConfig(
        phase="warmup",
        phase_tokens=PhaseTokens(warmup=tokens, diverse_stable=512, hq_stable=256, decay=256),
        peak_lr=1e-2,
        floor_lr=1e-4,
        model=parity.MODEL,
        sequence_length=16,
        global_batch_size=4,
        abf=AbfConfig(theta=1e6, sequence_length=32, fraction=0.5),
        validation_sequences=8,
    )
    identity = {"config": config.model_dump(mode="json"), "inputs": {}}
    return Order(
        stage="fgwsd_warmup",
        uses="fgwsd_warmup",
        identity=identity,
        fingerprint=fingerprint,
        config=config.model_dump(mode="json"),
        runtime=runtime.model_dump(mode="json"),
    )


def weights(store: Store, fingerprint: str) -> dict[str, torch.Tensor]:
    """The whole weights of a finished phase."""
    manifest = store.find("fgwsd_warmup", fingerprint)
    assert manifest is not None
    return load_full_weights(store.local_path(manifest) / "weights")


def resume_points(store: Store, fingerprint: str) -> list[Path]:
    """The complete resume points of a half-done phase."""
    work = store.work_directory("fgwsd_warmup", fingerprint)
    return sorted(work.glob("scratch/resume/step-*/point.json"))
