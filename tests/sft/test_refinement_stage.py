"""The whole stage with a teacher, judge and critic behind a real endpoint, verifiers, and a tiny local student."""

import json
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from nanbeige_core.artifacts.kinds import Kind
from nanbeige_core.contract import InputArtifact, Job, Outcome, Runtime
from nanbeige_core.errors import RecipeError
from nanbeige_core.megatron import parallel, parity
from nanbeige_core.megatron.schedule import LrSchedule
from nanbeige_core.megatron.trainer import Trainer
from nanbeige_core.recipe.configs.base import OptimizerConfig
from nanbeige_core.recipe.configs.sft import RefinementConfig
from nanbeige_core.recipe.load import load_recipe
from nanbeige_core.rl.prompts import PromptRow
from nanbeige_core.sft import refinement
from tests.conftest import RECIPE_FILE
from tests.serving import JsonHandler, serving
from tests.sft.tiny_tokenizer import tiny_tokenizer

KINDS = {
    "checkpoint": Kind.CHECKPOINT,
    "teacher": Kind.CHECKPOINT,
    "tokenizer": Kind.TOKENIZER,
    "problems": Kind.PROMPT_SET,
}
ANSWERS = {"What is 3+4?": "7", "What is 5+5?": "10", "What is 8+1?": "9"}
CHAIN = "Summary: count on.\nReasoning: Begin with the first and count on by the second, which gives \\boxed{%s}"


class Teacher(JsonHandler):
    """Adds rightly once it was criticised, never learns 8+1, and as a judge finds everything good."""

    seen: list[str] = []

    def do_POST(self) -> None:
        request = self.read()
        text = request["messages"][-1]["content"]
        type(self).seen.append(text)
        self.answer_chat(*(self.reply(text, at) for at in range(request["n"])))

    @staticmethod
    def reply(text: str, at: int) -> str:
        right = next((answer for prompt, answer in ANSWERS.items() if prompt in text), "It is a star.")
        wrong = "3" if right.isdigit() else "It is"
        if "yes-or-no questions" in text:
            return "1. Does the response name a number?\n2. Is it the sum of both?"
        if text.endswith("Answer yes or no."):
            return "Yes, certainly"
        if "Say in one or two sentences" in text:
            return "The sum is miscounted."
        if "Final solution:" in text:
            return (CHAIN % right, "I refuse.")[at]
        if "was judged" in text and "8+1" not in text:
            return f"\\boxed{{{right}}}"
        return f"\\boxed{{{wrong}}}"


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with serving(Teacher) as address:
        yield address


