"""A recipe that goes from documents to an exported model, small enough to be run and broken many times."""

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
    stages |= _second_half()
    tree = {
        "recipe": "tiny", "runtime": runtime or {"launcher": "inline", "micro_batch_size": 4}, "stages": stages,
        "profiles": {"laptop": {"title": "tiny"}},
    }  # fmt: skip
    path = folder / "pipelines.yaml"
    path.write_text(json.dumps(tree))
    return path


def _second_half() -> dict[str, Any]:
    """Return the stages from long pretraining to export: open questions, which a random judge rewards, and pairs."""
    counts = {"math": 8, "science": 0, **NONE}
    open_ones = {"math": 8, "science": 0, **NONE, "general": 40}
    phases = {**PHASES, "abf": {"theta": 20000.0, "sequence_length": 256, "fraction": 0.5}}
    tuned = {"checkpoint": "overall_sft", "tokenizer": "tokenizer", "problems": "dialogues"}
    rewarded = {**tuned, "reward_model": "reward_model"}
    preference = {"domain": "preference", "sampling": SAMPLING}
    return {
        "fgwsd_hq_stable": {
            "in": {"mixture": "mixture", "checkpoint": "fgwsd_diverse_stable"},
            "config": {"phase": "hq_stable", **phases},
        },
        "fgwsd_decay": {
            "in": {"mixture": "mixture", "checkpoint": "fgwsd_hq_stable"}, "config": {"phase": "decay", **phases}
        },
        "dialogues": {
            "uses": "problems",
            "config": {
                "word_problem_share": 0, "hard_share": 0, "pretrain": counts, "sft": counts, "eval": counts,
                "overall": open_ones, "rl": open_ones, "heldout": open_ones,
            },
        },
        "teacher": {  # long enough to know its samples by heart; a resume point takes longer than a step
            "runtime": {"checkpoint_seconds": 2},
            "in": {"mixture": "mixture", "data": "sft_data", "tokenizer": "tokenizer", "problems": "problems"},
            "config": {
                "model": {**MODEL, "hidden_size": 48, "head_size": 24}, "tokens": 2048, "sequence_length": 64,
                "global_batch_size": 4, "peak_lr": 1e-3, "floor_lr": 1e-4, "sft_epochs": 40, "sft_learning_rate": 5e-3,
                "sft_global_batch_size": 2, "sft_sequence_length": 256, "validation_sequences": 2,
                "heldout": {"problems": 4, "samples": 1, "sampling": SAMPLING},
            },
        },
        "refinement": {
            "in": {**tuned, "checkpoint": "fgwsd_decay", "teacher": "teacher"},
            "config": {
                "prompts": 24, "mixture": {"math": 0, "general": 1, "agent": 0, "code": 0}, "keep_score": 0,
                "max_rounds": 2, "reviser": "resample", "chain_prompt": "prompt", "reconstructions": 1,
                "sampling": SAMPLING, "chunk_prompts": 8, "validation_fraction": 0.2,
            },
        },
        "overall_sft": {
            "in": {**tuned, "checkpoint": "fgwsd_decay", "data": "refinement"},
            "config": {
                "sequence_length": 256, "epochs": 2, "global_batch_size": 2, "learning_rate": 1e-3,
                "heldout": {"problems": 4, "samples": 1, "sampling": SAMPLING},
            },
        },
        "reward_model": {
            "in": tuned,
            "config": {
                "steps": 8, "pairs_per_step": 4, "learning_rate": 1e-3, "policy_samples": 1, "sampling": SAMPLING
            },
        },
        "preference_pairs": {  # the teacher knows the answers by heart, and is wrong when it is drawn hot
            "in": {"checkpoint": "teacher", "teacher": "teacher", "tokenizer": "tokenizer", "problems": "problems"},
            "config": {
                "prompts": 40, "domains": ["math", "science"], "splits": ["sft"], "teacher_samples": 2,
                "student_samples": 2, "teacher_sampling": {"temperature": 0.3, "max_new_tokens": 64},
                "student_sampling": {"temperature": 1.3, "max_new_tokens": 64}, "chunk_prompts": 10,
                "validation_fraction": 0.2,
            },
        },
        "teacher_logits": {
            "in": {"teacher": "teacher", "tokenizer": "tokenizer", "pairs": "preference_pairs"},
            "config": {"top_k": 8, "sequence_length": 256, "chunk_pairs": 4},
        },
        "dpd": {
            "runtime": {"checkpoint_seconds": 1},
            "in": {**tuned, "teacher": "teacher", "pairs": "preference_pairs"},
            "config": {
                "sequence_length": 256, "epochs": 4, "global_batch_size": 1, "learning_rate": 1e-3,
                "heldout": {"problems": 4, "samples": 1, "sampling": SAMPLING},
            },
        },
        "pass_rates_preference": {
            "uses": "pass_rates", "in": rewarded, "config": {"samples": 2, "limit": 8, "chunk_prompts": 4, **preference}
        },
        "filter_preference": {
            "uses": "on_policy_filter", "in": {"pass_rates": "pass_rates_preference", "problems": "dialogues"},
            "config": {"domain": "preference", "low": 0, "high": 1, "strict": False, "minimum": 1},
        },
        "rollouts": {
            "in": {
                "checkpoint": "overall_sft", "tokenizer": "tokenizer", "prompts": "filter_preference",
                "reward_model": "reward_model",
            },
            "config": {"steps": 3, "prompts_per_step": 2, "group_size": 2, **preference},
        },
        "rl_preference": {
            "in": {**rewarded, "prompts": "filter_preference"},
            "config": {
                "steps": 6, "prompts_per_step": 2, "group_size": 4, "learning_rate": 1e-3,
                "loss": {"mask_truncated": False}, "heldout": {"limit": 2, "samples": 1}, **preference,
            },
        },
        "evaluate": {
            "in": {
                "base": "overall_sft", "final": "rl_preference", "tokenizer": "tokenizer", "problems": "problems"
            },
            "config": {"suites": ["math", "science"], "samples": 1, "limit": 4, "sampling": SAMPLING},
        },
        "export": {
            "in": {"checkpoint": "rl_preference", "tokenizer": "tokenizer"}, "config": {"probe_tokens": 16}
        },
    }  # fmt: skip
