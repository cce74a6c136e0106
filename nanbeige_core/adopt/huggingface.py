"""Adopt a Hugging Face folder of Llama shape as a Megatron checkpoint, every weight compared bit by bit."""

import json
from pathlib import Path
from typing import Any

from nanbeige_core.adopt.source import AdoptError, Source, Wanted
from nanbeige_core.adopt.tokenizer import read_vocabulary, require_same_vocabulary, tokenizer_files
from nanbeige_core.contract import Outcome
from nanbeige_core.recipe.configs.base import ModelConfig

FORMAT = "a Hugging Face model"
JUDGE_FORMAT = "a Hugging Face model as judge"
_ARCHITECTURES = ("LlamaForCausalLM", "MistralForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM")
_LAYER = (
    *(f"self_attn.{part}_proj" for part in "qkvo"),
    *(f"mlp.{part}_proj" for part in ("gate", "up", "down")),
    "input_layernorm",
    "post_attention_layernorm",
)


def recognise(path: Path, wanted: Wanted) -> Source:
    """Return a folder's model as a source of a Checkpoint; shape, names and tokenizer are checked from headers alone.

    Raises AdoptError for another architecture, tensors the Megatron model has not, a missing or other tokenizer, and
    for a stage whose next phase needs optimizer state.
    """
    if wanted.needs_training_state:
        raise AdoptError(
            f"{path} is a Hugging Face folder: weights alone. The phase after {wanted.stage} goes on with optimizer "
            "and data position, which it does not hold. Adopt it for fgwsd_decay instead."
        )
    config = _read_config(path)
    model = model_of(config, path)
    weights = _weight_files(path)
    tokenizer = tokenizer_files(path, wanted.stage)
    vocabulary = read_vocabulary(path)
    require_same_vocabulary(path, vocabulary, wanted)
    _check_tensors(path, weights, model, vocabulary[1])
    files = {"config.json": path / "config.json", "tokenizer.json": tokenizer["tokenizer.json"]}
    files |= {file.name: file for file in weights}

    def write(work: Path) -> Outcome:
        from nanbeige_core.megatron.adoption import write_checkpoint

        parameters = write_checkpoint(weights, model, vocabulary, work, stage=wanted.stage)
        return Outcome(
            summary=f"Adopted {parameters:,} parameters from a Hugging Face folder; every weight was read back equal.",
            counts={"parameters": parameters, "layers": model.layers},
        )

    return Source(FORMAT, files, write, {"tokenizer": vocabulary[0]})


def recognise_judge(path: Path, wanted: Wanted) -> Source:
    """Return a folder's model as a source of a RewardModel: it is asked for one verdict token, A or B.

    Raises AdoptError as for a checkpoint; a model with a score head is another kind of reward model.
    """
    source = recognise(path, wanted)

    def write(work: Path) -> Outcome:
        from nanbeige_core.megatron.adoption import write_verdict

        outcome = source.write(work)
        write_verdict(path, work)
        return outcome

    return Source(JUDGE_FORMAT, source.files, write, source.told)


def model_of(config: dict[str, Any], path: Path) -> ModelConfig:
    """Return the ModelConfig of a config.json; raises AdoptError for what the Megatron model does not compute."""
    architecture = next(iter(config.get("architectures") or []), "none")
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    kind = rope.get("rope_type", rope.get("type", "default"))
    problems = {
        f"architecture {architecture}": architecture not in _ARCHITECTURES,
        f"activation {config.get('hidden_act')}": config.get("hidden_act", "silu") != "silu",
        f"RoPE of type {kind}": kind != "default",
        "a sliding window": bool(config.get("sliding_window")) and config.get("use_sliding_window", True),
        f"weights of type {_dtype(config)}": _dtype(config) not in ("float32", "bfloat16"),
    }
    wrong = [name for name, found in problems.items() if found]
    if wrong:
        raise AdoptError(
            f"{path} has {' and '.join(wrong)}; the Megatron model here is a Llama decoder (SwiGLU, RMSNorm, plain "
            f"RoPE) in float32 or bfloat16: {', '.join(_ARCHITECTURES)} without biases. Convert it or take another."
        )
    try:
        return ModelConfig(
            layers=config["num_hidden_layers"],
            hidden_size=config["hidden_size"],
            query_heads=config["num_attention_heads"],
            kv_heads=config.get("num_key_value_heads") or config["num_attention_heads"],
            head_size=config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"],
            ffn_size=config["intermediate_size"],
            norm_epsilon=config["rms_norm_eps"],
            initializer_range=config.get("initializer_range", 0.02),
            tied_embeddings=bool(config.get("tie_word_embeddings", False)),
            rope_theta=rope.get("rope_theta") or config.get("rope_theta", 1e4),
            max_positions=config["max_position_embeddings"],
            dtype=_dtype(config),  # type: ignore[arg-type]
        )
    except KeyError as error:
        raise AdoptError(f"{path}/config.json has no {error}: it does not describe a Llama-shaped model.") from error


