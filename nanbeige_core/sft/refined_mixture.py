"""The 40 / 30 / 20 / 10 mixture of overall SFT and the rows it is written as."""

import json

import pyarrow as pa

from nanbeige_core.recipe.configs.sft import RefinementConfig
from nanbeige_core.sft.chunks import Row

REFINED_SCHEMA = pa.schema(
    [(name, pa.string()) for name in ("id", "domain", "messages", "source", "prompt_id", "trace")]
)
GROUPS = {"math": "math", "science": "math", "general": "general", "agent": "agent", "code": "code"}
"""Mixture group of each problem domain; the report counts mathematics and subject reasoning together."""


def mix(kept: list[Row], config: RefinementConfig) -> list[Row]:
    """Return as many samples as the shares allow: groups in surplus are cut, scarce ones repeated at most max_repeats.

    A group without any sample is left out and the other shares are renormalised: the report shows it.
    """
    by_group = {name: [row for row in kept if GROUPS[row["domain"]] == name] for name in config.mixture.shares()}
    shares = {name: share for name, share in config.mixture.shares().items() if by_group[name] and share > 0}
    total = sum(shares.values())
    size = min(len(by_group[name]) * config.max_repeats * total / share for name, share in shares.items())
    mixed: list[Row] = []
    for name, share in shares.items():
        rows = by_group[name]
        count = max(1, int(size * share / total + 1e-9))
        mixed += [{**rows[index % len(rows)], "copy": index // len(rows)} for index in range(count)]
    return mixed


def sample_row(result: Row) -> Row:
    """Return a result as a row of an SFTDataset."""
    answer = {"role": "assistant", "reasoning": result["reasoning"], "content": result["answer"]}
    messages = [{"role": "user", "content": result["prompt"]}, answer]
    return {
        "id": f"refined-{result['prompt_id']}-{result.get('copy', 0)}",
        "domain": result["domain"],
        "messages": json.dumps(messages, ensure_ascii=False),
        "source": f"refinement/{result['source']}",
        "prompt_id": result["prompt_id"],
        "trace": json.dumps(result["trace"], ensure_ascii=False),
    }
