"""Open the generation engine that a run's `runtime.engine` names, over a Checkpoint artifact."""

from pathlib import Path

from nanbeige_core.contract import Runtime
from nanbeige_core.generate.openai_engine import OpenAIEngine
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
    if runtime.engine == "vllm_server":
        from nanbeige_core.generate.vllm_server_engine import VllmServerEngine

        return VllmServerEngine.open(checkpoint_dir, tokenizer_dir, runtime)
    raise ValueError(
        f"runtime.engine is {runtime.engine!r}, but {checkpoint_dir} has to be loaded into the engine and an "
        "endpoint serves its own weights. Set runtime.engine to transformers, vllm or vllm_server for this stage."
    )


def open_endpoint(model: str, runtime: Runtime) -> OpenAIEngine:
    """Open a model served at runtime.endpoint_url.

    Raises ValueError when the runtime names no endpoint, or a key file that cannot be read.
    """
    if not runtime.endpoint_url:
        raise ValueError(
            f"{model!r} is asked over HTTP, but runtime.endpoint_url is empty. Set it to an OpenAI-compatible address "
            "ending in /v1."
        )
    key = ""
    if runtime.endpoint_key_file:
        path = Path(runtime.endpoint_key_file).expanduser()
        if not path.is_file():
            raise ValueError(f"runtime.endpoint_key_file is {path}, which is no file: write the key into it.")
        key = path.read_text(encoding="utf-8").partition("\n")[0].strip()
    return OpenAIEngine(
        runtime.endpoint_url,
        model,
        api_key=key,
        timeout_seconds=runtime.endpoint_seconds,
        retries=runtime.endpoint_retries,
    )