def expected_shapes(model: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Return name and shape of every tensor but the vocabulary's."""
    hidden, head = model.hidden_size, model.head_size
    shapes: dict[str, tuple[int, ...]] = {
        "self_attn.q_proj": (model.query_heads * head, hidden),
        "self_attn.k_proj": (model.kv_heads * head, hidden),
        "self_attn.v_proj": (model.kv_heads * head, hidden),
        "self_attn.o_proj": (hidden, model.query_heads * head),
        "mlp.gate_proj": (model.ffn_size, hidden),
        "mlp.up_proj": (model.ffn_size, hidden),
        "mlp.down_proj": (hidden, model.ffn_size),
        "input_layernorm": (hidden,),
        "post_attention_layernorm": (hidden,),
    }
    every = {f"model.layers.{layer}.{name}.weight": shapes[name] for layer in range(model.layers) for name in _LAYER}
    return {**every, "model.norm.weight": (hidden,)}


def _dtype(config: dict[str, Any]) -> str:
    return str(config.get("dtype") or config.get("torch_dtype") or "float32").removeprefix("torch.")


def _read_config(path: Path) -> dict[str, Any]:
    file = path / "config.json"
    if not path.is_dir() or not file.is_file():
        raise AdoptError(
            f"{path} is neither a Hugging Face folder (no config.json) nor a Checkpoint of this project (no "
            "model.json, state.json and weights/metadata.json). Give the folder that `save_pretrained` wrote."
        )
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise AdoptError(f"{file} cannot be read as JSON ({error}).") from error


def _weight_files(path: Path) -> list[Path]:
    files = sorted(path.glob("*.safetensors"))
    if not files:
        raise AdoptError(
            f"{path} holds no *.safetensors: weights are read from that format alone, since a pickled file can run "
            "code. Save the model again with `save_pretrained(folder, safe_serialization=True)`."
        )
    return files


def _check_tensors(path: Path, weights: list[Path], model: ModelConfig, vocabulary: int) -> None:
    from safetensors import SafetensorError, safe_open

    shapes: dict[str, tuple[int, ...]] = {}
    for file in weights:
        try:
            with safe_open(file, framework="numpy") as opened:
                shapes |= {name: tuple(opened.get_slice(name).get_shape()) for name in opened.keys()}  # noqa: SIM118
        except (SafetensorError, OSError) as error:
            raise AdoptError(f"{file} is not a readable safetensors file ({error}): copy it again.") from error
    wanted = expected_shapes(model)
    tables = ["model.embed_tokens.weight", *([] if model.tied_embeddings else ["lm_head.weight"])]
    extra = sorted(set(shapes) - set(wanted) - {*tables, "lm_head.weight"})
    missing = sorted((set(wanted) | set(tables)) - set(shapes))
    other = [name for name in wanted if name in shapes and shapes[name] != wanted[name]]
    if missing or extra or other:
        raise AdoptError(_explain(path, missing, extra, other, shapes, wanted))
    for name in tables:
        rows, width = shapes[name]
        if rows < vocabulary or width != model.hidden_size:
            raise AdoptError(
                f"{path}: {name} has shape {shapes[name]}, but its tokenizer has {vocabulary:,} ids and the model a "
                f"width of {model.hidden_size}: expected at least {vocabulary:,} rows. Resize the embeddings."
            )


def _explain(
    path: Path,
    missing: list[str],
    extra: list[str],
    other: list[str],
    shapes: dict[str, tuple[int, ...]],
    wanted: dict[str, tuple[int, ...]],
) -> str:
    parts: list[str] = []
    if missing:
        parts.append(f"lacks {len(missing)} tensors ({missing[0]}, ...)")
    if extra:
        hint = " (biases and per-head norms, as in Qwen2 and Qwen3, are not part of this model)"
        known = any(name.endswith(".bias") or "q_norm" in name or "k_norm" in name for name in extra)
        parts.append(f"has {len(extra)} tensors too many ({extra[0]}, ...){hint if known else ''}")
    if other:
        parts.append(f"has {other[0]} of shape {shapes[other[0]]} where config.json says {wanted[other[0]]}")
    return f"{path}: the model {' and '.join(parts)}. Nothing was registered; adopt a model of Llama shape."
