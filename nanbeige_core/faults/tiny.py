"""A recipe that goes from documents to rollouts in thirteen stages, small enough to be run and broken many times."""

import json
from pathlib import Path
from typing import Any

MODEL = {
    "layers": 2, "hidden_size": 32, "query_heads": 2, "kv_heads": 1, "head_size": 16, "ffn_size": 64,
    "max_positions": 128, "dtype": "float32",
}  # fmt: skip
NONE = {"general": 0, "agent": 0, "code": 0}
TRAINED = {"checkpoint": "cold_start_sft", "tokenizer": "tokenizer", "problems": "problems"}
SAMPLING = {"max_new_tokens": 8}
PHASES = {
    "phase_tokens": {"warmup": 2048, "diverse_stable": 4096, "hq_stable": 2048, "decay": 2048},
    "model": MODEL, "sequence_length": 64, "global_batch_size": 4, "validation_sequences": 2,
    "abf": {"theta": 20000.0, "sequence_length": 128, "fraction": 0.5}, "peak_lr": 1e-3,
}  # fmt: skip


def documents(folder: Path) -> Path:
    """Write a corpus of different documents; the last one is a copy of the first."""
    words = ["river", "stone", "cloud", "lamp", "garden", "engine", "letter", "bridge", "winter", "market"]
    texts = [
        " ".join(f"The {words[(n * 7 + k) % 10]} {n * 31 + k} is near the {words[(n + k * 3) % 10]}." for k in range(6))
        for n in range(80)
    ]
    path = folder / "mine.jsonl"
    path.write_text("\n".join(json.dumps({"text": text}) for text in [*texts, texts[0]]))
    return path


def tiny_recipe(folder: Path, runtime: dict[str, Any] | None = None) -> Path:
    """Write the recipe into a folder; `runtime` is how its stages run, by default in the caller's process."""
    counts = {"math": 40, "science": 24, **NONE}
    source = {"type": "path", "path": str(documents(folder)), "category": "web", "language": "en", "name": "mine"}
    stages: dict[str, Any] = {
        "ingest": {"config": {"sources": [source]}},
        "problems": {
            "config": {
                "word_problem_share": 0, "hard_share": 0, "science_largest_factor": 9,
                **dict.fromkeys(("pretrain", "sft", "overall", "rl", "heldout", "eval"), counts),
            }
        },
        "quality_tagging": {"in": {"corpus": "ingest"}, "config": {"annotated_documents": 60}},
        "retrieval_dedup": {"in": {"tagged": "quality_tagging", "problems": "problems"}},
        "tokenizer": {
            "in": {"corpus": "retrieval_dedup", "problems": "problems"},
            "config": {"vocab_size": 512, "training_characters": 100000},
        },
        "mixture": {"in": {"corpus": "retrieval_dedup", "problems": "problems", "tokenizer": "tokenizer"}},
        "fgwsd_warmup": {"in": {"mixture": "mixture"}, "config": {"phase": "warmup", **PHASES}},
        "fgwsd_diverse_stable": {
            "in": {"mixture": "mixture", "checkpoint": "fgwsd_warmup"}, "config": {"phase": "diverse_stable", **PHASES}
        },
        "sft_data": {
            "in": {"problems": "problems"},
            "config": {
                "samples": 40, "validation_samples": 8, "math_share": 0.6, "science_share": 0.4, "code_share": 0,
            },
        },
        "cold_start_sft": {
            "in": {**TRAINED, "checkpoint": "fgwsd_diverse_stable", "data": "sft_data"},
            "config": {
                "sequence_length": 128, "epochs": 2, "global_batch_size": 4, "learning_rate": 1e-3,
                "heldout": {"problems": 4, "samples": 1, "sampling": SAMPLING},
            },
        },
        "pass_rates_stem": {
            "uses": "pass_rates", "in": TRAINED,
            "config": {"domain": "stem", "samples": 2, "sampling": SAMPLING, "limit": 8},
        },
        "filter_stem": {
            "uses": "on_policy_filter", "in": {"pass_rates": "pass_rates_stem", "problems": "problems"},
            "config": {"domain": "stem", "low": 0, "high": 1, "strict": False, "minimum": 1},
        },
        "rl_stem": {
            "in": {**TRAINED, "prompts": "filter_stem"},
            "config": {
                "domain": "stem", "steps": 2, "prompts_per_step": 2, "group_size": 2, "sampling": SAMPLING,
                "heldout": {"limit": 2, "samples": 1},
            },
        },
    }  # fmt: skip
    tree = {
        "recipe": "tiny", "runtime": runtime or {"launcher": "inline", "micro_batch_size": 4}, "stages": stages,
        "profiles": {"laptop": {"title": "tiny"}},
    }  # fmt: skip
    path = folder / "pipelines.yaml"
    path.write_text(json.dumps(tree))
    return path
