"""The whole stage on a tiny model: multi-turn conversations with tools, two domains, packed."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from nanbeige_core.artifacts.kinds import Kind
from nanbeige_core.contract import InputArtifact, Job, Outcome, Runtime
from nanbeige_core.megatron import parallel, parity
from nanbeige_core.megatron.schedule import LrSchedule
from nanbeige_core.megatron.trainer import Trainer
from nanbeige_core.recipe.configs.base import OptimizerConfig
from nanbeige_core.recipe.configs.sft import SftConfig
from nanbeige_core.rl.prompts import PromptRow
from nanbeige_core.sft import train
from nanbeige_core.sft.samples import SftRow, pack_samples
from nanbeige_core.sft.supervision import SUPERVISED, prove_supervision
from tests.sft.tiny_tokenizer import tiny_tokenizer

KINDS = {
    "checkpoint": Kind.CHECKPOINT,
    "tokenizer": Kind.TOKENIZER,
    "problems": Kind.PROMPT_SET,
    "data": Kind.SFT_DATASET,
}


def conversation(number: int, domain: str) -> list[dict[str, Any]]:
    """Two exchanges; the agent calls a tool in between."""
    ask = {"role": "user", "content": f"What is {number}+1?"}
    reply = {"role": "assistant", "reasoning": f"{number} and 1.", "content": str(number + 1)}
    if domain == "math":
        return [ask, reply]
    call = {"role": "assistant", "reasoning": "look", "content": '<tool_call>{"name": "add"}</tool_call>'}
    return [{"role": "system", "content": "Use tools."}, ask, call, {"role": "tool", "content": "RESULT"}, reply]


def rows(count: int) -> list[dict[str, str]]:
    domains = ["math", "agent"]
    return [
        {"id": f"s{n}", "domain": domains[n % 2], "messages": json.dumps(conversation(n, domains[n % 2]))}
        for n in range(count)
    ]


@pytest.fixture(scope="module")
def fine_tuned(tmp_path_factory: pytest.TempPathFactory) -> tuple[Outcome, Path]:
    torch.set_num_threads(1)
    root = tmp_path_factory.mktemp("sft")
    for name in [*KINDS, "work"]:
        (root / name).mkdir()
    tiny_tokenizer().save_pretrained(root / "tokenizer")
    trainer = Trainer.open(
        model=parity.MODEL,
        vocab_size=len(tiny_tokenizer()),
        optimizer=OptimizerConfig(),
        schedule=LrSchedule(peak=1e-3, total=2),
        runtime=Runtime(),
        seed=1,
    )
    trainer.save(root / "checkpoint", tokenizer_fingerprint="tiny", stage="base")
    parallel.teardown()
    columns = {name: pa.array([], pa.string()) for name in PromptRow._fields}
    pq.write_table(pa.table(columns), root / "problems" / "prompts.parquet")
    for name, count in (("samples", 16), ("validation", 4)):
        pq.write_table(pa.Table.from_pylist(rows(count)), root / "data" / f"{name}.parquet")
    config = SftConfig.model_validate(
        {
            "sequence_length": 512,
            "epochs": 4,
            "global_batch_size": 2,
            "learning_rate": 1e-2,
            "heldout": {"problems": 0},
            "shown_samples": 5,
        }
    )
    inputs = {name: InputArtifact(name, kind, name, root / name) for name, kind in KINDS.items()}
    work = root / "work"
    outcome = train.run(Job("overall_sft", config, Runtime(micro_batch_size=2), inputs, work, work))
    parallel.teardown()
    return outcome, work


def test_artifact_holds_the_supervised_text_of_samples_and_it_is_what_the_assistant_says(
    fine_tuned: tuple[Outcome, Path],
) -> None:
    shown = [json.loads(line) for line in (fine_tuned[1] / SUPERVISED).read_text().splitlines()]
    assert len(shown) == 5
    for row in shown:
        number = int(row["id"].removeprefix("s"))
        final = f"<think>\n{number} and 1.\n</think>\n\n{number + 1}<|im_end|>"
        call = '<think>\nlook\n</think>\n\n<tool_call>{"name": "add"}</tool_call><|im_end|>'
        assert row["supervised"] == (final if row["domain"] == "math" else call + final)
        assert f"What is {number}+1?" in row["not_supervised"]
        assert ("RESULT" in row["not_supervised"]) == (row["domain"] == "agent")
    assert {row["domain"] for row in shown} == {"math", "agent"}


def test_losses_are_reported_per_domain_and_fall(fine_tuned: tuple[Outcome, Path]) -> None:
    outcome = fine_tuned[0]
    (table,) = (section.table for section in outcome.sections if section.title == "Validation loss by domain")
    assert [row["domain"] for row in table] == ["agent", "math"]
    assert all(row["after"] < row["before"] for row in table)
    assert {"validation_loss_agent", "validation_loss_math"} <= outcome.metrics.keys()


def test_several_samples_share_a_sequence(fine_tuned: tuple[Outcome, Path]) -> None:
    outcome = fine_tuned[0]
    assert outcome.counts["sequences"] < outcome.counts["samples"] == 16
    assert outcome.metrics["packing_fill"] > 0.7


def test_a_mask_that_covers_the_prompt_stops_the_stage() -> None:
    row = SftRow("s1", "math", conversation(1, "math"))
    packed = pack_samples(tiny_tokenizer(), [row], sequence_length=256, overflow="drop", seed=0)
    sample = packed.samples[0]
    wrong = packed._replace(samples=[sample._replace(mask=[1] * len(sample.ids))])
    with pytest.raises(ValueError, match="sample s1: the loss would see"):
        prove_supervision(tiny_tokenizer(), [row], wrong, count=1)
    assert prove_supervision(tiny_tokenizer(), [row], packed, count=9)[0]["supervised_tokens"] == sum(sample.mask)


def test_a_truncated_sample_shows_the_beginning_of_what_is_said() -> None:
    row = SftRow("s1", "math", [{"role": "user", "content": "?"}, {"role": "assistant", "content": "答" * 40}])
    packed = pack_samples(tiny_tokenizer(), [row], sequence_length=60, overflow="truncate", seed=0)
    (proven,) = prove_supervision(tiny_tokenizer(), [row], packed, count=1)
    assert proven["truncated"]
    assert proven["supervised"].startswith("答答")
