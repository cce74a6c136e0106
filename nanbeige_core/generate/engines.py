"""Open the generation engine that a run's `runtime.engine` names, over a Checkpoint artifact."""

from pathlib import Path

from nanbeige_core.contract import Runtime
from nanbeige_core.generate.protocol import Engine


def open_engine(checkpoint_dir: Path, tokenizer_dir: Path, runtime: Runtime) -> Engine:
    """Open an engine that samples from a Checkpoint artifact (`weights/`, `model.json`) with a Tokenizer
    artifact.

    Raises ValueError for the `openai` engine, which serves its own model and cannot load a checkpoint.
    """
    if runtime.engine == "transformers":
        from nanbeige_core.generate.transformers_engine import TransformersEngine

        return TransformersEngine.open(checkpoint_dir, tokenizer_dir)
    if runtime.engine == "vllm":
        from nanbeige_core.generate.vllm_engine import VllmEngine

        return VllmEngine.open(checkpoint_dir, tokenizer_dir)
    raise ValueError(
        f"runtime.engine is {runtime.engine!r}, but {checkpoint_dir} has to be loaded into the engine and an "
        "endpoint serves its own weights. Set runtime.engine to transformers or vllm for this stage."
    )