@pytest.fixture(scope="module")
def refined(url: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[Outcome, dict[str, dict[str, Any]]]:
    """Outcome, and each instruction's row of the data set or of the rejected, by prompt id."""
    torch.set_num_threads(1)
    root = tmp_path_factory.mktemp("refinement")
    for name in [*KINDS, "work"]:
        (root / name).mkdir()
    tiny_tokenizer().save_pretrained(root / "tokenizer")
    for seed, name in enumerate(("checkpoint", "teacher")):
        Trainer.open(
            model=parity.MODEL.model_copy(update={"max_positions": 1024}),
            vocab_size=len(tiny_tokenizer()),
            optimizer=OptimizerConfig(),
            schedule=LrSchedule(peak=1e-3, total=2),
            runtime=Runtime(),
            seed=seed,
        ).save(root / name, tokenizer_fingerprint="tiny", stage=name)
    prompts = [
        PromptRow(f"p{at}", "math", "overall", "en", text, "", gold, "math", f'{{"gold": "{gold}"}}', "test")
        for at, (text, gold) in enumerate(ANSWERS.items())
    ]
    prompts += [
        PromptRow(f"g{at}", "general", "overall", "en", text, "", "The sun is a star.", "pairwise", "{}", "test")
        for at, text in enumerate(("Say what the sun is, in short.", "What is the sun?"))
    ]
    pq.write_table(pa.Table.from_pylist([row._asdict() for row in prompts]), root / "problems" / "prompts.parquet")
    config = RefinementConfig.model_validate(
        {
            "prompts": 8,
            "teacher_candidates": 1,
            "max_rounds": 2,
            "reconstructions": 2,
            "keep_score": 0,
            "checklist": "generated",
            "judges": ("teacher",),
            "critic": "teacher",
            "served_teacher": "adder",
            "mixture": {"math": 0.5, "general": 0.5, "agent": 0, "code": 0},
            "sampling": {"temperature": 0.8, "max_new_tokens": 16},
        }
    )
    inputs = {name: InputArtifact(name, kind, name, root / name) for name, kind in KINDS.items()}
    work, runtime = root / "work", Runtime(endpoint_url=url, micro_batch_size=2)
    outcome = refinement.run(Job("refinement", config, runtime, inputs, work, root / "cache"))
    parallel.teardown()
    rows = [row for name in ("samples", "validation") for row in pq.read_table(work / f"{name}.parquet").to_pylist()]
    found = {row["prompt_id"]: {**row, "trace": json.loads(row["trace"])} for row in rows}
    return outcome, found | {row["prompt_id"]: row for row in json.loads((work / "rejected.json").read_text())}


Refined = tuple[Outcome, dict[str, dict[str, Any]]]


def test_a_wrong_draft_is_criticised_revised_and_becomes_right(refined: Refined) -> None:
    trace = refined[1]["p0"]["trace"]
    assert [draft["verified"] for draft in trace["drafts"] if draft["origin"] != "student"] == ["wrong", "correct"]
    assert trace["best_origin"] == "revision"
    assert trace["remarks"] == {"1": "The sum is miscounted."}
    assert "revision of round 2" in trace["kept_because"]
    assert any("was judged:" in text and "The sum is miscounted." in text for text in Teacher.seen)


def test_the_checklist_holds_questions_written_for_the_instruction(refined: Refined) -> None:
    for row in refined[1].values():
        assert row["trace"]["checklist"]["asked_2"] == "Is it the sum of both?"


def test_a_flattering_judge_does_not_save_what_the_verifier_calls_wrong(refined: Refined) -> None:
    row = refined[1]["p2"]
    assert row["reason"] == "wrong"
    drafts = [draft for draft in row["trace"]["drafts"] if draft["origin"] != "student"]
    assert [(draft["judges"]["teacher"], draft["score"]) for draft in drafts] == [(10.0, 0.0), (10.0, 0.0)]
    assert refined[0].metrics["agrees_with_verifier_teacher"] < 0.5


def test_the_trace_keeps_every_draft_with_its_text_and_its_judges(refined: Refined) -> None:
    for row in refined[1].values():
        assert {draft["origin"] for draft in row["trace"]["drafts"]} >= {"teacher"}
        assert all(draft["text"] and "verifier" in draft["judges"] for draft in row["trace"]["drafts"])


def test_chains_are_told_the_solution_and_say_why_they_fell(refined: Refined) -> None:
    kept = [refined[1][name] for name in ("p0", "p1")]
    assert all("malformed" in row["trace"]["chain_rejections"] for row in kept)
    for row in kept:
        gain, rejections = row["trace"]["chain_gain"], row["trace"]["chain_rejections"]
        assert (gain is not None and gain > 0) != ("no_perplexity_gain" in rejections)
    assert any("Final solution: \\boxed{7}" in text for text in Teacher.seen)


def test_the_report_says_how_many_drafts_improved_and_what_was_rejected(refined: Refined) -> None:
    outcome = refined[0]
    sections = {section.title: section.table for section in outcome.sections}
    assert outcome.counts["instructions_wrong"] == 1
    reasons = {row["reason"]: row["count"] for row in sections["Rejected, and why"]}
    assert reasons["instruction: wrong"] == 1
    assert reasons["draft fails verified"] >= 4
    assert reasons["chain: malformed"] >= 2
    improved = {row["domain"]: row["improved"] for row in sections["What refinement changed"]}
    assert sum(improved.values()) == outcome.counts["drafts_improved"]


@pytest.mark.parametrize("change", ["served_teacher=big", "judges=[teacher, other]", "critic=big"])
def test_a_served_model_without_an_endpoint_is_refused_at_plan_time(change: str) -> None:
    with pytest.raises(RecipeError, match=r"stages.refinement.config names the served model .* runtime.endpoint_url"):
        load_recipe(RECIPE_FILE, profile="laptop", overrides=[f"refinement.{change}"])
    load_recipe(
        RECIPE_FILE,
        profile="laptop",
        overrides=[f"refinement.{change}", "refinement.runtime.endpoint_url=http://127.0.0.1:1/v1"],
    )
