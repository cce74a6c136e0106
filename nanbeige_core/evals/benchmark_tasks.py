"""Benchmarks of the report that Inspect's collection does not carry, as Inspect tasks.

Data come from where their authors publish them. Graders are asked in this project's words, so absolute numbers of the
judged ones compare with each other and not with a leaderboard. Import this module only where Inspect is installed.
"""

import json
import re
from typing import Any

import httpx
from inspect_ai import Task, task  # pyright: ignore
from inspect_ai.dataset import MemoryDataset, Sample, hf_dataset  # pyright: ignore
from inspect_ai.model import ChatMessageAssistant, ChatMessageUser, Model  # pyright: ignore
from inspect_ai.scorer import Score, accuracy, choice, mean, scorer, stderr  # pyright: ignore
from inspect_ai.solver import generate, multiple_choice  # pyright: ignore

ARENA_REPOSITORY = "lmarena-ai/arena-hard-auto"
ARENA_FOLDER = "data/arena-hard-v2.0"
ARENA_BASELINES = {"hard_prompt": "o3-mini-2025-01-31", "creative_writing": "gemini-2.0-flash-001"}
"""Whose answers a policy is compared with, by category: those of the benchmark's own configuration."""
ARENA_VERDICT = re.compile(r"\[\[([AB])(>>?|=)([AB])\]\]")
SUBMIT_SECONDS = 50


@task
def super_gpqa() -> Any:
    """SuperGPQA: multiple choice over 285 fields, up to ten options."""

    def to_sample(record: dict[str, Any]) -> Any:
        return Sample(
            id=record["uuid"], input=record["question"], choices=record["options"], target=record["answer_letter"]
        )

    dataset = hf_dataset("m-a-p/SuperGPQA", split="train", sample_fields=to_sample)
    return Task(dataset=dataset, solver=multiple_choice(cot=True), scorer=choice())


@task
def multi_challenge(judge_model: Model) -> Any:
    """Multi-Challenge: the last turn of a long conversation, graded by one question with a known answer."""

    def to_sample(record: dict[str, Any]) -> Any:
        turns = record["CONVERSATION"]
        kinds = {"user": ChatMessageUser, "assistant": ChatMessageAssistant}
        return Sample(
            id=record["QUESTION_ID"],
            input=[kinds[turn["role"]](content=turn["content"]) for turn in turns],
            target=record["PASS_CRITERIA"],
            metadata={"question": record["TARGET_QUESTION"], "axis": record["AXIS"]},
        )

    dataset = hf_dataset("nmayorga7/multichallenge", split="train", sample_fields=to_sample)
    return Task(dataset=dataset, solver=generate(), scorer=_asked(judge_model))


@scorer(metrics=[accuracy(), stderr()])
def _asked(judge_model: Model) -> Any:
    async def score(state: Any, target: Any) -> Any:
        reply: Any = await judge_model.generate(
            f"Here is a reply of an assistant:\n\n{state.output.completion}\n\nQuestion about it: "
            f"{state.metadata['question']}\nAnswer with one word on the last line: YES or NO."
        )
        words = re.findall(r"\b(YES|NO)\b", reply.completion.upper())
        if not words:
            return Score(value="unscored", explanation=reply.completion)
        return Score(value="C" if words[-1] == target.text.upper() else "I", explanation=reply.completion)

    return score


@task
def arena_hard_v2(judge_model: Model) -> Any:
    """Arena-Hard v2: win rate against the benchmark's baseline answers, both orders, a tie being half.

    A plain mean: the leaderboard's weights for clear wins and its control for style are left out.
    """
    baselines = {category: _arena_answers(name) for category, name in ARENA_BASELINES.items()}
    samples = [
        Sample(
            id=record["uid"],
            input=record["prompt"],
            metadata={"prompt": record["prompt"], "baseline": baselines[record["category"]][record["uid"]]},
        )
        for record in _arena_lines("question.jsonl")
    ]
    return Task(dataset=MemoryDataset(samples), solver=generate(), scorer=_against_baseline(judge_model))


def _arena_lines(name: str) -> list[dict[str, Any]]:
    from huggingface_hub import hf_hub_download

    path = hf_hub_download(ARENA_REPOSITORY, f"{ARENA_FOLDER}/{name}", repo_type="dataset")
    with open(path, encoding="utf-8") as file:  # noqa: PTH123 - a path of the hub's cache
        return [json.loads(line) for line in file]


def _arena_answers(model: str) -> dict[str, str]:
    return {
        record["uid"]: record["messages"][-1]["content"]["answer"]
        for record in _arena_lines(f"model_answer/{model}.jsonl")
    }


@scorer(metrics=[mean(), stderr()])
def _against_baseline(judge_model: Model) -> Any:
    async def score(state: Any, target: Any) -> Any:
        del target
        ours, theirs = state.output.completion, state.metadata["baseline"]
        first = await _compare(judge_model, state.metadata["prompt"], ours, theirs)
        second = await _compare(judge_model, state.metadata["prompt"], theirs, ours)
        if first is None or second is None:
            return Score(value="unscored", explanation="the judge gave no verdict")
        return Score(value=(first + 1 - second) / 2)

    return score


async def _compare(judge_model: Model, prompt: str, a: str, b: str) -> float | None:
    reply: Any = await judge_model.generate(
        f"Compare two assistants' answers to a prompt.\n\n# Prompt\n{prompt}\n\n# Answer A\n{a}\n\n# Answer B\n{b}\n\n"
        "First answer the prompt yourself, then weigh correctness, helpfulness and brevity. End with exactly one of "
        "[[A>>B]], [[A>B]], [[A=B]], [[B>A]], [[B>>A]]."
    )
    return read_verdict(reply.completion)


def read_verdict(text: str) -> float | None:
    """Return how much the last verdict favours A: 1, 0.5 or 0; None where there is none."""
    found = ARENA_VERDICT.findall(text)
    if not found:
        return None
    left, mark, right = found[-1]
    if left == right:
        return None
    return 0.5 if mark == "=" else float(left == "A")


@task
def full_stack_bench(sandbox_url: str, language: str = "en") -> Any:
    """FullStackBench: programs in 16 languages, built and tested by a SandboxFusion server at `sandbox_url`."""

    def to_sample(record: dict[str, Any]) -> Any:
        return Sample(id=str(record["id"]), input=record["content"], metadata={"record": record})

    dataset = hf_dataset("ByteDance/FullStackBench", name=language, split="test", sample_fields=to_sample)
    return Task(dataset=dataset, solver=generate(), scorer=_submitted(sandbox_url))


@scorer(metrics=[accuracy(), stderr()])
def _submitted(sandbox_url: str) -> Any:
    async def score(state: Any, target: Any) -> Any:
        del target
        record = state.metadata["record"]
        request = {
            "dataset": "FullStackBench",
            "id": record["id"],
            "completion": state.output.completion,
            "config": {
                "compile_timeout": SUBMIT_SECONDS,
                "run_timeout": SUBMIT_SECONDS,
                "dataset_type": "AutoEvalDataset",
                "provided_data": record,
            },
        }
        async with httpx.AsyncClient(timeout=10 * SUBMIT_SECONDS) as client:
            answer = await client.post(f"{sandbox_url.rstrip('/')}/submit", json=request)
        answer.raise_for_status()
        return Score(value="C" if answer.json()["accepted"] else "I")

    return score
